//! The state that all tasks of a node share. Each part is a type of its own, so that a function can take
//! the part that it needs.

use std::collections::HashMap;
use std::sync::Arc;

use peerkit_proto::config::Config;
use peerkit_proto::event::{Event, MessageFailure, Peer, Reason};
use tokio::sync::Semaphore;

use crate::actions::HandlerState;
use crate::actor::mailbox::Mailbox;
use crate::address_book::AddressBook;
use crate::bans::Bans;
use crate::clock::NodeClock;
use crate::counters::{Meter, Tallies};
use crate::dial::ForeignDials;
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::files::Files;
use crate::links::LinkTable;
use crate::listen::{PendingHandshakes, Refusals};
use crate::membership::Membership;
use crate::own_addresses::OwnAddresses;
use crate::profile::Profile;
use crate::quic::QuicEndpoints;
use crate::rate::Rates;
use crate::relay::Circuits;
use crate::served::Served;
use crate::store::{Store, StoredBroadcasts};
use crate::stream::Streams;
use crate::tasks::Tasks;
use crate::tls::Tls;
use crate::unlinked::Recipients;

/// The shared state of one node.
pub(crate) struct Inner {
    pub(crate) profile: Profile,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: NodeClock,

    // Links and other connections.
    pub(crate) tls: Tls,
    pub(crate) quic: Arc<QuicEndpoints>,
    pub(crate) addresses: OwnAddresses,
    /// The inbound handshakes under way.
    pub(crate) handshakes: Arc<PendingHandshakes>,
    /// The failed inbound connections that are not reported yet.
    pub(crate) refusals: Refusals,
    pub(crate) links: LinkTable,
    /// The limits on dials to addresses that other nodes have chosen.
    pub(crate) foreign_dials: Arc<ForeignDials>,
    pub(crate) streams: Streams,
    /// Permits for probes. Each probe holds one while it is under way.
    pub(crate) probes: Arc<Semaphore>,
    /// The nodes without a link to which messages are being sent.
    pub(crate) recipients: Recipients,
    /// The counters of all links together.
    pub(crate) meter: Meter,
    /// The counters of links, failed handshakes and drops.
    pub(crate) tallies: Tallies,
    pub(crate) rates: Rates,
    /// The connections between other nodes that this one relays.
    pub(crate) circuits: Circuits,
    pub(crate) membership: Membership,

    // The application.
    pub(crate) dispatch: Dispatch,
    pub(crate) handler: HandlerState,
    pub(crate) served: Served,

    // State that outlives the node, if it has a state folder.
    pub(crate) store: Store,
    pub(crate) peers: AddressBook,
    pub(crate) bans: Bans,
    pub(crate) broadcasts: Arc<StoredBroadcasts>,
    pub(crate) files: Files,

    pub(crate) actor: Mailbox,
    pub(crate) tasks: Tasks,
}

impl Inner {
    /// Delivers an event to the handler and to all subscribers. Waits until the handler has handled earlier
    /// events.
    pub(crate) async fn deliver_event(&self, event: Event) {
        self.dispatch.deliver_event(self, event).await;
    }

    /// Counts a message of the handler that could not be sent, and reports it with an event.
    pub(crate) fn report_unsent(&self, peer: Peer, error: &Error) {
        let reason = match error {
            Error::Full(_) => Reason::Slow,
            Error::LinkLost { reason, .. } => reason.clone(),
            Error::Stopped => Reason::Stopping,
            other => Reason::Other(0, other.to_string()),
        };
        self.meter.failed(1);
        let failure = MessageFailure { unsent: 1, unconfirmed: 0, reason };
        self.dispatch.queue_notice(Event::NodeMessageFailed { peer, failure });
    }

    /// Drops the handler, the application's other functions, and the links and downloads. The application's
    /// functions may own handles to this node, which would then never be freed.
    pub(crate) fn release_application(&self) {
        self.dispatch.end();
        self.links.change(HashMap::clear);
        self.files.downloads.clear();
        self.served.requests.clear();
        self.served.streams.clear();
    }
}
