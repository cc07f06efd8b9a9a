//! Words as a POSIX shell reads and writes them. Commands that the program prints can be pasted
//! into a shell or at the prompt, which reads its lines by the same rules.

/// True if a backslash escapes the character after it. On Windows a backslash separates the parts of a
/// path.
const ESCAPES: bool = cfg!(not(windows));

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShellWord {
    /// Its text, without quotes and backslashes.
    pub(crate) text: String,
    /// Its start in the line, in bytes.
    pub(crate) start: usize,
    /// Its end in the line, in bytes.
    pub(crate) end: usize,
    /// True if it has quotes or backslashes.
    pub(crate) quoted: bool,
    /// True if it begins with a quote that is not closed. Its text is the rest of the line.
    pub(crate) open: bool,
}

impl ShellWord {
    /// Returns whether the word begins with the character `first`, without quotes.
    pub(crate) fn begins_with_bare(&self, line: &str, first: char) -> bool {
        line.get(self.start..).is_some_and(|written| written.starts_with(first))
    }
}

/// Returns the words of `line`.
///
/// A quote that is not closed is an ordinary character inside a word, as in `don't`. At the start
/// of a word it takes the rest of the line, and the word is marked as open.
pub(crate) fn words(line: &str) -> impl Iterator<Item = ShellWord> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let word = word(line, at)?;
        at = word.end;
        Some(word)
    })
}

/// Returns the first word of `line` that begins at `from` or later.
fn word(line: &str, from: usize) -> Option<ShellWord> {
    let left = line.get(from..)?;
    let start = line.len() - left.trim_start().len();
    let mut word = ShellWord { text: String::new(), start, end: start, quoted: false, open: false };
    while let Some(left) = line.get(word.end..)
        && let Some(c) = left.chars().next()
        && !c.is_whitespace()
    {
        if let Some((text, len)) = quotation(left) {
            word.text.push_str(&text);
            word.end += len;
            word.quoted = true;
        // An unclosed quote at the start of a word takes the rest of the line. Inside a word it is an
        // ordinary character, as in `don't`.
        } else if word.end == start && matches!(c, '\'' | '"') {
            word.text.push_str(left.get(1..).unwrap_or_default());
            word.end = line.len();
            (word.quoted, word.open) = (true, true);
        } else {
            word.text.push(c);
            word.end += c.len_utf8();
        }
    }
    (word.end > start).then_some(word)
}

/// Reads one quotation at the start of `text`: `'...'`, `"..."`, `$'...'`, or a backslash and the
/// character after it. Returns its value and its length in bytes.
fn quotation(text: &str) -> Option<(String, usize)> {
    if let Some(inside) = text.strip_prefix('\'') {
        let end = inside.find('\'')?;
        return Some((inside.get(..end)?.to_owned(), end + 2));
    }
    if let Some(inside) = text.strip_prefix('"') {
        return double(inside).map(|(inside, len)| (inside, len + 1));
    }
    if let Some(inside) = text.strip_prefix("$'") {
        return dollar(inside).map(|(inside, len)| (inside, len + 2));
    }
    let mut after = text.strip_prefix('\\').filter(|_| ESCAPES)?.chars();
    match after.next()? {
        // A backslash at the end of a line continues the line.
        '\n' => Some((String::new(), 2)),
        c => Some((c.to_string(), 1 + c.len_utf8())),
    }
}

/// Reads up to the closing double quote. A backslash only escapes `"`, `\`, `$` and a backquote.
fn double(inside: &str) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = inside.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, at + 1)),
            '\\' if ESCAPES => match chars.peek().map(|(_, c)| *c) {
                Some(c @ ('"' | '\\' | '$' | '`')) => {
                    text.push(c);
                    chars.next();
                }
                Some('\n') => {
                    chars.next();
                }
                _ => text.push(c),
            },
            _ => text.push(c),
        }
    }
    None
}

/// Reads up to the closing quote of `$'...'` (POSIX 2024, section 2.2.4), with escapes such as
/// `\n`, `\NNN` and `\xHH`.
fn dollar(inside: &str) -> Option<(String, usize)> {
    let mut bytes = Vec::new();
    let mut left = inside;
    loop {
        let c = left.chars().next()?;
        left = left.get(c.len_utf8()..)?;
        match c {
            '\'' => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Some((text, inside.len() - left.len()));
            }
            '\\' => left = escape(left, &mut bytes)?,
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads an escape in `$'...'` after its backslash. Returns the rest of the text.
fn escape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let c = text.chars().next()?;
    let after = text.get(c.len_utf8()..)?;
    let digits = |text: &str, most: usize, radix: u32| {
        let digits = text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
        let number = u32::from_str_radix(text.get(..digits).unwrap_or_default(), radix);
        number.ok().map(|number| (number, digits))
    };
    let plain = match c {
        'a' => 7,
        'b' => 8,
        'e' | 'E' => 27,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '0'..='7' => {
            let (number, len) = digits(text, 3, 8)?;
            bytes.push((number & 0xff) as u8);
            return text.get(len..);
        }
        'x' => {
            let (number, len) = digits(after, 2, 16)?;
            bytes.push((number & 0xff) as u8);
            return after.get(len..);
        }
        'u' | 'U' => {
            let (number, len) = digits(after, if c == 'u' { 4 } else { 8 }, 16)?;
            let c = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return after.get(len..);
        }
        other => {
            bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(after);
        }
    };
    bytes.push(plain);
    Some(after)
}

/// Returns `text` as one word for a shell or for the prompt, on one line and without characters
/// that control a terminal.
pub(crate) fn quote(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    quoted(text)
}

/// Returns `text` in quotes, even if it needs none.
pub(crate) fn quoted(text: &str) -> String {
    // On Windows only double quotes quote an argument.
    if !ESCAPES && !text.contains('"') {
        return format!("\"{text}\"");
    }
    // Only `$'...'` can write a character that must not be printed.
    if !text.chars().all(is_shown) {
        return dollar_quoted(text);
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns an option with its value, for a command line: `--network 'my net'`. A value that looks
/// like an option follows `=`.
pub(crate) fn option(name: &str, value: &str) -> String {
    let between = if value.starts_with('-') { '=' } else { ' ' };
    format!("{name}{between}{}", quote(value))
}

/// Returns a path as an argument that does not look like an option.
pub(crate) fn path(path: &str) -> String {
    if path.starts_with('-') { quote(&format!("./{path}")) } else { quote(path) }
}

/// Returns `text` with a backslash before each special character, so that the candidates of a
/// completion have a common start. If it can't be written so, returns it in quotes, as [`quote`] does.
pub(crate) fn escaped(text: &str) -> String {
    if text.is_empty() || !ESCAPES || !text.chars().all(is_shown) {
        return quote(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        if !is_plain_char(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn dollar_quoted(text: &str) -> String {
    let mut quoted = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str(r"\n"),
            '\t' => quoted.push_str(r"\t"),
            '\'' | '\\' => quoted.extend(['\\', c]),
            c if is_shown(c) => quoted.push(c),
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // POSIX leaves `\x` undefined if a third hex digit follows.
                    quoted.push_str(&format!(r"\{byte:03o}"));
                }
            }
        }
    }
    quoted.push('\'');
    quoted
}

/// Returns whether a shell reads `text` as one word with the same characters.
fn is_plain(text: &str) -> bool {
    // zsh replaces `=name` by the path of a program.
    !text.is_empty() && !text.starts_with('=') && text.chars().all(is_plain_char)
}

fn is_plain_char(c: char) -> bool {
    let is_separator = cfg!(windows) && c == '\\';
    c.is_ascii_alphanumeric()
        || matches!(c, '%' | '+' | ',' | '-' | '.' | '/' | ':' | '=' | '@' | '_')
        || is_separator
        || (!c.is_ascii() && c.is_alphanumeric() && is_shown(c))
}

/// Returns whether a character can be printed unchanged: it is not a control character and does not
/// change the direction of text.
fn is_shown(c: char) -> bool {
    let mut buffer = [0; 4];
    let text = c.encode_utf8(&mut buffer);
    c == '\\' || peerkit::plain(text) == *text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Vec<String> {
        words(line).map(|word| word.text).collect()
    }

    #[test]
    fn words_are_read_as_a_shell_reads_them() {
        for (line, expected) in [
            ("", &[][..]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("'a b' \"c d\" e", &["a b", "c d", "e"]),
            (r#""a \"b\" c" '\'"#, &["a \"b\" c", "\\"]),
            ("a'b c'd\"e f\"", &["ab cde f"]),
            ("'' \"\"", &["", ""]),
            ("$'a\\nb\\'\\303\\251\\x41\\u00e9' $x", &["a\nb'é\u{41}é", "$x"]),
            ("don't say no", &["don't", "say", "no"]),
            ("it's that's", &["its thats"]),
        ] {
            assert_eq!(split(line), expected, "{line}");
        }
    }

    #[cfg(not(windows))]
    #[test]
    fn a_backslash_escapes_the_next_character() {
        assert_eq!(split(r"my\ file.txt a\'b a\\b"), ["my file.txt", "a'b", "a\\b"]);
        assert_eq!(split("a\\\nb c\\"), ["ab", "c\\"]);
        assert_eq!(escaped("my file.txt"), r"my\ file.txt");
        assert_eq!(escaped("a\nb"), r"$'a\nb'");
    }

    #[test]
    fn an_unclosed_quote_is_open_only_at_the_start_of_a_word() {
        let open: Vec<ShellWord> = words("add 'my file").collect();
        assert_eq!((open[1].text.as_str(), open[1].open), ("my file", true));
        assert!(words("a' b").all(|word| !word.open && !word.quoted));
    }

    #[test]
    fn plain_words_are_not_quoted() {
        for text in ["holiday.zip", "192.168.1.5:7117", "/a/b-c_d", "fé.txt", "a@b"] {
            assert_eq!(quote(text), text);
        }
        assert_eq!(option("--network", "-x"), "--network=-x");
        assert_eq!(path("-x"), "./-x");
        #[cfg(not(windows))]
        {
            assert_eq!(quote("it's"), r"'it'\''s'");
            assert_eq!(option("--network", "my net"), "--network 'my net'");
            assert_eq!(quote("~a"), "'~a'");
            assert_eq!(quote("a\u{202e}\n"), r"$'a\342\200\256\n'");
            assert_eq!(quote(""), "''");
        }
    }

    /// Texts that are hard to quote: quotes, backslashes, spaces, dashes, control characters.
    fn awkward() -> impl Strategy<Value = String> {
        prop_oneof!["[a '\"\\\\$`\n\t!~*?;&|<>(){}=#-]{0,12}", "\\PC{0,12}", ".{0,12}"]
    }

    proptest! {
        #[cfg(not(windows))]
        #[test]
        fn quoted_words_are_read_again(texts in prop::collection::vec(awkward(), 0..4)) {
            for write in [quote, escaped] {
                let line = texts.iter().map(|text| write(text)).collect::<Vec<_>>().join(" ");
                prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
                prop_assert_eq!(&split(&line), &texts, "{}", line);
            }
        }

        #[test]
        fn no_line_panics(line in ".{0,40}") {
            for word in words(&line) {
                prop_assert!(line.get(word.start..word.end).is_some());
            }
        }
    }

    /// The shell of this machine reads what is printed for it.
    #[cfg(unix)]
    #[test]
    fn a_shell_reads_quoted_words_as_they_were() {
        let texts = ["it's", "a b", "-x", "~", "$HOME `id` $(id)", "a\\b\"c", "é*?", "a\\", ""];
        let line = texts.map(quote).join(" ");
        let script = format!("for word in {line}; do printf '%s\\n' \"[$word]\"; done");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let expected = texts.map(|text| format!("[{text}]\n")).concat();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
