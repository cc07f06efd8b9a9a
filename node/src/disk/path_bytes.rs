//! Converts paths to bytes and back. On Unix this preserves every path, even if it is not UTF-8.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(unix)]
pub(crate) fn bytes_of(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

#[cfg(unix)]
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    let text: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    text.into()
}

/// Returns a path as bytes. On these systems nearly all paths are Unicode. A path that is not can't be found
/// after a restart.
#[cfg(not(unix))]
pub(crate) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

#[cfg(not(unix))]
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// A path in JSON: text, or a list of bytes if it is not UTF-8. Serde itself refuses such paths.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum InJson {
    Text(String),
    Bytes(Vec<u8>),
}

pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => to.serialize_str(text),
        None => InJson::Bytes(bytes_of(path).to_vec()).serialize(to),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Ok(match InJson::deserialize(from)? {
        InJson::Text(text) => text.into(),
        InJson::Bytes(bytes) => path_of(&bytes),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(with = "super")]
        path: PathBuf,
    }

    #[test]
    fn every_path_survives_json() {
        for bytes in [&b"/a/h\xc3\xa9"[..], b"/a/\xff\xfe", b""] {
            let row = Row { path: path_of(bytes) };
            let json = serde_json::to_string(&row).unwrap();
            assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row, "{json}");
        }
        let row = Row { path: "/a/b".into() };
        assert_eq!(serde_json::to_string(&row).unwrap(), r#"{"path":"/a/b"}"#);
    }
}
