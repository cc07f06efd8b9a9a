//! The settings of the terminal. If the program ends while a line is being edited, it has to restore
//! them, or the shell would have no echo.

use std::io;
#[cfg(unix)]
use std::io::Write as _;
#[cfg(unix)]
use std::sync::OnceLock;

/// Control codes that switch off bracketed paste, which line editing switches on, and that end the line
/// being edited.
#[cfg(unix)]
const END_LINE: &[u8] = b"\x1b[?2004l\r\n";

#[cfg(unix)]
static SAVED: OnceLock<rustix::termios::Termios> = OnceLock::new();

/// Restores the settings when dropped.
pub(crate) struct Terminal(());

impl Terminal {
    /// Saves the current settings.
    pub(crate) fn save() -> Self {
        #[cfg(unix)]
        if let Ok(settings) = rustix::termios::tcgetattr(io::stdin()) {
            let _ = SAVED.set(settings);
        }
        Self(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Length of a pause in the input that ends a paste. 250 ms: a paste arrives in pieces, with pauses
/// between them over a slow connection.
#[cfg(unix)]
const END_OF_PASTE: std::time::Duration = std::time::Duration::from_millis(250);

/// Maximum time that input is discarded. 10 s: longer than any paste takes.
#[cfg(unix)]
const MAX_DISCARD_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// Discards typed and pasted input until a pause.
pub(crate) fn discard_input() {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::termios::{
            LocalModes, OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr,
        };

        let stdin = io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return };
        // Canonical mode is switched off, since it would wait for whole lines. Echo and signals are
        // switched off, so that discarded input is not shown and a Ctrl-C in it has no effect.
        let mut bare = before.clone();
        bare.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &bare);
        let until = std::time::Instant::now() + MAX_DISCARD_TIME;
        let pause = Timespec::try_from(END_OF_PASTE).ok();
        while std::time::Instant::now() < until {
            let mut input = [PollFd::new(&stdin, PollFlags::IN)];
            // Input that still arrives within the pause belongs to the same paste.
            match poll(&mut input, pause.as_ref()) {
                Ok(1..) if tcflush(&stdin, QueueSelector::IFlush).is_ok() => {}
                _ => break,
            }
        }
        // `Flush` also discards input that came after the last poll.
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
    }
}

/// Returns the number of columns of the terminal; 80 if it is unknown.
pub(crate) fn columns() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(80, |(width, _)| width.0.into())
}

/// Restores the saved settings if they have changed.
pub(crate) fn restore() {
    #[cfg(unix)]
    {
        use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

        let Some(before) = SAVED.get() else {
            return;
        };
        // Line editing switches echo and canonical mode off, which are local modes.
        let now = tcgetattr(io::stdin());
        // They are equal if no line was being edited.
        if now.is_ok_and(|now| now.local_modes == before.local_modes) {
            return;
        }
        // `Now` does not discard input: what the user has typed ahead is for the shell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(END_LINE).and_then(|()| stdout.flush());
    }
}
