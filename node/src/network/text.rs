//! Text in pictures and lists.

use std::fmt::Write as _;

use peerkit_proto::id::NodeId;

/// Writes out every character of a text from the network that a terminal might act on, so that the
/// text is one line.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns_direction(c) {
            let _ = write!(plain, "{}", c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Line and paragraph separators, and Unicode's controls of direction (UAX #9), which can make a
/// line read as something else.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 node`, `2 nodes`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// A node's name in a plain form, with the first digits of its identity.
pub(super) fn label(id: &NodeId, name: &str) -> String {
    if name.is_empty() { id.short() } else { format!("{} ({})", plain(name), id.short()) }
}
