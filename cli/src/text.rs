//! Text for people: names from other nodes made safe for a terminal, short figures, and colours.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use anstyle_query::{clicolor, no_color, term_supports_color};
pub(crate) use peerkit::plain;
use peerkit::{InvitationError, KeyError, NodeId};

use crate::shell_words;

/// Returns a line of JSON in which the characters that control a terminal are escaped, as in `\u202e`.
/// Its values stay the same. All text from outside this program goes through here or through [`plain`]
/// before it is printed.
pub(crate) fn json_line(json: &str) -> String {
    if !json.contains(acts_on_terminal) {
        return json.to_owned();
    }
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        // JSON has such characters only in strings, and all of them are below U+10000.
        if acts_on_terminal(c) {
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Returns a path as [`plain`] text.
pub(crate) fn path(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

fn acts_on_terminal(c: char) -> bool {
    c.is_control() || peerkit::is_misleading(c)
}

/// Maximum length of an error, in characters. 4,096: the length of the longest path. An error can only
/// be longer if it repeats a text that was pasted by mistake.
const MAX_ERROR: usize = 4096;

/// The last moment of the year 9999, in milliseconds since 1970.
const MAX_UNIX_MS: u64 = 253_402_300_799_999;

/// Shortens a text of more than `max` characters: leaves out its middle.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    if text.char_indices().nth(max).is_none() {
        return text.to_owned();
    }
    let half = max / 2;
    let start: String = text.chars().take(half).collect();
    let end: Vec<char> = text.chars().rev().take(half).collect();
    format!("{start}…{}", end.into_iter().rev().collect::<String>())
}

/// Returns an error with its causes, each of them once, and with advice if there is some.
pub(crate) fn error(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        // The text of some errors already ends with their cause.
        } else if !text.ends_with(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text = shortened(&text, MAX_ERROR);
    if let Some(path) = readable_key(error) {
        let _ = write!(text, "; run `chmod 600 {}`", shell_words::path(&path.to_string_lossy()));
    }
    if let Some(advice) = error.chain().find_map(|cause| advice(cause.downcast_ref()?)) {
        let _ = write!(text, "; {advice}");
    }
    text
}

/// Returns advice about an error of the library: a command that helps.
fn advice(error: &peerkit::Error) -> Option<&'static str> {
    match error {
        peerkit::Error::UnknownPeer(_) => Some("`peers` lists connected nodes"),
        peerkit::Error::UnknownNode(_) => Some("`peers` lists known nodes"),
        peerkit::Error::NoDownload(_) => Some("`downloads` lists the fetches"),
        peerkit::Error::Invitation(InvitationError::Lapsed(_)) => Some(
            "start it with a new invite (`--invite`) or, as the owner, with the key (`--owner KEYFILE`); an \
             open network needs another --network NAME or --state DIR",
        ),
        peerkit::Error::Invitation(InvitationError::NotNamed(_)) => Some(
            "name it with --network NAME, or use another --state DIR for a node that takes everyone",
        ),
        _ => None,
    }
}

/// Returns the path of the key file, if the error is that other users can read it.
fn readable_key(error: &anyhow::Error) -> Option<&Path> {
    let key = match error.downcast_ref::<peerkit::Error>() {
        Some(peerkit::Error::Key(error)) => Some(error),
        _ => error.downcast_ref::<KeyError>(),
    };
    match key {
        Some(KeyError::Readable(path)) => Some(path),
        _ => None,
    }
}

/// Returns a number of bytes in a suitable unit, with one decimal: `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        // From 1023.95 on, one decimal would be printed as `1024.0`.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Cuts a line so that it takes less than `columns` of a terminal. Characters outside ASCII count
/// as two columns, since their width depends on the terminal.
pub(crate) fn cut_to_width(line: &str, columns: usize) -> &str {
    let mut width = 0;
    let over = line.char_indices().find(|(_, c)| {
        width += if c.is_ascii() { 1 } else { 2 };
        width >= columns
    });
    over.and_then(|(end, _)| line.get(..end)).unwrap_or(line)
}

/// Returns a time in a suitable unit: `340 µs`, `1.2 ms`, `3.40 s`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    // The bounds are where rounding would print `1000 µs` and `1000.0 ms`.
    if seconds < 0.000_999_5 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 0.999_95 {
        format!("{:.1} ms", seconds * 1e3)
    } else if seconds < 120.0 {
        format!("{seconds:.2} s")
    } else {
        let seconds = time.as_secs();
        format!("{} h {:02} min {:02} s", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// Returns the date and time of a moment, given in milliseconds since 1970: `2026-11-29 00:41:13 UTC`.
pub(crate) fn moment(unix_ms: u64) -> String {
    // A peer may have sent any time. humantime panics on a time after the year 9999.
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(MAX_UNIX_MS));
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// Returns a time in milliseconds as [`time`] does.
pub(crate) fn time_ms(millis: f64) -> String {
    time(Duration::from_secs_f64(millis / 1e3))
}

/// Returns a time in milliseconds, rounded to a thousandth, for results in JSON.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns the time that has passed since a moment, given in milliseconds since 1970.
pub(crate) fn since(unix_ms: u64) -> Duration {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    now.saturating_sub(Duration::from_millis(unix_ms))
}

/// Returns the moment that lies `ago` before now, in milliseconds since 1970.
pub(crate) fn unix_millis_ago(ago: Duration) -> u64 {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}

/// Returns a number with its noun: `1 node`, `2 nodes`, `2 fetches`.
pub(crate) fn count(number: impl std::fmt::Display, noun: &str) -> String {
    let number = number.to_string();
    let ending = match number.as_str() {
        "1" => "",
        _ if noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

/// The colours of text, if it goes to a terminal that supports them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Returns the colours for a stream: none if it is not a terminal, if NO_COLOR or CLICOLOR=0 is
    /// set, or if TERM names a terminal without colours.
    pub(crate) fn on(stream: &impl IsTerminal) -> Self {
        let wanted = !no_color() && clicolor() != Some(false);
        Self { on: stream.is_terminal() && wanted && term_supports_color() }
    }

    /// Returns no colours.
    pub(crate) fn none() -> Self {
        Self { on: false }
    }

    /// Returns colours for another program that prints to a terminal.
    pub(crate) fn colours() -> Self {
        Self { on: true }
    }

    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// Colours a success.
    pub(crate) fn good(self, text: &str) -> String {
        self.styled(AnsiColor::Green.on_default(), text)
    }

    /// Colours a failure.
    pub(crate) fn bad(self, text: &str) -> String {
        self.styled(AnsiColor::Red.on_default().bold(), text)
    }

    /// Colours the name of a node.
    pub(crate) fn name(self, text: &str) -> String {
        self.styled(AnsiColor::Cyan.on_default().bold(), text)
    }

    /// Dims a detail.
    pub(crate) fn faint(self, text: &str) -> String {
        self.styled(Style::new().dimmed(), text)
    }

    /// Emphasises a text.
    pub(crate) fn strong(self, text: &str) -> String {
        self.styled(Style::new().bold(), text)
    }

    fn styled(self, style: Style, text: &str) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Text in place of the address of a node that has none.
pub(crate) const NO_ADDRESS: &str = "no address";

/// Returns the name of a node, made safe for a terminal, with the first digits of its identity.
pub(crate) fn label(id: &NodeId, name: &str) -> String {
    if name.is_empty() { id.short() } else { format!("{} ({})", plain(name), id.short()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_text_is_left_out() {
        assert_eq!(shortened("märz", 4), "märz");
        assert_eq!(shortened("märzenbier", 4), "mä…er");
        assert_eq!(shortened("", 4), "");
    }

    #[test]
    fn a_cause_is_printed_once() {
        let disk = || std::io::Error::other("the disk is full");
        let described = peerkit::FetchError::Disk { path: "a".into(), error: disk() };
        assert_eq!(error(&described.into()), "can't write a: the disk is full");
        let described = anyhow::Error::new(disk()).context("can't save").context("not done");
        assert_eq!(error(&described), "not done: can't save: the disk is full");
    }

    #[test]
    fn an_error_names_the_command_that_helps() {
        let unknown = peerkit::Error::UnknownPeer("bob".into());
        let described = "no connected node is called `bob`; `peers` lists connected nodes";
        assert_eq!(error(&unknown.into()), described);
        let hash = peerkit::Hash::of(b"content");
        let none = anyhow::Error::new(peerkit::Error::NoDownload(hash)).context("not paused");
        let described = format!(
            "not paused: there is no download of {hash} under way; `downloads` lists the \
             fetches"
        );
        assert_eq!(error(&none), described);
    }

    #[cfg(unix)]
    #[test]
    fn a_command_in_an_error_can_be_pasted() {
        let readable = || KeyError::Readable("/it's here/key".into());
        let line = r"`chmod 600 '/it'\''s here/key'`";
        assert!(error(&readable().into()).ends_with(line));
        assert!(error(&peerkit::Error::from(readable()).into()).ends_with(line));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(plain("hé ✓"), "hé ✓");
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{7}"), "a\\u{1b}[2Jb\\nc\\u{7}");
        assert_eq!(plain("\u{9b}\u{202e}\u{61c}"), "\\u{9b}\\u{202e}\\u{61c}");
        assert_eq!(path(Path::new("a\nb/\u{2066}")), "a\\nb/\\u{2066}");
    }

    #[test]
    fn escaped_json_keeps_its_values_and_has_no_control_characters() {
        let value = "hé\u{202e}\u{9b}\u{7f}\u{2028}\n\\ \u{10ffff}";
        let line = json_line(&serde_json::to_string(value).unwrap());
        assert!(!line.contains(acts_on_terminal), "{line}");
        assert!(line.contains("\\u202e") && line.contains("hé"), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
        assert_eq!(time(Duration::from_micros(340)), "340 µs");
        assert_eq!(time(Duration::from_micros(1230)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(3400)), "3.40 s");
        assert_eq!(time(Duration::from_secs(3725)), "1 h 02 min 05 s");
        assert_eq!(millis(Duration::from_nanos(1_234_567)), 1.235);
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_795_912_873_999), "2026-11-29 00:41:13 UTC");
        assert_eq!(moment(4_107_542_399_000), "2100-02-28 23:59:59 UTC");
        assert!(moment(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn lines_are_cut_to_a_terminal() {
        assert_eq!(cut_to_width("abc", 80), "abc");
        assert_eq!(cut_to_width("abcdef", 4), "abc");
        assert_eq!(cut_to_width("aé😀b", 5), "aé");
        assert_eq!(cut_to_width("a", 0), "");
    }

    #[test]
    fn no_colour_without_a_terminal() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Paint::on(&file).bad("x"), "x");
        assert_eq!(Paint { on: true }.good("x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
