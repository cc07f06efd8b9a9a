//! The relayed messages that a node has accepted, so that none is accepted twice.
//!
//! A message is remembered until it would be refused for its age. A peer can bring more messages in that time than
//! the table holds. It can't keep the node from accepting those of others: a full table forgets the oldest message
//! of the link that has brought most. What was forgotten could be replayed, so the node then refuses all messages
//! that are not newer than the newest one forgotten. A message takes seconds on its way, and the table holds those
//! of many seconds, so an honest message is newer.
//!
//! A message whose sender's clock is ahead of this node's clock is not forgotten before the clock has reached its
//! time. Otherwise the node would have to refuse all messages up to a time that is yet to come. So there is a limit
//! on these messages, and a link that has brought too many of them can bring further ones only later. The others of
//! the link are not affected.

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::query::QueryId;
use crate::id::{Hash, NodeId};

/// Maximum number of messages that are remembered, about 9 MiB. 131,072: a neighbour can bring 900 a second, so
/// they are those of more than two minutes, or of fifteen seconds from ten neighbours that flood this node.
const MAX_ACCEPTED: usize = 131_072;

/// Maximum number of remembered messages that are ahead of the clock. Half of all, so that there is always another
/// one to forget.
const MAX_AHEAD: usize = MAX_ACCEPTED / 2;

/// Divisor that gives the part of the room for messages ahead of the clock that one link may fill: an eighth of what
/// is left. So ten links that flood this node leave room for 2,500 messages of each further link.
const AHEAD_SHARE: usize = 8;

/// Interval at which expired messages are forgotten, in milliseconds.
const SWEEP_EVERY: u64 = 60_000;

/// The accepted messages, each with the time that its sender has given it, in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct AcceptedMessages {
    ids: BTreeSet<MessageHash>,
    /// The messages that the clock has reached.
    by_link: BTreeMap<NodeId, BTreeSet<(u64, MessageHash)>>,
    /// The messages that are ahead of the clock, each with the link that has brought it.
    ahead: BTreeSet<(u64, NodeId, MessageHash)>,
    /// The number of messages in `ahead` that each link has brought.
    ahead_by_link: BTreeMap<NodeId, usize>,
    /// The greatest time of a message that was forgotten before it had expired. Messages up to this time are
    /// refused.
    floor: u64,
    /// A time that no message in `by_link` is older than. As long as it has not expired, a sweep would find nothing.
    oldest: u64,
    sweep_at: u64,
}

/// Half of the hash over what identifies a message. A sender can't find a second message with the hash of another
/// sender's message, which would take 2^128 attempts.
type MessageHash = [u8; 16];

fn hash((sender, query, number): &(NodeId, QueryId, u64)) -> MessageHash {
    let mut bytes = [0; 56];
    bytes[..32].copy_from_slice(sender.as_bytes());
    bytes[32..48].copy_from_slice(&query.0);
    bytes[48..].copy_from_slice(&number.to_le_bytes());
    let mut half = MessageHash::default();
    half.copy_from_slice(&Hash::of(&bytes).as_bytes()[..16]);
    half
}

impl Default for AcceptedMessages {
    fn default() -> Self {
        Self {
            ids: BTreeSet::new(),
            by_link: BTreeMap::new(),
            ahead: BTreeSet::new(),
            ahead_by_link: BTreeMap::new(),
            floor: 0,
            oldest: u64::MAX,
            sweep_at: 0,
        }
    }
}

impl AcceptedMessages {
    /// Adds a message that came over the link `from`. `unix` is this node's clock, `time` the sender's, and `skew`
    /// the greatest difference between the two. Returns false if the message was accepted before, or may have been,
    /// or if the link has brought too many messages that are ahead of the clock.
    pub(super) fn add(
        &mut self,
        unix: u64,
        from: NodeId,
        id: &(NodeId, QueryId, u64),
        time: u64,
        skew: u64,
    ) -> bool {
        self.advance(unix);
        // A sweep visits all links, so a full table is not swept for each message.
        let has_expired = is_expired(self.oldest, unix, skew);
        if unix >= self.sweep_at || (self.ids.len() >= MAX_ACCEPTED && has_expired) {
            self.sweep_at = unix.saturating_add(SWEEP_EVERY);
            self.forget_expired(unix, skew);
        }
        let hash = hash(id);
        if time <= self.floor || self.ids.contains(&hash) {
            return false;
        }
        if time > unix {
            let count = self.ahead_by_link.get(&from).map_or(0, |count| *count);
            if count >= (MAX_AHEAD - self.ahead.len()) / AHEAD_SHARE {
                return false;
            }
            self.ahead_by_link.insert(from, count + 1);
            self.ahead.insert((time, from, hash));
        } else {
            self.insert_reached(from, time, hash);
        }
        self.ids.insert(hash);
        while self.ids.len() > MAX_ACCEPTED {
            self.forget_one(unix);
        }
        true
    }

    /// Moves the messages that the clock has reached to the others of their links.
    fn advance(&mut self, unix: u64) {
        while let Some((time, from, hash)) = self.ahead.first().copied() {
            if time > unix {
                break;
            }
            self.ahead.pop_first();
            if let Some(count) = self.ahead_by_link.get_mut(&from) {
                *count -= 1;
                if *count == 0 {
                    self.ahead_by_link.remove(&from);
                }
            }
            self.insert_reached(from, time, hash);
        }
    }

    fn insert_reached(&mut self, from: NodeId, time: u64, hash: MessageHash) {
        self.by_link.entry(from).or_default().insert((time, hash));
        self.oldest = self.oldest.min(time);
    }

    /// Forgets the oldest message of the link that has brought most, apart from those ahead of the clock.
    fn forget_one(&mut self, unix: u64) {
        let heaviest = self.by_link.values_mut().max_by_key(|messages| messages.len());
        let Some((time, hash)) = heaviest.and_then(BTreeSet::pop_first) else { return };
        self.ids.remove(&hash);
        // Its time is in the future only if the clock was set back. The floor does not rise to it, as that would
        // stop the messages of all others.
        if time <= unix {
            self.floor = self.floor.max(time);
        }
    }

    /// Forgets the messages that would be refused for their age.
    fn forget_expired(&mut self, unix: u64, skew: u64) {
        let Self { ids, by_link, oldest, .. } = self;
        *oldest = u64::MAX;
        by_link.retain(|_, messages| {
            while let Some((time, hash)) = messages.first().copied() {
                if !is_expired(time, unix, skew) {
                    *oldest = time.min(*oldest);
                    break;
                }
                messages.pop_first();
                ids.remove(&hash);
            }
            !messages.is_empty()
        });
    }
}

/// Returns whether a message of this time would be refused for its age.
fn is_expired(time: u64, unix: u64, skew: u64) -> bool {
    // At the time `time + skew` itself, a replay would still pass the check of its age.
    time.saturating_add(skew) < unix
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const SKEW: u64 = 300_000;

    fn link(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn id(sender: u8, number: u64) -> (NodeId, QueryId, u64) {
        (link(sender), QueryId([1; 16]), number)
    }

    /// Adds messages of the sender 9 over the link 1. The times are those of one hundred messages a second.
    fn flood(accepted: &mut AcceptedMessages, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let time = NOW + number * 10;
            assert!(accepted.add(time, link(1), &id(9, number), time, u64::MAX), "{number}");
        }
    }

    #[test]
    fn a_message_is_accepted_once_over_whichever_link_it_comes() {
        let mut accepted = AcceptedMessages::default();
        assert!(accepted.add(NOW, link(1), &id(9, 1), NOW, SKEW));
        assert!(!accepted.add(NOW, link(2), &id(9, 1), NOW, SKEW));
        assert!(accepted.add(NOW, link(2), &id(8, 1), NOW, SKEW), "another sender");
        // At the age at which it would be refused anyway, it is forgotten.
        assert!(accepted.add(NOW + SKEW + 1, link(1), &id(9, 2), NOW + SKEW, SKEW));
        assert_eq!((accepted.ids.len(), accepted.by_link.len()), (1, 1));
    }

    /// One link brings half as many again as the table holds. The messages of other links, and later ones of the
    /// same link, are accepted, and none twice.
    #[test]
    fn a_link_that_fills_the_table_mutes_no_one() {
        let mut accepted = AcceptedMessages::default();
        assert!(accepted.add(NOW, link(2), &id(8, 0), NOW, SKEW));
        let flooded = MAX_ACCEPTED as u64 * 3 / 2;
        flood(&mut accepted, 0..flooded);
        let now = NOW + flooded * 10;
        assert_eq!(accepted.ids.len(), MAX_ACCEPTED);
        assert!(accepted.add(now, link(2), &id(8, 1), now - 5000, u64::MAX), "5 s under way");
        assert!(accepted.add(now, link(1), &id(7, 1), now - 5000, u64::MAX), "over the same link");
        for number in 0..flooded {
            let time = NOW + number * 10;
            assert!(
                !accepted.add(now, link(3), &id(9, number), time, u64::MAX),
                "{number}: a replay"
            );
        }
        assert!(
            !accepted.add(now, link(3), &id(8, 0), NOW, u64::MAX),
            "a replay of another link's"
        );
    }

    #[test]
    fn a_full_table_is_swept_only_when_a_message_has_expired() {
        let mut accepted = AcceptedMessages::default();
        assert!(accepted.add(NOW, link(2), &id(8, 0), NOW, SKEW));
        for number in 1..MAX_ACCEPTED as u64 {
            let time = NOW + 1 + number % 1000;
            assert!(accepted.add(NOW + 1000, link(1), &id(9, number), time, SKEW));
        }
        let full = MAX_ACCEPTED as u64;
        let is_swept_by =
            |accepted: &AcceptedMessages, unix: u64| accepted.sweep_at == unix + SWEEP_EVERY;
        assert!(is_swept_by(&accepted, NOW));
        assert!(accepted.add(NOW + 2000, link(1), &id(9, full), NOW + 2000, SKEW));
        assert!(is_swept_by(&accepted, NOW), "not again");
        // The sweep that is due every minute takes place a moment before the message of link 2 expires.
        let (before, after) = (NOW + SKEW, NOW + SKEW + 1);
        assert!(accepted.add(before, link(1), &id(9, full + 1), before, SKEW));
        let floor = accepted.floor;
        assert!(accepted.add(after, link(1), &id(9, full + 2), after, SKEW));
        assert!(is_swept_by(&accepted, after) && !accepted.by_link.contains_key(&link(2)));
        assert_eq!((accepted.ids.len(), accepted.floor), (MAX_ACCEPTED, floor), "it made room");
    }

    /// A link fills the table, brings a message whose sender's clock is ahead, and goes on with its flood.
    #[test]
    fn a_flood_makes_no_room_for_the_replay_of_a_message_from_the_future() {
        let mut accepted = AcceptedMessages::default();
        let full = MAX_ACCEPTED as u64;
        flood(&mut accepted, 0..full);
        let (now, time) = (NOW + full * 10, NOW + full * 10 + 5000);
        assert!(accepted.add(now, link(1), &id(8, 1), time, u64::MAX));
        flood(&mut accepted, full..full + 100);
        assert!(!accepted.add(now + 1000, link(1), &id(8, 1), time, u64::MAX), "a replay");
        assert!(!accepted.add(now + 1000, link(2), &id(8, 1), time, u64::MAX), "over another link");
        // Once the clock has reached its time, it is forgotten as others are, and refused for its time.
        flood(&mut accepted, full + 100..2 * full + 1000);
        assert!(!accepted.ids.contains(&hash(&id(8, 1))));
        assert!(!accepted.add(now + full * 10, link(1), &id(8, 1), time, u64::MAX), "a replay");
    }

    /// Ten links bring as many messages from the future as are accepted.
    #[test]
    fn a_flood_of_messages_from_the_future_does_not_stop_those_of_others() {
        let mut accepted = AcceptedMessages::default();
        let time = |number: u64| NOW + SKEW - number % 1000;
        let mut flooded = Vec::new();
        for from in 1..=10 {
            // One more than a link may bring.
            for number in 0..=(MAX_AHEAD / AHEAD_SHARE) as u64 {
                let id = id(100 + from, number);
                if !accepted.add(NOW, link(from), &id, time(number), SKEW) {
                    break;
                }
                flooded.push((id, time(number)));
            }
        }
        assert!((MAX_AHEAD / 2..MAX_AHEAD / 4 * 3).contains(&flooded.len()), "{}", flooded.len());
        // Over one of these links those of now are accepted, and over another one also those from the future.
        assert!(accepted.add(NOW, link(1), &id(8, 1), NOW, SKEW));
        assert!(!accepted.add(NOW, link(1), &id(8, 1), NOW, SKEW));
        for number in 2..1000 {
            assert!(accepted.add(NOW, link(11), &id(8, number), NOW + 1000, SKEW), "{number}");
            assert!(!accepted.add(NOW, link(12), &id(8, number), NOW + 1000, SKEW), "{number}");
        }
        // A flood of messages of now does not displace those from the future.
        for number in 0..MAX_ACCEPTED as u64 * 2 {
            let (now, number) = (NOW + number / 10, 1_000_000 + number);
            assert!(accepted.add(now, link(1), &id(9, number), now, SKEW), "{number}");
        }
        assert_eq!(accepted.ids.len(), MAX_ACCEPTED);
        for (id, time) in flooded {
            assert!(!accepted.add(NOW, link(12), &id, time, SKEW), "a replay");
        }
    }

    /// The clock was a day ahead, and is set right. A flood then fills the table.
    #[test]
    fn a_clock_that_is_set_back_stops_no_messages() {
        let mut accepted = AcceptedMessages::default();
        let day = 86_400_000;
        for number in 0..MAX_ACCEPTED as u64 {
            assert!(accepted.add(NOW + day, link(1), &id(9, number), NOW + day, SKEW));
        }
        for number in 0..1000 {
            assert!(accepted.add(NOW, link(2), &id(8, number), NOW - 5000, SKEW), "{number}");
        }
    }
}
