//! One download of a node, as its handles and its task share it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::fetch_request::FetchRequest;
use super::fetched::Fetched;
use super::status::Shown;
use crate::error::Error;
use crate::lock::lock;

/// One download, as the node keeps it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) request: FetchRequest,
    /// Whether the store has it, or is about to.
    pub(super) has_row: AtomicBool,
    /// It was begun by an earlier run of the node: it waits for a source, however long that takes.
    pub(super) is_restored: bool,
    /// Whether the user paused it. The state that is shown does not say: a node that stops pauses all
    /// downloads, and those are to go on at the next start.
    pub(super) is_paused: AtomicBool,
    pub(super) shown: Shown,
    pub(super) work: Mutex<Work>,
    /// Notified when the user resumes it although it is not paused: it waits no longer.
    pub(super) resumed: Notify,
    /// Held by the task that is at it: one that was stopped may still be writing.
    pub(super) at_it: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    /// Ends the task that is at it.
    pub(super) stop: Option<CancellationToken>,
    /// The result, once there is one. Of a failure that was reported, that it was.
    pub(super) result: Option<Result<Fetched, Error>>,
}

impl Entry {
    pub(super) fn new(request: FetchRequest, is_restored: bool) -> Arc<Self> {
        let shown = Shown::new(request.hash, Some(request.to.path().to_owned()));
        let work = Mutex::default();
        let (has_row, is_paused) = (AtomicBool::default(), AtomicBool::default());
        let (resumed, at_it) = (Notify::new(), tokio::sync::Mutex::default());
        Arc::new(Self { request, has_row, is_restored, is_paused, shown, work, resumed, at_it })
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    /// Returns the result, if there is one. An error is returned once, and from then on that it was.
    pub(super) fn result(&self) -> Option<Result<Fetched, Error>> {
        let result = &mut self.work().result;
        match result {
            Some(Ok(fetched)) => Some(Ok(fetched.clone())),
            Some(Err(_)) => result.replace(Err(Error::AlreadyReported(self.request.hash))),
            None => None,
        }
    }
}
