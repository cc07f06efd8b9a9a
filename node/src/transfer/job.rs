//! What a fetch and its sources have in common.

use std::sync::Arc;

use peerkit_proto::files::{FileName, Secret};
use peerkit_proto::id::Hash;
use tokio::sync::{Semaphore, mpsc, watch};

use super::FetchError;
use super::checking::Checking;
use super::fetch_request::FetchRequest;
use super::keeping::Keeping;
use super::news::News;
use super::status::Shown;
use super::target::Target;
use crate::error::Error;

/// What all sources of one fetch share.
pub(super) struct Job {
    pub(super) hash: Hash,
    pub(super) secret: Option<Secret>,
    /// The name that it was asked for by.
    pub(super) name: Option<FileName>,
    /// What is fetched and where it goes, once that is known.
    pub(super) target: watch::Receiver<Option<Arc<Target>>>,
    /// A permit for who may prove what is fetched.
    pub(super) proving: Semaphore,
    /// What came and is not written yet.
    pub(super) keeping: Arc<Keeping>,
    /// What is on the disk already.
    pub(super) checking: Checking,
    pub(super) news: mpsc::Sender<News>,
}

impl Job {
    /// What the sources of `get` have in common. Their news go to `news`.
    pub(super) fn new(
        get: &FetchRequest,
        target: watch::Receiver<Option<Arc<Target>>>,
        news: mpsc::Sender<News>,
        shown: Shown,
    ) -> Self {
        let (proving, checking) = (Semaphore::new(1), Checking::new(shown));
        let keeping = Arc::new(Keeping::new(news.clone()));
        Self {
            hash: get.hash,
            secret: get.secret,
            name: get.name.clone(),
            target,
            proving,
            keeping,
            checking,
            news,
        }
    }

    /// What is fetched, where that is known.
    pub(super) fn target(&self) -> Option<Arc<Target>> {
        self.target.borrow().clone()
    }

    /// Tells the fetch.
    ///
    /// # Errors
    /// Where it is over.
    pub(super) async fn tell(&self, news: News) -> Result<(), Error> {
        self.news.send(news).await.map_err(|_| FetchError::Stopped.into())
    }
}
