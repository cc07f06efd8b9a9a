//! The folders for state and for downloads, and the paths that users type.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use etcetera::{BaseStrategy, choose_base_strategy};

use crate::usage;

/// Returns the state folder: `--state`, else `peerkit` in the XDG data folder.
pub(crate) fn state(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(std::path::absolute(given)?);
    }
    let base = choose_base_strategy().context("there is no home folder: give --state DIR")?;
    Ok(base.data_dir().join("peerkit"))
}

/// Returns the state folder for another node beside the one that uses `usual`: `usual` with
/// `-number` added to its name.
pub(crate) fn sibling(usual: &Path, number: usize) -> PathBuf {
    let mut name = usual.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    usual.with_file_name(name)
}

/// Returns the folder for downloads: `--downloads`, else the user's download folder, else the
/// current one. The path is absolute, like all paths in the program's output.
pub(crate) fn downloads(given: Option<&Path>) -> PathBuf {
    let folder = given.map(Path::to_owned).or_else(user_downloads);
    let folder = folder.unwrap_or_else(|| PathBuf::from("."));
    std::path::absolute(&folder).unwrap_or(folder)
}

/// Checks that `path` is a folder, or does not exist and can become one.
pub(crate) fn check_folder(path: &Path) -> anyhow::Result<()> {
    if path.exists() && !path.is_dir() {
        bail!("{} is not a folder", path.display());
    }
    Ok(())
}

/// Returns the absolute form of a path that was typed here.
///
/// # Errors
/// If the path is relative and there is no current folder.
pub(crate) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path here", path.display()))
}

/// Makes a word that stands for a share absolute, if it is a path and can't be a name.
///
/// # Errors
/// If the path is relative and there is no current folder.
pub(crate) fn make_path_absolute(word: &mut String) -> anyhow::Result<()> {
    let is_path =
        word.contains(std::path::is_separator) || matches!(word.as_str(), "." | ".." | "~");
    if is_path {
        *word = absolute(&expand_home(word))?.to_string_lossy().into_owned();
    }
    Ok(())
}

/// Checks a path that comes from another process: relative to what, nobody could say.
pub(crate) fn must_be_absolute(path: &Path) -> anyhow::Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(usage(format!("{} is relative: give the whole path", path.display())))
}

/// Returns the user's download folder, as the XDG user directories define it.
fn user_downloads() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("XDG_DOWNLOAD_DIR").filter(|folder| !folder.is_empty()) {
        return Some(folder.into());
    }
    let base = choose_base_strategy().ok()?;
    let configured = fs::read_to_string(base.config_dir().join("user-dirs.dirs"))
        .ok()
        .and_then(|text| configured_downloads(&text, base.home_dir()));
    configured.or_else(|| {
        // Not created: if it is missing, the user keeps downloads elsewhere.
        let usual = base.home_dir().join("Downloads");
        usual.is_dir().then_some(usual)
    })
}

/// Reads `XDG_DOWNLOAD_DIR="$HOME/..."` or `"/..."` from the text of user-dirs.dirs.
fn configured_downloads(text: &str, home: &Path) -> Option<PathBuf> {
    let value = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("XDG_DOWNLOAD_DIR="))
        // The file is a shell script, so the last assignment counts.
        .next_back()?
        .trim_matches('"');
    match value.strip_prefix("$HOME") {
        Some(rest) => Some(home.join(rest.trim_start_matches('/'))),
        // The specification does not allow relative paths.
        None => Path::new(value).is_absolute().then(|| value.into()),
    }
}

/// Expands `~` and `~/...` as a shell does, for paths at the prompt.
pub(crate) fn expand_home(text: &str) -> PathBuf {
    let rest = match text.strip_prefix('~') {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => &rest[1..],
        // `~bob` is the home of another user, which only the user database knows.
        _ => return text.into(),
    };
    match etcetera::home_dir() {
        Ok(home) if rest.is_empty() => home,
        Ok(home) => home.join(rest),
        Err(_) => text.into(),
    }
}

/// Returns the absolute path of a file or folder to share.
///
/// # Errors
/// If it does not exist.
pub(crate) fn existing(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    // Checked here, before a node starts: a mistyped path must not start one.
    if let Err(error) = absolute.metadata() {
        bail!("can't share {}: {error}", path.display());
    }
    Ok(absolute)
}

/// Returns a path without symbolic links, as the node keeps the paths of shares. Returns the path itself if
/// it can't be resolved.
pub(crate) async fn resolved(path: &Path) -> PathBuf {
    match tokio::fs::canonicalize(path).await {
        Ok(resolved) => dunce::simplified(&resolved).to_owned(),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_directories_file_is_read() {
        let read = |text| configured_downloads(text, Path::new("/home/ann"));
        assert_eq!(
            read("# comment\nXDG_DOWNLOAD_DIR=\"$HOME/Loads\"\n"),
            Some("/home/ann/Loads".into())
        );
        assert_eq!(read("XDG_DOWNLOAD_DIR=\"/srv\""), Some("/srv".into()));
        assert_eq!(read("XDG_DOWNLOAD_DIR=\"relative\""), None);
        assert_eq!(read("XDG_MUSIC_DIR=\"/x\""), None);
    }

    #[test]
    fn a_tilde_is_home_only_at_the_start() {
        let home = etcetera::home_dir().unwrap();
        assert_eq!(expand_home("~/a b"), home.join("a b"));
        assert_eq!(expand_home("~"), home);
        assert_eq!(expand_home("~bob/a"), Path::new("~bob/a"));
        assert_eq!(expand_home("a/~"), Path::new("a/~"));
    }

    #[test]
    fn a_given_folder_is_used_instead_of_the_default() {
        assert_eq!(state(Some(Path::new("/s"))).unwrap(), Path::new("/s"));
        assert_eq!(downloads(Some(Path::new("/d"))), Path::new("/d"));
        assert!(downloads(Some(Path::new("d"))).is_absolute());
        assert!(state(Some(Path::new("s"))).unwrap().is_absolute());
        assert_eq!(sibling(Path::new("/x/peerkit"), 2), Path::new("/x/peerkit-2"));
    }
}
