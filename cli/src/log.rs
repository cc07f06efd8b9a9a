//! The log on standard error, as text or JSON (PEERKIT_LOG_FORMAT). It has warnings by default, and
//! more lines after `debug on` or with PEERKIT_LOG.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::lock::lock;
use crate::output::Printer;
use crate::text::{Paint, json_line, plain};
use crate::usage;

mod lines;

pub(crate) use lines::finish;

/// The filter of `debug on`.
const DEBUG: &str = "warn,notify=error,peerkit=debug,peerkit_proto=debug";

/// The default filter. Warnings of `notify` are left out: it warns of every watched folder that was
/// removed, which the node reports itself.
const DEFAULT_FILTER: &str = "warn,notify=error";

/// The level that [`DEFAULT_FILTER`] has for everything but the folder watcher.
const DEFAULT_LEVEL: &str = "warn";

/// The switch of the log.
#[derive(Clone)]
pub(crate) struct LogSwitch {
    filter: reload::Handle<Targets, Registry>,
    debug: Arc<AtomicBool>,
    /// The filter that `set log` has set; `None` for that of PEERKIT_LOG.
    level: Arc<Mutex<Option<String>>>,
}

/// Levels of the log, most important first, as PEERKIT_LOG names them.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Maximum number of bytes of a level that `set log` takes. 1,024: all kinds and crates with their levels.
const MAX_LEVEL: usize = 1024;

/// Kinds of log lines, which PEERKIT_LOG may name without their crate.
const KINDS: [&str; 7] =
    ["node", "link", "message", "query", "membership", "broadcast", "transfer"];

impl LogSwitch {
    /// Starts the log.
    pub(crate) fn start() -> Self {
        let (filter, fault) = configured_filter();
        let (filter, handle) = reload::Layer::new(filter);
        // A field may contain a name from the network. Escaped, it can't begin a new line.
        let fields = debug_fn(|line, field, value| match field.name() {
            "message" => write!(line, "{}", plain(&format!("{value:?}"))),
            name => write!(line, "{name}={}", plain(&format!("{value:?}"))),
        });
        let format = std::env::var("PEERKIT_LOG_FORMAT").unwrap_or_default();
        lines::start(format == "json");
        let lines = match format.as_str() {
            "json" => fmt::layer().json().with_writer(|| LogLine { json: true }).boxed(),
            _ => fmt::layer()
                .fmt_fields(fields.delimited(" "))
                .with_writer(|| LogLine { json: false })
                .with_ansi(Paint::on(&io::stderr()).is_on())
                .boxed(),
        };
        // Only tests start the log twice. Then the first one stays.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        if let Some(fault) = fault {
            tracing::warn!("PEERKIT_LOG is invalid, so only warnings are logged: {fault}");
        }
        if !matches!(format.as_str(), "" | "text" | "json") {
            tracing::warn!("PEERKIT_LOG_FORMAT is text or json, not {format}: the log is text");
        }
        Self { filter: handle, debug: Arc::default(), level: Arc::default() }
    }

    /// Writes the log through the prompt from now on.
    pub(crate) fn through(&self, output: Printer) {
        lines::through(output);
    }

    /// Switches debugging on or off, or toggles it. Returns whether it is on now.
    pub(crate) fn set_debug(&self, on: Option<bool>) -> anyhow::Result<bool> {
        let on = on.unwrap_or(!self.debug.load(Ordering::Relaxed));
        // `debug off` returns to the level before it, which may be more than warnings.
        let filter = if on { constant_filter(DEBUG) } else { self.filter_without_debug() };
        self.filter.reload(filter)?;
        self.debug.store(on, Ordering::Relaxed);
        Ok(on)
    }

    /// Sets the level of the log, in the form of PEERKIT_LOG, and switches debugging off.
    ///
    /// # Errors
    /// If the level has another form. Nothing has changed then.
    pub(crate) fn set_level(&self, level: &str) -> anyhow::Result<()> {
        let level = level.trim();
        if level.is_empty() || level.len() > MAX_LEVEL {
            let levels = LEVELS.join(", ");
            return Err(usage(format!(
                "set log needs a level: {levels}, or what PEERKIT_LOG takes"
            )));
        }
        let filter = parse_filter(level)
            .map_err(|fault| usage(format!("set log can't take `{level}`: {fault}")))?;
        self.filter.reload(filter)?;
        self.debug.store(false, Ordering::Relaxed);
        *lock(&self.level) = Some(level.to_owned());
        Ok(())
    }

    /// Returns the level of the log, in the form of PEERKIT_LOG.
    pub(crate) fn level(&self) -> String {
        if self.debug.load(Ordering::Relaxed) {
            return DEBUG.to_owned();
        }
        if let Some(level) = &*lock(&self.level) {
            return level.clone();
        }
        match wanted_filter().filter(|_| is_level_from_environment()) {
            Some(wanted) => wanted.to_string_lossy().into_owned(),
            None => DEFAULT_LEVEL.to_owned(),
        }
    }

    fn filter_without_debug(&self) -> Targets {
        let level = lock(&self.level).as_deref().and_then(|level| parse_filter(level).ok());
        level.unwrap_or_else(|| configured_filter().0)
    }
}

/// Returns whether PEERKIT_LOG selects the level of the log.
pub(crate) fn is_level_from_environment() -> bool {
    wanted_filter().is_some() && configured_filter().1.is_none()
}

/// Parses a filter that is a constant of this file, so that it can't be invalid.
fn constant_filter(filter: &str) -> Targets {
    filter.parse().expect("the constants are filters")
}

/// Returns the filter of PEERKIT_LOG. If it is invalid, returns the default filter and the error.
fn configured_filter() -> (Targets, Option<String>) {
    let wanted = wanted_filter().unwrap_or_else(|| DEFAULT_FILTER.into());
    let parsed = match wanted.to_str() {
        Some(wanted) => parse_filter(wanted),
        None => Err("it is not UTF-8".to_owned()),
    };
    // An invalid filter is replaced as a whole, so that no part of it hides warnings.
    match parsed {
        Ok(filter) => (filter, None),
        Err(fault) => (constant_filter(DEFAULT_FILTER), Some(fault)),
    }
}

/// Returns the value of PEERKIT_LOG, if it has one.
fn wanted_filter() -> Option<OsString> {
    std::env::var_os("PEERKIT_LOG").filter(|wanted| !wanted.is_empty())
}

/// Reads a filter in the form of PEERKIT_LOG.
///
/// # Errors
/// If it is not of this form.
fn parse_filter(wanted: &str) -> Result<Targets, String> {
    let directives = with_kinds(wanted)?;
    let filter = if directives.is_empty() {
        Targets::new().with_default(LevelFilter::WARN)
    } else {
        directives.parse::<Targets>().map_err(|error| error.to_string())?
    };
    // If the log were a file in a watched folder, each message of the folder watcher would cause another one. A user
    // who names the folder watcher has asked for its messages.
    let is_asked_for = wanted.contains("notify");
    Ok(if is_asked_for { filter } else { filter.with_target("notify", LevelFilter::ERROR) })
}

/// Writes kinds in full: `link=debug` becomes `peerkit::link=debug`.
///
/// # Errors
/// If a word is neither a level nor a kind, and no level follows it: such a filter would log nothing.
fn with_kinds(wanted: &str) -> Result<String, String> {
    let mut all = Vec::new();
    for one in wanted.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        let (target, level) = one.split_once('=').map_or((one, None), |(a, b)| (a, Some(b)));
        // The filter also takes levels as numbers, from 0 for off to 5 for trace.
        let is_level = LEVELS.contains(&one.to_ascii_lowercase().as_str())
            || one.parse::<u8>().is_ok_and(|level| level < 6);
        let is_crate = matches!(one, "peerkit" | "peerkit_proto");
        // A word with a level or a path is used unchanged. Spans in brackets do not exist in this program.
        let is_explicit = (level.is_some() || one.contains(':')) && !one.contains('[');
        if KINDS.contains(&target) {
            all.push(format!("peerkit::{one}"));
        } else if is_level || is_crate || is_explicit {
            all.push(one.to_owned());
        } else {
            let (levels, kinds) = (LEVELS.join(", "), KINDS.join(", "));
            return Err(format!("`{one}` is neither a level ({levels}) nor a kind ({kinds})"));
        }
    }
    Ok(all.join(","))
}

/// A writer that gets each line of the log in one call, and queues it.
struct LogLine {
    json: bool,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = String::from_utf8_lossy(bytes);
        if self.json {
            // JSON escapes only some of the characters that control a terminal.
            line = Cow::Owned(json_line(line.trim_end_matches('\n')) + "\n");
        }
        lines::put(line.into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_kind_may_be_given_without_its_crate() {
        for (wanted, expected) in [
            ("info", "info"),
            ("WARN, link=debug", "WARN,peerkit::link=debug"),
            ("query", "peerkit::query"),
            ("peerkit::query=trace,rustls=debug", "peerkit::query=trace,rustls=debug"),
            ("peerkit,3", "peerkit,3"),
        ] {
            assert_eq!(with_kinds(wanted).as_deref(), Ok(expected));
        }
        let fault = with_kinds("info,lnk").unwrap_err();
        assert!(fault.contains("`lnk`") && fault.contains("membership"), "{fault}");
    }

    #[test]
    fn a_filter_has_the_levels_that_it_names() {
        let enabled = |wanted: &str, target: &str| {
            let filter = parse_filter(wanted).unwrap();
            let levels = [tracing::Level::WARN, tracing::Level::DEBUG, tracing::Level::TRACE];
            levels.map(|level| filter.would_enable(target, &level))
        };
        assert_eq!(enabled("warn,link=debug", "peerkit::link"), [true, true, false]);
        assert_eq!(enabled("warn,link=debug", "peerkit::node"), [true, false, false]);
        assert_eq!(enabled("link=debug", "peerkit::node"), [false, false, false]);
        assert_eq!(enabled("query", "peerkit::query"), [true, true, true]);
        assert_eq!(enabled("off", "peerkit::link"), [false, false, false]);
        assert_eq!(enabled(",", "peerkit::link"), [true, false, false]);
        assert_eq!(enabled("trace", "notify::inotify"), [false, false, false]);
        assert_eq!(enabled("trace,notify=debug", "notify"), [true, true, false]);
        assert!(parse_filter("link=loud").is_err() && parse_filter("[span]=debug").is_err());
    }

    #[test]
    fn warnings_of_the_folder_watcher_are_not_logged() {
        for filter in [DEFAULT_FILTER, DEBUG] {
            let log = tempfile::NamedTempFile::new().unwrap();
            let file = log.reopen().unwrap();
            let lines = fmt::layer().with_writer(Mutex::new(file));
            let subscriber =
                tracing_subscriber::registry().with(constant_filter(filter)).with(lines);
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "notify::inotify", "a folder is gone");
                tracing::warn!(target: "another::crate", "its disk is full");
            });
            let mut logged = String::new();
            log.as_file().read_to_string(&mut logged).unwrap();
            assert!(!logged.contains("a folder") && logged.contains("its disk"), "{logged}");
        }
    }
}
