//! Sharing, finding and fetching files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerkit_proto::files::wire::MAX_PLACES;
use peerkit_proto::files::{Access, FileName, FoundFile, SharedFile, Source, Ticket};
use peerkit_proto::frame::query::{Answer, AnswerBody, MAX_SEARCH, What};
use peerkit_proto::id::Hash;

use super::Node;
use crate::error::Error;
use crate::inner::Inner;
use crate::known;
use crate::shares::{Added, FolderPart, Progress, Refreshed, ShareOptions};
use crate::transfer::{Download, DownloadStatus, Fetched, Get, UploadStatus, UploadTotals};

impl Node {
    /// Shares a file or folder: it stays where it is, and others find and fetch it. What could not
    /// be shared of a folder is told in the result.
    ///
    /// # Errors
    /// Where the path itself can't be shared.
    pub async fn share(&self, path: impl Into<PathBuf>) -> Result<Added, Error> {
        self.share_with_progress(path, |_| {}).await
    }

    /// As [`Node::share`]; `progress` is called while files are hashed, on another thread.
    ///
    /// # Errors
    /// As [`Node::share`].
    pub async fn share_with_progress(
        &self,
        path: impl Into<PathBuf>,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, Error> {
        self.share_with(path, ShareOptions::default(), progress).await
    }

    /// As [`Node::share_with_progress`], with whom `options` say. To share the same path again with
    /// other options changes who may have it from then on.
    ///
    /// # Errors
    /// As [`Node::share`], and [`Error::NotAKey`] if `options` name an identity that no node can have.
    pub async fn share_with(
        &self,
        path: impl Into<PathBuf>,
        options: ShareOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, Error> {
        for id in options.nodes() {
            id.checked()?;
        }
        Ok(self.inner.shares.add_with(path, options, progress).await?)
    }

    /// Returns a ticket for what is shared under this hash: all that another node needs to fetch it.
    /// It holds this node's identity and addresses, the share's name, and the secret if it was shared
    /// [with one](ShareOptions::with_ticket). What is shared with named nodes stays for those alone.
    ///
    /// `None` if the hash is not shared. If it is shared under several names, see
    /// [`ticket_for`](Self::ticket_for).
    #[must_use]
    pub fn ticket(&self, hash: &Hash) -> Option<Ticket> {
        self.ticket_of(hash, None)
    }

    /// Returns a ticket for one share, or for a file in one, as [`ticket`](Self::ticket) does: with
    /// the name that `file` has, under which it will arrive. The same content may be shared under
    /// several names.
    #[must_use]
    pub fn ticket_for(&self, file: &SharedFile) -> Option<Ticket> {
        self.ticket_of(&file.hash, Some(&file.name))
    }

    fn ticket_of(&self, hash: &Hash, name: Option<&FileName>) -> Option<Ticket> {
        let (name, access) = self.inner.shares.named(hash, name)?;
        let secret = match access {
            Access::Ticket(secret) => Some(secret),
            _ => None,
        };
        let mut addresses = self.inner.addresses(None);
        addresses.truncate(MAX_PLACES);
        let (node, network) = (self.inner.id, self.inner.network.clone());
        Some(Ticket { hash: *hash, node, secret, network, addresses, name: Some(name) })
    }

    /// No longer shares what was added and has this hash, under any name; the files stay. Returns
    /// what that was.
    ///
    /// # Errors
    /// Where the state can't be written.
    pub async fn unshare(&self, hash: Hash) -> Result<Vec<SharedFile>, Error> {
        Ok(self.inner.shares.remove(&hash).await?)
    }

    /// No longer shares what was added at `path`, as [`shared_paths`](Self::shared_paths) has it; the
    /// files stay. Other shares of the same content stay too. Returns what that was.
    ///
    /// # Errors
    /// If the state can't be written.
    pub async fn unshare_path(&self, path: &Path) -> Result<Option<SharedFile>, Error> {
        Ok(self.inner.shares.remove_path(path).await?)
    }

    /// Looks at every share again: what was changed is hashed again, what is gone is no longer
    /// shared.
    ///
    /// # Errors
    /// Where the state can't be read or written.
    pub async fn refresh(
        &self,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Refreshed, Error> {
        Ok(self.inner.shares.refresh(progress).await?)
    }

    /// Waits until what was shared before a restart is shared again, as far as it is there: until
    /// then [`shares`](Self::shares) does not have all of it. Without a state folder that is at once.
    pub async fn shares_restored(&self) {
        tokio::select! {
            () = self.inner.restored.cancelled() => {}
            () = self.inner.stop.cancelled() => {}
        }
    }

    /// What is shared, as it was added.
    #[must_use]
    pub fn shares(&self) -> Vec<SharedFile> {
        self.inner.shares.list()
    }

    /// Who may have what is shared under `hash`, the widest where it is shared more than once; `None`
    /// where it is not shared.
    #[must_use]
    pub fn access(&self, hash: Hash) -> Option<Access> {
        self.inner.shares.access(&hash)
    }

    /// What is shared, and from where.
    #[must_use]
    pub fn shared_paths(&self) -> Vec<(PathBuf, SharedFile)> {
        self.inner.shares.paths()
    }

    /// Returns the files in the folder that is shared from `path`, as
    /// [`shared_paths`](Self::shared_paths) has it: those after the first `skip`, at most `limit`, in
    /// the order of their paths. A folder may have a million. `None` if no folder is shared from there.
    #[must_use]
    pub fn shared_files(&self, path: &Path, skip: usize, limit: usize) -> Option<FolderPart> {
        self.inner.shares.files_in(path, skip, limit)
    }

    /// Files and folders of this node and others that fit all the words of `text`, whatever the case,
    /// and however accents are composed; each with all who have it. The same content under two names
    /// is found under both. A word fits where it is a part of the name, or of the path in the shared
    /// folder. One with `*`, `?` or `[a-z]` in it has to be the whole name; where it also has a `/`,
    /// the whole path, in which `**` is for any folders.
    ///
    /// What is shared with this node by name is found where its sharer is a neighbour.
    ///
    /// # Errors
    /// Where the text is too long, or the node is stopping.
    pub async fn search(&self, text: &str) -> Result<Vec<FoundFile>, Error> {
        self.inner.search(text).await
    }

    /// Fetches the file or folder of this hash to `to`: into it where it is a folder that exists,
    /// under the name that it has at its source; else to exactly that path. It comes from all who
    /// have it at once, and every piece is checked against the hash. Nothing is ever overwritten:
    /// where there is something else of that name this one gets a number.
    ///
    /// # Errors
    /// Where nobody has it, none of those who have it does, or the disk refuses. What was verified
    /// by then is kept beside the target, in `.NAME.HASH.part`, and the next fetch of the same to the
    /// same place goes on from it; so it is where this is dropped.
    pub async fn fetch(&self, hash: Hash, to: impl Into<PathBuf>) -> Result<Fetched, Error> {
        self.fetch_with_progress(hash, to, |_| {}).await
    }

    /// As [`Node::fetch`]; `progress` is called as verified bytes are written.
    ///
    /// # Errors
    /// As [`Node::fetch`].
    pub async fn fetch_with_progress(
        &self,
        hash: Hash,
        to: impl Into<PathBuf>,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Fetched, Error> {
        self.fetch_now(Get::new(hash).to(to), progress).await
    }

    /// Fetches into the folder `into`, which is made where it is missing, under the name that the
    /// file has at its source.
    ///
    /// # Errors
    /// As [`Node::fetch`].
    pub async fn fetch_into(
        &self,
        hash: Hash,
        into: impl AsRef<Path>,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Fetched, Error> {
        self.fetch_now(Get::new(hash).into_folder(into.as_ref()), progress).await
    }

    /// Fetches what `get` says, and waits for it; `progress` is called as verified bytes are written.
    ///
    /// # Errors
    /// As [`Node::fetch`].
    pub async fn fetch_now(
        &self,
        get: Get,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Fetched, Error> {
        self.inner.fetch_now(get, progress).await
    }

    /// Begins to fetch what `get` says, in the background. With a state folder it goes on after a
    /// restart of the node, until it is done or cancelled.
    ///
    /// # Errors
    /// Where the state can't be written.
    pub async fn download(&self, get: Get) -> Result<Download, Error> {
        self.inner.download(get, true).await
    }

    /// Returns the folder for fetches that name no destination.
    #[must_use]
    pub fn download_folder(&self) -> PathBuf {
        self.inner.download_folder()
    }

    /// Sets the folder for fetches that name no destination, from now on. Fetches that were begun
    /// before keep theirs. The folder is made when something is fetched into it.
    pub fn set_download_folder(&self, folder: impl Into<PathBuf>) {
        self.inner.set_download_folder(folder.into());
    }

    /// The downloads: those under way, those that wait or are paused, those that failed, and the last
    /// that were done.
    #[must_use]
    pub fn downloads(&self) -> Vec<DownloadStatus> {
        self.inner.downloads.list()
    }

    /// The uploads: what peers are fetching from this node now, and how much of it was sent.
    ///
    /// When a peer has received all of a file or folder it says so:
    /// [`Event::NodeUploadCompleted`](crate::Event::NodeUploadCompleted).
    #[must_use]
    pub fn uploads(&self) -> Vec<UploadStatus> {
        self.inner.uploads.list()
    }

    /// Returns the totals of the files that this node has sent since it started.
    #[must_use]
    pub fn upload_totals(&self) -> UploadTotals {
        self.inner.uploads.totals()
    }

    /// Stops a download until it is resumed. What came of it is kept.
    ///
    /// # Errors
    /// [`Error::NoDownload`], or where the state can't be written.
    pub async fn pause(&self, hash: Hash) -> Result<DownloadStatus, Error> {
        self.inner.pause(&hash).await
    }

    /// Goes on with a download that was paused or has failed.
    ///
    /// # Errors
    /// [`Error::NoDownload`], or where the state can't be written.
    pub async fn resume(&self, hash: Hash) -> Result<DownloadStatus, Error> {
        self.inner.resume(&hash).await
    }

    /// Gives up a download and removes what came of it. One that is done is only listed no more.
    ///
    /// # Errors
    /// [`Error::NoDownload`], or where the state can't be written.
    pub async fn cancel(&self, hash: Hash) -> Result<DownloadStatus, Error> {
        self.inner.cancel(&hash).await
    }
}

/// The finds of a search.
#[derive(Default)]
struct Findings {
    /// By name and hash: the same content may have several names.
    files: BTreeMap<(FileName, Hash), SharedFile>,
    /// The nodes that have a content, under whatever name.
    sources: BTreeMap<Hash, Vec<Source>>,
}

impl Findings {
    fn add(&mut self, files: Vec<SharedFile>, source: &Source) {
        for file in files {
            let sources = self.sources.entry(file.hash).or_default();
            if !sources.contains(source) {
                sources.push(source.clone());
            }
            self.files.entry((file.name.clone(), file.hash)).or_insert(file);
        }
    }

    /// In the order of names.
    fn into_files(self) -> Vec<FoundFile> {
        let sources = |file: &SharedFile| self.sources.get(&file.hash).cloned().unwrap_or_default();
        let files = self.files.into_values();
        files.map(|file| FoundFile { sources: sources(&file), file }).collect()
    }
}

impl Inner {
    /// Searches the files that nodes share: see [`Node::search`].
    pub(crate) async fn search(&self, text: &str) -> Result<Vec<FoundFile>, Error> {
        if text.len() > MAX_SEARCH {
            return Err(Error::Setting(format!("a search has at most {MAX_SEARCH} bytes")));
        }
        let mut found = Findings::default();
        let mut answers = self.ask_for_files(What::Search(text.to_owned())).await?;
        let own = known::find_own(self, text.to_owned()).await;
        let (name, addresses) = (self.name.clone(), self.addresses(None));
        found.add(own, &Source { id: self.id, name, addresses });
        while let Some(answer) = answers.recv().await {
            let source = source(&answer);
            if let AnswerBody::Files(files) = answer.body {
                found.add(files, &source);
            }
        }
        Ok(found.into_files())
    }

    /// Fetches, and waits for it: see [`Node::fetch_now`].
    pub(crate) async fn fetch_now(
        self: &Arc<Self>,
        get: Get,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Fetched, Error> {
        let download = self.download(get, false).await?;
        let mut abandoned = Abandon { inner: self, download };
        loop {
            let status = abandoned.download.changed().await;
            if let Some(total) = status.total {
                progress(Progress { done: status.done, total });
            }
            if !status.state.is_under_way() {
                return abandoned.download.outcome().unwrap_or(Err(Error::Stopped));
            }
        }
    }
}

/// A fetch that ends with the future that waits for it.
struct Abandon<'a> {
    inner: &'a Inner,
    download: Download,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.inner.abandon(&self.download);
    }
}

fn source(answer: &Answer) -> Source {
    Source { id: answer.node, name: answer.name.clone(), addresses: answer.addresses.clone() }
}
