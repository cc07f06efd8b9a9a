//! Revives links over UDP whose packets a router no longer lets through.
//!
//! A router between forgets a mapping when it restarts, or when no packet has passed for a while. Packets to the node
//! behind it are dropped from then on, until that node sends one. It may have nothing to send for the interval between
//! two keep-alive packets. So a node whose packets get no answer asks its peer through the network for a call-back, and
//! a peer that is asked and has a link over UDP sends a ping over it. When a packet has come, the node sends a ping of
//! its own: the acknowledgement shows QUIC which packets were lost, so that it sends them again at once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use peerkit_proto::address::Scheme;
use peerkit_proto::frame::query::QueryKind;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::meetings::LINK_ONLY;

use super::QuicConnection;
use crate::inner::Inner;

/// Interval at which the numbers of packets are looked at. 1 s: most answers come sooner.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Number of intervals in which packets were sent, and none came, after which the peer is asked. 2: in the first one may
/// be only an acknowledgement, which gets no answer. QUIC sends anything else again (RFC 9002, section 6.2), at ever
/// longer intervals, so that the peer is asked at ever longer intervals, too.
const UNANSWERED: u32 = 2;

/// Finds out whether the packets of a connection get no answer.
#[derive(Debug, Default)]
struct SilenceMeter {
    sent: u64,
    received: u64,
    /// Number of intervals in which packets were sent since the last one came.
    unanswered: u32,
}

/// What is to be done at the end of an interval.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Ask the peer for a packet.
    Ask,
    /// Send a ping: a packet has come at last.
    Ping,
}

impl SilenceMeter {
    /// Takes the numbers of packets at the end of an interval.
    fn look(&mut self, (sent, received): (u64, u64)) -> Step {
        let has_sent = std::mem::replace(&mut self.sent, sent) != sent;
        let has_received = std::mem::replace(&mut self.received, received) != received;
        if has_received {
            return match std::mem::take(&mut self.unanswered) {
                0..UNANSWERED => Step::Nothing,
                _ => Step::Ping,
            };
        }
        if !has_sent {
            return Step::Nothing;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered.is_multiple_of(UNANSWERED) { Step::Ask } else { Step::Nothing }
    }
}

impl Inner {
    /// Asks the peer of a link over UDP for a packet whenever those of this node get no answer. Returns when the
    /// connection is closed.
    pub(super) async fn revive_when_silent(
        self: &Arc<Self>,
        peer: NodeId,
        connection: Weak<QuicConnection>,
    ) {
        let mut meter = SilenceMeter::default();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(packets) = connection.upgrade().map(|open| open.packets()) else { return };
            match meter.look(packets) {
                Step::Ask if !self.profile.manual => {
                    tracing::debug!(peer = %peer.short(), "the packets of a link get no answer");
                    let (target, addresses) = (peer, Vec::new());
                    let what = QueryKind::CallBack { target, token: LINK_ONLY, addresses };
                    // The answer is the packet that comes.
                    let _ = self.send_query(what, -1, Some(self.config.connect_timeout)).await;
                }
                Step::Ping => self.ping_over_quic(peer),
                Step::Ask | Step::Nothing => {}
            }
        }
    }

    /// Sends a ping to a node in the background, if there is a link with it over UDP.
    pub(crate) fn ping_over_quic(self: &Arc<Self>, to: NodeId) {
        let linked = self.links.get_open(to);
        if let Some(conn) = linked.filter(|conn| conn.transport.scheme == Scheme::Quic) {
            self.tasks.spawn(async move {
                let _ = conn.ping().await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_get_no_answer_in_two_intervals_are_noticed() {
        use Step::{Ask, Nothing, Ping};
        let mut meter = SilenceMeter::default();
        let mut look = |sent, received| meter.look((sent, received));
        assert_eq!(look(5, 5), Nothing);
        assert_eq!(look(6, 5), Nothing, "it may be an acknowledgement");
        assert_eq!([look(6, 5), look(6, 5)], [Nothing, Nothing]);
        assert_eq!(look(7, 6), Nothing, "the peer answers");
        assert_eq!([look(8, 6), look(10, 6)], [Nothing, Ask]);
        assert_eq!([look(12, 6), look(12, 6), look(14, 6)], [Nothing, Nothing, Ask]);
        assert_eq!([look(15, 7), look(16, 8)], [Ping, Nothing]);
    }
}
