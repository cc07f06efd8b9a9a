//! The terminal's own settings, put back when the program ends while a line is being edited: then
//! nobody else does, and the shell would be left without echo.

use std::io::{self, Write};
use std::sync::OnceLock;

/// Ends bracketed paste, which line editing turns on.
const END_PASTE: &[u8] = b"\x1b[?2004l\r";

#[cfg(unix)]
type Settings = rustix::termios::Termios;
#[cfg(not(unix))]
type Settings = ();

static BEFORE: OnceLock<Settings> = OnceLock::new();

/// Puts the settings back when dropped.
pub(crate) struct Terminal(());

impl Terminal {
    /// Remembers the settings as they are now.
    pub(crate) fn remember() -> Self {
        #[cfg(unix)]
        if let Ok(settings) = rustix::termios::tcgetattr(io::stdin()) {
            let _ = BEFORE.set(settings);
        }
        Self(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the settings back, if they were remembered.
pub(crate) fn restore() {
    let Some(_before) = BEFORE.get() else {
        return;
    };
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(END_PASTE).and_then(|()| stdout.flush());
    #[cfg(unix)]
    {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, _before);
    }
}
