//! The settings of a node, and its start.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::event::Event;
use peerkit_proto::handler::{Callback, Context, Handler};
use peerkit_proto::hello::{MAX_ADDRESSES, MAX_NAME};
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::invitation::Invite;
use peerkit_proto::overlay::NodeSetup;
use peerkit_proto::overlay::members::MembershipState;
use peerkit_proto::peer::Machine;
use peerkit_proto::time::{Instant, Now};
use tokio::sync::{Semaphore, mpsc};

use crate::actions::HandlerState;
use crate::actor::mailbox::{MAX_LINK_REPORTS, MAX_ORDERS, Mailbox};
use crate::actor::{Actor, RestoredState};
use crate::address_book::{AddressBook, MAX_KNOWN_PEERS};
use crate::bans::Bans;
use crate::blocking;
use crate::bootstrap::{self, BootstrapError, MAX_BOOTSTRAP};
use crate::clock::{NodeClock, unix_millis};
use crate::counters::{Meter, Tallies};
use crate::dial::ForeignDials;
use crate::dispatch::{AnyHandler, Dispatch, deliver_notices};
use crate::error::{Error, NameKind};
use crate::files::{self, Files};
use crate::inner::Inner;
use crate::key;
use crate::links::LinkTable;
use crate::listen::{self, Listen, PendingHandshakes, Refusals};
use crate::mapping;
use crate::membership::{Membership, MembershipSettings, NetworkChoice};
use crate::node::Node;
use crate::observe::{self, OBSERVE_PROTOCOL};
use crate::own_addresses::{OwnAddresses, distinct};
use crate::probe::{self, MAX_PROBES, PROBE_PROTOCOL};
use crate::profile::Profile;
use crate::quic::QuicEndpoints;
use crate::rate::Rates;
use crate::relay::{self, Circuits};
use crate::served::Served;
use crate::shares::Shares;
use crate::store::{Store, StoreError, StoredBroadcasts};
use crate::stream::Streams;
use crate::tasks::Tasks;
use crate::tls::Tls;
use crate::unlinked::Recipients;

/// Name of the key file in the state folder.
const KEY_FILE: &str = "key";

/// Default name of the network.
const DEFAULT_NETWORK: &str = "peerkit";

/// The settings of a new node, which [`Builder::spawn`] starts. Every setting has a default.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// use peerkit::Node;
///
/// let node = Node::builder()
///     .name("ann")
///     .listen("127.0.0.1:0")
///     .network("our own")
///     .state(folder)
///     .callback(|_, event| println!("{}", event.name()))
///     .spawn()
///     .await?;
/// # node.shutdown().await; Ok(()) }
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until it spawns"]
pub struct Builder {
    listen: Vec<Listen>,
    bootstrap: Vec<Address>,
    name: Option<String>,
    network: Option<String>,
    secret: Option<Vec<u8>>,
    key: Option<Key>,
    owner_key: Option<Key>,
    owner: Option<NodeId>,
    membership: MembershipSettings,
    state: Option<PathBuf>,
    repair: bool,
    download_folder: Option<PathBuf>,
    manual: bool,
    watch: bool,
    config: Config,
    handler: Option<Box<dyn AnyHandler>>,
}

impl Builder {
    /// Makes the node listen on an address, `host:port`. For port 0 the system picks a free port. Call this
    /// again for more addresses. A node that listens on no address can dial other nodes, but no node can dial
    /// it.
    ///
    /// `[::]` also accepts connections over IPv4, unless the node listens on the same port of IPv4 itself.
    pub fn listen(mut self, address: impl ToString) -> Self {
        self.listen.push(Listen::At(address.to_string()));
        self
    }

    /// Makes the node listen on a port of every address of this machine, IPv4 and IPv6. For port 0 the system
    /// picks a free port. It is not an error if the machine has only one of IPv4 and IPv6.
    pub fn listen_everywhere(mut self, port: u16) -> Self {
        self.listen.push(Listen::Everywhere(port));
        self
    }

    /// Adds an address at which other nodes can dial this one, for example that of a router that forwards a
    /// port to it. The node announces it before the addresses that it finds by itself, and does not check
    /// that the address leads to this node. Call this again for more addresses, up to 32.
    ///
    /// To announce no other addresses, set [`Config::announce_only`].
    pub fn announce(mut self, address: Address) -> Self {
        self.config.announce.push(address);
        self
    }

    /// Adds a bootstrap node. [`Node::join`] without addresses tries the bootstrap nodes and the peers that
    /// the node has met before. Call this again for more bootstrap nodes, up to 64.
    ///
    /// The addresses in the file `bootstrap` of the state folder are added to them. That file has one address
    /// on a line, and `#` begins a comment. An address that is given twice counts once.
    pub fn bootstrap(mut self, address: Address) -> Self {
        self.bootstrap.push(address);
        self
    }

    /// Sets the node's name, which peers see: at most 64 bytes. By default it is the start of the node's
    /// identity.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the network that the node belongs to: at most 64 bytes; `peerkit` by default. Nodes of
    /// different networks refuse each other.
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// Sets the network's secret. Nodes that do not know it are refused. Make it long and random: every node
    /// that this one connects to can test guesses of it offline.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// Sets the node's key pair, and so its identity. Without it the node uses the key in its state folder,
    /// or a new one for this run.
    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets the key of the network's owner. A node that holds it can shut the whole network down: see
    /// [`NetworkHandle::shutdown`](crate::NetworkHandle::shutdown). It should not be the node's own key.
    pub fn owner(mut self, key: Key) -> Self {
        self.owner_key = Some(key);
        self
    }

    /// Sets the identity of the network's owner. The node obeys orders that are signed with the owner's key.
    ///
    /// Without it the node learns the owner from the first node that the application connects to or joins
    /// through, if that node knows one. With a state folder it remembers the owner after a restart.
    pub fn owner_id(mut self, owner: NodeId) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Joins a network whose owner invites. The invite sets the network's name, its owner and its secret, and
    /// adds bootstrap nodes. With a state folder the node stays a member after a restart, also without the
    /// invite: it needs the network's name then, and its secret if it has one.
    pub fn invite(mut self, invite: Invite) -> Self {
        self.membership.invite = Some(invite);
        self
    }

    /// Sets whether the network takes invited nodes only; off by default. Founds such a network: the node needs
    /// the owner's key. See [`NetworkHandle::invite`](crate::NetworkHandle::invite). Nodes that join by an
    /// invite need no setting. With a state folder the setting is remembered.
    pub fn invite_only(mut self, invite_only: bool) -> Self {
        self.membership.invite_only = invite_only;
        self
    }

    /// Sets the state folder. It has the state that is kept between runs: the key, the known peers, the
    /// shares, unfinished downloads, recent broadcasts, and the identity of the network's owner. Without a
    /// state folder nothing is kept. Only one node at a time can use a folder.
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Sets whether a damaged database in the state folder is moved aside, so that the node starts with a
    /// new one; off by default. The node then loses its shares, known peers, unfinished downloads and
    /// stored broadcasts. It keeps its identity, which has a file of its own. Nothing is deleted, and a
    /// file that is not damaged stays.
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Sets the folder for fetches that name no destination; the current folder by default. The folder is
    /// created by the first fetch into it. See
    /// [`FilesHandle::set_download_folder`](crate::FilesHandle::set_download_folder).
    pub fn download_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.download_folder = Some(folder.into());
        self
    }

    /// Sets whether links are made by hand only; off by default. Such a node is never a member of a
    /// network, and makes no link that its application did not ask for. Broadcasts and queries travel over
    /// the existing links.
    pub fn manual(mut self, manual: bool) -> Self {
        self.manual = manual;
        self
    }

    /// Sets whether the node watches its shares on disk; off by default. A node that watches hashes a changed
    /// file again and shares its new content. It also shares a missing file again once the file is back.
    /// [`FilesHandle::refresh`](crate::FilesHandle::refresh) does the same on request, and on systems that
    /// can't watch files. In any case a changed file is never served under its old hash.
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// Sets all limits and intervals. This replaces the settings of earlier calls of [`Builder::announce`]
    /// and [`Builder::max_inbound`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets the maximum number of inbound links; 128 by default. With 0 every node that connects to this one
    /// is refused: it does not mean "no limit".
    pub fn max_inbound(mut self, links: usize) -> Self {
        self.config.max_inbound = links;
        self
    }

    /// Sets the handler, which receives every event, one at a time. [`Node::with`] calls it between events.
    ///
    /// The handler runs on the runtime's own threads. If it blocks, it delays the events of all links and the
    /// other tasks on that thread. So long work belongs in a task or thread of its own.
    pub fn handler(mut self, handler: impl Handler + 'static) -> Self {
        self.handler = Some(Box::new(handler));
        self
    }

    /// Sets a function as the handler. It receives every event, one at a time.
    pub fn callback(self, callback: impl FnMut(&mut Context<'_>, Event) + Send + 'static) -> Self {
        self.handler(Callback(callback))
    }

    /// Starts the node on the current tokio runtime.
    ///
    /// If there is a state folder, shares and downloads of the last run continue in the background.
    ///
    /// # Errors
    /// If the node can't listen on an address, the state folder or key can't be used, or a setting is
    /// invalid. After an error nothing is left running.
    pub async fn spawn(mut self) -> Result<Node, Error> {
        // The state folder comes first: its lock keeps a second node from using the same identity.
        let folder = self.state.clone();
        let open = if self.repair { Store::open_or_repair } else { Store::open };
        let store = blocking::try_run(move || open(folder.as_deref())).await?;
        let given_owner = self.owner_key.as_ref().map(Key::id).or(self.owner);
        self.membership.check(self.network.as_deref(), given_owner)?;
        let mut bootstrap = self.bootstrap;
        if let Some(invite) = &self.membership.invite {
            bootstrap.extend(invite.addresses.iter().cloned());
            self.network = Some(invite.network.clone());
            self.owner = self.owner.or(Some(invite.owner()));
            self.secret = self.secret.or_else(|| invite.secret.clone());
        }
        let bootstrap = read_bootstrap_nodes(bootstrap, self.state.as_deref()).await?;
        let count = self.config.announce.len();
        if count > MAX_ADDRESSES {
            return Err(Error::TooManyAddresses { count, limit: MAX_ADDRESSES });
        }
        let key = choose_key(self.key, self.state.as_deref()).await?;
        let name = self.name.unwrap_or_else(|| key.id().short());
        Error::check_name(NameKind::Node, &name, MAX_NAME)?;
        let folder = self.state.as_deref();
        let mut choice = NetworkChoice::new(self.network, DEFAULT_NETWORK, folder).await?;
        Error::check_name(NameKind::Network, &choice.name, MAX_NAME)?;
        let chosen =
            choose_owner(self.owner_key.as_ref(), self.owner, &store, &choice.name).await?;
        choice.owner = chosen.or(choice.owner);
        let keys = (&key, self.owner_key.as_ref());
        let membership = self.membership.load((&store, folder), keys, &choice).await?;
        let NetworkChoice { name: network, owner, .. } = choice;
        let tls = Tls::new(&key).map_err(|error| Error::Tls(error.into()))?;
        // The ports are bound before any task runs, so nothing has to be undone if a port is in use.
        let (listeners, udp) = listen::bind_with_udp(&self.listen, self.config.udp).await?;
        let quic = QuicEndpoints::new(udp, &tls, &self.config)
            .map_err(|error| Error::Listen { address: "UDP".to_owned(), error })?;
        let listening = listeners.iter().filter_map(|listener| listener.local_addr().ok());
        let listening: Vec<_> = listening.collect();

        // The state machines draw their random numbers from this seed, so that a simulation can repeat them.
        let mut seed = [0; 32];
        let mut incarnation = [0; 8];
        getrandom::fill(&mut seed)?;
        getrandom::fill(&mut incarnation)?;
        let setup = NodeSetup {
            key: key.clone(),
            name: name.clone(),
            network: network.clone(),
            epoch: unix_millis(),
            manual: self.manual,
        };
        let started = Now { monotonic: Instant::ZERO, unix: setup.epoch };
        let machine = Machine::new(started, setup, &self.config, seed);
        let (dispatch, mut notices) = Dispatch::new(self.handler, &self.config);
        let (orders, order_receiver) = mpsc::channel(MAX_ORDERS);
        let (link_reports, report_receiver) = mpsc::channel(MAX_LINK_REPORTS);
        let mut shares = Shares::new(store.clone()).with_tickets_of(&key);
        if self.watch {
            shares = shares.watched();
        }
        let download_folder = self.download_folder.unwrap_or_else(|| PathBuf::from("."));
        let (files, upload_news) = Files::new(shares, self.config.max_downloads, download_folder);
        let profile = Profile {
            id: key.id(),
            name,
            network,
            manual: self.manual,
            secret: self.secret,
            owner_key: self.owner_key,
            owner: Mutex::new(owner),
            incarnation: u64::from_le_bytes(incarnation),
        };
        let config = Arc::new(self.config);
        let inner = Arc::new(Inner {
            clock: NodeClock::start(),
            tls,
            quic: Arc::new(quic),
            foreign_dials: ForeignDials::new(config.address_groups(), &listening),
            addresses: OwnAddresses::new(config.clone(), listening),
            handshakes: PendingHandshakes::new(&config),
            refusals: Refusals::default(),
            links: LinkTable::default(),
            streams: Streams::new(&config),
            probes: Arc::new(Semaphore::new(MAX_PROBES)),
            recipients: Recipients::default(),
            meter: Meter::default(),
            tallies: Tallies::default(),
            rates: Rates::new(&config),
            circuits: Circuits::new(config.relay_rate),
            membership: Membership::new(membership.as_ref()),
            dispatch,
            handler: HandlerState::default(),
            served: Served::default(),
            peers: AddressBook::new(store.clone(), bootstrap),
            bans: Bans::new(store.clone()),
            broadcasts: Arc::new(StoredBroadcasts::new(store.clone(), &profile.network, &config)),
            store,
            files,
            actor: Mailbox { orders, link_reports },
            tasks: Tasks::default(),
            profile,
            config,
        });
        // No task runs yet, so nothing has to be undone after an error up to here.
        let earlier = load_earlier_state(&inner, membership).await?;

        // The functions that serve streams are registered before the first connection is accepted.
        files::start(&inner, upload_news).await;
        if !inner.profile.manual {
            let serve_probes = probe::serve(inner.actor.clone(), inner.config.handshake_timeout);
            inner.served.streams.insert(PROBE_PROTOCOL, serve_probes);
        }
        if inner.quic.is_listening() {
            inner.served.streams.insert(OBSERVE_PROTOCOL, observe::serve());
        }
        relay::start(&inner);
        for listener in listeners {
            inner.tasks.spawn(listen::accept(inner.clone(), listener));
        }
        for endpoint in inner.quic.listening() {
            inner.tasks.spawn(listen::accept_quic(inner.clone(), endpoint));
        }
        let delivering = inner.clone();
        inner.tasks.spawn(async move {
            deliver_notices(&delivering.dispatch, &*delivering, &mut notices).await;
        });
        let timing = inner.clone();
        inner.tasks.spawn(async move { timing.run_timers().await });
        inner.tasks.spawn(inner.clone().follow_interfaces());
        if inner.config.map_ports {
            inner.tasks.spawn(inner.clone().keep_mapped(mapping::nonce(&key)));
        }
        tracing::info!(
            target: "peerkit::node",
            id = %inner.profile.id,
            name = inner.profile.name.as_str(),
            network = inner.profile.network.as_str(),
            listening = ?inner.addresses.listening,
            manual = inner.profile.manual,
            "started"
        );
        // The actor is not one of `inner.tasks`: it stops those tasks, and runs until they have ended.
        let actor = Actor::new(inner.clone(), machine, order_receiver, report_receiver);
        // Boxed, because the task would hold the actor twice: as its argument and as its local variable.
        tokio::spawn(Box::new(actor).run(earlier));
        Ok(Node::new(inner))
    }
}

/// Returns the given bootstrap nodes and those of the file in the state folder, each once.
async fn read_bootstrap_nodes(
    mut nodes: Vec<Address>,
    state: Option<&Path>,
) -> Result<Vec<Address>, Error> {
    if let Some(folder) = state.map(Path::to_owned) {
        nodes.extend(blocking::try_run(move || bootstrap::read(&folder)).await?);
    }
    let nodes = distinct(nodes);
    if nodes.len() > MAX_BOOTSTRAP {
        return Err(BootstrapError::TooMany(nodes.len()).into());
    }
    Ok(nodes)
}

/// Returns the given key, or else the key of the state folder, or else a new key.
async fn choose_key(given: Option<Key>, state: Option<&Path>) -> Result<Key, Error> {
    match (given, state) {
        (Some(key), _) => Ok(key),
        (None, Some(folder)) => {
            let path = folder.join(KEY_FILE);
            blocking::try_run(move || key::load_or_create(&path)).await
        }
        (None, None) => Ok(key::generate()?),
    }
}

/// Returns the network's owner: the given one, which is then stored, or else the stored one.
async fn choose_owner(
    key: Option<&Key>,
    given: Option<NodeId>,
    store: &Store,
    network: &str,
) -> Result<Option<NodeId>, Error> {
    let owner = key.map(Key::id).or(given);
    if let (Some(key), Some(given)) = (owner, given)
        && key != given
    {
        return Err(Error::OwnerMismatch { key, given });
    }
    if let Some(owner) = owner.filter(|owner| !owner.is_public_key()) {
        return Err(Error::OwnerNotAKey(owner));
    }
    let (store, network) = (store.clone(), network.to_owned());
    blocking::try_run(move || match owner {
        Some(owner) => store.save_owner(&network, owner).map(|()| Some(owner)),
        // An earlier version may have stored an identity that no node can have.
        None => Ok(store.owner(&network)?.filter(NodeId::is_public_key)),
    })
    .await
}

/// Loads the state of earlier runs with which the overlay starts.
async fn load_earlier_state(
    inner: &Arc<Inner>,
    membership: Option<MembershipState>,
) -> Result<RestoredState, Error> {
    let peers = inner.peers.all().await?.into_iter();
    // The address book of the overlay has only nodes that this node has reached itself.
    let tested = peers.filter(|(_, known)| known.tested).take(MAX_KNOWN_PEERS);
    let known = tested.map(|(id, known)| (id, known.addresses)).collect();
    let (store, broadcasts) = (inner.store.clone(), inner.broadcasts.clone());
    let restoring = inner.clone();
    blocking::try_run(move || {
        let now = unix_millis();
        let left = |until: u64| Duration::from_millis(until.saturating_sub(now));
        let away = store.kept_away()?.into_iter().map(|(id, until)| (id, left(until)));
        let away = away.filter(|(_, left)| !left.is_zero()).collect();
        let bans = restoring.bans.restore(store.bans()?);
        let broadcasts = broadcasts.load()?;
        Ok::<_, StoreError>(RestoredState { away, bans, known, broadcasts, membership })
    })
    .await
}

impl Node {
    /// Returns the settings of a new node. [`Builder::spawn`] starts it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// use peerkit::Node;
    ///
    /// let node = Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// println!("{} listens on {:?}", node.id(), node.listening());
    /// node.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }
}
