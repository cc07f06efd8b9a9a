//! Texts in pictures, lists and files: labels of nodes, and escaping for XML.

use peerkit_proto::files::disk::plain;
use peerkit_proto::id::NodeId;

/// Returns a number with its noun: `1 node`, `2 nodes`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// Returns a node's name with control characters escaped, followed by the first digits of its identity.
/// Without a name, returns the digits alone.
pub(super) fn label(id: &NodeId, name: &str) -> String {
    if name.is_empty() { id.short() } else { format!("{} ({})", plain(name), id.short()) }
}

/// Escapes a text for an XML element, or for an attribute in double quotes.
pub(super) fn escape_xml(text: &str) -> String {
    let text = escape_disallowed(text).replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escapes control characters in the same way as for a terminal. Also escapes U+FFFE and U+FFFF, which XML
/// 1.0 does not allow.
pub(super) fn escape_disallowed(text: &str) -> String {
    plain(text).replace('\u{fffe}', "\\u{fffe}").replace('\u{ffff}', "\\u{ffff}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(escape_xml("a<b>&\"'é"), "a&lt;b&gt;&amp;&quot;'é");
        assert_eq!(escape_xml("\0\u{1b}\n\u{202e}\u{ffff}"), "\\u{0}\\u{1b}\\n\\u{202e}\\u{ffff}");
        assert_eq!(escape_xml("]]>"), "]]&gt;");
    }

    proptest! {
        #[test]
        fn an_escaped_text_has_only_characters_that_xml_allows(text in any::<String>()) {
            let escaped = escape_xml(&text);
            // The Char production of XML 1.0, without tabs and line ends.
            let allowed = |c| matches!(c, '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
            prop_assert!(escaped.chars().all(allowed), "{:?}", escaped);
            prop_assert!(!escaped.contains(['<', '>', '"']));
        }
    }
}
