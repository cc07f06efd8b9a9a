//! Sharing, finding and fetching files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerkit_proto::files::wire::MAX_PLACES;
use peerkit_proto::files::{Access, FileName, FoundFile, SharedFile, Ticket};
use peerkit_proto::id::Hash;

use super::Node;
use crate::error::Error;
use crate::inner::Inner;
use crate::shares::{FolderPart, Progress, Refreshed, Sharing};
use crate::transfer::{Download, DownloadStatus, FetchRequest, UploadStatus, UploadTotals};

impl Node {
    /// Shares a file or folder with other nodes, once it is awaited. It stays where it is; others
    /// find it by name and fetch it by its hash. The result says which entries of a folder could not
    /// be shared.
    ///
    /// [`Sharing`] has the settings: with whom, whether again after a restart, and a callback for
    /// the progress.
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
    /// is for an identity that no node can have. Nothing has changed then.
    pub fn share(&self, path: impl Into<PathBuf>) -> Sharing {
        Sharing::new(self.inner.files.shares.clone(), path.into())
    }

    /// Begins to fetch a file or folder, and returns its handle, which is awaited for the result.
    ///
    /// The content comes from all nodes that have it at once, and every piece is checked against the
    /// hash. A request that names no destination uses the [download
    /// folder](FilesHandle::download_folder). Existing files are not overwritten unless the request
    /// [says so](FetchRequest::overwrite): the new one gets a number.
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
    /// When awaited: [`Error::NoSource`] if no node has it, an [`Error::Fetch`] or the error of the last
    /// source if none of those that have it delivers, a store error if the state can't be written, and
    /// [`Error::Stopped`] if the node stops. Pieces that were verified by then stay beside the target, in
    /// `.NAME.HASH.part`, and the next fetch of the same content to the same place continues from them.
    pub fn fetch(&self, request: impl Into<FetchRequest>) -> Download {
        self.inner.fetch(request.into())
    }

    /// Finds files and folders of this node and of others by name; each with all nodes that have it.
    ///
    /// A file is found if it fits all the words of `text`. Case does not matter, nor how accents are
    /// composed. A word fits if it is a part of the name, or of the path in the shared folder. A word
    /// with `*`, `?` or `[a-z]` in it has to be the whole name; if it also has a `/`, the whole path, in
    /// which `**` stands for any folders. The same content under two names is found under both.
    ///
    /// A share [for named nodes](Sharing::to_nodes) is found by these if its sharer is a neighbour.
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
/// // Another node fetches with the ticket alone, which it may have got by mail.
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
    /// Returns a ticket for what is shared under this hash: all that another node needs to fetch it.
    /// It holds this node's identity and addresses, the share's name, and the secret if it was shared
    /// [with one](Sharing::with_ticket). What is shared with named nodes stays for those alone.
    ///
    /// `None` if the hash is not shared. If it is shared under several names, see
    /// [`ticket_for`](Self::ticket_for).
    #[must_use]
    pub fn ticket(self, hash: &Hash) -> Option<Ticket> {
        self.ticket_of(hash, None)
    }

    /// Returns a ticket for one share, or for a file in one, as [`ticket`](Self::ticket) does: with
    /// the name that `file` has, under which it will arrive. The same content may be shared under
    /// several names.
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

    /// Stops sharing what was added and has this hash, under any name; the files stay. Returns what
    /// was removed.
    ///
    /// # Errors
    /// [`Error::Share`] if the state can't be written; it is no longer shared all the same.
    pub async fn unshare(self, hash: Hash) -> Result<Vec<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove(&hash).await?)
    }

    /// Stops sharing what was added at `path`, as [`shared_paths`](Self::shared_paths) has it; the
    /// files stay. Other shares of the same content stay too. Returns what was removed.
    ///
    /// # Errors
    /// As [`unshare`](Self::unshare).
    pub async fn unshare_path(self, path: &Path) -> Result<Option<SharedFile>, Error> {
        Ok(self.inner.files.shares.remove_path(path).await?)
    }

    /// Looks at every share again: changed files are hashed again, and files that are gone are no
    /// longer shared. `progress` is called while files are hashed, on another thread.
    ///
    /// # Errors
    /// [`Error::Share`] if the state can't be read or written.
    pub async fn refresh(
        &self,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Refreshed, Error> {
        Ok(self.inner.files.shares.refresh(progress).await?)
    }

    /// Waits until everything that was shared before a restart is shared again, as far as it still
    /// exists: until then [`shares`](Self::shares) does not have all of it. Returns at once without a
    /// state folder.
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

    /// Returns which nodes may have what is shared under `hash`: the widest access if it is shared more
    /// than once, `None` if it is not shared.
    #[must_use]
    pub fn access(self, hash: Hash) -> Option<Access> {
        self.inner.files.shares.access(&hash)
    }

    /// Returns the shares, each with the path that it was added from.
    #[must_use]
    pub fn shared_paths(self) -> Vec<(PathBuf, SharedFile)> {
        self.inner.files.shares.paths()
    }

    /// Returns the files in the folder that is shared from `path`, as
    /// [`shared_paths`](Self::shared_paths) has it: those after the first `skip`, at most `limit`, in
    /// the order of their paths. A folder may have a million. `None` if no folder is shared from there.
    #[must_use]
    pub fn shared_files(self, path: &Path, skip: usize, limit: usize) -> Option<FolderPart> {
        self.inner.files.shares.files_in(path, skip, limit)
    }

    /// Returns the folder for fetches that name no destination.
    #[must_use]
    pub fn download_folder(self) -> PathBuf {
        self.inner.files.download_folder()
    }

    /// Sets the folder for fetches that name no destination, from now on. Fetches that were begun
    /// before keep theirs. The folder is made when something is fetched into it.
    pub fn set_download_folder(self, folder: impl Into<PathBuf>) {
        self.inner.files.set_download_folder(folder.into());
    }

    /// Returns the download of this hash. If there are several, to different places, it is the last
    /// that is not done, else the last.
    ///
    /// # Errors
    /// [`Error::NoDownload`] if there is none.
    pub fn download(self, hash: Hash) -> Result<Download, Error> {
        self.inner.download(&hash)
    }

    /// Returns the status of all downloads: those under way, those that wait or are paused, those that
    /// failed, and the last that were done.
    #[must_use]
    pub fn downloads(self) -> Vec<DownloadStatus> {
        self.inner.files.downloads.list()
    }

    /// Returns the uploads: what peers are fetching from this node now, and how much of it was sent.
    ///
    /// When a peer has received all of a file or folder it says so:
    /// [`Event::NodeUploadCompleted`](crate::Event::NodeUploadCompleted).
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
