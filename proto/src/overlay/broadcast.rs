//! Messages to the whole network: signed by their author, passed on once by everyone.
//!
//! Flooding: a node passes each broadcast on to every link but the one that it came by, the first
//! time that it sees it. On links that keep their order this also keeps each author's order.

use std::collections::{BTreeSet, VecDeque};

use crate::config::Config;
use crate::event::Broadcast;
use crate::frame::envelope::{Envelope, MAX_TITLE};
use crate::id::{Hash, Key, SIGNATURE_LEN};
use crate::message::{Message, Packed};

/// Why a broadcast could not be made. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The content is over the limit.
    #[error("a broadcast of {len} bytes is over the limit of {limit}: share a file instead")]
    TooLarge {
        /// Bytes of the content.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The title is over the limit.
    #[error("a title of {0} bytes is over the limit of {MAX_TITLE}")]
    LongTitle(usize),
}

/// What became of an envelope that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Receipt {
    /// Seen for the first time: tell the application and pass it on.
    New(Broadcast),
    /// Seen before.
    Seen,
    /// Not signed by its author, or not what may be sent.
    Forged,
}

/// Remembers which broadcasts were seen, and makes our own.
#[derive(Debug)]
pub(super) struct Broadcasts {
    network: String,
    epoch: u64,
    sequence: u64,
    max_content: usize,
    max_seen: usize,
    seen: BTreeSet<Hash>,
    order: VecDeque<Hash>,
}

impl Broadcasts {
    pub(super) fn new(network: String, epoch: u64, config: &Config) -> Self {
        Self {
            network,
            epoch,
            sequence: 0,
            max_content: config.max_broadcast,
            max_seen: config.broadcast_table,
            seen: BTreeSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Signs a broadcast of our own and marks it as seen.
    pub(super) fn publish(
        &mut self,
        key: &Key,
        time: u64,
        title: String,
        message: Message,
    ) -> Result<(Hash, Envelope), BroadcastError> {
        let (len, limit) = (message.body().len(), self.max_content);
        if len > limit {
            return Err(BroadcastError::TooLarge { len, limit });
        }
        if title.len() > MAX_TITLE {
            return Err(BroadcastError::LongTitle(title.len()));
        }
        self.sequence += 1;
        let mut envelope = Envelope {
            author: key.id(),
            epoch: self.epoch,
            sequence: self.sequence,
            time,
            title,
            content: Packed::plain(message),
            signature: [0; SIGNATURE_LEN],
        };
        let signed = envelope.signed(&self.network);
        envelope.signature = key.sign(&signed);
        let id = Hash::of(&signed);
        self.remember(id);
        Ok((id, envelope))
    }

    /// Looks at an envelope that came in; verifies it only where it is new.
    pub(super) fn receive(&mut self, envelope: &Envelope) -> Receipt {
        let signed = envelope.signed(&self.network);
        let id = Hash::of(&signed);
        if self.seen.contains(&id) {
            return Receipt::Seen;
        }
        let body = envelope.content.payload.clone();
        if body.len() > self.max_content {
            return Receipt::Forged;
        }
        let message = envelope.content.clone().unpack(body);
        let Ok(message) = message else { return Receipt::Forged };
        if !envelope.author.verify(&signed, &envelope.signature) {
            return Receipt::Forged;
        }
        self.remember(id);
        Receipt::New(Broadcast {
            id,
            author: envelope.author,
            time: envelope.time,
            title: envelope.title.clone(),
            message,
        })
    }

    /// Remembers `id`; where the table is full the oldest gives way.
    fn remember(&mut self, id: Hash) {
        if self.seen.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > self.max_seen
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn key() -> Key {
        Key::from_secret(&[1; 32])
    }

    fn broadcasts(config: &Config) -> Broadcasts {
        Broadcasts::new("net".into(), 1, config)
    }

    pub(crate) fn envelope(title: &str, text: &str) -> Envelope {
        let mut author = broadcasts(&Config::default());
        author.publish(&key(), 5, title.into(), text.into()).unwrap().1
    }

    #[test]
    fn is_delivered_once() {
        let envelope = envelope("t", "hello");
        let mut reader = broadcasts(&Config::default());
        let Receipt::New(broadcast) = reader.receive(&envelope) else { panic!("not new") };
        assert_eq!(broadcast.id, envelope.id("net"));
        assert_eq!(broadcast.author, key().id());
        assert_eq!(broadcast.message.as_text(), Some("hello"));
        assert_eq!(reader.receive(&envelope), Receipt::Seen);
    }

    #[test]
    fn the_same_text_twice_is_two_broadcasts() {
        let mut author = broadcasts(&Config::default());
        let mut publish = || author.publish(&key(), 5, String::new(), "same".into()).unwrap();
        assert_ne!(publish().0, publish().0);
    }

    #[test]
    fn our_own_is_not_delivered_to_us() {
        let mut author = broadcasts(&Config::default());
        let (_, envelope) = author.publish(&key(), 5, String::new(), "x".into()).unwrap();
        assert_eq!(author.receive(&envelope), Receipt::Seen);
    }

    #[test]
    fn the_signature_covers_every_field_and_the_network() {
        let good = envelope("t", "hello");
        let forged = |change: fn(&mut Envelope)| {
            let mut bad = good.clone();
            change(&mut bad);
            broadcasts(&Config::default()).receive(&bad)
        };
        assert_eq!(forged(|e| e.author = Key::from_secret(&[2; 32]).id()), Receipt::Forged);
        assert_eq!(forged(|e| e.epoch += 1), Receipt::Forged);
        assert_eq!(forged(|e| e.sequence += 1), Receipt::Forged);
        assert_eq!(forged(|e| e.time += 1), Receipt::Forged);
        assert_eq!(forged(|e| e.title.push('!')), Receipt::Forged);
        assert_eq!(forged(|e| e.content = Packed::plain("other".into())), Receipt::Forged);
        assert_eq!(forged(|e| e.signature[0] ^= 1), Receipt::Forged);
        let mut elsewhere = Broadcasts::new("other".into(), 1, &Config::default());
        assert_eq!(elsewhere.receive(&good), Receipt::Forged);
    }

    #[test]
    fn limits_hold_before_anything_is_sent() {
        let config = Config::default();
        let mut author = broadcasts(&config);
        let mut publish = |title: usize, len: usize| {
            author.publish(&key(), 5, "t".repeat(title), vec![0; len].into()).map(drop)
        };
        assert_eq!(publish(256, config.max_broadcast), Ok(()));
        let limit = config.max_broadcast;
        let len = limit + 1;
        assert_eq!(publish(0, len), Err(BroadcastError::TooLarge { len, limit }));
        assert_eq!(publish(257, 0), Err(BroadcastError::LongTitle(257)));
    }

    #[test]
    fn one_that_is_too_large_is_not_passed_on() {
        let mut config = Config::default();
        config.max_broadcast *= 2;
        let mut author = broadcasts(&config);
        let content = vec![0; Config::default().max_broadcast + 1];
        let (_, large) = author.publish(&key(), 5, String::new(), content.into()).unwrap();
        assert_eq!(broadcasts(&Config::default()).receive(&large), Receipt::Forged);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_gives_way() {
        let config = Config { broadcast_table: 2, ..Config::default() };
        let mut author = broadcasts(&config);
        let mut reader = broadcasts(&config);
        let envelopes: Vec<_> = (0..3)
            .map(|_| author.publish(&key(), 5, String::new(), "x".into()).unwrap().1)
            .collect();
        for envelope in &envelopes {
            assert!(matches!(reader.receive(envelope), Receipt::New(_)));
        }
        assert_eq!(reader.seen.len(), 2);
        assert_eq!(reader.receive(&envelopes[2]), Receipt::Seen);
        assert!(matches!(reader.receive(&envelopes[0]), Receipt::New(_)));
    }
}
