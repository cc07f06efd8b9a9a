//! Text in pictures, lists and files: names of nodes, and escaping for XML.

use peerkit_proto::files::disk::plain;
use peerkit_proto::id::NodeId;

/// Returns a number with its noun: `1 node`, `2 nodes`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// Returns a node's name with control characters escaped, and the first digits of its identity.
pub(super) fn label(id: &NodeId, name: &str) -> String {
    if name.is_empty() { id.short() } else { format!("{} ({})", plain(name), id.short()) }
}

/// Escapes a text for an element or an attribute in double quotes.
pub(super) fn escaped(text: &str) -> String {
    let allowed = allowed(text).replace('&', "&amp;");
    allowed.replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escapes control characters as for a terminal, and the two other characters that XML 1.0 does not allow.
pub(super) fn allowed(text: &str) -> String {
    plain(text).replace('\u{fffe}', "\\u{fffe}").replace('\u{ffff}', "\\u{ffff}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(escaped("a<b>&\"'é"), "a&lt;b&gt;&amp;&quot;'é");
        assert_eq!(escaped("\0\u{1b}\n\u{202e}\u{ffff}"), "\\u{0}\\u{1b}\\n\\u{202e}\\u{ffff}");
        assert_eq!(escaped("]]>"), "]]&gt;");
    }

    proptest! {
        #[test]
        fn only_characters_of_xml_are_left(text in any::<String>()) {
            let escaped = escaped(&text);
            // The Char production of XML 1.0, less the white space that is not a blank.
            let allowed = |c| matches!(c, '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
            prop_assert!(escaped.chars().all(allowed), "{:?}", escaped);
            prop_assert!(!escaped.contains(['<', '>', '"']));
        }
    }
}
