//! The server of the files protocol: answers the requests on a stream.
//!
//! Each stream has one task. While the task waits for the disk, for a permit to write or for the peer, it
//! reads further requests ([`request_stream`]) into a queue ([`request_queue`]). It answers them from shares
//! or from downloads under way ([`piece_reader`]), in batches of one large piece or many small ones. The next
//! batch is read while one is written. A peer that follows the content gets updates between two batches
//! ([`following`]).

mod followers;
mod following;
mod piece_reader;
mod request_queue;
mod request_stream;
#[cfg(test)]
mod tests;
mod uploads;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::files::seeding::DELAY_CHECK_INTERVAL;
use peerkit_proto::files::{Answer, FileKind, FileRefusal, Request};
use peerkit_proto::id::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::partial::Partials;
use followers::Followers;
use following::Following;
use piece_reader::{AnswerBuffer, Caller, Layouts, PieceReader, PieceRun};
use request_queue::Completed;
use request_stream::{RequestStream, WritePermit};
use uploads::UploadGuard;

use crate::blocking;
use crate::rate::{PeerRates, Rates};
use crate::shares::Shares;
use crate::stream::Stream;
use crate::tls::Session;
pub(crate) use uploads::{UploadNews, Uploads};
pub use uploads::{UploadStatus, UploadTotals};

/// Maximum number of streams that write pieces at the same time. Other streams wait at most 100 ms for each
/// stream ahead of them. 8: a few streams fill any line, and more would only slow each other down.
const MAX_WRITERS: usize = 8;

/// Interval at which a requester that is held back gets an answer without a piece, so that it does not hang
/// up. 10 s: a third of [`STALL`](super::STALL), the time after which it would.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The server of a node's files. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FileServer {
    shares: Shares,
    partials: Partials,
    rates: Rates,
    followers: Followers,
    layouts: Layouts,
    writers: Arc<Semaphore>,
    uploads: Uploads,
}

impl FileServer {
    pub(crate) fn new(shares: Shares, partials: Partials, rates: Rates, uploads: Uploads) -> Self {
        Self {
            shares,
            partials,
            rates,
            followers: Followers::default(),
            layouts: Layouts::default(),
            writers: Arc::new(Semaphore::new(MAX_WRITERS)),
            uploads,
        }
    }

    /// Answers the requests on `stream` until the peer ends it.
    ///
    /// # Errors
    /// As [`serve`].
    pub(crate) async fn answer(self, stream: Stream) -> io::Result<()> {
        let Session { id, binding, .. } = stream.channel.session();
        tracing::debug!(target: "peerkit::transfer", peer = %id.short(), "serving");
        serve(self, id, binding, stream).await
    }
}

/// Answers the requests that `id` makes on `stream`, in the TLS session of `binding`, until the peer ends the
/// stream.
///
/// Two batches are in memory at the same time: one is being sent, and the next is being read from disk.
///
/// # Errors
/// If the stream breaks; if nothing is requested and no updates are sent for [`IDLE`](super::IDLE); if the peer
/// reads nothing for [`STALL`](super::STALL), leaves a request unfinished for as long, or sends a length over
/// the limit.
pub(crate) async fn serve<S>(
    server: FileServer,
    id: NodeId,
    binding: [u8; 32],
    stream: S,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let caller = Caller { id, binding, proof: None };
    let serving = StreamServer {
        stream: RequestStream::new(stream),
        rates: server.rates.of(id),
        reader: Some(PieceReader::new(server.clone(), caller.clone())),
        server,
        caller,
        run: None,
        following: Following::default(),
        spare_buffers: Vec::new(),
        is_mid_piece: false,
        upload: None,
        is_complete: false,
    };
    serving.run().await
}

/// Serves one stream.
struct StreamServer<S> {
    stream: RequestStream<S>,
    server: FileServer,
    caller: Caller,
    rates: Arc<PeerRates>,
    /// `None` while it reads on a blocking thread.
    reader: Option<PieceReader>,
    /// The pieces of the current request that have not been read yet.
    run: Option<PieceRun>,
    following: Following,
    /// Free buffers for later answers.
    spare_buffers: Vec<AnswerBuffer>,
    /// If true, only the beginning of a piece was sent. The rest of it has to come next.
    is_mid_piece: bool,
    /// The content that is being sent.
    upload: Option<UploadGuard>,
    /// If true, the requester has said that it has received everything.
    is_complete: bool,
}

/// The next answer.
enum NextAnswer {
    /// A request that is answered without the disk.
    Request(Request),
    Refused(FileRefusal),
    /// A part of a piece that was in memory, ready to be sent, and the rest of its run.
    Read(PieceRun, AnswerBuffer),
    /// An answer that is being read from disk. If it has pieces, the rest of their run comes with it.
    Reading(JoinHandle<(PieceReader, Option<PieceRun>, AnswerBuffer)>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> StreamServer<S> {
    async fn run(mut self) -> io::Result<()> {
        let served = self.serve().await;
        self.stream.read_requests().await;
        self.note_completion().await;
        match served {
            // A requester that has everything may close the stream without reading the rest.
            Err(_) if self.is_complete => Ok(()),
            served => served,
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        let mut next = None;
        loop {
            self.note_completion().await;
            let Some(now) = next.take().or_else(|| self.begin_next()) else {
                if !self.wait_for_request().await? {
                    return Ok(());
                }
                continue;
            };
            next = self.answer(now).await?;
            if !self.is_mid_piece {
                self.send_updates().await?;
            }
            self.stream.read_requests().await;
        }
    }

    /// Begins the next answer. Returns `None` if no request waits.
    fn begin_next(&mut self) -> Option<NextAnswer> {
        loop {
            if let Some(run) = self.run.take() {
                if !self.is_mid_piece && self.stream.requests.is_cancelled(run.number) {
                    return Some(NextAnswer::Refused(FileRefusal::Cancelled));
                }
                return Some(self.read_pieces(run));
            }
            let (number, request) = self.stream.requests.next()?;
            match request {
                Ok(Request::Present { proof }) => self.caller.proof = Some(proof),
                Ok(Request::Data { hash, first, count }) => {
                    self.run = Some(PieceRun::new(number, hash, false, (first, count)));
                }
                Ok(Request::Tree { hash, first, count }) => {
                    self.run = Some(PieceRun::new(number, hash, true, (first, count)));
                }
                Ok(Request::Pieces { hash, first, count }) => {
                    return Some(self.read_in_background(move |reader, buffer| {
                        buffer.put(&reader.values(hash, first, count));
                        None
                    }));
                }
                Ok(request @ (Request::Describe { .. } | Request::Follow { .. })) => {
                    return Some(NextAnswer::Request(request));
                }
                Ok(_) | Err(_) => return Some(NextAnswer::Refused(FileRefusal::BadRequest)),
            }
        }
    }

    /// Counts an upload as complete if the requester has said that it has received everything.
    async fn note_completion(&mut self) {
        let Some(Completed { hash, requester, called }) = self.stream.requests.take_complete()
        else {
            return;
        };
        self.is_complete = true;
        if let Some(file) = self.server.file(&hash, called.as_ref(), &self.caller) {
            self.server.uploads.complete(self.caller.id, requester, file).await;
        }
    }

    /// Begins the upload that the pieces of `run` are part of, unless it has begun. Sending a folder's
    /// manifest is no upload.
    fn begin_upload(&mut self, run: &PieceRun) {
        if self.upload.as_ref().is_some_and(|upload| upload.hash() == run.hash) {
            return;
        }
        let file = self.server.file(&run.hash, None, &self.caller);
        let file = file.filter(|file| run.is_tree == (file.kind == FileKind::Folder));
        if let Some(file) = file {
            self.upload = Some(self.server.uploads.begin(self.caller.id, file));
        }
    }

    /// Reads the next pieces of `run`: from memory if they are there, or else on a blocking thread.
    fn read_pieces(&mut self, mut run: PieceRun) -> NextAnswer {
        let mut buffer = self.empty_buffer();
        if let Some(reader) = &mut self.reader {
            reader.caller.proof = self.caller.proof;
            if reader.read_cached(&mut run, &mut buffer) {
                return NextAnswer::Read(run, buffer);
            }
        }
        self.spare_buffers.push(buffer);
        self.read_in_background(move |reader, buffer| {
            reader.read(&mut run, buffer);
            Some(run)
        })
    }

    /// Returns an empty buffer.
    fn empty_buffer(&mut self) -> AnswerBuffer {
        let mut buffer = self.spare_buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Reads on a blocking thread.
    fn read_in_background(
        &mut self,
        read: impl FnOnce(&mut PieceReader, &mut AnswerBuffer) -> Option<PieceRun> + Send + 'static,
    ) -> NextAnswer {
        let new = || PieceReader::new(self.server.clone(), self.caller.clone());
        let mut reader = self.reader.take().unwrap_or_else(new);
        reader.caller.proof = self.caller.proof;
        let mut buffer = self.empty_buffer();
        NextAnswer::Reading(spawn_blocking(move || {
            let run = read(&mut reader, &mut buffer);
            (reader, run, buffer)
        }))
    }

    /// Writes one answer, or some pieces of it. Returns the next answer if it was begun meanwhile.
    async fn answer(&mut self, next: NextAnswer) -> io::Result<Option<NextAnswer>> {
        let reading = match next {
            NextAnswer::Refused(refusal) => {
                self.write(&Answer::Refused(refusal).encode()).await?;
                return Ok(None);
            }
            NextAnswer::Request(request) => {
                let answer = self.answer_from_memory(request).await;
                self.write(&answer).await?;
                return Ok(None);
            }
            NextAnswer::Read(run, buffer) => return self.answer_pieces(run, buffer, false).await,
            NextAnswer::Reading(reading) => reading,
        };
        let read = self.stream.during(blocking::finish(reading)).await?;
        let stopping = || io::Error::other("the runtime is shutting down");
        let (mut reader, run, buffer) = read.ok_or_else(stopping)?;
        if let Some(changed) = reader.changed.take() {
            self.server.uploads.changed(changed).await;
        }
        self.reader = Some(reader);
        if let Some(run) = run {
            return self.answer_pieces(run, buffer, true).await;
        }
        let next = self.begin_next();
        self.write(buffer.bytes()).await?;
        self.spare_buffers.push(buffer);
        Ok(next)
    }

    /// Writes the pieces that were read. If `ahead` is true, begins the next answer before that, because
    /// reading takes long.
    async fn answer_pieces(
        &mut self,
        run: PieceRun,
        buffer: AnswerBuffer,
        ahead: bool,
    ) -> io::Result<Option<NextAnswer>> {
        if run.is_broken() {
            return Err(io::Error::other("a file has changed while a piece of it was sent"));
        }
        let is_cancelled = self.stream.requests.is_cancelled(run.number);
        if !run.is_rest && (is_cancelled || self.hold_back(&run).await?) {
            self.spare_buffers.push(buffer);
            return Ok(Some(NextAnswer::Refused(FileRefusal::Cancelled)));
        }
        // Noted before they are written, so that no other stream sends the same pieces meanwhile.
        self.following.sent(&run);
        self.begin_upload(&run);
        self.is_mid_piece = run.read > 0;
        self.run = Some(run).filter(|run| run.count > 0);
        let next = if ahead { self.begin_next() } else { None };
        self.write_pieces(buffer.bytes()).await?;
        if let Some(upload) = &self.upload {
            upload.sent(buffer.content);
        }
        self.spare_buffers.push(buffer);
        Ok(next)
    }

    /// Holds back pieces that were already sent to other followers, so that the requester fetches them from
    /// those. [`peerkit_proto::files::seeding`] decides for how long. Returns whether the requester has
    /// cancelled the request meanwhile.
    async fn hold_back(&mut self, run: &PieceRun) -> io::Result<bool> {
        // Counts steps instead of measuring time: on a busy machine each step takes longer, and the other
        // followers also need longer to send the pieces.
        let mut waited = Duration::ZERO;
        let mut last_answer = Instant::now();
        while let Some(requester) = self.following.follower_to_hold_back(run) {
            if requester.is_wait_over(waited) {
                break;
            }
            self.stream.during(tokio::time::sleep(DELAY_CHECK_INTERVAL)).await?;
            waited = waited.saturating_add(DELAY_CHECK_INTERVAL);
            if self.send_updates().await? {
                last_answer = Instant::now();
            } else if last_answer.elapsed() >= SIGN_OF_LIFE {
                self.write(&Answer::Whole.encode()).await?;
                last_answer = Instant::now();
            }
            self.stream.flush().await?;
            if self.stream.requests.is_cancelled(run.number) {
                // The requester has found the pieces elsewhere. This node notes how long that took.
                if let Some(requester) = self.following.follower_to_hold_back(run) {
                    requester.found_elsewhere(waited);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Answers a request that does not need the disk.
    async fn answer_from_memory(&mut self, request: Request) -> Vec<u8> {
        match request {
            Request::Describe { hash } => {
                if let Some(description) = self.server.describe(&hash, &self.caller) {
                    return Answer::Description(description).encode();
                }
                if let Some(changed) = self.server.changed(&hash, None, &self.caller) {
                    self.server.uploads.changed(changed).await;
                }
                Answer::Refused(self.server.missing(&hash, &self.caller)).encode()
            }
            Request::Follow { hash, addresses } => {
                self.following.follow(&self.server, &self.caller, hash, addresses)
            }
            _ => Answer::Refused(FileRefusal::BadRequest).encode(),
        }
    }

    /// Waits for a permit to write, and writes pieces no faster than the upload limits allow.
    async fn write_pieces(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let permit = self.stream.during(Arc::clone(&self.server.writers).acquire_owned()).await?;
        let mut permit = WritePermit::new(permit.map_err(io::Error::other)?);
        self.rates.sent(bytes.len());
        while let Some(part) = self.rates.upload_part().filter(|_| !bytes.is_empty()) {
            let (now, later) = bytes.split_at(part.min(bytes.len()));
            let rates = Arc::clone(&self.rates);
            self.stream.during(permit.during(rates.upload(now.len()))).await?;
            self.stream.write(now, Some(&mut permit)).await?;
            bytes = later;
        }
        self.stream.write(bytes, Some(&mut permit)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write(bytes, None).await
    }

    /// Sends the updates that are due if the peer follows a hash. Returns whether there were any.
    async fn send_updates(&mut self) -> io::Result<bool> {
        let updates = self.following.updates(&self.server, &self.caller);
        self.write(&updates).await?;
        Ok(!updates.is_empty())
    }

    /// Waits for the next request, and sends updates meanwhile. Returns false at the end of the stream.
    async fn wait_for_request(&mut self) -> io::Result<bool> {
        self.stream.flush().await?;
        // A stream that waits for requests keeps no buffers.
        self.spare_buffers.clear();
        let mut since = Instant::now();
        loop {
            tokio::select! {
                requested = self.stream.next_request(since) => return requested,
                () = self.following.due() => {}
            }
            if self.send_updates().await? {
                self.stream.flush().await?;
                since = Instant::now();
            }
        }
    }
}
