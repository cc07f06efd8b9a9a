//! The options of a command: words that begin with `--`, before or after its other arguments.

use crate::shell_words::{self, ShellWord};

/// An option of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandOption {
    /// Its name, with the dashes.
    pub(crate) name: &'static str,
    /// The number of values that it takes.
    pub(crate) takes: ValueCount,
}

/// The number of values that an option takes. The text describes a value in errors: `an address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueCount {
    /// No value.
    None,
    /// One value.
    One(&'static str),
    /// One value, if the option comes before the other arguments of the command; one or more values
    /// if it comes after them.
    OneOrMore(&'static str),
}

impl CommandOption {
    pub(crate) const fn new(name: &'static str, takes: ValueCount) -> Self {
        Self { name, takes }
    }
}

/// The options that a line gives, with their values.
#[derive(Debug, Default)]
pub(super) struct GivenOptions(Vec<(&'static str, String)>);

impl GivenOptions {
    /// Returns whether an option is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// Returns all values of an option.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_str())
    }
}

/// Takes the options out of a line. Returns the rest of the line, and the options. A value is the
/// word after its option, or stands in the same word after `=`.
///
/// A word in quotes is never an option, so a name that begins with `--` can be given in quotes.
pub(super) fn take_options(
    line: &str,
    known: &[CommandOption],
) -> Result<(String, GivenOptions), String> {
    let mut words = shell_words::words(line).peekable();
    let (mut rest, mut kept) = (String::new(), 0);
    let mut given = GivenOptions::default();
    let mut has_argument = false;
    let is_option =
        |word: &ShellWord| word.begins_with_bare(line, '-') && word.text.starts_with("--");
    while let Some(word) = words.next() {
        if !is_option(&word) {
            has_argument = true;
            continue;
        }
        let (name, attached) = match word.text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.text.as_str(), None),
        };
        let Some(option) = known.iter().find(|option| option.name == name) else {
            return Err(format!(
                "has no option `{name}` (a name that begins with -- has to be in quotes)"
            ));
        };
        rest.push_str(&line[kept..word.start]);
        kept = word.end;
        let (min, max, what) = match option.takes {
            ValueCount::None => (0, 0, ""),
            // In `add --to ann my file` only the next word is the value: the path follows it.
            ValueCount::OneOrMore(what) if has_argument => (1, usize::MAX, what),
            ValueCount::One(what) | ValueCount::OneOrMore(what) => (1, 1, what),
        };
        let mut taken = 0;
        if let Some(value) = attached {
            if max == 0 {
                return Err(format!("takes no value after `{name}`"));
            }
            given.0.push((option.name, value.to_owned()));
            taken += 1;
        }
        while taken < max {
            let Some(value) = words.next_if(|word| !is_option(word)) else { break };
            kept = value.end;
            given.0.push((option.name, value.text));
            taken += 1;
        }
        if taken < min {
            return Err(format!("needs {what} after `{}`", option.name));
        }
        if max == 0 {
            given.0.push((option.name, String::new()));
        }
    }
    rest.push_str(&line[kept..]);
    Ok((rest, given))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[CommandOption] = &[
        CommandOption::new("--force", ValueCount::None),
        CommandOption::new("--from", ValueCount::One("an address")),
        CommandOption::new("--to", ValueCount::OneOrMore("a node")),
    ];

    fn read(line: &str) -> (String, Vec<(&'static str, String)>) {
        let (rest, given) = take_options(line, OPTIONS).unwrap();
        (rest, given.0)
    }

    fn given(options: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        options.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    #[test]
    fn options_stand_before_or_after() {
        assert_eq!(read("a  b"), ("a  b".into(), vec![]));
        for line in ["--force a  b", "a  b --force"] {
            let (rest, options) = read(line);
            assert_eq!((rest.trim(), options), ("a  b", given(&[("--force", "")])));
        }
        let (rest, options) = read("--from x:1 a 'b --force' --from=y:2 --from='z 3'");
        assert_eq!(rest.trim(), "a 'b --force'");
        assert_eq!(options, given(&[("--from", "x:1"), ("--from", "y:2"), ("--from", "z 3")]));
    }

    #[test]
    fn an_option_with_several_values_takes_one_before_the_argument_and_all_after_it() {
        let (rest, options) = read("--to ann my file --to bob 'carol c' --force");
        assert_eq!(rest.trim(), "my file");
        let expected = [("--to", "ann"), ("--to", "bob"), ("--to", "carol c"), ("--force", "")];
        assert_eq!(options, given(&expected));
    }

    #[test]
    fn unknown_or_incomplete_options_are_errors() {
        assert!(take_options("a --frm", OPTIONS).unwrap_err().contains("`--frm`"));
        assert_eq!(
            take_options("a --from", OPTIONS).unwrap_err(),
            "needs an address after `--from`"
        );
        assert_eq!(
            take_options("a --to --force", OPTIONS).unwrap_err(),
            "needs a node after `--to`"
        );
        assert_eq!(read("'--frm' a").0, "'--frm' a");
        assert_eq!(read("\\--frm a").0, "\\--frm a");
        assert_eq!(
            take_options("--force=1", OPTIONS).unwrap_err(),
            "takes no value after `--force`"
        );
    }
}
