//! Carries out commands on the node.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{anyhow, bail};
use peerkit::{
    Address, BroadcastReceipt, ConnectOptions, Discovery, Error, Figures, NetworkGraph, Node, Peer,
    SharedFile,
};
use serde::Serialize;
use tokio::task::{AbortHandle, JoinSet};

use crate::background_fetches::Fetches;
use crate::command::NodeCommand;
use crate::help;
use crate::human::{self, downloads, network};
use crate::join::{self, ExpectedFailures};
use crate::json::Fields;
use crate::log::LogSwitch;
use crate::output::{Printer, Reply};
use crate::progress::Bars;
use crate::settings;
use crate::text::{self, count, millis, path as shown, plain};
use crate::views::{KnownView, NodeView, PeerView, PingView};

mod files;
pub(crate) mod map;

/// Advice after `connect`, on a node that could join a network.
const LINK_ONLY: &str = "this is only a link: `join ADDR` makes this node a member of the network of the \
                         node at ADDR";

/// Maximum time that `msg` waits for a peer whose queue is full. 10 s: as long as a request waits for
/// its reply.
const FULL_QUEUE_WAIT: Duration = Duration::from_secs(10);

/// A running node, with everything that commands need.
pub(crate) struct NodeSession {
    pub(crate) node: Node,
    /// The state folder.
    pub(crate) state: PathBuf,
    /// The results of the last successful search, which completion and `get` use.
    pub(crate) found: SearchResults,
    pub(crate) log: LogSwitch,
    pub(crate) bars: Bars,
    pub(crate) output: Printer,
    /// True if a user types the commands at a prompt.
    pub(crate) at_prompt: bool,
    /// Dials whose failures are reported by results and not by events.
    pub(crate) expected: ExpectedFailures,
    /// The fetches that `get` has begun.
    pub(crate) fetches: Fetches,
    /// The attempt to join that `run` began, which continues in the background.
    pub(crate) joining: Option<AbortHandle>,
}

/// The results of the last successful search, shared with the prompt.
pub(crate) type SearchResults = Arc<Mutex<Vec<SharedFile>>>;

impl NodeSession {
    /// Waits until all fetches have ended or are paused. At a prompt it does not wait: the user
    /// decides when to stop.
    pub(crate) async fn wait_for_fetches(&self) {
        if !self.at_prompt {
            self.fetches.wait_until_idle().await;
        }
    }

    /// Carries out a command. Without a prompt, returns `None` for `get`: the result of the fetch is
    /// printed when the fetch has ended.
    pub(crate) async fn execute(&self, command: NodeCommand) -> anyhow::Result<Option<Reply>> {
        // Checked before the wait for the fetches, which may take hours.
        if matches!(command, NodeCommand::Shutdown) && self.node.network().owner().is_none() {
            bail!("this network has no owner, so no node can stop it: `exit` stops this node");
        }
        // In a script, a command that ends the links waits until the fetches have ended.
        if matches!(command, NodeCommand::Exit | NodeCommand::Shutdown | NodeCommand::Leave) {
            self.wait_for_fetches().await;
        }
        let (node, paint) = (&self.node, self.output.paint());
        Ok(Some(match command {
            NodeCommand::Connect { address, reconnect } => self.connect(address, reconnect).await?,
            NodeCommand::Join { addresses } => self.join(&addresses).await?,
            NodeCommand::Disconnect { peer } => {
                // Made before the link ends, since the view has figures of the link.
                let peer = self.view(&node.network().find_peer(&peer)?);
                node.disconnect(peer.id).await?;
                Reply::new(format!("disconnected from {}", peer.label())).with("peer", &peer)
            }
            NodeCommand::Peers => {
                let peers = self.views(&node.peers()).into_iter();
                let peers: Vec<PeerView> = peers.map(|peer| peer.with_last_seen(node)).collect();
                let known = self.known().await?;
                let text = network::peers_and_known(paint, &peers, &known);
                Reply::new(text).with("peers", &peers).with("known", &known)
            }
            NodeCommand::Msg { text } => self.msg(text).await?,
            NodeCommand::Send { peer, text } => {
                let peer = node.network().find_node(&peer).await?;
                node.send(peer.id(), text).await?;
                let peer = self.view_now(peer);
                Reply::new(format!("sent to {}", peer.label())).with("peer", &peer)
            }
            NodeCommand::Broadcast { title, text } => {
                let BroadcastReceipt { id, time, links, .. } = node.broadcast(title, text).await?;
                let (digits, moment) = (human::digits(id), text::moment(time));
                let text = format!("broadcast {digits} over {} at {moment}", count(links, "link"));
                Reply::new(text).with("id", id).with("time", time).with("links", links)
            }
            NodeCommand::Ping { peer } => {
                let pings = match peer {
                    Some(peer) => vec![self.ping(&peer).await?],
                    None => self.ping_all().await,
                };
                Reply::new(network::pings(paint, &pings)).with("pings", &pings)
            }
            NodeCommand::Discover { depth } => self.discover(depth).await?,
            NodeCommand::Add { path, to, ticket } => self.add(path, &to, ticket).await?,
            NodeCommand::Remove { hash } => self.remove(&hash).await?,
            NodeCommand::Refresh => self.refresh().await?,
            NodeCommand::Files { share, skip } => self.files(share, skip).await?,
            NodeCommand::Search { text } => self.search(&text).await?,
            NodeCommand::Get { line, from, force } => {
                let download = node.fetch(self.fetch_request(&line, &from, force).await?);
                let named = downloads::named(paint, &download.status());
                self.fetches.report_when_done(download, self.output.clone(), self.at_prompt);
                let text = format!("fetching {named}: `downloads` shows its progress");
                return Ok(self.at_prompt.then(|| Reply::new(text)));
            }
            NodeCommand::Downloads => {
                let all = node.files().downloads();
                let lines = all.iter().map(|download| downloads::line(paint, download));
                let mut text = lines.collect::<Vec<_>>().join("\n");
                if all.is_empty() {
                    "nothing is being fetched: `get HASH` fetches a file or folder"
                        .clone_into(&mut text);
                }
                Reply::new(text).with("downloads", &all)
            }
            NodeCommand::Pause { download } => {
                let download = self.find_download(&download)?.pause().await?;
                Reply::new(downloads::line(paint, &download)).with("download", &download)
            }
            NodeCommand::Resume { download } => {
                let download = self.find_download(&download)?.resume().await?;
                Reply::new(downloads::line(paint, &download)).with("download", &download)
            }
            NodeCommand::Cancel { download } => {
                let download = self.find_download(&download)?.cancel().await?;
                let text = format!("cancelled {}", downloads::named(paint, &download));
                Reply::new(text).with("download", &download)
            }
            NodeCommand::Status => {
                let status = node.status().await;
                Reply::new(human::status::text(paint, &status)).with("status", &status)
            }
            NodeCommand::Network => self.network().await?,
            NodeCommand::Size => {
                let size = node.network().size().await?;
                let reply = Reply::new(human::size(size)).with("size", size.nodes);
                reply.with("exact", size.exact).with_some("error", size.error)
            }
            NodeCommand::Map { file } => self.map(file).await?,
            NodeCommand::Save { file } => {
                let path = self.peers_file(file)?;
                node.network().save_peers(&path).await?;
                let peers = self.known().await?;
                let text = format!("wrote {} to {}", count(peers.len(), "peer"), shown(&path));
                Reply::new(text).with("path", path.to_string_lossy()).with("peers", &peers)
            }
            NodeCommand::Load { file } => self.load(file).await?,
            NodeCommand::Set { setting } => {
                let config = match setting {
                    None => settings::all(node),
                    Some(setting) => vec![settings::set(node, setting)?],
                };
                Reply::new(human::settings(paint, &config)).with("config", &config)
            }
            NodeCommand::Debug { on } => {
                let on = self.log.set_debug(on)?;
                let text = if on {
                    "logging the node's actions"
                } else {
                    "logging warnings, or what PEERKIT_LOG asks for"
                };
                Reply::new(text).with("debug", on)
            }
            NodeCommand::Help { topic } => {
                let help = help::help_text(topic.as_deref()).map_err(|error| anyhow!(error))?;
                Reply::new(help.clone()).with("help", help)
            }
            NodeCommand::Leave => self.leave().await?,
            NodeCommand::Shutdown => match node.network().shutdown().await {
                Ok(()) => Reply::new("stopping the network"),
                Err(error) => bail!("{error}; `exit` stops this node only"),
            },
            NodeCommand::Exit => Reply::new("stopping"),
        }))
    }

    async fn connect(&self, address: String, reconnect: bool) -> anyhow::Result<Reply> {
        let mut options = ConnectOptions::default();
        options.reconnect = reconnect;
        self.expected.begin_command(&self.node, std::slice::from_ref(&address)).await;
        let linked = self.node.connect_with(address, options).await;
        self.expected.end_command(&linked);
        let peer = self.view(&linked?);
        let mut text = format!("connected to {} at {}", peer.label(), peer.address_or_none());
        let status = self.node.status().await;
        if !status.manual && !status.member {
            text = format!("{text}\n{}", self.output.paint().faint(LINK_ONLY));
        }
        Ok(Reply::new(text).with("peer", &peer))
    }

    async fn join(&self, addresses: &[String]) -> anyhow::Result<Reply> {
        let found = self.addresses(addresses).await?;
        self.expected.begin_command(&self.node, addresses).await;
        let joined = self.node.join(&found).await;
        self.expected.end_command(&joined);
        let peers = self.views(&joined.map_err(join::advised)?);
        let labels = human::labels(&peers);
        let text = if self.node.network().is_manual() {
            format!("linked to {labels}; with --manual this node joins no network")
        } else {
            format!("joined through {labels}")
        };
        Ok(Reply::new(text).with("peers", &peers))
    }

    async fn leave(&self) -> anyhow::Result<Reply> {
        if let Some(joining) = &self.joining {
            // Otherwise the attempt would continue, and join the network again.
            joining.abort();
        }
        // Made before the links are closed, since closed links have no round-trip times.
        let mut peers = self.views(&self.node.peers());
        let closed = self.node.leave().await?;
        peers.retain(|view| closed.iter().any(|peer| peer.id() == view.id));
        let text = format!("left the network: {} closed", count(peers.len(), "link"));
        Ok(Reply::new(text).with("peers", &peers))
    }

    /// Sends a text to all connected nodes. Waits up to [`FULL_QUEUE_WAIT`] for nodes whose queues are
    /// full, since piped commands come faster than a network can send.
    async fn msg(&self, text: String) -> anyhow::Result<Reply> {
        let report = self.node.send_to_nodes(text.as_str(), &[])?;
        let mut sent_to = report.sent.len();
        let mut failed = Vec::new();
        let mut waiting = JoinSet::new();
        for (id, error) in report.failed {
            // Only a full queue gets room again. Any other failure is final.
            if !matches!(error, Error::Full(_)) {
                failed.push((id, error));
                continue;
            }
            let (node, text) = (self.node.clone(), text.clone());
            waiting.spawn(async move {
                let sent = tokio::time::timeout(FULL_QUEUE_WAIT, node.send(id, text)).await;
                // If the time is over, the first error stays: the queue is full.
                (id, sent.unwrap_or(Err(error)))
            });
        }
        for (id, sent) in waiting.join_all().await {
            match sent {
                Ok(()) => sent_to += 1,
                Err(error) => failed.push((id, error)),
            }
        }
        let mut text = format!("sent to {}", count(sent_to, "node"));
        let mut not_sent = Vec::new();
        for (id, error) in failed {
            let error = error.to_string();
            let _ = write!(text, "\nnot sent to {}: {}", id.short(), plain(&error));
            not_sent.push(Fields::default().with("id", id).with("error", error));
        }
        Ok(Reply::new(text).with("sent_to", sent_to).with_some("failed", not_sent))
    }

    async fn discover(&self, depth: i32) -> anyhow::Result<Reply> {
        let discovery = self.node.discover(depth).await?;
        let links = NetworkGraph::new(self.node.network().name(), &discovery).links();
        let nodes = NodeView::all(&self.node, &discovery);
        let Discovery { complete, elapsed, .. } = discovery;
        let text = network::discovered(self.output.paint(), &nodes, links, complete, elapsed);
        Ok(Reply::new(text)
            .with("nodes", &nodes)
            .with("links", links)
            .with("size", nodes.len())
            .with("complete", complete)
            .with("elapsed_ms", millis(elapsed)))
    }

    async fn network(&self) -> anyhow::Result<Reply> {
        /// The figures of the network, with its name and the discovery's time.
        #[derive(Serialize)]
        struct NetworkView<'a> {
            name: &'a str,
            #[serde(flatten)]
            figures: &'a Figures,
            complete: bool,
            elapsed_ms: f64,
        }

        let network = self.node.network().graph().await?;
        // The time grows with the square of the number of nodes.
        let measuring = tokio::task::spawn_blocking(move || (network.figures(), network));
        let (figures, network) = measuring.await?;
        let text = network::figures(self.output.paint(), &network, &figures);
        let view = NetworkView {
            name: network.name(),
            figures: &figures,
            complete: network.is_complete(),
            elapsed_ms: millis(network.elapsed()),
        };
        Ok(Reply::new(text).with("network", view))
    }

    async fn load(&self, file: Option<PathBuf>) -> anyhow::Result<Reply> {
        let path = self.peers_file(file)?;
        let loaded = self.node.network().load_peers(&path).await?;
        let connected = self.views(&self.node.network().connect_to_known(&loaded).await);
        let peers: Vec<KnownView> = loaded.into_iter().map(KnownView::from).collect();
        let (read, links) = (count(peers.len(), "peer"), count(connected.len(), "new link"));
        Ok(Reply::new(format!("read {read} from {}: {links}", shown(&path)))
            .with("path", path.to_string_lossy())
            .with("peers", &peers)
            .with("connected", &connected))
    }

    async fn known(&self) -> anyhow::Result<Vec<KnownView>> {
        let known = self.node.network().known_peers().await?;
        Ok(known.into_iter().map(KnownView::from).collect())
    }

    async fn ping(&self, peer: &str) -> anyhow::Result<PingView> {
        let peer = self.node.network().find_node(peer).await?;
        let rtt = self.node.ping(peer.id()).await?;
        Ok(PingView { peer: self.view_now(peer), rtt_ms: Some(millis(rtt)), error: None })
    }

    async fn ping_all(&self) -> Vec<PingView> {
        let mut pings = JoinSet::new();
        for (index, peer) in self.node.peers().into_iter().enumerate() {
            let node = self.node.clone();
            pings.spawn(async move {
                let rtt = node.ping(peer.id()).await;
                (index, peer, rtt)
            });
        }
        let mut answers = pings.join_all().await;
        // Replies come in any order. The output has the order of `peers`.
        answers.sort_by_key(|(index, ..)| *index);
        let ping = |(_, peer, rtt): (usize, Peer, Result<Duration, Error>)| PingView {
            peer: self.view(&peer),
            rtt_ms: rtt.as_ref().ok().copied().map(millis),
            error: rtt.err().map(|error| error.to_string()),
        };
        answers.into_iter().map(ping).collect()
    }

    /// Returns the addresses that texts stand for. A text is an address, or the name or identity of a
    /// known node.
    async fn addresses(&self, texts: &[String]) -> anyhow::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        for text in texts {
            addresses.extend(self.node.network().find_addresses(text).await?);
        }
        Ok(addresses)
    }

    fn peers_file(&self, given: Option<PathBuf>) -> std::io::Result<PathBuf> {
        std::path::absolute(given.unwrap_or_else(|| self.state.join("peers.json")))
    }

    fn view(&self, peer: &Peer) -> PeerView {
        PeerView::new(&self.node, peer)
    }

    /// Returns the view of a peer as it is now, since the command may have made a link to it.
    fn view_now(&self, peer: Peer) -> PeerView {
        self.view(&self.node.peer(peer.id()).unwrap_or(peer))
    }

    fn views(&self, peers: &[Peer]) -> Vec<PeerView> {
        peers.iter().map(|peer| self.view(peer)).collect()
    }
}
