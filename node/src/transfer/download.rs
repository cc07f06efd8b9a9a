//! One fetch, from one source after the other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use peerkit_proto::files::{Entry, FileKind, MAX_FILE, MAX_MANIFEST, Manifest};
use peerkit_proto::id::{Hash, NodeId};
use tokio::io::{AsyncRead, AsyncWrite};

use super::fetching::{Fetching, Folder, Object, Sink, blocking, disk, store_at};
use super::part::{PartFile, PartFolder, write_all_at};
use super::place::{place_file, place_folder};
use super::{Destination, FetchError, Fetched, Progress};

/// A fetch of one hash to one place.
///
/// [`run`](Self::run) it with a source; where that fails, with another: it goes on from the pieces
/// that were verified. [`finish`](Self::finish) puts the whole in its place. What is not finished
/// is removed from disk when this is dropped.
#[derive(Debug)]
pub(crate) struct Download {
    hash: Hash,
    to: Destination,
    started: Instant,
    sources: BTreeSet<NodeId>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known that was not only said.
    New,
    File {
        target: PathBuf,
        part: PartFile,
        object: Object,
    },
    Manifest {
        target: PathBuf,
        bytes: Vec<u8>,
        object: Object,
    },
    Folder(Folder),
}

impl Download {
    /// A fetch of `hash` that goes to `to`. Nothing is done yet; the time counts from here.
    #[must_use]
    pub(crate) fn new(hash: Hash, to: Destination) -> Self {
        Self { hash, to, started: Instant::now(), sources: BTreeSet::new(), stage: Stage::New }
    }

    /// Whether all is there and only [`finish`](Self::finish) is left.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        match &self.stage {
            Stage::New | Stage::Manifest { .. } => false,
            Stage::File { object, .. } => object.have.is_full(),
            Stage::Folder(folder) => folder.next >= folder.manifest.entries().len(),
        }
    }

    /// Fetches all that is missing from the source at the other end of `stream`, a stream of the
    /// files protocol. `progress` is called as verified bytes are written.
    ///
    /// May be dropped at any time: what was verified by then stays.
    ///
    /// # Errors
    /// Where this source did not do: see [`FetchError::is_worth_another`]. What it sent and was
    /// verified is kept. The stream is of no use any more.
    pub(crate) async fn run<S>(
        &mut self,
        source: NodeId,
        stream: S,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<(), FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut fetching = Fetching::new(stream, progress);
        let result = self.advance(&mut fetching).await;
        if fetching.verified > 0 {
            self.sources.insert(source);
        }
        result
    }

    /// Puts what was fetched in its place and tells where that is. It is on disk when this returns.
    ///
    /// Nothing is ever overwritten: where something else has the name, this one gets a number
    /// (`name (1).txt`). A file of the very same content is left as it is and counts as the result.
    ///
    /// # Errors
    /// [`FetchError::Unfinished`] where pieces are missing, [`FetchError::Disk`] where it can't be
    /// put in its place. What was fetched is gone then.
    pub(crate) async fn finish(self) -> Result<Fetched, FetchError> {
        if !self.is_complete() {
            return Err(FetchError::Unfinished);
        }
        let (started, hash) = (self.started, self.hash);
        let sources = self.sources.into_iter().collect();
        let stage = self.stage;
        let (path, kind, bytes) = blocking(move || match stage {
            Stage::File { target, part, object } => {
                let path = place_file(part, &target, &hash).map_err(disk(&target))?;
                Ok((path, FileKind::File, object.list.size()))
            }
            Stage::Folder(folder) => {
                let total = folder.manifest.total();
                let path = place_folder(folder.part, &folder.target, &folder.manifest)
                    .map_err(disk(&folder.target))?;
                Ok((path, FileKind::Folder, total))
            }
            Stage::New | Stage::Manifest { .. } => Err(FetchError::Unfinished),
        })
        .await?;
        Ok(Fetched { path, kind, bytes, seconds: started.elapsed().as_secs_f64(), sources })
    }

    async fn advance<S, P>(&mut self, fetching: &mut Fetching<S, P>) -> Result<(), FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        P: FnMut(Progress) + Send,
    {
        if matches!(self.stage, Stage::New) {
            self.stage = self.begin(fetching).await?;
        }
        if let Stage::Manifest { bytes, object, .. } = &mut self.stage {
            fetching.rest(object, &mut Sink::Memory(bytes)).await?;
            self.stage = self.open_folder().await?;
        }
        match &mut self.stage {
            Stage::New | Stage::Manifest { .. } => Err(FetchError::Unfinished),
            Stage::File { part, object, .. } => {
                fetching.at = Progress { done: object.done, total: object.list.size() };
                let (file, path) = (Arc::clone(part.file()), part.path().to_owned());
                fetching.rest(object, &mut Sink::File(file, path)).await
            }
            Stage::Folder(folder) => fetching.folder(folder).await,
        }
    }

    /// Asks what it is, and believes no more than the last piece proves.
    async fn begin<S, P>(&self, fetching: &mut Fetching<S, P>) -> Result<Stage, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        P: FnMut(Progress) + Send,
    {
        let said = fetching.describe(self.hash).await?;
        let limit = match said.kind {
            FileKind::File => MAX_FILE,
            FileKind::Folder => MAX_MANIFEST as u64,
        };
        let size = said.size;
        if size > limit {
            return Err(FetchError::TooLarge { size, limit });
        }
        let (mut object, last) = fetching.object(self.hash, size).await?;
        let to = self.to.clone();
        let (hash, kind) = (self.hash, said.kind);
        blocking(move || {
            let target = to.resolve(&said.name).map_err(disk(to.path()))?;
            let Some(range) = object.list.range(object.list.count() - 1) else {
                return Err(FetchError::Unfinished);
            };
            let stage = match kind {
                FileKind::File => {
                    let part = PartFile::open(&target, &hash).map_err(disk(&target))?;
                    let file = part.file();
                    file.set_len(size)
                        .and_then(|()| write_all_at(file, &last, range.start))
                        .map_err(disk(part.path()))?;
                    object.count(&last);
                    Stage::File { target, part, object }
                }
                FileKind::Folder => {
                    let mut bytes = vec![0; usize::try_from(size).unwrap_or(MAX_MANIFEST)];
                    store_at(&mut bytes, &last, range.start)?;
                    object.count(&last);
                    Stage::Manifest { target, bytes, object }
                }
            };
            Ok(stage)
        })
        .await
    }

    /// Reads the manifest that was fetched. Where it is none, whoever called this a folder lied,
    /// and the next source is asked anew.
    async fn open_folder(&mut self) -> Result<Stage, FetchError> {
        let stage = std::mem::replace(&mut self.stage, Stage::New);
        let Stage::Manifest { target, bytes, .. } = stage else {
            return Err(FetchError::Unfinished);
        };
        let hash = self.hash;
        blocking(move || {
            let manifest = Manifest::decode(Bytes::from(bytes))?;
            let part = PartFolder::open(&target, &hash).map_err(disk(&target))?;
            let files = part.files();
            for entry in manifest.entries() {
                if let Entry::Folder { path, .. } = entry {
                    let path = path.under(&files);
                    std::fs::create_dir(&path).map_err(disk(&path))?;
                }
            }
            Ok(Stage::Folder(Folder {
                target,
                part,
                manifest: Arc::new(manifest),
                next: 0,
                tried: 0,
                current: None,
                done: 0,
            }))
        })
        .await
    }
}
