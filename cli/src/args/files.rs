//! The arguments of `peerkit share` and `peerkit get`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use peerkit::{Address, NodeId};

use super::{ListenArgs, ReachArgs, short_name};
use crate::{address, byte_rate};

/// Shown below `peerkit share --help`.
const SHARE_EXAMPLES: &str = "\
Examples:
  peerkit share holiday.zip               prints the command that fetches it on the other machine
  peerkit share ~/Pictures notes.txt      shares a folder and a file, with a ticket for each
  peerkit share --ticket secret.pdf       only for those who have the ticket, as with a password
  peerkit share --to ID secret.pdf        only for the node ID: `peerkit id` prints it there
  peerkit share --up 2M film.mkv          sends at most 2 MB a second
  peerkit share --json film.mkv           prints a JSON line for each path, for a program to read

Without --ticket and --to, every node that knows the hash and reaches the port can fetch the file. A
hash can't be guessed. Nothing is copied, no network is joined, and sharing ends with the program.

If a node of this user runs, it shares the files, unless --listen, --announce, --map, --no-map,
--name, --up or --repair is given. Then only nodes that have the ticket can fetch, or with --to only those nodes.

Environment:
  PEERKIT_SECRET  a secret: only nodes with the same secret can connect

Exit status: 0 stopped by Ctrl-C, SIGTERM or SIGHUP, 1 a path could not be shared, 2 wrong usage.";

/// Shown below `peerkit get --help`.
const GET_EXAMPLES: &str = "\
Examples:
  peerkit get TICKET                          writes into the current folder, under its own name
  peerkit get TICKET ~/Downloads              writes into another folder
  peerkit get TICKET film.mkv --force         writes exactly that file, and replaces an old one
  peerkit get TICKET - | tar x                writes one file to standard output
  peerkit get HASH --from 192.168.1.5:7117    needs no ticket: fetches from the node there
  peerkit get HASH --from ID@host:7117        fetches from the node there if its identity is ID
  peerkit get TICKET --down 500k              fetches at most 500 kB a second
  peerkit get --ticket-file ticket.txt        reads the ticket from a file; - is standard input
  peerkit get                                 asks for the ticket

`peerkit share` prints a TICKET, and so does `add --ticket` of a running node. Every byte is checked
against the hash. If a fetch is stopped, the fetched part is kept, and the same command continues.

A ticket of `share --ticket` is a password, and other users of this machine can read a command line.
Give such a ticket with --ticket-file or PEERKIT_TICKET, or type it when asked. A ticket may be
pasted with line breaks and quotes.

Environment:
  PEERKIT_TICKET  the ticket
  PEERKIT_SECRET  the secret of the other node's network, if it has one

Exit status: 0 all of it was fetched, 1 it was not, 2 wrong usage, 130 stopped by Ctrl-C.";

/// `peerkit share`
#[derive(Debug, Args)]
#[command(after_help = SHARE_EXAMPLES)]
pub(crate) struct ShareArgs {
    /// Files and folders to share
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,

    /// Let only the node with this identity fetch: 64 hex digits. May be given several times
    #[arg(long, value_name = "NODE", conflicts_with = "ticket", value_parser = address::parse_identity)]
    pub(crate) to: Vec<NodeId>,

    /// Let only nodes fetch that have the ticket. It stays the same as long as the content does
    #[arg(long)]
    pub(crate) ticket: bool,

    #[command(flatten)]
    pub(crate) listening: ListenArgs,

    /// The name of this node [default: the name of the host]
    #[arg(long, value_parser = short_name)]
    pub(crate) name: Option<String>,

    /// Maximum rate of sending, in bytes a second, for example 500k or 2MiB [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) up: Option<u64>,

    /// The folder whose subfolder `share` holds the key. As long as the key is the same, tickets work
    /// after a restart [default: the XDG data folder, ~/.local/share/peerkit]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,

    /// If the state file is damaged, move it aside and start with a new one. The identity and the
    /// tickets are kept
    #[arg(long)]
    pub(crate) repair: bool,

    /// Print a JSON line for each PATH, and nothing else on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl ShareArgs {
    /// Returns whether `share` needs a node of its own. Without such arguments, the running node shares the
    /// paths, if there is one.
    pub(crate) fn needs_own_node(&self) -> bool {
        let ListenArgs { listen, announce, announce_only, reach, relay_rate, map, no_map } =
            &self.listening;
        !listen.is_empty()
            || !announce.is_empty()
            || *announce_only
            || reach.is_limited()
            || relay_rate.is_some()
            || *map
            || *no_map
            || self.name.is_some()
            || self.up.is_some()
            || self.repair
    }
}

/// `peerkit get`
#[derive(Debug, Args)]
#[command(after_help = GET_EXAMPLES)]
pub(crate) struct GetArgs {
    /// A ticket, or with --from the hash of a file or folder. If it is left out, the ticket is read
    /// from --ticket-file or PEERKIT_TICKET, or `get` asks for it
    #[arg(value_name = "TICKET|HASH")]
    what: Option<OsString>,

    /// The folder to write into, the file to write, or - for standard output. A PATH that ends with /
    /// is a folder, which is made if it is missing [default: the current folder]
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    path: Option<OsString>,

    /// The other parts of a ticket that was pasted in several parts.
    #[arg(hide = true)]
    more: Vec<OsString>,

    /// Read the ticket from this file, or from standard input if FILE is -. Then other users of this
    /// machine can't read it on the command line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ticket_file: Option<PathBuf>,

    /// Fetch from the node at this address: host:port, or ID@host:port to check its identity. The
    /// name of a node works only at the prompt of `peerkit run`. May be given several times
    #[arg(long, value_name = "ADDR", value_parser = address::parse_address, value_hint = ValueHint::Hostname)]
    pub(crate) from: Vec<Address>,

    /// Replace an existing file. Without this option, a number is added to the name of the new file
    #[arg(long)]
    pub(crate) force: bool,

    /// Maximum rate of fetching, in bytes a second, for example 500k or 2MiB [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) down: Option<u64>,

    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// With a HASH: the network of the node that has it [default: peerkit]
    #[arg(long, value_parser = short_name)]
    pub(crate) network: Option<String>,

    /// The folder with the key, whose identity `peerkit id` prints
    /// [default: the XDG data folder, ~/.local/share/peerkit]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,

    /// Print the result as a JSON line, and nothing else on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl GetArgs {
    /// Returns whether `get` needs a node of its own. Without such arguments, the running node fetches, if there is
    /// one.
    pub(crate) fn needs_own_node(&self) -> bool {
        self.down.is_some() || self.reach.is_limited()
    }

    /// Returns the first argument and the path. If a node runs, the first argument may be the name of a file
    /// that a search of that node has found. Returns `None` if there is no first argument, or there are too
    /// many.
    pub(crate) fn name_and_path(&self) -> Option<(&str, Option<&Path>)> {
        let name = self.what.as_deref()?.to_str()?;
        self.more.is_empty().then(|| (name, self.path.as_deref().map(Path::new)))
    }

    /// Returns the arguments that are not options: a ticket or hash, which may be in several parts,
    /// and a path.
    pub(crate) fn words(&self) -> impl Iterator<Item = &OsStr> {
        let words = self.what.iter().chain(&self.path).chain(&self.more);
        words.map(OsString::as_os_str)
    }
}
