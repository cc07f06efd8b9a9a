//! Sharing, finding and fetching files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerkit_proto::files::wire::MAX_ADDRESSES;
use peerkit_proto::files::{Access, FileName, FoundFile, SharedFile, Ticket};
use peerkit_proto::id::Hash;

use super::Node;
use crate::error::Error;
use crate::inner::Inner;
use crate::shares::{FolderPart, HashProgress, Refreshed, Sharing};
use crate::transfer::{Download, DownloadStatus, FetchRequest, UploadStatus, UploadTotals};

impl Node {
    /// Shares a file or folder with other nodes once the returned [`Sharing`] is awaited. The file stays
    /// where it is. Other nodes find it by its name and fetch it by its hash. The result lists the entries of
    /// a folder that could not be shared.
    ///
    /// [`Sharing`] has the settings: which nodes may fetch the file, whether the file is shared again after a
    /// restart, and a callback for the progress.
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
    /// When awaited: [`Error::Share`] if the path itself can't be shared, and [`Error::NotAKey`] if an identity
    /// given to [`to_nodes`](Sharing::to_nodes) is not a valid public key. After an error nothing is shared.
    pub fn share(&self, path: impl Into<PathBuf>) -> Sharing {
        Sharing::new(self.inner.files.shares.clone(), path.into())
    }

    /// Starts to fetch a file or folder. Await the returned handle for the result.
    ///
    /// The pieces come from all nodes that have the content, in parallel, and each is checked against the
    /// hash. A request that names no destination uses the [download
    /// folder](FilesHandle::download_folder). If a file of that name exists, the new file gets a number in
    /// its name, unless the request [overwrites](FetchRequest::overwrite) the existing one.
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
    /// When awaited:
    /// - [`Error::NoSource`] if no node has the content
    /// - [`Error::NoneAnswered`] if sources are known, but none of them answers
    /// - [`Error::Fetch`] if no source has the missing pieces, or the content can't be written
    /// - if all sources fail, the error of one of them: the one that tells the user most. It is
    ///   [`Error::Fetch`] if that source answered, or the error of the connection
    /// - [`Error::Store`] if the state can't be written
    /// - [`Error::Stopped`] if the node stops
    ///
    /// After an error, the pieces that are already verified stay beside the destination, in
    /// `.NAME.HASH.part`. The next fetch of the same content to the same destination continues from them.
    pub fn fetch(&self, request: impl Into<FetchRequest>) -> Download {
        self.inner.fetch(request.into())
    }

    /// Searches the files and folders that this node and others share. Each result lists the nodes
    /// that have the file.
    ///
    /// A file is found if it matches every word of `text`. Neither case nor the encoding of accents
    /// matters. A word matches if it is part of the file's name, or of its path in the shared
    /// folder. A word with `*`, `?` or `[a-z]` in it is a pattern for the whole name. If such a word also
    /// has a `/`, it is a pattern for the whole path, and `**` matches any folders. Content that is shared
    /// under two names is found under both.
    ///
    /// Only the named nodes find a share [for named nodes](Sharing::to_nodes), and only while they
    /// are connected to the node that shares it.
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
/// // Another node needs nothing but the ticket, which may have come by mail.
/// bob.fetch(&ticket);
/// // Later, in another part of the program:
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
    /// Returns a ticket for the content with this hash. A ticket is all that another node needs to
    /// fetch the content: this node's identity and addresses, the share's name, and the secret of a
    /// share [with tickets](Sharing::with_ticket). Only the named nodes can use a ticket for a
    /// share [for named nodes](Sharing::to_nodes).
    ///
    /// Returns `None` if the content is not shared. If it is shared under several names,
    /// [`ticket_for`](Self::ticket_for) returns the ticket for one of them.
    #[must_use]
    pub fn ticket(self, hash: &Hash) -> Option<Ticket> {
        self.ticket_of(hash, None)
    }

    /// Returns a ticket for one share, or for one file in a shared folder: see
    /// [`ticket`](Self::ticket). The same content may be shared under several names. This ticket
    /// gives the fetched file the name that `file` has.
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
        // Nodes refuse a ticket with more addresses. The best come first, so the others are dropped.
        addresses.truncate(MAX_ADDRESSES);
        let (node, network) = (self.inner.profile.id, self.inner.profile.network.clone());
        Some(Ticket { hash: *hash, node, secret, network, addresses, name: Some(name) })
    }

    /// Removes the shares with this hash, whatever their names. A file inside a shared folder is
    /// not a share of its own, so its hash removes nothing. The files stay on disk. Returns the
    /// removed shares.
    ///
    /// # Errors
    /// [`Error::Share`] if the state can't be written. The node stops sharing the content nevertheless, but
    /// may share it again after a restart.
    pub async fn unshare(self, hash: Hash) -> Result<Vec<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove(&hash).await?)
    }

    /// Removes the share of the file or folder at `path`, which is one of
    /// [`shared_paths`](Self::shared_paths). The files stay on disk. Other shares of the same
    /// content remain. Returns the removed share, or `None` if there was none.
    ///
    /// # Errors
    /// As [`unshare`](Self::unshare).
    pub async fn unshare_path(self, path: &Path) -> Result<Option<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove_path(path).await?)
    }

    /// Removes the share of the file or folder at `path` as [`unshare_path`](Self::unshare_path) does, unless it
    /// is shared again after a restart: see [`Sharing::remember`].
    ///
    /// # Errors
    /// As [`unshare`](Self::unshare).
    pub async fn unshare_temporary(self, path: &Path) -> Result<Option<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove_temporary(path).await?)
    }

    /// Returns whether content with this hash is in the share of the file or folder at `path`: the file or
    /// folder itself, or a file in the folder. Content that was there until it changed counts too, among the
    /// last changes.
    #[must_use]
    pub fn is_shared_at(self, path: &Path, hash: &Hash) -> bool {
        self.inner.files.shares.has_at(path, hash)
    }

    /// Scans every share again. Changed files are hashed again. Files that no longer exist are no
    /// longer shared. `progress` is called on another thread while files are hashed.
    ///
    /// # Errors
    /// [`Error::Share`] if the state can't be read or written.
    pub async fn refresh(
        &self,
        progress: impl FnMut(HashProgress) + Send + 'static,
    ) -> Result<Refreshed, Error> {
        Ok(self.inner.files.shares.refresh(progress).await?)
    }

    /// Waits until the shares of the node's last run are restored, except those whose files no longer exist.
    /// Until then [`shares`](Self::shares) does not list all of them. Returns at once without a state folder.
    pub async fn restored(self) {
        tokio::select! {
            () = self.inner.files.restored.cancelled() => {}
            () = self.inner.tasks.stop.cancelled() => {}
        }
    }

    /// Returns the shares. A shared folder is one share.
    #[must_use]
    pub fn shares(self) -> Vec<SharedFile> {
        self.inner.files.shares.list()
    }

    /// Returns which nodes may fetch the content with this hash. If the content is shared more than once,
    /// returns the widest access. Returns `None` if the content is not shared.
    #[must_use]
    pub fn access(self, hash: Hash) -> Option<Access> {
        self.inner.files.shares.access(&hash)
    }

    /// Returns the shares, each with the path at which it was added.
    #[must_use]
    pub fn shared_paths(self) -> Vec<(PathBuf, SharedFile)> {
        self.inner.files.shares.paths()
    }

    /// Returns up to `limit` files of a shared folder, without the first `skip`, in the order of
    /// their paths. They are listed in parts because a folder may have a million files. `path` is
    /// one of [`shared_paths`](Self::shared_paths). Returns `None` if no folder is shared there.
    #[must_use]
    pub fn shared_files(self, path: &Path, skip: usize, limit: usize) -> Option<FolderPart> {
        self.inner.files.shares.files_in(path, skip, limit)
    }

    /// Returns the download folder, where requests without a destination are saved.
    #[must_use]
    pub fn download_folder(self) -> PathBuf {
        self.inner.files.download_folder()
    }

    /// Sets the download folder, where requests without a destination are saved. Downloads that
    /// have already started keep their folder. The folder is created when something is fetched into
    /// it.
    pub fn set_download_folder(self, folder: impl Into<PathBuf>) {
        self.inner.files.set_download_folder(folder.into());
    }

    /// Returns a handle to the download of this hash. If there are several, with different destinations,
    /// returns the last one that has not completed, or the last one if all have completed.
    ///
    /// # Errors
    /// [`Error::NoDownload`] if there is none.
    pub fn download(self, hash: Hash) -> Result<Download, Error> {
        self.inner.download(&hash)
    }

    /// Returns the status of the downloads that are active, waiting, paused or failed, and of the
    /// last ones that completed.
    #[must_use]
    pub fn downloads(self) -> Vec<DownloadStatus> {
        self.inner.files.downloads.list()
    }

    /// Returns the uploads: the files that peers are fetching from this node at the moment, and how
    /// much of each this node has sent.
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
