//! The command line: its subcommands and options.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueHint,
};
use clap_complete::Shell;
use peerkit::{Address, Config, NodeId};

pub(crate) use examples::SIM_EXAMPLES;
pub(crate) use files::{GetArgs, ShareArgs};
pub(crate) use hints::parse;

use crate::api::{ApiCertificate, ApiOptions};
use crate::commands::{COMMANDS, CommandSpec};
use crate::remote::RemoteArgs;
use crate::start::ListenAddress;
use crate::{UsageError, address, byte_rate};

mod examples;
mod files;
mod hints;

use examples::{DEMO_EXAMPLES, EXAMPLES, ID_EXAMPLES, RUN_EXAMPLES};

/// Peer-to-peer nodes that find each other, send messages and share files over encrypted links
#[derive(Debug, Parser)]
#[command(name = "peerkit", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) action: SubcommandArgs,
}

/// What the command line asks for.
pub(crate) enum Invocation {
    /// A subcommand of the program itself.
    Program(SubcommandArgs),
    /// A command for the running node, with its arguments.
    Command(&'static CommandSpec, ArgMatches),
}

impl Invocation {
    /// Reads a command line, with the name of the program at its start.
    ///
    /// # Errors
    /// If it is wrong, or asks for help.
    pub(crate) fn read(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = grouped(program()).try_get_matches_from(words)?;
        if let Some((name, arguments)) = matches.subcommand()
            && let Some(spec) = remote_commands().find(|spec| spec.name == name)
        {
            return Ok(Self::Command(spec, arguments.clone()));
        }
        Cli::from_arg_matches(&matches).map(|cli| Self::Program(cli.action))
    }
}

/// Returns the program with all its subcommands: its own, and the commands for a running node.
pub(crate) fn program() -> clap::Command {
    let program = Cli::command();
    remote_commands().fold(program, |program, spec| {
        let plain = spec.clap();
        let command = RemoteArgs::augment_args(spec.clap());
        // The text of `RemoteArgs` is about its options, and not about the command.
        let command = command.about(plain.get_about().cloned().unwrap_or_default());
        let long_about = plain.get_long_about().or(plain.get_about()).cloned();
        program.subcommand(command.long_about(long_about.unwrap_or_default()))
    })
}

/// Lists the commands for a running node apart from the subcommands of the program, in the help.
fn grouped(program: clap::Command) -> clap::Command {
    let mut commands = "Commands for the running node:\n".to_owned();
    for spec in remote_commands() {
        commands.push_str(&format!("  {:11}  {}\n", spec.name, spec.summary()));
    }
    let names: Vec<&str> = remote_commands().map(|spec| spec.name).collect();
    program
        .mut_subcommands(|command| {
            if names.contains(&command.get_name()) { command.hide(true) } else { command }
        })
        .after_help(format!("{EXAMPLES}\n\n{}", commands.trim_end()))
}

/// Returns the commands for a running node that are subcommands. `get` is one of the program's own, as
/// it works without a running node too.
fn remote_commands() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.iter().filter(|spec| spec.endpoint.is_some() && spec.name != "get")
}

/// The program's subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum SubcommandArgs {
    /// Start a node, join a network, and read commands
    Run(Box<RunArgs>),
    /// Start several nodes on this machine, use every feature, and check every result
    Demo(DemoArgs),
    /// Share files and folders until Ctrl-C, and print the ticket that fetches them
    Share(ShareArgs),
    /// Fetch a file or folder by its ticket, or by its hash from a node
    Get(GetArgs),
    /// Run a network of thousands of nodes in the simulator, and measure it
    Sim(SimArgs),
    /// Print this node's identity, and make its key at the first use
    Id(IdArgs),
    /// Print a completion script for a shell
    ///
    /// For example: peerkit completions bash > ~/.local/share/bash-completion/completions/peerkit
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the version
    #[command(hide = true)]
    Version,
    /// Print the manual page, in roff: peerkit man | man -l -
    Man {
        /// The page of a subcommand, for example `run`
        command: Option<String>,
    },
}

/// `peerkit run`
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// Nodes to join through: host:port, ID@host:port to check the identity of the node there, or
    /// the name or identity of a known node. The default port is 7117. One node that answers is
    /// enough. If none answers, all of them are tried again until one does
    #[arg(value_name = "ADDR", value_parser = place, value_hint = ValueHint::Hostname)]
    addresses: Vec<String>,

    #[command(flatten)]
    pub(crate) listening: ListenArgs,

    /// A node to join through if no ADDR is given. May be given several times. PEERKIT_BOOTSTRAP
    /// and the file `bootstrap` in the state folder add further nodes
    #[arg(long, value_name = "ADDR", value_parser = address::parse_address, value_hint = ValueHint::Hostname)]
    pub(crate) bootstrap: Vec<Address>,

    /// The name of this node [default: the name of the host]
    #[arg(long, value_parser = short_name)]
    pub(crate) name: Option<String>,

    /// The name of the network. Nodes of different networks refuse each other. An invite sets its own
    /// [default: peerkit]
    // Without a default here, as a node that was invited to another network needs to know whether one was named.
    #[arg(long, value_parser = short_name)]
    pub(crate) network: Option<String>,

    /// The key file of the network's owner, which is made if it does not exist. The node with this
    /// key can stop all nodes of the network with the command `shutdown`
    #[arg(long, value_name = "KEYFILE", value_hint = ValueHint::FilePath)]
    pub(crate) owner: Option<PathBuf>,

    /// The identity of the network's owner, 64 hex digits [default: the owner that the first
    /// node names through which this node joins]
    #[arg(long, value_name = "HEX", value_parser = address::parse_identity)]
    pub(crate) owner_id: Option<NodeId>,

    /// Found a network for invited nodes only, as its owner: see the commands `invite`, `members` and
    /// `revoke`. Nodes that join need no option but the invite
    #[arg(long, requires = "owner")]
    pub(crate) invite_only: bool,

    /// Ask at the terminal for an invite, and join its network. PEERKIT_INVITE may have it instead. A node
    /// with a state folder needs the invite once
    #[arg(long)]
    pub(crate) invite: bool,

    /// Join the network of the invite in FILE; - reads standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "invite")]
    pub(crate) invite_file: Option<PathBuf>,

    /// The folder for the key, known peers, shares and history [default: the XDG data folder,
    /// ~/.local/share/peerkit; if another node uses it, peerkit-2, and so on]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,

    /// If the state file is damaged, move it aside and start with a new one. The identity is kept;
    /// shares and known peers are lost
    #[arg(long)]
    pub(crate) repair: bool,

    /// A file or folder to share from the start. May be given several times
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) share: Vec<PathBuf>,

    /// The folder for fetched files [default: the XDG download folder, ~/Downloads, else the
    /// current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) downloads: Option<PathBuf>,

    /// Maximum rate of files sent, in bytes a second, for example 500k or 2MiB [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) up: Option<u64>,

    /// Maximum rate of files fetched, in bytes a second [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) down: Option<u64>,

    /// Maximum rate of files sent to each node [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) peer_up: Option<u64>,

    /// Maximum rate of files fetched from each node [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) peer_down: Option<u64>,

    /// Maximum rate of messages sent, in bytes a second; messages above it wait [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) messages: Option<u64>,

    /// Maximum rate of messages sent to each node [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) peer_messages: Option<u64>,

    /// Maximum rate of this node's own broadcasts, in bytes a second [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) broadcasts: Option<u64>,

    /// Maximum rate of bytes read from each node; a faster node has to wait [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) peer_receive: Option<u64>,

    /// Maximum number of fetches at the same time; further ones wait [default: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<usize>(1..=u64::MAX))]
    pub(crate) max_downloads: Option<usize>,

    /// Maximum number of links that other nodes make to this one; 0 refuses all [default: 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<usize>(0..=u64::MAX))]
    pub(crate) max_inbound: Option<usize>,

    /// Seconds after which an idle link is kept alive by a packet. For tests behind routers that forget early
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = number::<u64>(1..=15))]
    pub(crate) keep_alive: Option<u64>,

    /// Print a JSON line for each event and each result, and nothing else on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// Show no prompt, and keep running after the end of standard input, until SIGINT, SIGTERM or
    /// SIGHUP
    #[arg(long)]
    pub(crate) headless: bool,

    /// Join no network: link only to each ADDR, and to the nodes that commands name
    #[arg(long)]
    pub(crate) manual: bool,

    /// The address of the local API, through which `peerkit COMMAND` and other programs use this node.
    /// `api.json` in the state folder has its token. An address that other machines can reach needs
    /// --api-cert and --api-key [default: 127.0.0.1 and a free port]
    #[arg(long = "api", value_name = "ADDR")]
    api_address: Option<SocketAddr>,

    /// Serve the local API over HTTPS, with the certificate in FILE (PEM; the certificates of its issuers may
    /// follow it)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "api_key")]
    api_cert: Option<PathBuf>,

    /// The private key of the certificate of --api-cert (PEM). Only its owner may be able to read the file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "api_cert")]
    api_key: Option<PathBuf>,

    /// Serve no local API
    #[arg(long, conflicts_with_all = ["api_address", "api_cert"])]
    no_api: bool,
}

impl RunArgs {
    /// Returns the address and the certificate of the local API; `None` if there is to be none.
    ///
    /// # Errors
    /// If the certificate can't be used, or if the address needs one.
    pub(crate) fn api(&self) -> anyhow::Result<Option<ApiOptions>> {
        if self.no_api {
            return Ok(None);
        }
        let at = self.api_address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let certificate = match (&self.api_cert, &self.api_key) {
            (Some(chain), Some(key)) => Some(ApiCertificate::read(chain, key)?),
            _ => None,
        };
        ApiOptions::new(at, certificate).map(Some)
    }

    /// Returns the nodes to join through. As with `join` at the prompt, a port may follow its host as
    /// a separate word.
    pub(crate) fn targets(&self) -> Result<Vec<String>, UsageError> {
        let targets = address::join_ports(self.addresses.clone());
        targets.iter().try_for_each(|place| address::check_address(place)).map_err(UsageError)?;
        Ok(targets)
    }
}

/// The addresses that a node listens on, and those that it announces.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// An address to listen on: host:port, or a port alone for all addresses of this machine. Port 0
    /// takes a free port. May be given several times [default: port 7117 of all addresses, IPv4 and
    /// IPv6; a free port if 7117 is in use]
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    pub(crate) listen: Vec<ListenAddress>,

    /// An address at which other nodes can dial this one, for example where a router forwards a
    /// port. It comes first in announcements and tickets. May be given several times
    #[arg(long, value_name = "ADDR", value_parser = announced_address, value_hint = ValueHint::Hostname)]
    pub(crate) announce: Vec<Address>,

    /// Announce only the addresses of --announce, also in tickets
    #[arg(long, requires = "announce")]
    pub(crate) announce_only: bool,

    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// Maximum rate at which this node relays for others, in bytes a second. One connection gets a
    /// quarter of it, after its first mebibyte [default: 1MiB]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse, conflicts_with = "no_relay")]
    pub(crate) relay_rate: Option<u64>,

    /// Have the router forward the ports of this node, so that nodes on the internet can dial it: by
    /// PCP, NAT-PMP or UPnP [default: only for `share`]
    #[arg(long, overrides_with = "no_map")]
    pub(crate) map: bool,

    /// Ask no router to forward a port
    #[arg(long, overrides_with = "map")]
    pub(crate) no_map: bool,
}

/// The ways by which a node reaches others beside TCP.
#[derive(Debug, Args)]
pub(crate) struct ReachArgs {
    /// Use TCP only: no links over UDP (QUIC), and no hole punching to nodes behind routers
    #[arg(long)]
    pub(crate) no_udp: bool,

    /// Neither relay connections between other nodes, nor use nodes that do
    #[arg(long)]
    pub(crate) no_relay: bool,
}

impl ReachArgs {
    /// Returns whether any of them is switched off.
    pub(crate) fn is_limited(&self) -> bool {
        self.no_udp || self.no_relay
    }

    /// Sets them in a configuration.
    pub(crate) fn apply_to(&self, config: &mut Config) {
        config.udp = !self.no_udp;
        config.relay = !self.no_relay;
    }
}

impl ListenArgs {
    /// Returns a configuration with these addresses. `maps` is whether ports are mapped if no option says so.
    pub(crate) fn config(&self, maps: bool) -> Config {
        let mut config = Config::default();
        config.announce.clone_from(&self.announce);
        config.announce_only = self.announce_only;
        self.reach.apply_to(&mut config);
        config.map_ports = self.map || (maps && !self.no_map);
        config.relay_rate = self.relay_rate.unwrap_or(config.relay_rate);
        config
    }
}

/// `peerkit demo`
#[derive(Debug, Args)]
#[command(after_help = DEMO_EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Number of nodes, from 3 to 64
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true, value_parser = number::<u8>(3..=64))]
    pub(crate) nodes: u8,

    /// A folder of your own, which the nodes also share and fetch
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,

    /// Keep the shared and the fetched files, so that you can compare them and run b3sum
    #[arg(long)]
    pub(crate) keep: bool,

    /// Write the map of the network to this file: a picture as .svg, or .dot, .graphml or .json
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) picture: Option<PathBuf>,

    /// Print a JSON line for each step
    #[arg(long)]
    pub(crate) json: bool,
}

/// `peerkit sim`
#[derive(Debug, Args)]
#[command(after_help = SIM_EXAMPLES)]
pub(crate) struct SimArgs {
    /// Scenario files, with the steps of a run and the results that it has to have
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,

    /// The seed of the random numbers of a run
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = number::<u64>(0..=u64::MAX))]
    pub(crate) seed: u64,

    /// Run with each of the seeds 1 to N
    #[arg(long, value_name = "N", conflicts_with = "seed", allow_negative_numbers = true, value_parser = number::<u64>(1..=u64::MAX))]
    pub(crate) seeds: Option<u64>,

    /// Number of nodes, in place of the number in the file
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<usize>(2..=u64::MAX))]
    pub(crate) nodes: Option<usize>,

    /// Print a JSON line for each run
    #[arg(long)]
    pub(crate) json: bool,
}

/// `peerkit id`
#[derive(Debug, Args)]
#[command(after_help = ID_EXAMPLES)]
pub(crate) struct IdArgs {
    /// The folder with the key [default: the XDG data folder, ~/.local/share/peerkit]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,
}

/// Maximum length of the name of a node or network, in bytes: the limit of a Hello frame.
pub(crate) const MAX_NAME: usize = 64;

/// Returns a reader of whole numbers in `range`.
fn number<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| N::try_from(number).ok());
        number.ok_or_else(|| match (*range.start(), *range.end()) {
            (least, u64::MAX) => format!("it has to be a whole number of {least} or more"),
            (least, most) => format!("it has to be a whole number from {least} to {most}"),
        })
    }
}

fn short_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a name needs at least one letter".to_owned()),
        1..=MAX_NAME => Ok(text.to_owned()),
        len => Err(format!("a name has at most {MAX_NAME} bytes, and this one has {len}")),
    }
}

/// Checks the address of a node. A port and an IPv6 address without brackets are accepted, since
/// they may be two words of one address. [`RunArgs::targets`] joins and checks them.
fn place(text: &str) -> Result<String, String> {
    if !address::looks_like_port(text) && text.parse::<Ipv6Addr>().is_err() {
        address::check_address(text)?;
    }
    Ok(text.to_owned())
}

/// Reads an address to listen on: a port alone, with or without a colon before it, or host:port,
/// where the port may be 0.
fn listen(text: &str) -> Result<ListenAddress, String> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(ListenAddress::AllAddresses(port));
    }
    // `Address` refuses port 0, since no node can be dialled there.
    let (dialled, is_free) = match text.strip_suffix(":0") {
        Some(host) => (format!("{host}:1"), true),
        None => (text.to_owned(), false),
    };
    let mut address: Address = dialled.parse().map_err(|error| format!("{error}"))?;
    if address.id.is_some() {
        return Err(
            "an address to listen on has no identity: leave out the identity and the @".to_owned()
        );
    }
    if is_free {
        address.port = 0;
    }
    Ok(ListenAddress::HostPort(address.host_port()))
}

fn announced_address(text: &str) -> Result<Address, String> {
    match text.parse::<Address>() {
        Ok(address) if address.id.is_none() => {
            // Without the interface: its name means nothing on another machine.
            let host = address.host.split('%').next().unwrap_or_default();
            let is_of_no_use = |ip: IpAddr| {
                // An IPv4 address may be written as IPv6: ::ffff:0.0.0.0.
                let ip = ip.to_canonical();
                let is_of_no_machine = match ip {
                    IpAddr::V4(v4) => v4.is_broadcast(),
                    IpAddr::V6(v6) => v6.is_unicast_link_local(),
                };
                ip.is_unspecified() || ip.is_multicast() || is_of_no_machine
            };
            if host.parse().is_ok_and(is_of_no_use) {
                return Err(
                    "no other machine can dial this address: announce one that leads to this node"
                        .to_owned(),
                );
            }
            Ok(address)
        }
        Ok(_) => {
            Err("a node announces its own address: leave out the identity and the @".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn run(line: &str) -> RunArgs {
        match parse(line).unwrap().action {
            SubcommandArgs::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_its_defaults() {
        let args = run("peerkit run");
        assert!(
            args.listening.listen.is_empty()
                && args.listening.announce.is_empty()
                && args.bootstrap.is_empty()
        );
        assert_eq!(args.network, None);
        assert!(args.addresses.is_empty() && !args.json && !args.headless && !args.manual);
    }

    #[test]
    fn the_default_network_can_be_named() {
        assert_eq!(run("peerkit run --network peerkit").network.as_deref(), Some("peerkit"));
    }

    #[test]
    fn options_and_addresses_mix() {
        let args = run("peerkit run a:1 --listen 127.0.0.1:0 --json b:2 --listen [::1]:0 --manual");
        assert_eq!(args.addresses.len(), 2);
        let at = |text: &str| ListenAddress::HostPort(text.to_owned());
        assert_eq!(args.listening.listen, [at("127.0.0.1:0"), at("[::1]:0")]);
        assert!(args.json && args.manual);
    }

    #[test]
    fn an_invalid_port_is_reported_without_an_address() {
        for text in ["65536", ":99999"] {
            let error = listen(text).unwrap_err();
            assert!(error.contains("is not a port") && !error.contains("127.0.0.1"), "{error}");
        }
        assert_eq!(listen("65535"), Ok(ListenAddress::AllAddresses(65_535)));
    }

    #[test]
    fn addresses_are_read_as_at_the_prompt() {
        let id = "06".repeat(32);
        let line = format!("peerkit run 127.0.0.1 7200 bob {id} ::1 7201 c:1");
        let expected = ["127.0.0.1:7200", "bob", &id, "[::1]:7201", "c:1"];
        assert_eq!(run(&line).targets().unwrap(), expected);
        for (wrong, why) in [
            ("peerkit run 7117", "a port without a host"),
            ("peerkit run a:1 7117", "a port without a host"),
            ("peerkit run ::1", "brackets"),
            ("peerkit run a 99999", "not a port"),
        ] {
            let error = run(wrong).targets().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn rates_are_read() {
        let args = run("peerkit run --up 2M --down 64KiB --peer-up 0 --max-downloads 3");
        assert_eq!((args.up, args.down), (Some(2_000_000), Some(65_536)));
        assert_eq!((args.peer_up, args.peer_down, args.max_downloads), (Some(0), None, Some(3)));
    }

    #[test]
    fn run_maps_ports_only_if_asked_and_share_unless_told_otherwise() {
        let run_maps = |options: &str| {
            run(&format!("peerkit run {options}")).listening.config(false).map_ports
        };
        assert!(!run_maps("") && !run_maps("--no-map") && run_maps("--map"));
        assert!(run_maps("--no-map --map") && !run_maps("--map --no-map"), "the last one counts");
        let share =
            |options: &str| match parse(&format!("peerkit share {options} .")).unwrap().action {
                SubcommandArgs::Share(args) => args,
                other => panic!("{other:?}"),
            };
        let share_maps = |options| share(options).listening.config(true).map_ports;
        assert!(share_maps("") && share_maps("--map") && !share_maps("--no-map"));
        assert!(!share("").needs_own_node() && share("--no-map").needs_own_node());
    }

    #[test]
    fn a_port_without_a_host_listens_on_all_addresses() {
        let args = run("peerkit run --listen 0 --listen :7000 --listen [::1]:7117");
        let at = ListenAddress::HostPort("[::1]:7117".to_owned());
        assert_eq!(
            args.listening.listen,
            [ListenAddress::AllAddresses(0), ListenAddress::AllAddresses(7000), at]
        );
    }

    #[test]
    fn announced_addresses_and_bootstrap_nodes_are_lists() {
        let args = run("peerkit run --announce a:1 --announce b:2 --announce-only --bootstrap c:3");
        assert_eq!((args.listening.announce.len(), args.bootstrap.len()), (2, 1));
        assert!(args.listening.announce_only);
    }

    #[test]
    fn udp_and_relays_can_be_switched_off_for_a_node_of_its_own() {
        for (line, udp, relay) in
            [("peerkit get x --no-udp", false, true), ("peerkit get x --no-relay", true, false)]
        {
            let SubcommandArgs::Get(args) = parse(line).unwrap().action else { panic!("{line}") };
            let mut config = Config::default();
            args.reach.apply_to(&mut config);
            assert_eq!((config.udp, config.relay, args.needs_own_node()), (udp, relay, true));
        }
        let config = run("peerkit run --no-udp --relay-rate 1M").listening.config(false);
        assert_eq!((config.udp, config.relay, config.relay_rate), (false, true, 1_000_000));
    }

    /// An identity that no node can have: its point has a small order.
    const INVALID_ID: &str =
        "peerkit share a --to 0100000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn wrong_usage_says_what_is_wrong() {
        for (line, hint) in [
            ("peerkit run 127.0.0.1:x", "not a port"),
            ("peerkit run lan", "local network"),
            ("peerkit run --listen :x", "not a port"),
            ("peerkit run --listen 99999", "port"),
            ("peerkit run --announce 0.0.0.0:1", "leads to this node"),
            ("peerkit run --announce [fe80::1]:7", "leads to this node"),
            ("peerkit run --announce [fe80::1%eth0]:7", "leads to this node"),
            ("peerkit run --announce [::ffff:0.0.0.0]:7", "leads to this node"),
            ("peerkit run --announce [::ffff:224.0.0.1]:7", "leads to this node"),
            ("peerkit run --announce 255.255.255.255:7", "leads to this node"),
            ("peerkit run --announce-only", "--announce"),
            ("peerkit run --max-inbound many", "whole number of 0 or more"),
            ("peerkit run --network=", "at least one letter"),
            ("peerkit demo --nodes 2", "from 3 to 64"),
            ("peerkit demo --nodes x", "from 3 to 64"),
            ("peerkit run --max-inbound -1", "whole number of 0 or more"),
            ("peerkit sim a --seeds -1", "whole number of 1 or more"),
            ("peerkit run --up -1", "bytes a second"),
            ("peerkit get --down -1", "bytes a second"),
            ("peerkit run --up fast", "bytes a second"),
            ("peerkit run --max-downloads 0", "1 or more"),
            ("peerkit share", "PATH"),
            ("peerkit share a --ticket --to 00", "64 hex digits"),
            (INVALID_ID, "no valid key"),
            ("peerkit dmeo", "demo"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
