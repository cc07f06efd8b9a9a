//! Search by name: the words and patterns of a search, and how they match names and paths.
//!
//! A search comes from the network, so its cost is bounded. The frame bounds its length, a limit on the
//! compiled form bounds each pattern, and matching takes time linear in the length of the name.

use peerkit_proto::files::folded;
use regex::{Regex, RegexBuilder};

/// Maximum number of patterns in one search. Further ones are taken as plain words.
const MAX_GLOBS: usize = 8;

/// Maximum number of bytes of a compiled pattern, and of the memory that it uses as it matches. 256 bytes of
/// `?` compile to some 100 KiB.
const MAX_GLOB_BYTES: usize = 1 << 20;

/// A search. A name matches if all words match.
#[derive(Debug)]
pub(super) struct SearchQuery {
    words: Vec<Word>,
    /// A text that every matching path contains. The longest such text is used, as it is the rarest.
    required: String,
}

#[derive(Debug)]
enum Word {
    /// A part of the path.
    Part(String),
    /// A pattern for the whole name.
    Name(Regex),
    /// A pattern for the whole path.
    Path(Regex),
}

impl SearchQuery {
    pub(super) fn new(text: &str) -> Self {
        let mut query = Self { words: Vec::new(), required: String::new() };
        let mut globs = 0;
        // Names are stored folded, so the words have to be folded too.
        for word in folded(text).split_whitespace() {
            let glob = if word.contains(['*', '?', '[']) && globs < MAX_GLOBS {
                compile(word)
            } else {
                None
            };
            globs += usize::from(glob.is_some());
            let certain = match &glob {
                Some(_) => longest_plain(word),
                None => word,
            };
            if certain.len() > query.required.len() {
                certain.clone_into(&mut query.required);
            }
            query.words.push(match glob {
                Some(glob) if word.contains('/') => Word::Path(glob),
                Some(glob) => Word::Name(glob),
                None => Word::Part(word.to_owned()),
            });
        }
        query
    }

    /// Returns a text that every matching path contains. A scan for it finds the candidates.
    pub(super) fn required(&self) -> &str {
        &self.required
    }

    /// Returns whether the query matches the file or share of this path, [folded].
    pub(super) fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        self.words.iter().all(|word| match word {
            Word::Part(part) => path.contains(part.as_str()),
            Word::Name(glob) => glob.is_match(name),
            Word::Path(glob) => glob.is_match(path),
        })
    }
}

/// Compiles a pattern. Returns `None` if it is not a valid one, or too large.
fn compile(word: &str) -> Option<Regex> {
    let mut pattern = String::from("^");
    let mut rest = word.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '*' if rest.as_str().starts_with('*') => {
                rest.next();
                pattern.push_str(".*");
            }
            // A single star stays within one folder.
            '*' => pattern.push_str("[^/]*"),
            '?' => pattern.push_str("[^/]"),
            '[' => {
                let (class, len) = class(rest.as_str())?;
                pattern.push_str(&class);
                rest = rest.as_str().get(len..)?.chars();
            }
            plain => push_plain(&mut pattern, plain),
        }
    }
    pattern.push('$');
    // The limits are on memory. The time needs none: this engine is linear in the length of the name.
    let mut builder = RegexBuilder::new(&pattern);
    builder.size_limit(MAX_GLOB_BYTES).dfa_size_limit(MAX_GLOB_BYTES).build().ok()
}

/// Reads the class at the start of `text`, after its opening bracket. Returns it as a regular expression,
/// with its length in `text`.
fn class(text: &str) -> Option<(String, usize)> {
    let (not, inside) = match text.strip_prefix(['!', '^']) {
        Some(inside) => (true, inside),
        None => (false, text),
    };
    // A closing bracket that comes first is a member of the class.
    let first = inside.chars().next()?.len_utf8();
    let len = first + inside.get(first..)?.find(']')?;
    let mut class = String::from(if not { "[^/" } else { "[" });
    let mut letters = inside.get(..len)?.chars();
    while let Some(letter) = letters.next() {
        push_plain(&mut class, letter);
        let mut ahead = letters.clone();
        if let (Some('-'), Some(last)) = (ahead.next(), ahead.next()) {
            class.push('-');
            push_plain(&mut class, last);
            letters = ahead;
        }
    }
    class.push(']');
    Some((class, text.len() - inside.len() + len + 1))
}

fn push_plain(pattern: &mut String, letter: char) {
    let mut buffer = [0; 4];
    pattern.push_str(&regex::escape(letter.encode_utf8(&mut buffer)));
}

/// Returns the longest part of a pattern that has no special characters.
fn longest_plain(word: &str) -> &str {
    // Letters after a bracket may be members of a class, so only those before the first are certain.
    let plain = word.split('[').next().unwrap_or_default();
    plain.split(['*', '?']).max_by_key(|part| part.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(text: &str, path: &str) -> bool {
        let query = SearchQuery::new(text);
        let path = folded(path);
        let matches = query.matches(&path);
        assert!(!matches || path.contains(query.required()), "{text} in {path}");
        matches
    }

    #[test]
    fn words_are_parts_of_the_path() {
        assert!(matches("BLUE live", "Live 1999/Blue Song.mp3"));
        assert!(matches("1999/blue", "Live 1999/Blue Song.mp3"));
        assert!(!matches("blue green", "Live 1999/Blue Song.mp3"));
        assert!(matches("", "anything"));
        assert!(matches("ÜBER", "über.txt"));
    }

    #[test]
    fn a_composed_letter_is_the_same_as_a_decomposed_one() {
        let (composed, decomposed) = ("caf\u{e9}.txt", "cafe\u{301}.txt");
        for (text, path) in [(composed, decomposed), (decomposed, composed)] {
            assert!(matches(text, path) && matches(&text.to_uppercase(), path));
            assert!(matches("caf?.txt", path) && matches("caf[\u{e8}-\u{ea}].txt", path));
        }
        assert!(!matches("cafe.txt", composed) && !matches("cafe.txt", decomposed));
        assert!(matches("\u{e9}", "e\u{301}") && matches("e\u{301}*", "\u{c9}t\u{c9}"));
    }

    #[test]
    fn a_glob_is_the_whole_name_or_the_whole_path() {
        assert!(matches("*.MP3", "Live/Blue.mp3"));
        assert!(!matches("*.mp", "Live/Blue.mp3"));
        assert!(!matches("blue*.ogg", "Live/Blue.mp3"));
        assert!(matches("bl?e.mp3 live", "Live/Blue.mp3"));
        assert!(matches("live/*.mp3", "Live/Blue.mp3"));
        assert!(!matches("*/*.mp3", "a/b/Blue.mp3"), "a star does not match a slash");
        assert!(matches("**/*.mp3", "a/b/Blue.mp3"));
        assert!(matches("stra?e", "Straße"), "a question mark matches a letter, not a byte");
        assert!(matches("[a-cß]?.txt", "ßé.txt"));
        assert!(matches("[!a-c]x", "dx") && !matches("[^a-c]x", "ax"));
        assert!(matches("[]x]", "]") && matches("[a-]", "-"));
        assert!(matches("a.b*", "a.bc") && !matches("a.b*", "axbc"), "a dot is a dot");
    }

    #[test]
    fn an_invalid_glob_is_taken_literally() {
        assert!(matches("song[live", "my song[live.mp3"));
        assert!(matches("x[z-a]", "x[z-a]"), "an empty class");
        let nine = "? ".repeat(MAX_GLOBS + 1);
        assert!(!matches(&nine, "a") && matches(&nine, "?"));
    }

    #[test]
    fn the_longest_pattern_compiles_and_is_linear() {
        // A backtracking engine would never finish the first of these.
        let name = "a".repeat(255);
        assert!(!matches(&format!("{}b", "*a".repeat(127)), &name));
        assert!(!matches(&"?".repeat(256), &name) && matches(&"?".repeat(255), &name));
        let classes = "[a-y]".repeat(51);
        assert!(matches(&classes, &name[..51]));
    }

    proptest! {
        #[test]
        fn any_text_can_be_searched_for(text in "\\PC{0,40}", path in "\\PC{0,40}") {
            matches(&text, &path);
        }

        #[test]
        fn a_glob_matches_the_same_names_as_a_simple_matcher(glob in "[ab*?]{1,8}", name in "[ab]{0,8}") {
            if glob.contains(['*', '?']) {
                prop_assert_eq!(matches(&glob, &name), plain(glob.as_bytes(), name.as_bytes()));
            }
        }
    }

    fn plain(glob: &[u8], name: &[u8]) -> bool {
        match (glob, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                plain(rest, name) || (!name.is_empty() && plain(glob, &name[1..]))
            }
            ([b'?', glob @ ..], [_, name @ ..]) => plain(glob, name),
            ([a, glob @ ..], [b, name @ ..]) if a == b => plain(glob, name),
            _ => false,
        }
    }
}
