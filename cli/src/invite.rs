//! The invite of `peerkit run`, from `--invite-file`, PEERKIT_INVITE, or a question at the terminal.
//! An invite is a password, so it is no argument: other users can read a command line.

use peerkit::Invite;

use crate::args::RunArgs;
use crate::secret_input::{SecretInput, can_ask};
use crate::usage;

const INPUT: SecretInput = SecretInput {
    noun: "an invite",
    variable: "PEERKIT_INVITE",
    question: "Invite (as `invite` prints it): ",
    interrupted: "stopped before the node was started",
    missing: "no invite was given, so no node was started",
};

/// Returns the invite with which the node joins; `None` if none was given.
pub(crate) fn read(args: &RunArgs) -> anyhow::Result<Option<Invite>> {
    if let Some(file) = &args.invite_file {
        let (text, from) = INPUT.read_file(file)?;
        return parse(&text, &from).map(Some);
    }
    if let Some(text) = INPUT.read_variable() {
        return parse(&text, INPUT.variable).map(Some);
    }
    if !args.invite {
        return Ok(None);
    }
    if !can_ask() {
        let error = "--invite asks for the invite at a terminal, and this is none: use --invite-file FILE \
                     or the variable PEERKIT_INVITE";
        return Err(usage(error));
    }
    INPUT.ask(|line| parse(line, "this")).map(Some)
}

/// Reads an invite. Errors call the text `from`, and do not show it.
fn parse(text: &str, from: &str) -> anyhow::Result<Invite> {
    text.parse().map_err(|error| usage(format!("{from} can't be used: {error}")))
}
