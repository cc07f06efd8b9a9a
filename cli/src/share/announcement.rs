//! The announcement of a share: what it is, and the command that fetches it.

use std::fmt::Write as _;

use anyhow::Context as _;
use peerkit::{Access, Added, Node, SharedFile};

use crate::start::DialableFrom;
use crate::text::{self, Paint, plain};
use crate::{human, json};

/// The announcement of a share, with the command that fetches it.
pub(crate) struct Announcement {
    /// The text for people, with its newlines.
    pub(crate) text: String,
    /// The JSON line.
    pub(crate) json: String,
}

/// Returns the announcement of a share. `notes` are about the choices of the program.
///
/// # Errors
/// If the share has no ticket, as its content has changed since.
pub(crate) fn announcement(
    node: &Node,
    added: &Added,
    paint: Paint,
    has_temporary_key: bool,
    notes: &[String],
) -> anyhow::Result<Announcement> {
    let SharedFile { hash, name, size, .. } = &added.shared;
    let mut ticket = node.files().ticket_for(&added.shared).with_context(|| {
        format!("{name} changed while it was being shared, so it has no ticket: share it again")
    })?;
    // The same content may also be in another share, with another access. The ticket has to work as long as
    // this share lasts.
    ticket.secret = match added.access {
        Access::Ticket(secret) => Some(secret),
        _ => None,
    };
    let line = format!("peerkit get {ticket}");
    let fields = json::event_fields("shared", node)
        .with("hash", hash)
        .with("name", name)
        .with("size", size)
        .with("ticket", ticket.to_string())
        .with("command", &line)
        .with("addresses", &ticket.addresses)
        .with_some("passing_key", has_temporary_key)
        .with_skipped(&added.skipped)
        .with_some("notes", notes);
    let json = json::line(&fields);
    let (name, size) = (plain(name.as_str()), text::size(*size));
    let mut text = format!("{}  {}\n", paint.name(&name), paint.faint(&size));
    for line in human::files::skipped_lines(paint, &added.skipped) {
        let _ = writeln!(text, "  {line}");
    }
    let place = match DialableFrom::of(&ticket.addresses) {
        DialableFrom::AnyMachine => "To fetch it, type on the other machine:",
        DialableFrom::ThisMachineOnly if ticket.addresses.is_empty() => {
            "This machine has no network, so the ticket has no address, and no machine can fetch \
             with it yet:"
        }
        DialableFrom::ThisMachineOnly => {
            "To fetch it, type on this machine (no other machine can reach the address in the \
             ticket):"
        }
    };
    let _ = writeln!(
        text,
        "  {} {hash}\n  {} {ticket}\n{place}\n  {}\n",
        paint.faint("hash  "),
        paint.faint("ticket"),
        paint.good(&line),
    );
    Ok(Announcement { text, json })
}
