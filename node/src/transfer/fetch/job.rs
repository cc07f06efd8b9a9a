//! What a fetch and the tasks of its sources share.

use std::sync::Arc;

use peerkit_proto::files::{FileName, Secret};
use peerkit_proto::id::Hash;
use tokio::sync::mpsc;

use super::checking::Checking;
use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::keeping::Keeping;
use super::news::News;
use super::status::Shown;
use crate::error::Error;

/// What all sources of one fetch share.
pub(super) struct Job {
    pub(super) hash: Hash,
    pub(super) secret: Option<Secret>,
    /// The name that it was asked for by.
    pub(super) name: Option<FileName>,
    /// Pieces that came and are not written yet.
    pub(super) keeping: Arc<Keeping>,
    /// The check of what is on the disk already.
    pub(super) checking: Checking,
    pub(super) news: mpsc::Sender<News>,
}

impl Job {
    /// Collects what the sources of a fetch share. Their news go to `news`.
    pub(super) fn new(request: &FetchRequest, news: mpsc::Sender<News>, shown: Shown) -> Self {
        Self {
            hash: request.hash,
            secret: request.secret,
            name: request.name.clone(),
            keeping: Arc::new(Keeping::new(news.clone())),
            checking: Checking::new(shown),
            news,
        }
    }

    /// Reports to the fetch.
    ///
    /// # Errors
    /// If the fetch is over.
    pub(super) async fn tell(&self, news: News) -> Result<(), Error> {
        self.news.send(news).await.map_err(|_| FetchError::Stopped.into())
    }
}
