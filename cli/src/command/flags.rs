//! The options of a command: words that begin with `--`, before or after what it acts on.

/// An option that a command knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flag {
    /// As it is typed, with its dashes.
    pub(crate) name: &'static str,
    /// What stands after it.
    pub(crate) takes: Takes,
}

/// What stands after an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing.
    Nothing,
    /// One word.
    One(&'static str),
    /// One word before what the command acts on, one or more after it.
    Some(&'static str),
}

impl Flag {
    pub(crate) const fn new(name: &'static str, takes: Takes) -> Self {
        Self { name, takes }
    }
}

/// The options on a line.
#[derive(Debug, Default)]
pub(super) struct Given<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Given<'a> {
    /// Whether an option is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// The words after an option, all of its occurrences together.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| *given == name).map(|(_, value)| *value)
    }
}

/// Takes the options out of a line: the rest of it, as it stands, and the options.
///
/// A word in quotes is no option, so anything at all can be named by quoting it.
pub(super) fn take<'a>(line: &'a str, flags: &[Flag]) -> Result<(String, Given<'a>), String> {
    let mut words = Words { line, at: 0 }.peekable();
    let (mut rest, mut kept) = (String::new(), 0);
    let mut given = Given::default();
    let mut acts_on_something = false;
    while let Some(word) = words.next() {
        if word.quoted || !word.text.starts_with("--") {
            acts_on_something = true;
            continue;
        }
        let Some(flag) = flags.iter().find(|flag| flag.name == word.text) else {
            return Err(format!(
                "does not know `{}` (a name that begins so goes in quotes)",
                word.text
            ));
        };
        rest.push_str(&line[kept..word.start]);
        kept = word.end;
        let (least, most, what) = match flag.takes {
            Takes::Nothing => (0, 0, ""),
            Takes::Some(what) if acts_on_something => (1, usize::MAX, what),
            Takes::One(what) | Takes::Some(what) => (1, 1, what),
        };
        let mut taken = 0;
        while taken < most {
            let value = words.next_if(|word| word.quoted || !word.text.starts_with("--"));
            let Some(value) = value else { break };
            given.0.push((flag.name, value.text));
            kept = value.end;
            taken += 1;
        }
        if taken < least {
            return Err(format!("needs {what} after `{}`", flag.name));
        }
        if most == 0 {
            given.0.push((flag.name, ""));
        }
    }
    rest.push_str(&line[kept..]);
    Ok((rest, given))
}

/// The words of a line and where they stand in it.
struct Words<'a> {
    line: &'a str,
    at: usize,
}

struct Word<'a> {
    /// Without its quotes.
    text: &'a str,
    quoted: bool,
    start: usize,
    end: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let left = &self.line[self.at..];
        let left = left.trim_start();
        let start = self.line.len() - left.len();
        if left.is_empty() {
            return None;
        }
        let (text, quoted, end) = match super::quoted(left) {
            Some((text, after)) => (text, true, self.line.len() - after.len()),
            None => {
                let end = left.find(char::is_whitespace).unwrap_or(left.len());
                (&left[..end], false, start + end)
            }
        };
        self.at = end;
        Some(Word { text, quoted, start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::new("--force", Takes::Nothing),
        Flag::new("--from", Takes::One("an address")),
        Flag::new("--to", Takes::Some("a node")),
    ];

    fn read(line: &str) -> (String, Vec<(&'static str, &str)>) {
        let (rest, given) = take(line, FLAGS).unwrap();
        (rest, given.0)
    }

    #[test]
    fn options_stand_before_or_after() {
        assert_eq!(read("a  b"), ("a  b".into(), vec![]));
        for line in ["--force a  b", "a  b --force"] {
            let (rest, given) = read(line);
            assert_eq!((rest.trim(), given), ("a  b", vec![("--force", "")]));
        }
        let (rest, given) = read("--from x:1 a 'b --force' --from y:2");
        assert_eq!(rest.trim(), "a 'b --force'");
        assert_eq!(given, [("--from", "x:1"), ("--from", "y:2")]);
    }

    #[test]
    fn an_option_for_several_takes_one_before_and_all_after() {
        let (rest, given) = read("--to ann my file --to bob 'carol c' --force");
        assert_eq!(rest.trim(), "my file");
        assert_eq!(given, [("--to", "ann"), ("--to", "bob"), ("--to", "carol c"), ("--force", "")]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(take("a --frm", FLAGS).unwrap_err().contains("`--frm`"));
        assert_eq!(take("a --from", FLAGS).unwrap_err(), "needs an address after `--from`");
        assert_eq!(take("a --to --force", FLAGS).unwrap_err(), "needs a node after `--to`");
        assert_eq!(read("'--frm' a").0, "'--frm' a");
    }
}
