//! The answering end of a stream.
//!
//! One task runs a stream. Whatever it waits for, the disk, its turn, the other side, it hears what
//! comes in ([`mod@line`]); requests wait for their turn in a queue ([`incoming`]). Each is answered from
//! shares or fetches under way ([`desk`]), in batches of a large piece or many small ones: while one
//! is written the next is read. Who follows is told of news between batches ([`following`]).

mod desk;
mod followers;
mod following;
mod incoming;
mod line;
#[cfg(test)]
mod tests;
mod uploads;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::files::{Answer, FileKind, Refusal, Request};
use peerkit_proto::hello::Proof;
use peerkit_proto::id::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::partial::Partials;
use uploads::UploadGuard;

use crate::blocking;
use crate::rate::{PeerRates, Rates};
use crate::shares::Shares;
use crate::stream::Stream;
use crate::tls::Session;
use desk::{Batch, Caller, Desk, Layouts, Run};
use followers::Followers;
use following::Following;
use incoming::Completed;
use line::{Line, Place};
pub(crate) use uploads::{UploadNews, Uploads};
pub use uploads::{UploadStatus, UploadTotals};

/// Streams that write pieces at once; the others wait for their turn, which comes after 100 ms at
/// the latest for each before them. 8: a few fill any line, and more would all be slow together.
const PLACES: usize = 8;

/// Interval at which a requester that waits for pieces of others is looked at.
const TURN: Duration = Duration::from_millis(25);

/// Interval at which a requester is shown that it waits for its turn, and not for a node that is
/// gone. 10 s: a third of [`STALL`](super::STALL), after which it would hang up.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What a node answers the requests on all streams with. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    shares: Shares,
    partials: Partials,
    rates: Rates,
    followers: Followers,
    layouts: Layouts,
    places: Arc<Semaphore>,
    uploads: Uploads,
}

impl Serving {
    pub(crate) fn new(shares: Shares, partials: Partials, rates: Rates, uploads: Uploads) -> Self {
        Self {
            shares,
            partials,
            rates,
            followers: Followers::default(),
            layouts: Layouts::default(),
            places: Arc::new(Semaphore::new(PLACES)),
            uploads,
        }
    }

    /// Answers the requests on `stream` until the other side ends it.
    ///
    /// # Errors
    /// As [`serve`].
    pub(crate) async fn answer(self, stream: Stream) -> io::Result<()> {
        let Session { id, binding, .. } = stream.channel.session();
        tracing::debug!(target: "peerkit::transfer", peer = %id.short(), "serving");
        serve(self, id, binding, stream).await
    }
}

/// Answers the requests that `id` makes on `stream`, in the TLS session of `binding`, until it ends
/// it.
///
/// Two batches are in memory at once: one on its way, the next being read from disk.
///
/// # Errors
/// Where the stream breaks; where nothing is asked for [`IDLE`](super::IDLE), and nothing told
/// either; where the other side takes nothing for [`STALL`](super::STALL), leaves a request
/// unfinished for as long, or sends a length over the limit.
pub(crate) async fn serve<S>(
    serving: Serving,
    id: NodeId,
    binding: [u8; 32],
    stream: S,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let caller = Caller { id, binding, proof: None };
    let answering = Answering {
        line: Line::new(stream),
        rates: serving.rates.of(id),
        desk: Some(Desk::new(serving.clone(), caller.clone())),
        serving,
        caller,
        run: None,
        following: Following::default(),
        spare: Vec::new(),
        is_within: false,
        upload: None,
        is_complete: false,
    };
    answering.run().await
}

struct Answering<S> {
    line: Line<S>,
    serving: Serving,
    caller: Caller,
    rates: Arc<PeerRates>,
    /// Away while something is read.
    desk: Option<Desk>,
    /// Pieces that were asked for and have not been read.
    run: Option<Run>,
    following: Following,
    /// Memory for batches, used again.
    spare: Vec<Batch>,
    /// A piece has begun to go out, and nothing else may until it has.
    is_within: bool,
    /// The content that is being sent.
    upload: Option<UploadGuard>,
    /// The asker has said that it has all that it wants.
    is_complete: bool,
}

/// The next answer.
enum Next {
    /// Made when its turn comes.
    Request(Request),
    Refused(Refusal),
    /// A part of a piece, which needed no waiting.
    Read(Run, Batch),
    /// Being read from disk; with it what the desk is needed for after it.
    Reading(JoinHandle<(Desk, Option<Run>, Batch)>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Answering<S> {
    async fn run(mut self) -> io::Result<()> {
        let served = self.serve().await;
        self.line.hear().await;
        self.complete().await;
        match served {
            // It had no reason to read any further.
            Err(_) if self.is_complete => Ok(()),
            served => served,
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        let mut next = None;
        loop {
            self.complete().await;
            let Some(now) = next.take().or_else(|| self.begin()) else {
                if !self.wait().await? {
                    return Ok(());
                }
                continue;
            };
            next = self.answer(now).await?;
            if !self.is_within {
                self.tell().await?;
            }
            self.line.hear().await;
        }
    }

    /// Begins the next answer; `None` where nothing is asked for.
    fn begin(&mut self) -> Option<Next> {
        loop {
            if let Some(run) = self.run.take() {
                if !self.is_within && self.line.incoming.is_cancelled(run.number) {
                    return Some(Next::Refused(Refusal::Cancelled));
                }
                return Some(self.read(run));
            }
            let (number, request) = self.line.incoming.next()?;
            match request {
                Ok(Request::Present { proof }) => self.present(proof),
                Ok(Request::Data { hash, first, count }) => {
                    self.run = Some(Run::new(number, hash, false, (first, count)));
                }
                Ok(Request::Tree { hash, first, count }) => {
                    self.run = Some(Run::new(number, hash, true, (first, count)));
                }
                Ok(Request::Pieces { hash, first, count }) => {
                    return Some(self.reading(move |desk, batch| {
                        batch.put(&desk.values(hash, first, count));
                        None
                    }));
                }
                Ok(request @ (Request::Describe { .. } | Request::Follow { .. })) => {
                    return Some(Next::Request(request));
                }
                Ok(_) | Err(_) => return Some(Next::Refused(Refusal::BadRequest)),
            }
        }
    }

    /// Notes that the asker has all of something, if it has said so.
    async fn complete(&mut self) {
        let Some(Completed { hash, requester, called }) = self.line.incoming.take_complete() else {
            return;
        };
        self.is_complete = true;
        if let Some(file) = self.serving.file(&hash, called.as_ref(), &self.caller) {
            self.serving.uploads.complete(self.caller.id, requester, file).await;
        }
    }

    /// The upload that the pieces of `run` are part of; none for a folder's manifest.
    fn upload(&mut self, run: &Run) {
        if self.upload.as_ref().is_some_and(|upload| upload.hash() == run.hash) {
            return;
        }
        let file = self.serving.file(&run.hash, None, &self.caller);
        let file = file.filter(|file| run.tree == (file.kind == FileKind::Folder));
        if let Some(file) = file {
            self.upload = Some(self.serving.uploads.begin(self.caller.id, file));
        }
    }

    fn present(&mut self, proof: Proof) {
        self.caller.proof = Some(proof);
    }

    fn read(&mut self, mut run: Run) -> Next {
        let mut batch = self.batch();
        if let Some(desk) = &mut self.desk {
            desk.caller.proof = self.caller.proof;
            if desk.read_at_once(&mut run, &mut batch) {
                return Next::Read(run, batch);
            }
        }
        self.spare.push(batch);
        self.reading(move |desk, batch| {
            desk.read(&mut run, batch);
            Some(run)
        })
    }

    /// An empty batch.
    fn batch(&mut self) -> Batch {
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.clear();
        batch
    }

    fn reading(
        &mut self,
        read: impl FnOnce(&mut Desk, &mut Batch) -> Option<Run> + Send + 'static,
    ) -> Next {
        let new = || Desk::new(self.serving.clone(), self.caller.clone());
        let mut desk = self.desk.take().unwrap_or_else(new);
        desk.caller.proof = self.caller.proof;
        let mut batch = self.batch();
        Next::Reading(spawn_blocking(move || {
            let run = read(&mut desk, &mut batch);
            (desk, run, batch)
        }))
    }

    /// Writes one answer, or some of the pieces of one, and begins the next meanwhile.
    async fn answer(&mut self, next: Next) -> io::Result<Option<Next>> {
        let reading = match next {
            Next::Refused(refusal) => {
                self.say(&Answer::Refused(refusal).encode()).await?;
                return Ok(None);
            }
            Next::Request(request) => {
                if let Request::Describe { hash } = request
                    && self.serving.describe(&hash, &self.caller).is_none()
                    && let Some(changed) = self.serving.changed(&hash, None, &self.caller)
                {
                    self.serving.uploads.changed(changed).await;
                }
                let answer = self.answer_at_once(request);
                self.say(&answer).await?;
                return Ok(None);
            }
            Next::Read(run, batch) => return self.answer_pieces(run, batch, false).await,
            Next::Reading(reading) => reading,
        };
        let read = self.line.hearing(blocking::finish(reading)).await?;
        let stopping = || io::Error::other("the runtime is shutting down");
        let (mut desk, run, batch) = read.ok_or_else(stopping)?;
        if let Some(changed) = desk.changed.take() {
            self.serving.uploads.changed(changed).await;
        }
        self.desk = Some(desk);
        if let Some(run) = run {
            return self.answer_pieces(run, batch, true).await;
        }
        let next = self.begin();
        self.say(batch.bytes()).await?;
        self.spare.push(batch);
        Ok(next)
    }

    /// Writes what was read of pieces, and begins the next meanwhile where that may take a while
    /// (`ahead`).
    async fn answer_pieces(
        &mut self,
        run: Run,
        batch: Batch,
        ahead: bool,
    ) -> io::Result<Option<Next>> {
        if run.is_broken() {
            return Err(io::Error::other("a file has changed while a piece of it was sent"));
        }
        let is_wanted = |line: &Line<S>| !line.incoming.is_cancelled(run.number);
        if !run.is_rest && (!is_wanted(&self.line) || self.is_given_up(&run).await?) {
            self.spare.push(batch);
            return Ok(Some(Next::Refused(Refusal::Cancelled)));
        }
        self.following.gave(&run);
        self.upload(&run);
        self.is_within = run.read > 0;
        self.run = Some(run).filter(|run| run.count > 0);
        let next = if ahead { self.begin() } else { None };
        self.write_pieces(batch.bytes()).await?;
        if let Some(upload) = &self.upload {
            upload.sent(batch.content);
        }
        self.spare.push(batch);
        Ok(next)
    }

    /// Makes the requester wait for pieces that were already sent to others, so that it fetches them
    /// there ([`peerkit_proto::files::seeding`] says for how long). Returns whether it did, and no
    /// longer wants them from here.
    async fn is_given_up(&mut self, run: &Run) -> io::Result<bool> {
        // Turns are counted and not time: on a busy machine, on which the others are as slow as this
        // node, each takes longer.
        let mut waited = Duration::ZERO;
        let mut shown = Instant::now();
        while let Some(requester) = self.following.held_back(run) {
            if requester.is_served(waited) {
                break;
            }
            self.line.hearing(tokio::time::sleep(TURN)).await?;
            waited = waited.saturating_add(TURN);
            if self.tell().await? {
                shown = Instant::now();
            } else if shown.elapsed() >= SIGN_OF_LIFE {
                self.say(&Answer::Whole.encode()).await?;
                shown = Instant::now();
            }
            self.line.flush().await?;
            if self.line.incoming.is_cancelled(run.number) {
                if let Some(requester) = self.following.held_back(run) {
                    requester.found(waited);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The answer to what needs no disk.
    fn answer_at_once(&mut self, request: Request) -> Vec<u8> {
        match request {
            Request::Describe { hash } => match self.serving.describe(&hash, &self.caller) {
                Some(description) => Answer::Description(description).encode(),
                None => Answer::Refused(self.serving.missing(&hash, &self.caller)).encode(),
            },
            Request::Follow { hash, addresses } => {
                self.following.follow(&self.serving, &self.caller, hash, addresses)
            }
            _ => Answer::Refused(Refusal::BadRequest).encode(),
        }
    }

    /// Writes pieces, at one of the places and no faster than is allowed.
    async fn write_pieces(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let permit = self.line.hearing(Arc::clone(&self.serving.places).acquire_owned()).await?;
        let mut place = Place::new(permit.map_err(io::Error::other)?);
        self.rates.sent(bytes.len());
        while let Some(part) = self.rates.upload_part().filter(|_| !bytes.is_empty()) {
            let (now, later) = bytes.split_at(part.min(bytes.len()));
            let rates = Arc::clone(&self.rates);
            self.line.hearing(place.during(rates.upload(now.len()))).await?;
            self.line.write(now, Some(&mut place)).await?;
            bytes = later;
        }
        self.line.write(bytes, Some(&mut place)).await
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.line.write(bytes, None).await
    }

    /// Tells who follows what is news; true where there was any.
    async fn tell(&mut self) -> io::Result<bool> {
        let news = self.following.news(&self.serving, &self.caller);
        self.say(&news).await?;
        Ok(!news.is_empty())
    }

    /// Waits, with nothing to do, until there is; false where there will be none.
    async fn wait(&mut self) -> io::Result<bool> {
        self.line.flush().await?;
        self.spare.clear();
        let mut since = Instant::now();
        loop {
            tokio::select! {
                asked = self.line.asked(since) => return asked,
                () = self.following.due() => {}
            }
            if self.tell().await? {
                self.line.flush().await?;
                since = Instant::now();
            }
        }
    }
}
