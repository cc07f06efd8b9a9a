//! Settings that `set` can change while the node runs.

use std::path::PathBuf;

use peerkit::{Node, RateLimits};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{byte_rate, folders, usage};

/// The name of the only setting that is a folder. The others are rates.
pub(crate) const DOWNLOADS: &str = "downloads";

/// A setting and its current value.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct SettingView {
    pub(crate) name: &'static str,
    /// A path, or bytes a second; 0 is no limit.
    pub(crate) value: Value,
}

/// A function that returns one of the limits.
type Limit = fn(&mut RateLimits) -> &mut u64;

/// The limits that can be changed, under the names of their options.
const RATES: &[(&str, Limit)] = &[
    ("up", |limits| &mut limits.upload),
    ("down", |limits| &mut limits.download),
    ("peer-up", |limits| &mut limits.peer_upload),
    ("peer-down", |limits| &mut limits.peer_download),
    ("messages", |limits| &mut limits.messages),
    ("peer-messages", |limits| &mut limits.peer_messages),
    ("broadcasts", |limits| &mut limits.broadcasts),
    ("peer-receive", |limits| &mut limits.peer_receive),
];

/// Returns the error of a setting without a value.
pub(crate) fn missing_value(name: &str) -> String {
    if names().any(|known| known == name) {
        return format!("set needs a value for `{name}`");
    }
    format!("set {}", unknown(name))
}

fn unknown(name: &str) -> String {
    let names = names().collect::<Vec<_>>().join(", ");
    format!("has no setting `{name}`; the settings are {names}")
}

/// Returns the names of all settings.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(DOWNLOADS).chain(RATES.iter().map(|(name, _)| *name))
}

/// Returns all settings.
pub(crate) fn all(node: &Node) -> Vec<SettingView> {
    let mut limits = node.rates();
    let rates = RATES.iter().map(|(name, limit)| view(name, *limit(&mut limits)));
    std::iter::once(downloads(node)).chain(rates).collect()
}

/// Changes a setting until the node stops. Returns its new value.
///
/// # Errors
/// If there is no setting of this name, or it can't have this value. Nothing has changed then.
pub(crate) fn set(node: &Node, name: &str, value: &str) -> anyhow::Result<SettingView> {
    if name == DOWNLOADS {
        let folder = PathBuf::from(value);
        folders::must_be_absolute(&folder)?;
        // If the path were a file, every later fetch would fail.
        folders::check_folder(&folder)?;
        node.files().set_download_folder(folder);
        return Ok(downloads(node));
    }
    let Some((name, limit)) = RATES.iter().find(|(rate, _)| *rate == name) else {
        return Err(usage(format!("set {}", unknown(name))));
    };
    let value =
        byte_rate::parse(value).map_err(|why| usage(format!("set can't take `{value}`: {why}")))?;
    let mut limits = node.rates();
    *limit(&mut limits) = value;
    node.set_rates(limits);
    Ok(view(name, value))
}

fn downloads(node: &Node) -> SettingView {
    let folder = node.files().download_folder();
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    SettingView { name: DOWNLOADS, value: folder.to_string_lossy().into() }
}

fn view(name: &'static str, value: u64) -> SettingView {
    SettingView { name, value: value.into() }
}
