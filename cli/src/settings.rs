//! Settings that `set` can change while the node runs, and `config` lists.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use peerkit::RateLimits;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::args::RunArgs;
use crate::lock::lock;
use crate::session::NodeSession;
use crate::{byte_rate, folders, log, usage};

/// The name of the only setting that is a folder.
pub(crate) const DOWNLOADS: &str = "downloads";

/// The name of the limit of inbound links.
const MAX_INBOUND: &str = "max-inbound";

/// The name of the level of the log.
const LOG: &str = "log";

/// A setting and its current value.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct SettingView {
    pub(crate) name: &'static str,
    /// A path, a level of the log, a number of links, or bytes a second, where 0 is no limit.
    pub(crate) value: Value,
    pub(crate) origin: Origin,
    /// True if the value is bytes a second.
    #[serde(skip)]
    pub(crate) is_rate: bool,
}

/// The source of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The program's default.
    Default,
    /// An option of `peerkit run`.
    Option,
    /// An environment variable.
    Environment,
    /// `set`, while the node runs.
    Set,
}

impl Origin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Option => "option",
            Self::Environment => "environment",
            Self::Set => "set",
        }
    }
}

/// The origins of the settings that do not have their defaults.
pub(crate) struct SettingOrigins(Mutex<BTreeMap<&'static str, Origin>>);

impl SettingOrigins {
    /// Returns the origins of the settings at the start of a node.
    pub(crate) fn of(args: &RunArgs) -> Self {
        let options = [
            (DOWNLOADS, args.downloads.is_some()),
            ("up", args.up.is_some()),
            ("down", args.down.is_some()),
            ("peer-up", args.peer_up.is_some()),
            ("peer-down", args.peer_down.is_some()),
            ("messages", args.messages.is_some()),
            ("peer-messages", args.peer_messages.is_some()),
            ("broadcasts", args.broadcasts.is_some()),
            ("peer-receive", args.peer_receive.is_some()),
            (MAX_INBOUND, args.max_inbound.is_some()),
        ];
        let given = options.into_iter().filter(|(_, is_given)| *is_given);
        let mut origins: BTreeMap<_, _> = given.map(|(name, _)| (name, Origin::Option)).collect();
        if log::is_level_from_environment() {
            origins.insert(LOG, Origin::Environment);
        }
        Self(Mutex::new(origins))
    }

    fn get(&self, name: &str) -> Origin {
        lock(&self.0).get(name).copied().unwrap_or(Origin::Default)
    }

    fn note_set(&self, name: &'static str) {
        lock(&self.0).insert(name, Origin::Set);
    }
}

/// A function that returns one of the limits.
type Limit = fn(&mut RateLimits) -> &mut u64;

/// The rates that can be changed, under the names of their options.
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
    let rates = RATES.iter().map(|(name, _)| *name);
    std::iter::once(DOWNLOADS).chain(rates).chain([MAX_INBOUND, LOG])
}

/// Returns all settings.
///
/// # Errors
/// If the node has stopped.
pub(crate) async fn all(session: &NodeSession) -> anyhow::Result<Vec<SettingView>> {
    let mut settings = Vec::new();
    for name in names() {
        settings.push(view(session, name).await?);
    }
    Ok(settings)
}

/// Changes a setting until the node stops. Returns its new value.
///
/// # Errors
/// If there is no setting of this name, or it can't have this value. Nothing has changed then.
pub(crate) async fn set(
    session: &NodeSession,
    name: &str,
    value: &str,
) -> anyhow::Result<SettingView> {
    let node = &session.node;
    let Some(name) = names().find(|known| *known == name) else {
        return Err(usage(format!("set {}", unknown(name))));
    };
    let refused = |why: &dyn std::fmt::Display| usage(format!("set can't take `{value}`: {why}"));
    if let Some((_, limit)) = RATES.iter().find(|(rate, _)| *rate == name) {
        let rate = byte_rate::parse(value).map_err(|why| refused(&why))?;
        let mut limits = node.rates();
        *limit(&mut limits) = rate;
        node.set_rates(limits);
    } else if name == DOWNLOADS {
        let folder = PathBuf::from(value);
        folders::must_be_absolute(&folder)?;
        // If the path were a file, every later fetch would fail.
        folders::check_folder(&folder)?;
        node.files().set_download_folder(folder);
    } else if name == MAX_INBOUND {
        let links = value.parse().map_err(|_| refused(&"it is not a number of links"))?;
        node.set_max_inbound(links).await?;
    } else {
        session.log.set_level(value)?;
    }
    session.origins.note_set(name);
    view(session, name).await
}

async fn view(session: &NodeSession, name: &'static str) -> anyhow::Result<SettingView> {
    let node = &session.node;
    let rate = RATES.iter().find(|(rate, _)| *rate == name);
    let value = if let Some((_, limit)) = rate {
        (*limit(&mut node.rates())).into()
    } else if name == DOWNLOADS {
        let folder = node.files().download_folder();
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        folder.to_string_lossy().into()
    } else if name == MAX_INBOUND {
        node.max_inbound().await?.into()
    } else {
        session.log.level().into()
    };
    Ok(SettingView { name, value, origin: session.origins.get(name), is_rate: rate.is_some() })
}
