//! Sharing, finding and fetching files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerkit_proto::files::wire::MAX_PLACES;
use peerkit_proto::files::{Access, FileName, FoundFile, SharedFile, Ticket};
use peerkit_proto::id::Hash;

use super::Node;
use crate::error::Error;
use crate::inner::Inner;
use crate::shares::{FolderPart, HashProgress, Refreshed, Sharing};
use crate::transfer::{Download, DownloadStatus, FetchRequest, UploadStatus, UploadTotals};

impl Node {
    /// Shares a file or folder with other nodes once the returned [`Sharing`] is awaited. The file stays
    /// where it is. Others find it by its name and fetch it by its hash. The result lists the entries of a
    /// folder that could not be shared.
    ///
    /// [`Sharing`] has the settings: for which nodes, whether it is shared again after a restart, and a
    /// callback for the progress.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # std::fs::write(folder.path().join("song.txt"), "la la la")?;
    /// # std::fs::write(folder.path().join("diary.txt"), "secret")?;
    /// # let bob = peerkit::Node::builder().spawn().await?.id();
    /// # let node = peerkit::Node::builder().spawn().await?;
    /// let added = node.share(folder.path().join("song.txt")).await?;
    /// println!("others can fetch {} by {}", added.shared.name, added.shared.hash);
    ///
    /// // For one node only.
    /// node.share(folder.path().join("diary.txt")).to_nodes([bob]).await?;
    /// # node.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When awaited: [`Error::Share`] if the path itself can't be shared, and [`Error::NotAKey`] if it
    /// is for an identity that no node can have. Nothing is shared then.
    pub fn share(&self, path: impl Into<PathBuf>) -> Sharing {
        Sharing::new(self.inner.files.shares.clone(), path.into())
    }

    /// Starts to fetch a file or folder, and returns a handle, which is awaited for the result.
    ///
    /// The pieces come from all nodes that have the content, in parallel, and each is checked against the
    /// hash. A request that names no destination uses the [download
    /// folder](FilesHandle::download_folder). An existing file is not overwritten unless the request
    /// [says so](FetchRequest::overwrite): the name of the new one gets a number.
    ///
    /// The fetch runs in the background. It continues if the handle is dropped and, with a state folder,
    /// after a restart of the node, until it is done or [cancelled](Download::cancel). A request in the
    /// [foreground](FetchRequest::foreground) ends with its handle.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # std::fs::write(folder.path().join("song.txt"), "la la la")?;
    /// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().download_folder(folder.path().join("fetched")).spawn().await?;
    /// # bob.connect(ann.listening()[0]).await?;
    /// # ann.share(folder.path().join("song.txt")).await?;
    /// let found = bob.search("song").await?;
    /// let fetched = bob.fetch(found[0].file.hash).await?;
    /// assert_eq!(std::fs::read(fetched.path)?, b"la la la");
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When awaited: [`Error::NoSource`] if no node has the content, [`Error::Fetch`] or the error of the last
    /// source if every source fails, a store error if the state can't be written, and
    /// [`Error::Stopped`] if the node stops. Pieces that were verified by then stay beside the target, in
    /// `.NAME.HASH.part`, and the next fetch of the same content to the same place continues from them.
    pub fn fetch(&self, request: impl Into<FetchRequest>) -> Download {
        self.inner.fetch(request.into())
    }

    /// Searches the files and folders that this node and others share. Each result has all nodes that have
    /// the file.
    ///
    /// A file is found if it matches every word of `text`. Case does not matter, nor how accents are
    /// encoded. A word matches if it is part of the file's name, or of its path in the shared folder. A word
    /// with `*`, `?` or `[a-z]` in it is a pattern for the whole name. If it also has a `/`, it is a pattern
    /// for the whole path, and `**` matches any folders. The same content under two names is found under
    /// both.
    ///
    /// A share [for named nodes](Sharing::to_nodes) is found by these if they are connected to its sharer.
    ///
    /// [`Node::fetch`] has an example.
    ///
    /// # Errors
    /// [`Error::SearchTooLong`], and [`Error::Stopped`].
    pub async fn search(&self, text: &str) -> Result<Vec<FoundFile>, Error> {
        self.inner.search(text).await
    }

    /// Returns the operations on shares, downloads and uploads.
    #[must_use]
    pub fn files(&self) -> FilesHandle<'_> {
        FilesHandle { inner: &self.inner }
    }
}

/// The shares, downloads and uploads of a node: see [`Node::files`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # std::fs::write(folder.path().join("song.txt"), "la la la")?;
/// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
/// # let bob = peerkit::Node::builder().download_folder(folder.path().join("fetched")).spawn().await?;
/// let added = ann.share(folder.path().join("song.txt")).with_ticket().await?;
/// let ticket = ann.files().ticket(&added.shared.hash).ok_or("it is not shared")?;
///
/// // The ticket alone, which may have come by mail, lets another node fetch.
/// bob.fetch(&ticket);
/// // Later on, and elsewhere in the program:
/// let download = bob.files().download(ticket.hash)?;
/// assert_eq!(download.await?.bytes, 8);
///
/// ann.files().unshare(ticket.hash).await?;
/// assert!(ann.files().shares().is_empty());
/// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct FilesHandle<'a> {
    inner: &'a Arc<Inner>,
}

impl FilesHandle<'_> {
    /// Returns a ticket for the content with this hash: all that another node needs to fetch it. It holds
    /// this node's identity and addresses, the share's name, and the secret of a share [with
    /// tickets](Sharing::with_ticket). A ticket for a share [for named nodes](Sharing::to_nodes) is of use to
    /// these nodes only.
    ///
    /// `None` if the hash is not shared. If it is shared under several names, see
    /// [`ticket_for`](Self::ticket_for).
    #[must_use]
    pub fn ticket(self, hash: &Hash) -> Option<Ticket> {
        self.ticket_of(hash, None)
    }

    /// Returns a ticket for one share, or for a file in a shared folder, as [`ticket`](Self::ticket) does. The
    /// fetched file gets the name that `file` has here: the same content may be shared under several
    /// names.
    #[must_use]
    pub fn ticket_for(self, file: &SharedFile) -> Option<Ticket> {
        self.ticket_of(&file.hash, Some(&file.name))
    }

    fn ticket_of(self, hash: &Hash, name: Option<&FileName>) -> Option<Ticket> {
        let (name, access) = self.inner.files.shares.named(hash, name)?;
        let secret = match access {
            Access::Ticket(secret) => Some(secret),
            _ => None,
        };
        let mut addresses = self.inner.addresses.announced(None);
        addresses.truncate(MAX_PLACES);
        let (node, network) = (self.inner.profile.id, self.inner.profile.network.clone());
        Some(Ticket { hash: *hash, node, secret, network, addresses, name: Some(name) })
    }

    /// Stops sharing everything that was added and has this hash, under any name. The files stay on disk.
    /// Returns what was removed.
    ///
    /// # Errors
    /// [`Error::Share`] if the state can't be written. It is no longer shared in this run.
    pub async fn unshare(self, hash: Hash) -> Result<Vec<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove(&hash).await?)
    }

    /// Stops sharing the file or folder that was added at `path`, which is a path as
    /// [`shared_paths`](Self::shared_paths) returns it. The files stay on disk, and so do other shares of the
    /// same content. Returns what was removed.
    ///
    /// # Errors
    /// As [`unshare`](Self::unshare).
    pub async fn unshare_path(self, path: &Path) -> Result<Option<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove_path(path).await?)
    }

    /// Scans every share again. Changed files are hashed again, and files that are gone are no longer
    /// shared. `progress` is called on another thread while files are hashed.
    ///
    /// # Errors
    /// [`Error::Share`] if the state can't be read or written.
    pub async fn refresh(
        &self,
        progress: impl FnMut(HashProgress) + Send + 'static,
    ) -> Result<Refreshed, Error> {
        Ok(self.inner.files.shares.refresh(progress).await?)
    }

    /// Waits until the shares of the last run are shared again, as far as they still exist. Until then
    /// [`shares`](Self::shares) does not list all of them. Returns at once without a state folder.
    pub async fn restored(self) {
        tokio::select! {
            () = self.inner.files.restored.cancelled() => {}
            () = self.inner.tasks.stop.cancelled() => {}
        }
    }

    /// Returns the shares, as they were added.
    #[must_use]
    pub fn shares(self) -> Vec<SharedFile> {
        self.inner.files.shares.list()
    }

    /// Returns which nodes may fetch the content with this hash: the widest access if it is shared more than
    /// once, `None` if it is not shared.
    #[must_use]
    pub fn access(self, hash: Hash) -> Option<Access> {
        self.inner.files.shares.access(&hash)
    }

    /// Returns the shares, each with the path at which it was added.
    #[must_use]
    pub fn shared_paths(self) -> Vec<(PathBuf, SharedFile)> {
        self.inner.files.shares.paths()
    }

    /// Returns some of the files in the folder that is shared at `path`, which is a path as
    /// [`shared_paths`](Self::shared_paths) returns it: at most `limit` after the first `skip`, in the order
    /// of their paths. A folder may have a million files. Returns `None` if no folder is shared at `path`.
    #[must_use]
    pub fn shared_files(self, path: &Path, skip: usize, limit: usize) -> Option<FolderPart> {
        self.inner.files.shares.files_in(path, skip, limit)
    }

    /// Returns the download folder, which is for requests that name no destination.
    #[must_use]
    pub fn download_folder(self) -> PathBuf {
        self.inner.files.download_folder()
    }

    /// Sets the download folder, which is for requests that name no destination. Downloads that were started
    /// before keep theirs. The folder is created when something is fetched into it.
    pub fn set_download_folder(self, folder: impl Into<PathBuf>) {
        self.inner.files.set_download_folder(folder.into());
    }

    /// Returns a handle to the download of this hash. If there are several, with different destinations, it
    /// is the last that is not done, or else the last.
    ///
    /// # Errors
    /// [`Error::NoDownload`] if there is none.
    pub fn download(self, hash: Hash) -> Result<Download, Error> {
        self.inner.download(&hash)
    }

    /// Returns the status of all downloads: those that are active, wait or are paused, those that failed, and
    /// the last that completed.
    #[must_use]
    pub fn downloads(self) -> Vec<DownloadStatus> {
        self.inner.files.downloads.list()
    }

    /// Returns the uploads: the files that peers are fetching from this node now, and how much of each was
    /// sent.
    ///
    /// When a peer has received all of a file or folder, the event
    /// [`NodeUploadCompleted`](crate::Event::NodeUploadCompleted) follows.
    #[must_use]
    pub fn uploads(self) -> Vec<UploadStatus> {
        self.inner.files.uploads.list()
    }

    /// Returns the totals of the files that this node has sent since it started.
    #[must_use]
    pub fn upload_totals(self) -> UploadTotals {
        self.inner.files.uploads.totals()
    }
}

impl std::fmt::Debug for FilesHandle<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FilesHandle({})", self.inner.profile.id.short())
    }
}
