//! The files of a node: its shares, downloads and uploads, and the search by name.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use peerkit_proto::files::{
    Asker, Description, FILES_PROTOCOL, FileSource, FoundFile, FoundFiles, SharedFile,
};
use peerkit_proto::frame::query::{AnswerBody, MAX_SEARCH, QueryAnswer, QueryKind};
use peerkit_proto::id::NodeId;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::served::StreamHandler;
use crate::shares::Shares;
use crate::transfer::{Downloads, FileServer, Partials, UploadNews, Uploads};

/// The shares, downloads and uploads of a node.
pub(crate) struct Files {
    pub(crate) shares: Shares,
    /// Unfinished downloads, whose verified pieces are served already.
    pub(crate) partials: Partials,
    pub(crate) downloads: Downloads,
    pub(crate) uploads: Uploads,
    /// The folder for requests that name no destination.
    download_folder: Mutex<PathBuf>,
    /// The permit for searches of other nodes, which run one at a time.
    searching: Arc<Semaphore>,
    /// Cancelled once the shares of the last run have been restored.
    pub(crate) restored: CancellationToken,
}

impl Files {
    /// Returns the files of a node that has not started, and the receiver of its uploads' news.
    pub(crate) fn new(
        shares: Shares,
        max_downloads: usize,
        download_folder: PathBuf,
    ) -> (Self, mpsc::Receiver<UploadNews>) {
        let (uploads, news) = Uploads::new();
        let files = Self {
            shares,
            partials: Partials::default(),
            downloads: Downloads::new(max_downloads),
            uploads,
            download_folder: Mutex::new(download_folder),
            searching: Arc::new(Semaphore::new(1)),
            restored: CancellationToken::new(),
        };
        (files, news)
    }

    /// Returns the folder for requests that name no destination.
    pub(crate) fn download_folder(&self) -> PathBuf {
        lock(&self.download_folder).clone()
    }

    /// Sets the folder for requests that name no destination.
    pub(crate) fn set_download_folder(&self, folder: PathBuf) {
        *lock(&self.download_folder) = folder;
    }
}

/// Starts to serve files, report uploads and watch shares, and continues the shares and downloads of earlier
/// runs.
pub(crate) async fn start(inner: &Arc<Inner>, mut upload_news: mpsc::Receiver<UploadNews>) {
    let Files { shares, partials, uploads, .. } = &inner.files;
    let rates = inner.rates.clone();
    let server = FileServer::new(shares.clone(), partials.clone(), rates, uploads.clone());
    let serve = StreamHandler::new(move |stream| {
        let server = server.clone();
        async move {
            if let Err(error) = server.answer(stream).await {
                tracing::debug!(%error, "a fetch from this node broke off");
            }
        }
    });
    inner.served.streams.insert(FILES_PROTOCOL, serve);
    let reporting = inner.clone();
    inner.tasks.spawn(async move {
        while let Some(news) = upload_news.recv().await {
            let linked = |id| reporting.links.get(id).ok().map(|conn| conn.peer.clone());
            reporting.dispatch.queue_notice(news.into_event(linked));
        }
    });
    // Ends as soon as the node begins to stop: no scan may begin after that.
    let (watched, stop) = (shares.clone(), inner.tasks.stop.clone());
    inner.tasks.spawn(async move {
        let _ = stop.run_until_cancelled_owned(watched.watch()).await;
    });
    inner.tasks.spawn(restore_shares(inner.clone()));
    if let Err(error) = inner.resume_downloads().await {
        tracing::warn!(%error, "can't continue the downloads of earlier runs");
    }
}

/// Restores the shares of the last run.
async fn restore_shares(inner: Arc<Inner>) {
    match inner.files.shares.restore(|_| {}).await {
        Ok(report) => {
            for (path, _) in report.removed {
                tracing::warn!(
                    path = %path.display(),
                    "a share of an earlier run can't be read now, so it is not shared"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "can't restore the shares of earlier runs"),
    }
    inner.files.restored.cancel();
}

impl Inner {
    /// Searches the files that nodes share: see [`Node::search`](crate::Node::search).
    pub(crate) async fn search(&self, text: &str) -> Result<Vec<FoundFile>, Error> {
        if text.len() > MAX_SEARCH {
            return Err(Error::SearchTooLong { len: text.len(), limit: MAX_SEARCH });
        }
        let mut found = FoundFiles::default();
        let mut answers = self.query_files(QueryKind::Search(text.to_owned())).await?;
        // The network has the query already, and works on it while this node searches its own files.
        let own = find_own(self, text.to_owned()).await;
        let (name, addresses) = (self.profile.name.clone(), self.addresses.announced(None));
        found.add(own, &FileSource { id: self.profile.id, name, addresses });
        while let Some(answer) = answers.recv().await {
            let source = source(&answer);
            if let AnswerBody::Files(files) = answer.body {
                found.add(files, &source);
            }
        }
        Ok(found.into_files())
    }
}

/// Returns the files of this node that answer another node's query, as far as `asker` may have them. Without
/// an asker these are the open shares.
///
/// Searches run one at a time, so that all of them together take one core at most. Returns `None` if the
/// query is too old when its turn comes.
pub(crate) async fn find(
    inner: &Inner,
    what: QueryKind,
    asker: Option<NodeId>,
) -> Option<Vec<SharedFile>> {
    let (shares, limit) = (inner.files.shares.clone(), inner.config.max_search_results);
    let partials = inner.files.partials.clone();
    let turn = match &what {
        QueryKind::Search(_) => {
            let turn = inner.files.searching.clone().acquire_owned();
            Some(timeout(inner.config.query_timeout, turn).await.ok()?.ok()?)
        }
        _ => None,
    };
    let finding = inner.tasks.tracker.spawn_blocking(move || {
        let _turn = turn;
        // A query carries no proof of a ticket, so shares with tickets are not found.
        let asker = asker.map(|id| Asker { id, binding: &[0; 32], proof: None });
        match what {
            QueryKind::Search(text) => shares.search(&text, limit, asker.as_ref()),
            QueryKind::HasFile(hash) => {
                let described = shares.describe_for_query(&hash, asker.as_ref());
                let file =
                    |d: Description| SharedFile { hash, name: d.name, size: d.size, kind: d.kind };
                let found = described.map(file);
                found.or_else(|| partials.find_file(&hash, asker.as_ref())).into_iter().collect()
            }
            _ => Vec::new(),
        }
    });
    blocking::finish(finding).await
}

/// Returns all files of this node that match a search, those for named nodes included.
async fn find_own(inner: &Inner, text: String) -> Vec<SharedFile> {
    let (shares, limit) = (inner.files.shares.clone(), inner.config.max_search_results);
    let finding = inner.tasks.tracker.spawn_blocking(move || shares.search_own(&text, limit));
    blocking::finish(finding).await.unwrap_or_default()
}

fn source(answer: &QueryAnswer) -> FileSource {
    FileSource { id: answer.node, name: answer.name.clone(), addresses: answer.addresses.clone() }
}
