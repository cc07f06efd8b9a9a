//! `peerkit share` and `peerkit get`: files without a running node.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use peerkit::{Address, NodeId};

use super::{ListenArgs, short_name};
use crate::{byte_rate, command};

/// Shown below `peerkit share --help`.
const SHARE_EXAMPLES: &str = "\
Examples:
  peerkit share holiday.zip               prints the line to type on the other machine
  peerkit share ~/Pictures notes.txt      a folder and a file, a ticket for each
  peerkit share --ticket secret.pdf       only who has the ticket: treat it like a password
  peerkit share --to ID secret.pdf        only the node ID, which `peerkit id` prints there
  peerkit share --up 2M film.mkv          at most 2 MB a second
  peerkit share --json film.mkv           a JSON line for each, for a program to read

Without --ticket and --to it is for all who know the hash, which can't be guessed, and who reach the
port. Nothing is copied, no network is joined, and nothing stays shared once it has ended.

Environment:
  PEERKIT_SECRET  the other side needs the same secret to get a connection at all

Exit status: 0 stopped by Ctrl-C, SIGTERM or SIGHUP, 1 something could not be shared, 2 wrong usage.";

/// Shown below `peerkit get --help`.
const GET_EXAMPLES: &str = "\
Examples:
  peerkit get TICKET                          into the current folder, under its own name
  peerkit get TICKET ~/Downloads              into a folder
  peerkit get TICKET film.mkv --force         to exactly that file, replacing it
  peerkit get TICKET - | tar x                one file, to standard output
  peerkit get HASH --from 192.168.1.5:7117    without a ticket: from the node there
  peerkit get HASH --from ID@host:7117        and from nobody but that node
  peerkit get TICKET --down 500k              at most 500 kB a second
  peerkit get --ticket-file ticket.txt        the ticket is in a file; - is standard input
  peerkit get                                 asks for the ticket

A TICKET is what `peerkit share` prints, or `add` of a running node. Every byte is checked against
the hash. When it is stopped, what has come is kept: the same command goes on from it.

A ticket of `share --ticket` is a password. Other users of this machine can read a command line:
give it by --ticket-file, PEERKIT_TICKET, or when asked. It may be pasted with line breaks and
quotes.

Environment:
  PEERKIT_TICKET  the ticket
  PEERKIT_SECRET  the secret of the network that the other node is in, if it has one

Exit status: 0 the file is there, 1 it is not, 2 wrong usage, 130 stopped by Ctrl-C.";

/// `peerkit share`
#[derive(Debug, Args)]
#[command(after_help = SHARE_EXAMPLES)]
pub(crate) struct ShareArgs {
    /// Files and folders
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,

    /// Only for this node, 64 hex digits. May be given several times
    #[arg(long, value_name = "NODE", conflicts_with = "ticket", value_parser = command::identity)]
    pub(crate) to: Vec<NodeId>,

    /// Only for who has the ticket. It is the same at the next start, as long as the content is
    #[arg(long)]
    pub(crate) ticket: bool,

    #[command(flatten)]
    pub(crate) listening: ListenArgs,

    /// What this node calls itself [default: the host's name]
    #[arg(long, value_parser = short_name)]
    pub(crate) name: Option<String>,

    /// Bytes a second at most, for example 500k or 2MiB [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) up: Option<u64>,

    /// Where its key is kept, in the folder `share`: with it tickets stay good over a restart, unless
    /// another `peerkit share` uses it [default: the XDG data folder, ~/.local/share/peerkit]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,

    /// If the state file is damaged, move it aside and start with a new one: the identity is kept,
    /// and so are tickets
    #[arg(long)]
    pub(crate) repair: bool,

    /// Print a JSON line for each PATH, and nothing else on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// `peerkit get`
#[derive(Debug, Args)]
#[command(after_help = GET_EXAMPLES)]
pub(crate) struct GetArgs {
    /// A ticket, or with --from the hash of a file or folder. Without it the ticket is taken from
    /// --ticket-file or PEERKIT_TICKET, or asked for
    #[arg(value_name = "TICKET|HASH")]
    what: Option<OsString>,

    /// A folder to put it into (made if it ends with /), the file to write, or - for standard output
    /// [default: the current folder]
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    path: Option<OsString>,

    /// The further pieces of a ticket that was pasted in several.
    #[arg(hide = true)]
    more: Vec<OsString>,

    /// Take the ticket from this file, or from standard input if it is -: on a command line other
    /// users of this machine can read it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ticket_file: Option<PathBuf>,

    /// Ask the node there: host:port, or ID@host:port to insist on who answers. The names of nodes are
    /// known to a running node only. May be given several times
    #[arg(long, value_name = "ADDR", value_parser = command::address, value_hint = ValueHint::Hostname)]
    pub(crate) from: Vec<Address>,

    /// Replace a file of that name, if there is one; else this one gets a number
    #[arg(long)]
    pub(crate) force: bool,

    /// Bytes a second at most, for example 500k or 2MiB [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = byte_rate::parse)]
    pub(crate) down: Option<u64>,

    /// With a HASH: the network that the node is in [default: peerkit]
    #[arg(long, value_parser = short_name)]
    pub(crate) network: Option<String>,

    /// Where the key is kept, which `peerkit id` tells of
    /// [default: the XDG data folder, ~/.local/share/peerkit]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,

    /// Print the result as a JSON line, and nothing else on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl GetArgs {
    /// Returns what stands on the command line beside the options: a ticket or hash, which may be in
    /// several pieces, and a path.
    pub(crate) fn words(&self) -> impl Iterator<Item = &OsStr> {
        let words = self.what.iter().chain(&self.path).chain(&self.more);
        words.map(OsString::as_os_str)
    }
}
