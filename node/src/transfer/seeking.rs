//! Asking the network who has something, again and again.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::frame::query::{AnswerBody, What};
use peerkit_proto::id::{Hash, NodeId};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::inner::Inner;

/// How long until the network is asked again, for the first time; then twice as long each time.
/// 5 s: a fetch whose only source was restarted goes on soon.
const AGAIN: Duration = Duration::from_secs(5);

/// The longest between two questions: a network of thousands is not asked by everybody all the time.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What came of asking.
pub(super) enum Found {
    /// Somebody says that they have it.
    Source(NodeId, Vec<Address>),
    /// All who could be asked have answered, once.
    Asked,
}

/// The shortest time between two questions, however many links are made.
const AGAIN_MIN: Duration = Duration::from_secs(1);

/// Asks the network who has `hash`, again and again, until the receiver of `found` is dropped.
///
/// While the fetch has no source (`is_fed` is false), it also asks as soon as a link is made: the
/// new neighbour, or a node behind it, may have the file.
///
/// # Errors
/// If the node is stopping.
pub(super) async fn seek(
    inner: &Arc<Inner>,
    hash: Hash,
    found: mpsc::Sender<Found>,
    is_fed: &AtomicBool,
) -> Error {
    match ask_again(inner, hash, found, is_fed).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn ask_again(
    inner: &Arc<Inner>,
    hash: Hash,
    found: mpsc::Sender<Found>,
    is_fed: &AtomicBool,
) -> Result<Infallible, Error> {
    let mut wait = AGAIN;
    loop {
        let links = inner.links();
        let mut answers = inner.ask_for_files(What::HasFile(hash)).await?;
        while let Some(answer) = answers.recv().await {
            if matches!(answer.body, AnswerBody::Files(_)) {
                let source = Found::Source(answer.node, answer.addresses);
                found.send(source).await.map_err(|_| Error::Stopped)?;
            }
        }
        found.send(Found::Asked).await.map_err(|_| Error::Stopped)?;
        let linked = async {
            tokio::time::sleep(AGAIN_MIN).await;
            inner.new_link(&links).await;
            if is_fed.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(AGAIN_MAX),
            () = linked => wait = AGAIN,
        }
    }
}
