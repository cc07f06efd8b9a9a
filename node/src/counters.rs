//! Counters of the messages and bytes that a link or a node has sent and received.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Counters of a link, or of a node. They count the application's messages, requests and replies as
/// messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Counters {
    /// Messages written to the connection.
    pub messages_sent: u64,
    /// Messages handed to the application.
    pub messages_received: u64,
    /// Messages that were accepted to be sent, and that were not delivered or may not have been.
    pub messages_failed: u64,
    /// Bytes written to the connection: frames of all kinds, with their headers.
    pub bytes_sent: u64,
    /// Bytes read from the connection: frames of all kinds, with their headers.
    pub bytes_received: u64,
}

/// Bytes of file pieces sent and received, with the heads of the pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileCounters {
    /// Bytes sent to other nodes.
    pub sent: u64,
    /// Bytes received from sources.
    pub received: u64,
}

/// Counters that several tasks update. [`Counters`] is their state at one moment.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    messages_failed: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Meter {
    pub(crate) fn sent(&self, messages: u64, bytes: usize) {
        self.messages_sent.fetch_add(messages, Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received_bytes(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, messages: u64) {
        self.messages_received.fetch_add(messages, Relaxed);
    }

    pub(crate) fn failed(&self, messages: u64) {
        self.messages_failed.fetch_add(messages, Relaxed);
    }

    pub(crate) fn messages_received(&self) -> u64 {
        self.messages_received.load(Relaxed)
    }

    pub(crate) fn read(&self) -> Counters {
        // The counters are read one after another, so one may be a few messages ahead of another.
        Counters {
            messages_sent: self.messages_sent.load(Relaxed),
            messages_received: self.messages_received.load(Relaxed),
            messages_failed: self.messages_failed.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
        }
    }
}
