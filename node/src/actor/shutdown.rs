//! The shutdown of a node, step by step.

use std::time::Duration;

use peerkit_proto::event::Event;
use peerkit_proto::peer::Input;

use super::Actor;
use crate::blocking;

/// Maximum time for each step of a stop, apart from the time in which links send their queues.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

impl Actor {
    /// Says goodbye to all peers, gives queued messages time to go out, and ends every task.
    pub(super) async fn stop(mut self: Box<Self>) {
        let inner = self.inner.clone();
        let flush = inner.config.flush_timeout;
        tracing::info!(target: "peerkit::node", id = %inner.profile.id.short(), "stopping");
        if self.shutdown_ordered {
            // The event that names the owner's order is delivered before the event of the stop.
            let _ = tokio::time::timeout(STEP_TIMEOUT, inner.dispatch.settle()).await;
        }
        // Messages that the application sends in answer to this event still go out.
        let _ = tokio::time::timeout(flush, inner.deliver_event(Event::NodeRequestToStop)).await;
        self.input(Input::Stopping);
        for order in inner.take_all_orders(&mut self.orders) {
            self.on_order(order);
        }
        self.save_away();
        self.publish_all_waiting();
        let hand_over = self.machine.overlay().views().member && !self.shutdown_ordered;
        self.input(Input::Stop { hand_over });
        // The links have their own deadline. A little more lets them report how they ended.
        inner.tasks.links.close();
        let links = inner.tasks.links.clone();
        let ended = tokio::time::timeout(flush + STEP_TIMEOUT, links.wait());
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                _ = &mut ended => break,
                Some(report) = self.link_reports.recv() => self.on_link_report(report),
                Some(order) = self.orders.recv() => self.on_order(order),
            }
        }
        self.handle_link_reports();
        let kept = inner.broadcasts.clone();
        let writing = tokio::spawn(blocking::run(move || kept.write()));
        let settling = async { tokio::join!(inner.dispatch.settle(), writing) };
        let _ = tokio::time::timeout(STEP_TIMEOUT, settling).await;
        inner.tasks.halt.signal();
        self.orders.close();
        self.link_reports.close();
        drop(self);
        inner.tasks.tracker.close();
        let ended =
            async { tokio::join!(inner.tasks.tracker.wait(), inner.files.shares.wait_for_work()) };
        let _ = tokio::time::timeout(STEP_TIMEOUT, ended).await;
        inner.quic.close().await;
        inner.release_application();
        // The store is closed here, because the application may keep its handle to the node until the
        // process ends.
        let store = inner.store.clone();
        let _ = tokio::spawn(blocking::run(move || store.close())).await;
        // This task drops the node's state before it signals the stop, so that it keeps nothing alive.
        let stopped = inner.tasks.stopped.clone();
        tracing::info!(target: "peerkit::node", id = %inner.profile.id.short(), "stopped");
        drop(inner);
        stopped.cancel();
    }
}
