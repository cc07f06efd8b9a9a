//! Making a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::event::Event;
use peerkit_proto::handler::{Callback, Context, Handler};
use peerkit_proto::hello::{MAX_ADDRESSES, MAX_NAME};
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::overlay::Identity;
use peerkit_proto::peer::Machine;
use peerkit_proto::time::{Instant, Now};
use tokio::sync::mpsc;

use crate::actor::mailbox::{FROM_LINKS, Mailbox, ORDERS};
use crate::actor::{Actor, Earlier};
use crate::addresses::{LocalIps, distinct};
use crate::blocking;
use crate::bootstrap::{self, BootstrapError, MAX_BOOTSTRAP};
use crate::clock::unix_millis;
use crate::dispatch::{Application, Dispatch, deliver_notices};
use crate::error::{Error, NameKind};
use crate::files::{self, Files, FilesParts};
use crate::inner::{Inner, Parts};
use crate::key;
use crate::listen::{self, Listen, Pending};
use crate::node::Node;
use crate::probe::{self, PROBE_PROTOCOL};
use crate::store::{Store, StoreError};
use crate::tls::Tls;

/// The file in the state folder that holds the node's key.
const KEY_FILE: &str = "key";

/// The network of nodes that name none.
const NETWORK: &str = "peerkit";

/// Peers from earlier runs that a member may ask for others. 64: some of the last met are there,
/// and whoever comes back asks for no more.
const KNOWN: usize = 64;

/// What a node is to be. Every setting has a default; see [`Builder::spawn`].
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
    state: Option<PathBuf>,
    repair: bool,
    download_folder: Option<PathBuf>,
    manual: bool,
    watch: bool,
    config: Config,
    handler: Option<Box<dyn Application>>,
}

impl Builder {
    /// Listens on an address, `host:port`; port 0 picks a free one. Call it again for more addresses.
    /// Without any the node does not listen: it dials, and no other node can dial it.
    ///
    /// `[::]` takes connections over IPv4 too, unless the node listens on that port of IPv4 as well.
    pub fn listen(mut self, address: impl ToString) -> Self {
        self.listen.push(Listen::At(address.to_string()));
        self
    }

    /// Listens on a port of every address of this machine, IPv4 and IPv6; port 0 picks a free one.
    /// It is no error if the machine has only one of the two.
    pub fn listen_everywhere(mut self, port: u16) -> Self {
        self.listen.push(Listen::Everywhere(port));
        self
    }

    /// Announces an address at which others can dial this node, before those that it finds by
    /// itself: where a router forwards a port to it, say. Call it again for more addresses. The node
    /// does not check that the address leads here.
    ///
    /// To announce these addresses alone, set [`Config::announce_only`]. There can be 32 at most.
    pub fn announce(mut self, address: Address) -> Self {
        self.config.announce.push(address);
        self
    }

    /// Adds a bootstrap node: one that [`Node::join`] without addresses tries
    /// beside the peers that were met before. Call it again for more, 64 at most. With a state folder
    /// the lines of its file `bootstrap` are added: one address a line, `#` begins a comment. One that is
    /// named again counts once.
    pub fn bootstrap(mut self, address: Address) -> Self {
        self.bootstrap.push(address);
        self
    }

    /// What the node calls itself, at most 64 bytes. Without one it is the start of its identity.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The network that the node belongs to, at most 64 bytes; `peerkit` by default. Nodes of
    /// different networks refuse each other.
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// The network's secret: only nodes that know it are let in. Make it long and random; one that
    /// can be guessed can be guessed by whoever has been connected to.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// The node's key pair, and so its identity. Without one the key is that of the state folder,
    /// or a new one for this run.
    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    /// The key of the network's owner, for who is it: this node can stop the whole network, see
    /// [`NetworkHandle::shutdown`](crate::NetworkHandle::shutdown). It should not be the node's own.
    pub fn owner(mut self, key: Key) -> Self {
        self.owner_key = Some(key);
        self
    }

    /// Who owns the network: its nodes obey what is signed with the key of this identity. Without it
    /// a node believes the first node that the application links to or joins through and that knows
    /// of an owner; with a state folder also after a restart.
    pub fn owner_id(mut self, owner: NodeId) -> Self {
        self.owner = Some(owner);
        self
    }

    /// The folder that holds what outlives a run: the key, the peers that were met, what is
    /// shared, broadcasts that others may still want, who owns the network. Without one nothing
    /// does. Only one node at a time can use a folder.
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Sets whether a damaged file in the state folder is moved aside, so that the node starts with a
    /// new one; off by default. Shares, known peers, unfinished downloads and kept broadcasts are
    /// forgotten then, and the identity is not: it has a file of its own. Nothing is deleted, and a
    /// file that is not damaged stays.
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Sets the folder for fetches that name no destination; the current folder by default. It is made
    /// when something is fetched into it. See
    /// [`FilesHandle::set_download_folder`](crate::FilesHandle::set_download_folder).
    pub fn download_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.download_folder = Some(folder.into());
        self
    }

    /// Whether links are made by hand only: the node is never a member of a network, and no link is
    /// made that nobody asked for. Broadcasts and queries run over the links that there are.
    pub fn manual(mut self, manual: bool) -> Self {
        self.manual = manual;
        self
    }

    /// Whether shares are watched, so that what changes on disk is shared as it is then, and what was
    /// gone and comes back is shared again; off by default. Without it, and where the system can't,
    /// [`FilesHandle::refresh`](crate::FilesHandle::refresh) does so. What has changed is never served under its old hash, either way.
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// Limits and intervals. Replaces what [`Builder::announce`] and [`Builder::max_inbound`] set
    /// before.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets how many inbound links there may be at once; 128 by default. 0 refuses every node that
    /// connects to this one: it does not mean "no limit".
    pub fn max_inbound(mut self, links: usize) -> Self {
        self.config.max_inbound = links;
        self
    }

    /// The application: gets every event, one at a time. [`Node::with`] acts as it from outside.
    ///
    /// It runs on the runtime's own threads: one that blocks holds up the other links' events and
    /// whatever else waits for that thread, so long work belongs in a task or thread of its own.
    pub fn handler(mut self, handler: impl Handler + 'static) -> Self {
        self.handler = Some(Box::new(handler));
        self
    }

    /// The application as one callback: gets every event, one at a time.
    pub fn callback(self, callback: impl FnMut(&mut Context<'_>, Event) + Send + 'static) -> Self {
        self.handler(Callback(callback))
    }

    /// Starts the node on the current tokio runtime.
    ///
    /// What was shared from the state folder before is shared again, in the background.
    ///
    /// # Errors
    /// Where an address can't be listened on, the state folder or key can't be used, or a setting
    /// is not possible. Nothing is left running then.
    pub async fn spawn(self) -> Result<Node, Error> {
        let state = self.state.clone();
        let repair = self.repair;
        let store = blocking::try_run(move || match repair {
            true => Store::open_or_repair(state.as_deref()),
            false => Store::open(state.as_deref()),
        });
        let store = store.await?;
        let mut bootstrap = self.bootstrap;
        if let Some(folder) = self.state.clone() {
            bootstrap.extend(blocking::try_run(move || bootstrap::read(&folder)).await?);
        }
        let bootstrap = distinct(bootstrap);
        if bootstrap.len() > MAX_BOOTSTRAP {
            return Err(BootstrapError::TooMany(bootstrap.len()).into());
        }
        let count = self.config.announce.len();
        if count > MAX_ADDRESSES {
            return Err(Error::TooManyAddresses { count, limit: MAX_ADDRESSES });
        }
        let local = LocalIps::read();
        let key = match (self.key, self.state) {
            (Some(key), _) => key,
            (None, Some(folder)) => {
                let path = folder.join(KEY_FILE);
                blocking::try_run(move || key::load_or_create(&path)).await?
            }
            (None, None) => key::generate()?,
        };
        let name = self.name.unwrap_or_else(|| key.id().short());
        Error::check_name(NameKind::Node, &name, MAX_NAME)?;
        let network = self.network.unwrap_or_else(|| NETWORK.to_owned());
        Error::check_name(NameKind::Network, &network, MAX_NAME)?;
        let owner = self.owner_key.as_ref().map(Key::id).or(self.owner);
        if let (Some(key), Some(given)) = (owner, self.owner)
            && key != given
        {
            return Err(Error::OwnerMismatch { key, given });
        }
        if let Some(owner) = owner.filter(|owner| !owner.is_public_key()) {
            return Err(Error::OwnerNotAKey(owner));
        }
        let (in_store, of_network) = (store.clone(), network.clone());
        let owner = blocking::try_run(move || match owner {
            Some(owner) => {
                in_store.save_owner(&of_network, owner)?;
                Ok::<_, StoreError>(Some(owner))
            }
            // An earlier version may have learnt one that no node can have.
            None => Ok(in_store.owner(&of_network)?.filter(NodeId::is_public_key)),
        });
        let owner = owner.await?;
        let tls = Tls::new(&key).map_err(|error| Error::Tls(error.into()))?;
        let listeners = listen::bind(&self.listen).await?;
        let listening: Vec<SocketAddr> =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();

        let mut seed = [0; 32];
        let mut incarnation = [0; 8];
        getrandom::fill(&mut seed)?;
        getrandom::fill(&mut incarnation)?;
        let identity = Identity {
            key: key.clone(),
            name: name.clone(),
            network: network.clone(),
            epoch: unix_millis(),
            manual: self.manual,
        };
        let started = Now { monotonic: Instant::ZERO, unix: identity.epoch };
        let machine = Machine::new(started, identity, &self.config, seed);
        let (dispatch, mut notices) = Dispatch::new(self.handler, &self.config);
        let (orders, order_receiver) = mpsc::channel(ORDERS);
        let (links, link_receiver) = mpsc::channel(FROM_LINKS);
        let (files, upload_news) = Files::new(FilesParts {
            key: &key,
            store: &store,
            config: &self.config,
            watch: self.watch,
            download_folder: self.download_folder.unwrap_or_else(|| PathBuf::from(".")),
        });
        let pending = Pending::new(self.config.max_pending, self.config.max_pending_per_ip);
        let inner = Arc::new(Inner::new(Parts {
            key,
            name,
            network,
            manual: self.manual,
            secret: self.secret,
            owner_key: self.owner_key,
            owner,
            incarnation: u64::from_le_bytes(incarnation),
            config: self.config,
            tls,
            local,
            bootstrap,
            listening,
            dispatch,
            store,
            files,
            actor: Mailbox(orders),
            links,
        }));

        let met = inner.known_peers().await?.into_iter().take(KNOWN);
        let known = met.map(|(id, known)| (id, known.addresses)).collect();

        let store = inner.store.clone();
        let away = blocking::try_run(move || store.away()).await?.into_iter();
        let now = unix_millis();
        let away = away.map(|(id, until)| (id, Duration::from_millis(until.saturating_sub(now))));
        let away = away.filter(|(_, left)| !left.is_zero()).collect();

        let log = inner.kept.clone();
        let kept = blocking::try_run(move || log.load()).await?;

        files::start(&inner, upload_news).await;
        if !inner.manual {
            let timeout = inner.config.handshake_timeout;
            let serve_probes = probe::serve(inner.actor.clone(), timeout);
            inner.protocols.insert(PROBE_PROTOCOL, serve_probes);
        }
        for listener in listeners {
            inner.spawn(listen::accept(inner.clone(), listener, pending.clone()));
        }
        let delivering = inner.clone();
        inner.spawn(async move {
            deliver_notices(&delivering.dispatch, &*delivering, &mut notices).await;
        });
        let timing = inner.clone();
        inner.spawn(async move { timing.run_timers().await });
        inner.spawn(inner.clone().follow_interfaces());
        tracing::info!(
            target: "peerkit::node",
            id = %inner.id,
            name = inner.name.as_str(),
            network = inner.network.as_str(),
            listening = ?inner.listening,
            manual = inner.manual,
            "started"
        );
        let actor = Actor::new(inner.clone(), machine, order_receiver, link_receiver);
        tokio::spawn(actor.run(Earlier { away, known, kept }));
        Ok(Node::new(inner))
    }
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
