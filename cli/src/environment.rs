//! The name of this machine, and settings in environment variables.

use std::env;

use anyhow::anyhow;
use peerkit::Address;

use crate::args::MAX_NAME;
use crate::{address, usage};

/// Returns the name of this machine without its domain; `peerkit` if it has none.
pub(crate) fn name() -> String {
    let name = host_name().unwrap_or_default();
    let mut name = name.split('.').next().unwrap_or_default().trim().to_owned();
    // Whole characters are removed, so that the name stays UTF-8.
    while name.len() > MAX_NAME {
        name.pop();
    }
    if name.is_empty() { "peerkit".to_owned() } else { name }
}

#[cfg(unix)]
fn host_name() -> Option<String> {
    let names = rustix::system::uname();
    Some(names.nodename().to_string_lossy().into_owned())
}

#[cfg(not(unix))]
fn host_name() -> Option<String> {
    env::var("COMPUTERNAME").ok()
}

/// Returns the secret of the network from PEERKIT_SECRET. There is no option for it, since other users
/// can read a command line.
pub(crate) fn secret() -> anyhow::Result<Option<String>> {
    // `PEERKIT_SECRET= peerkit run` means no secret, and not an empty one.
    match env::var_os("PEERKIT_SECRET").filter(|secret| !secret.is_empty()) {
        None => Ok(None),
        Some(secret) => match secret.into_string() {
            Ok(secret) => Ok(Some(secret)),
            Err(_) => Err(usage("PEERKIT_SECRET is not UTF-8: choose another secret")),
        },
    }
}

/// Returns the bootstrap nodes in PEERKIT_BOOTSTRAP: addresses separated by commas or whitespace.
pub(crate) fn bootstrap() -> anyhow::Result<Vec<Address>> {
    let Some(text) = env::var_os("PEERKIT_BOOTSTRAP") else { return Ok(Vec::new()) };
    let Some(text) = text.to_str() else {
        return Err(usage(
            "PEERKIT_BOOTSTRAP is not UTF-8: give addresses separated by commas or spaces",
        ));
    };
    addresses(text).map_err(|error| usage(format!("PEERKIT_BOOTSTRAP can't be used: {error}")))
}

fn addresses(text: &str) -> anyhow::Result<Vec<Address>> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words.map(|word| address::parse_address(word).map_err(|error| anyhow!(error))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_without_dots() {
        assert!(!name().is_empty() && !name().contains('.'));
    }

    #[test]
    fn addresses_have_commas_or_blanks_between_them() {
        let read = addresses(" a:1,b:2\n[::1]:3, ").unwrap();
        let read: Vec<String> = read.iter().map(ToString::to_string).collect();
        assert_eq!(read, ["a:1", "b:2", "[::1]:3"]);
        assert!(addresses("").unwrap().is_empty());
        assert!(addresses("a:1 b:99999").is_err());
        let invalid_id = format!("01{}@a:1", "00".repeat(31));
        assert!(addresses(&invalid_id).unwrap_err().to_string().contains("no valid key"));
    }
}
