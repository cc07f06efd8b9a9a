//! One command, carried out on the node.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use peerkit::{
    Access, Address, ConnectOptions, Download, Error, FetchRequest, FileName, FoundFile, Hash,
    Network, Node, NodeId, Peer, SharedFile, Size,
};
use tokio::task::{AbortHandle, JoinSet};

use crate::command::{self, Command};
use crate::fetches::Fetches;
use crate::folders;
use crate::join::{self, Expected};
use crate::lock::lock;
use crate::log::Log;
use crate::manual;
use crate::outcome::{
    FoundView, Gone, KnownView, ListedView, NetworkView, NodeView, NotSent, Outcome, PeerView,
    Ping, SharedView, Stops,
};
use crate::output::Output;
use crate::progress::Bars;
use crate::settings;
use crate::text::millis;
use crate::wanted::{self, Destination, Hit, Wanted};

/// How long a command waits for what was shared before the start. 5 s: a hundred thousand files that
/// have not changed take one.
const RESTORED: Duration = Duration::from_secs(5);

/// How long `msg` waits for a peer whose queue is full. 10 s: as long as a request for its reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// What commands act on.
pub(crate) struct Session {
    pub(crate) node: Node,
    /// Where the state is kept.
    pub(crate) state: PathBuf,
    /// Finds of the last search, for completion and for `get` by name or first digits.
    pub(crate) found: Found,
    pub(crate) log: Log,
    pub(crate) bars: Bars,
    pub(crate) output: Output,
    /// Commands are typed, and answered above the next line.
    pub(crate) at_prompt: bool,
    /// Dials whose failures a result reports.
    pub(crate) expected: Expected,
    /// What `get` has begun.
    pub(crate) fetches: Fetches,
    /// The attempt to join that was begun at the start and goes on in the background.
    pub(crate) joining: Option<AbortHandle>,
}

/// What the last search that found something has found, shared with the prompt.
pub(crate) type Found = Arc<Mutex<Vec<Hit>>>;

fn hit(found: &FoundFile) -> Hit {
    Hit { hash: found.file.hash, name: found.file.name.clone() }
}

impl Session {
    /// Waits until the fetches that were begun have ended, where nobody sits at a prompt who could
    /// do that: what comes after them ends them.
    pub(crate) async fn fetches_settled(&self) {
        if !self.at_prompt {
            self.fetches.settled().await;
        }
    }

    /// Carries out a command.
    pub(crate) async fn execute(&self, command: Command) -> anyhow::Result<Outcome> {
        if matches!(command, Command::Shutdown) && self.node.network().owner().is_none() {
            bail!("this network has no owner, so nothing stops all of it: `exit` stops this node");
        }
        if matches!(command, Command::Exit | Command::Shutdown | Command::Leave) {
            self.fetches_settled().await;
        }
        let node = &self.node;
        Ok(match command {
            Command::Connect { address, reconnect } => {
                let options = match reconnect {
                    true => ConnectOptions::reconnect(),
                    false => ConnectOptions::default(),
                };
                self.expected.begin_command(node, std::slice::from_ref(&address)).await;
                let linked = node.connect_with(address, options).await;
                self.expected.end_command(&linked);
                let peer = linked?;
                let status = node.status().await;
                let may_join = !status.manual && !status.member;
                Outcome::Connected { peer: self.view(&peer), may_join }
            }
            Command::Join { addresses } => {
                let found = self.addresses(&addresses).await?;
                self.expected.begin_command(node, &addresses).await;
                let joined = node.join(&found).await;
                self.expected.end_command(&joined);
                let peers = joined.map_err(join::advised)?;
                Outcome::Linked { peers: self.views(&peers), by_hand: node.network().is_manual() }
            }
            Command::Disconnect { peer } => {
                let peer = self.view(&node.network().find_peer(&peer)?);
                node.disconnect(peer.id).await?;
                Outcome::Peer { peer }
            }
            Command::Peers => {
                let peers = self.views(&node.peers()).into_iter();
                let peers = peers.map(|peer| peer.with_last_seen(node)).collect();
                Outcome::Peers { peers, known: self.known().await? }
            }
            Command::Msg { text } => self.msg(text).await?,
            Command::Send { peer, text } => {
                let peer = node.network().find_node(&peer).await?;
                node.send(peer.id(), text).await?;
                // There may be a link now that was made for it.
                let peer = node.peer(peer.id()).unwrap_or(peer);
                Outcome::Peer { peer: self.view(&peer) }
            }
            Command::Broadcast { title, text } => {
                let broadcast = node.broadcast(title, text).await?;
                let (id, time) = (broadcast.id.to_string(), broadcast.time);
                Outcome::Broadcast { id, time, links: broadcast.links }
            }
            Command::Ping { peer: Some(peer) } => {
                let peer = node.network().find_node(&peer).await?;
                let rtt = node.ping(peer.id()).await?;
                // There may be a link now that was made for it.
                let peer = node.peer(peer.id()).unwrap_or(peer);
                let ping = Ping { peer: self.view(&peer), rtt_ms: Some(millis(rtt)), error: None };
                Outcome::Pings { pings: vec![ping] }
            }
            Command::Ping { peer: None } => Outcome::Pings { pings: self.ping_all().await },
            Command::Discover { depth } => {
                let discovery = node.discover(depth).await?;
                Outcome::Discovered {
                    links: Network::new(node.network().name(), &discovery).links(),
                    size: discovery.nodes.len(),
                    complete: discovery.complete,
                    elapsed_ms: millis(discovery.elapsed),
                    nodes: NodeView::all(node, &discovery),
                }
            }
            Command::Add { path, to, ticket } => self.add(path, &to, ticket).await?,
            Command::Remove { hash } => {
                let mut files = Vec::new();
                for (path, _) in self.shared(&hash).await? {
                    files.extend(node.files().unshare_path(&path).await?);
                }
                Outcome::Files { files }
            }
            Command::Refresh => {
                self.restored().await;
                let refreshed = node.files().refresh(self.bars.bar("hashing")).await?;
                let removed = refreshed.removed.into_iter();
                Outcome::Refreshed {
                    files: ListedView::all(node),
                    changed: refreshed.changed.into_iter().map(|(_, now)| now).collect(),
                    removed: removed.map(|(path, file)| Gone { path, file }).collect(),
                    skipped: views(refreshed.skipped),
                }
            }
            Command::Files { share: None, .. } => {
                let restoring = !self.restored().await;
                Outcome::Shared { files: SharedView::all(node), restoring }
            }
            Command::Files { share: Some(share), skip } => {
                let shares = self.shared(&share).await?.into_iter();
                let view = |(path, file)| SharedView::one(node, path, file, skip);
                Outcome::Shared { files: shares.map(view).collect(), restoring: false }
            }
            Command::Search { text } => {
                let found = node.search(&text).await?;
                // A search that finds nothing leaves what can be fetched by its name.
                if !found.is_empty() {
                    *lock(&self.found) = found.iter().map(hit).collect();
                }
                let view = |found| FoundView::new(node, found);
                Outcome::Found { files: found.into_iter().map(view).collect() }
            }
            Command::Get { line, from, force } => {
                let download = node.fetch(self.request(&line, &from, force).await?);
                let status = Box::new(download.status());
                self.fetches.follow(download, self.output.clone(), self.at_prompt);
                Outcome::Begun { download: status }
            }
            Command::Downloads => Outcome::Downloads { downloads: node.files().downloads() },
            Command::Pause { download } => {
                let download = self.download(&download)?.pause().await?;
                Outcome::Download { download: Box::new(download) }
            }
            Command::Resume { download } => {
                let download = self.download(&download)?.resume().await?;
                Outcome::Download { download: Box::new(download) }
            }
            Command::Cancel { download } => {
                let download = self.download(&download)?.cancel().await?;
                Outcome::Download { download: Box::new(download) }
            }
            Command::Status => Outcome::Status { status: Box::new(node.status().await) },
            Command::Network => {
                let network = node.network().graph().await?;
                // The time grows with the square of the nodes.
                let measuring = tokio::task::spawn_blocking(move || NetworkView {
                    name: network.name().to_owned(),
                    figures: network.figures(),
                    complete: network.is_complete(),
                    elapsed_ms: millis(network.elapsed()),
                });
                Outcome::Network { network: measuring.await? }
            }
            Command::Size => {
                let Size { nodes, error, exact, .. } = node.network().size().await?;
                Outcome::Size { size: nodes, exact, error }
            }
            Command::Map { file } => self.map(file).await?,
            Command::Save { file } => {
                let path = std::path::absolute(file.unwrap_or_else(|| self.peers_file()))?;
                node.network().save_peers(&path).await?;
                Outcome::Saved { path, peers: self.known().await? }
            }
            Command::Load { file } => {
                let path = std::path::absolute(file.unwrap_or_else(|| self.peers_file()))?;
                let loaded = node.network().load_peers(&path).await?;
                let connected = node.network().connect_to_known(&loaded).await;
                Outcome::Loaded { path, connected: self.views(&connected), peers: views(loaded) }
            }
            Command::Set { setting: None } => Outcome::Settings { config: settings::all(node) },
            Command::Set { setting: Some(setting) } => {
                Outcome::Settings { config: vec![settings::set(node, setting)?] }
            }
            Command::Debug { on } => Outcome::Debug { debug: self.log.set_debug(on)? },
            Command::Help { topic } => Outcome::Help {
                help: manual::help(topic.as_deref()).map_err(|error| anyhow!(error))?,
            },
            Command::Leave => {
                if let Some(joining) = &self.joining {
                    joining.abort();
                }
                // As they were: with the links their round-trip times go.
                let peers = self.views(&node.peers());
                let closed = node.leave().await?;
                let closed = |view: &PeerView| closed.iter().any(|peer| peer.id() == view.id);
                let peers = peers.into_iter().filter(closed).collect();
                Outcome::Linked { peers, by_hand: node.network().is_manual() }
            }
            Command::Shutdown => match node.network().shutdown().await {
                Ok(()) => Outcome::Stopping { what: Stops::Network },
                Err(error) => bail!("{error}; `exit` stops this node only"),
            },
            Command::Exit => Outcome::Stopping { what: Stops::Node },
        })
    }

    /// Sends to all that are connected. Those whose queues are full are waited for, for a while:
    /// commands that are piped in come faster than a network takes them.
    async fn msg(&self, text: String) -> anyhow::Result<Outcome> {
        let report = self.node.send_to_nodes(text.as_str(), &[])?;
        let mut sent_to = report.sent.len();
        let mut failed = Vec::new();
        let mut waiting = JoinSet::new();
        for (id, error) in report.failed {
            if !matches!(error, Error::Full(_)) {
                failed.push(NotSent { id, error: error.to_string() });
                continue;
            }
            let (node, text) = (self.node.clone(), text.clone());
            waiting.spawn(async move {
                let sent = tokio::time::timeout(PATIENCE, node.send(id, text)).await;
                (id, sent.unwrap_or(Err(error)))
            });
        }
        for (id, sent) in waiting.join_all().await {
            match sent {
                Ok(()) => sent_to += 1,
                Err(error) => failed.push(NotSent { id, error: error.to_string() }),
            }
        }
        Ok(Outcome::Sent { sent_to, failed })
    }

    async fn known(&self) -> anyhow::Result<Vec<KnownView>> {
        Ok(views(self.node.network().known_peers().await?))
    }

    async fn ping_all(&self) -> Vec<Ping> {
        let mut pings = JoinSet::new();
        for (index, peer) in self.node.peers().into_iter().enumerate() {
            let node = self.node.clone();
            pings.spawn(async move {
                let rtt = node.ping(peer.id()).await;
                (index, peer, rtt)
            });
        }
        let mut answers = pings.join_all().await;
        answers.sort_by_key(|(index, ..)| *index);
        let answers = answers.into_iter();
        answers
            .map(|(_, peer, rtt)| Ping {
                peer: self.view(&peer),
                rtt_ms: rtt.as_ref().ok().copied().map(millis),
                error: rtt.err().map(|error| error.to_string()),
            })
            .collect()
    }

    async fn add(&self, path: PathBuf, to: &[String], ticket: bool) -> anyhow::Result<Outcome> {
        let mut sharing = self.node.share(path).on_progress(self.bars.bar("hashing"));
        if ticket {
            sharing = sharing.with_ticket();
        }
        if !to.is_empty() {
            let mut nodes = Vec::new();
            for node in to {
                nodes.push(self.node_named(node).await?);
            }
            sharing = sharing.to_nodes(nodes);
        }
        let added = sharing.await?;
        let is_open = matches!(added.access, Access::Open);
        let ticket = self.node.files().ticket_for(&added.shared).filter(|_| !is_open);
        Ok(Outcome::Added {
            files: vec![added.shared],
            ticket: ticket.map(|ticket| ticket.to_string()),
            skipped: views(added.skipped),
        })
    }

    /// The identity of a node: written out, which need not be known, or of one that was met.
    async fn node_named(&self, text: &str) -> anyhow::Result<NodeId> {
        match text.parse::<NodeId>() {
            Ok(_) => command::identity(text).map_err(|error| anyhow!(error)),
            Err(_) => Ok(self.node.network().find_node(text).await?.id()),
        }
    }

    /// What `get` is to fetch, from where and where to.
    async fn request(
        &self,
        line: &str,
        from: &[String],
        force: bool,
    ) -> anyhow::Result<FetchRequest> {
        let (wanted, name, path) = {
            let found = lock(&self.found);
            wanted::read(line, &found).map_err(|error| anyhow!(error))?
        };
        if path.as_deref() == Some(Path::new("-")) {
            bail!(
                "standard output is the node's own: `peerkit get TICKET -` in a shell writes there"
            );
        }
        let request = match wanted {
            Wanted::Ticket(ticket) if ticket.network != self.node.network().name() => bail!(
                "this ticket is from the network `{}`, where this node is not: \
                 `peerkit get TICKET` fetches it without a running node",
                ticket.network
            ),
            Wanted::Ticket(ticket) => FetchRequest::ticket(&ticket),
            Wanted::Hash(hash) => FetchRequest::new(hash),
        };
        let request = match name {
            Some(name) => request.named(name),
            None => request,
        };
        let from = self.addresses(from).await?;
        let request = from.into_iter().fold(request.overwrite(force), FetchRequest::from);
        let destination = Destination::new(path.as_deref(), &self.node.files().download_folder());
        Ok(destination.context("there is no current folder")?.of_request(request))
    }

    /// The addresses that are meant, of names and identities those that are known.
    async fn addresses(&self, texts: &[String]) -> anyhow::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        for text in texts {
            addresses.extend(self.node.network().find_addresses(text).await?);
        }
        Ok(addresses)
    }

    async fn map(&self, file: Option<PathBuf>) -> anyhow::Result<Outcome> {
        let write = file.as_deref().map(form).transpose()?;
        let map = self.node.network().graph().await?;
        let (Some(path), Some(write)) = (file, write) else {
            return Ok(Outcome::Map { map });
        };
        // A picture of a large network takes its time.
        let at = path.clone();
        let writing = tokio::task::spawn_blocking(move || write_whole(&at, write(&map).as_bytes()));
        writing.await?.with_context(|| format!("could not write {}", path.display()))?;
        Ok(Outcome::Drawn { path: std::path::absolute(path)? })
    }

    /// Whether what was shared before the start is shared again by now; waits a moment for it.
    async fn restored(&self) -> bool {
        tokio::time::timeout(RESTORED, self.node.files().restored()).await.is_ok()
    }

    /// The shares that are meant: one by its path or name, or all with a hash, whole or its first
    /// digits.
    async fn shared(&self, text: &str) -> anyhow::Result<Vec<(PathBuf, SharedFile)>> {
        self.restored().await;
        let mut shares = self.node.files().shared_paths();
        let path = std::path::absolute(folders::expand_home(text)).unwrap_or_default();
        if let Some(at) = shares.iter().position(|(shared, _)| *shared == path) {
            return Ok(vec![shares.swap_remove(at)]);
        }
        let called = shares.iter().filter(|(_, file)| file.name.is_called(text));
        match called.collect::<Vec<_>>()[..] {
            [] => {}
            [one] => return Ok(vec![one.clone()]),
            ref several => bail!(
                "{} shares are called `{text}`: name one by its path, or give the hash",
                several.len()
            ),
        }
        let hash = by_digits(text, shares.iter().map(|(_, file)| file.hash).collect())?;
        shares.retain(|(_, file)| Some(file.hash) == hash);
        if shares.is_empty() {
            bail!("`{text}` is not shared: `files` lists what is");
        }
        Ok(shares)
    }

    /// Finds a download by its hash, whole or its first digits, or by the file's name.
    fn download(&self, text: &str) -> anyhow::Result<Download> {
        let downloads = self.node.files().downloads();
        let named = downloads.iter().map(|download| (download.hash, download.name.as_ref()));
        match by_name_or_digits(text, named)? {
            Some(hash) => Ok(self.node.files().download(hash)?),
            None => bail!("`{text}` is not being fetched: `downloads` lists what is"),
        }
    }

    fn peers_file(&self) -> PathBuf {
        self.state.join("peers.json")
    }

    fn view(&self, peer: &Peer) -> PeerView {
        PeerView::new(&self.node, peer)
    }

    fn views(&self, peers: &[Peer]) -> Vec<PeerView> {
        peers.iter().map(|peer| self.view(peer)).collect()
    }
}

fn views<T, V: From<T>>(values: Vec<T>) -> Vec<V> {
    values.into_iter().map(V::from).collect()
}

/// The hash of the one that is called so, else the hash that `text` is or begins.
fn by_name_or_digits<'a>(
    text: &str,
    named: impl Iterator<Item = (Hash, Option<&'a FileName>)> + Clone,
) -> anyhow::Result<Option<Hash>> {
    let is_called = |name: Option<&FileName>| name.is_some_and(|name| name.is_called(text));
    let called = named.clone().filter(|(_, name)| is_called(*name)).map(|(hash, _)| hash);
    if let [hash] = called.collect::<Vec<_>>()[..] {
        return Ok(Some(hash));
    }
    by_digits(text, named.map(|(hash, _)| hash).collect())
}

/// The hash that `text` is, or whose first digits it is among `candidates`.
fn by_digits(text: &str, mut candidates: Vec<Hash>) -> anyhow::Result<Option<Hash>> {
    if let Ok(hash) = text.parse() {
        return Ok(Some(hash));
    }
    let digits = text.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    candidates.retain(|hash| hash.to_string().starts_with(&digits));
    candidates.sort_unstable();
    candidates.dedup();
    match candidates[..] {
        [] => Ok(None),
        [hash] => Ok(Some(hash)),
        _ => bail!("`{text}` starts {} hashes: give more digits", candidates.len()),
    }
}

/// Writes a file beside its place and renames it, so that a full disk leaves the old file. What is there and
/// is no regular file, such as a pipe or a link, is written to and not replaced.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".peerkit-map-");
    // A map is for others to see, as far as the umask lets them.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut beside = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    beside.write_all(bytes)?;
    beside.persist(path)?;
    Ok(())
}

/// What turns the map into the form that a file's ending asks for.
fn form(path: &Path) -> anyhow::Result<fn(&Network) -> String> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("svg") => Ok(Network::to_svg),
        Some("dot" | "gv") => Ok(Network::to_dot),
        Some("graphml") => Ok(Network::to_graphml),
        Some("json") => Ok(crate::json::line),
        _ => {
            bail!("the map's form goes by the file's ending: name it .svg, .dot, .graphml or .json")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_digits_will_do_where_they_are_unique() {
        let hashes = vec![Hash::of(b"a"), Hash::of(b"b"), Hash::of(b"a")];
        let text = hashes[0].to_string();
        let find = |text: &str| by_digits(text, hashes.clone());
        assert_eq!(find(&text[..6]).unwrap(), Some(hashes[0]));
        assert_eq!(find(&text[..6].to_uppercase()).unwrap(), Some(hashes[0]));
        assert_eq!(find(&format!("({}).", &text[..8])).unwrap(), Some(hashes[0]));
        assert_eq!(find("xyz").unwrap(), None);
        assert!(find("").unwrap_err().to_string().contains("2 hashes"));
        let (ab, c) = (FileName::new("a b").unwrap(), FileName::new("c").unwrap());
        let c = Some(&c);
        let named = [(hashes[0], Some(&ab)), (hashes[1], c), (Hash::of(b"c"), c)];
        let find_named = |text: &str| by_name_or_digits(text, named.into_iter());
        assert_eq!(find_named("a b").unwrap(), Some(hashes[0]));
        assert_eq!(find_named(&text[..6]).unwrap(), Some(hashes[0]));
        assert_eq!(find_named("c").unwrap(), None, "two are called so");
        let other = Hash::of(b"other");
        assert_eq!(find(&other.to_string()).unwrap(), Some(other));
    }

    #[test]
    fn a_map_goes_by_its_ending() {
        for path in ["a.svg", "a.DOT", "a.gv", "a.graphml", "a.b.json"] {
            assert!(form(Path::new(path)).is_ok(), "{path}");
        }
        for path in ["a", "a.png", ".svg"] {
            let error = form(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(".svg") && error.contains(".dot"), "{error}");
        }
    }
}
