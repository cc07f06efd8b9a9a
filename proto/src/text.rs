//! Values as text: the form that serde writes and reads, and the clean-up of tickets, identities
//! and hashes that a user has pasted.

/// Implements serde's traits for types whose serialized form is their `Display` text, read back
/// with `FromStr`.
macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

pub(crate) use serde_as_text;

/// Returns a pasted code, such as a ticket, without the characters that copying and pasting adds:
/// white space, the `>` of a quoted mail and invisible characters inside the code, and quotes,
/// brackets or punctuation around it.
pub(crate) fn clean_pasted_code(text: &str) -> String {
    let around = text.trim_matches(|c: char| !c.is_alphanumeric());
    // All other characters inside the code stay. So a mistyped code is refused, and is not read as
    // a different valid code.
    around.chars().filter(|c| !is_paste_artifact(*c)).collect()
}

/// Returns whether a program that wraps or formats text can have put `c` inside a code. These
/// characters are white space, the `>` of a quoted line, soft hyphens, zero-width characters,
/// directional marks and byte order marks.
fn is_paste_artifact(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '>' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_added_by_pasting_are_removed() {
        for pasted in [
            "abc123",
            " abc123\n",
            "\"abc123\"",
            "'abc123'",
            "\u{201c}abc123\u{201d}.",
            "<abc123>,",
            "(`abc123`);",
            "abc\n123",
            "> abc\r\n> 123",
            "a b c 1 2 3",
            "abc\u{200b}1\u{ad}23\u{feff}",
        ] {
            assert_eq!(clean_pasted_code(pasted), "abc123", "{pasted:?}");
        }
        assert_eq!(clean_pasted_code("abc-123"), "abc-123", "a character with a meaning stays");
        assert_eq!(clean_pasted_code("\u{201c}\u{201d}"), "");
    }
}
