#![allow(missing_docs, dead_code, clippy::all, clippy::unwrap_used, clippy::wrong_self_convention)]
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use peerkit::{Added, Address, Error, Fetched, FileKind, FileName, Hash, Node, NodeId, Progress};
pub(crate) use peerkit_proto::files::{Ticket, TicketError};
use serde::Serialize;

#[derive(Clone)]
pub(crate) struct Get {
    hash: Hash,
    to: Option<PathBuf>,
    into: Option<PathBuf>,
    from: Vec<Address>,
}

impl Get {
    pub(crate) fn new(hash: Hash) -> Self {
        Self { hash, to: None, into: None, from: Vec::new() }
    }
    pub(crate) fn ticket(ticket: &Ticket) -> Self {
        let from = ticket.addresses.iter().cloned().map(|a| a.with_id(ticket.node)).collect();
        Self { from, ..Self::new(ticket.hash) }
    }
    pub(crate) fn to(mut self, path: impl Into<PathBuf>) -> Self {
        self.to = Some(path.into());
        self
    }
    pub(crate) fn into_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.into = Some(path.into());
        self
    }
    pub(crate) fn from(mut self, address: Address) -> Self {
        self.from.push(address);
        self
    }
    pub(crate) fn overwrite(self, _: bool) -> Self {
        self
    }
    pub(crate) fn ask_network(self, _: bool) -> Self {
        self
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct DownloadStatus {
    pub(crate) hash: Hash,
    pub(crate) name: Option<FileName>,
    pub(crate) kind: Option<FileKind>,
    pub(crate) state: DownloadState,
    pub(crate) done: u64,
    pub(crate) total: Option<u64>,
    pub(crate) rate: u64,
    pub(crate) sources: usize,
    pub(crate) path: Option<PathBuf>,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DownloadState {
    Queued,
    Finding,
    Fetching,
    Paused,
    Done,
    Failed,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Dropped {
    pub(crate) id: NodeId,
    pub(crate) why: String,
}

type Task = tokio::task::JoinHandle<Result<Fetched, Error>>;

pub(crate) struct Download {
    status: Arc<Mutex<DownloadStatus>>,
    task: Task,
}

impl Download {
    pub(crate) fn hash(&self) -> Hash {
        self.status.lock().unwrap().hash
    }
    pub(crate) fn status(&self) -> DownloadStatus {
        self.status.lock().unwrap().clone()
    }
    pub(crate) async fn finished(self) -> Result<Fetched, Error> {
        self.task.await.unwrap()
    }
}

static ALL: Mutex<BTreeMap<Hash, Arc<Mutex<DownloadStatus>>>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Default)]
pub(crate) struct ShareOptions(());

impl ShareOptions {
    pub(crate) fn to_nodes(self, _: Vec<NodeId>) -> Self {
        self
    }
    pub(crate) fn with_ticket(self) -> Self {
        self
    }
    pub(crate) fn remember(self, _: bool) -> Self {
        self
    }
}

pub(crate) trait Pending {
    fn download(&self, get: Get) -> Result<Download, Error>;
    fn downloads(&self) -> Vec<DownloadStatus>;
    async fn pause(&self, hash: Hash) -> Result<DownloadStatus, Error>;
    async fn resume(&self, hash: Hash) -> Result<DownloadStatus, Error>;
    async fn cancel(&self, hash: Hash) -> Result<DownloadStatus, Error>;
    async fn share_with(
        &self,
        path: impl Into<PathBuf>,
        _: ShareOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, Error>;
    fn ticket(&self, hash: &Hash) -> Option<Ticket>;
}

impl Pending for Node {
    fn download(&self, get: Get) -> Result<Download, Error> {
        let status = Arc::new(Mutex::new(DownloadStatus {
            hash: get.hash,
            name: None,
            kind: None,
            state: DownloadState::Finding,
            done: 0,
            total: None,
            rate: 0,
            sources: 0,
            path: None,
            error: None,
        }));
        ALL.lock().unwrap().insert(get.hash, status.clone());
        let (node, shown) = (self.clone(), status.clone());
        let task = tokio::spawn(async move {
            for address in get.from {
                node.connect(address).await?;
            }
            let progress = shown.clone();
            let progress = move |now: Progress| {
                let mut status = progress.lock().unwrap();
                status.state = DownloadState::Fetching;
                (status.done, status.total) = (now.done, Some(now.total));
            };
            let fetched = match (get.to, get.into) {
                (Some(to), _) => node.fetch_with_progress(get.hash, to, progress).await,
                (_, into) => node.fetch_into(get.hash, into.unwrap(), progress).await,
            };
            let mut status = shown.lock().unwrap();
            status.state = match &fetched {
                Ok(_) => DownloadState::Done,
                Err(_) => DownloadState::Failed,
            };
            fetched
        });
        Ok(Download { status, task })
    }
    fn downloads(&self) -> Vec<DownloadStatus> {
        ALL.lock().unwrap().values().map(|s| s.lock().unwrap().clone()).collect()
    }
    async fn pause(&self, _: Hash) -> Result<DownloadStatus, Error> {
        Err(Error::Setting("pending".into()))
    }
    async fn resume(&self, _: Hash) -> Result<DownloadStatus, Error> {
        Err(Error::Setting("pending".into()))
    }
    async fn cancel(&self, _: Hash) -> Result<DownloadStatus, Error> {
        Err(Error::Setting("pending".into()))
    }
    async fn share_with(
        &self,
        path: impl Into<PathBuf>,
        _: ShareOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, Error> {
        self.share_with_progress(path, progress).await
    }
    fn ticket(&self, hash: &Hash) -> Option<Ticket> {
        let addresses = self.addresses().into_iter().map(Address::without_id).collect();
        Some(Ticket {
            hash: *hash,
            node: self.id(),
            secret: None,
            network: self.network().to_owned(),
            addresses,
        })
    }
}
