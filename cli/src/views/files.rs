//! Files, shares and fetches as results and events show them.

use std::path::PathBuf;

use peerkit::{
    Access, Changes, Dropped, Fetched, FileKind, FileName, FolderFile, FolderPart, FoundFile, Hash,
    Node, NodeId, RelPath, SharedFile, Skipped,
};
use serde::Serialize;
use utoipa::ToSchema;

/// Maximum number of files of one folder in a list of all shares.
const MAX_FILES_OF_SHARE: usize = 1_000;

/// Maximum number of files in a list of all shares, or of the one share that the user named.
const MAX_FILES_LISTED: usize = 10_000;

/// A file or folder that is shared here, with its path and its access.
#[derive(Debug)]
pub(crate) struct ShareView {
    pub(crate) file: SharedFile,
    pub(crate) path: PathBuf,
    /// The files in a folder, or some of them.
    pub(crate) contents: Option<FolderPart>,
    /// Number of files in the folder before the first that is listed.
    pub(crate) skipped: usize,
    /// `open`, `nodes` or `ticket`.
    pub(crate) access: &'static str,
    /// The nodes that can fetch it, if `access` is `nodes`.
    pub(crate) to: Vec<NodeId>,
}

impl ShareView {
    /// Returns all shares. Of large folders only the first files are listed.
    pub(crate) fn all(node: &Node) -> Vec<Self> {
        let mut left = MAX_FILES_LISTED;
        let view = |(path, file): (PathBuf, SharedFile)| {
            let share = Self::part(node, path, file, 0, MAX_FILES_OF_SHARE.min(left));
            // The bound is for all shares together, so that a thousand folders do not print millions of
            // lines.
            left = left.saturating_sub(share.files().len());
            share
        };
        node.files().shared_paths().into_iter().map(view).collect()
    }

    /// Returns one share, with its files after the first `skipped`.
    pub(crate) fn one(node: &Node, path: PathBuf, file: SharedFile, skipped: usize) -> Self {
        Self::part(node, path, file, skipped, MAX_FILES_LISTED)
    }

    fn part(node: &Node, path: PathBuf, file: SharedFile, skipped: usize, limit: usize) -> Self {
        let (access, to) = match node.files().access(file.hash) {
            None | Some(Access::Open) => ("open", Vec::new()),
            Some(Access::Nodes(nodes)) => ("nodes", nodes),
            Some(Access::Ticket(_)) => ("ticket", Vec::new()),
            // Later versions of the library may add kinds of access.
            Some(_) => ("other", Vec::new()),
        };
        let contents = node.files().shared_files(&path, skipped, limit);
        Self { file, path, contents, skipped, access, to }
    }

    /// Returns the listed files of a folder. Returns none for a file.
    pub(crate) fn files(&self) -> &[FolderFile] {
        self.contents.as_ref().map_or(&[], |part| &part.files)
    }
}

/// A file or folder.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FileView {
    #[schema(value_type = String)]
    hash: Hash,
    #[schema(value_type = String)]
    name: FileName,
    /// Size in bytes; of a folder the sum of the files in it.
    size: u64,
    /// `file` or `folder`.
    #[schema(value_type = String)]
    kind: FileKind,
}

impl From<&SharedFile> for FileView {
    fn from(file: &SharedFile) -> Self {
        Self { hash: file.hash, name: file.name.clone(), size: file.size, kind: file.kind }
    }
}

/// An entry of a folder that is not shared.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SkippedView {
    path: String,
    why: String,
}

impl SkippedView {
    pub(crate) fn all(skipped: &[Skipped]) -> Vec<Self> {
        let view = |skipped: &Skipped| Self {
            path: skipped.path.to_string_lossy().into_owned(),
            why: skipped.why.to_string(),
        };
        skipped.iter().map(view).collect()
    }
}

/// A shared file or folder, with the files in it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ShareFileView {
    #[schema(value_type = String)]
    hash: Hash,
    #[schema(value_type = String)]
    name: FileName,
    /// Size in bytes; of a folder the sum of the files in it.
    size: u64,
    /// `file` or `folder`.
    #[schema(value_type = String)]
    kind: FileKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The files in the folder, or some of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<FolderFileView>>,
    /// Number of files in the whole folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    /// Number of files in the folder before the first that is listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<usize>,
    /// `open`, `nodes` or `ticket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<&'static str>,
    /// The nodes that can fetch it, if not all can.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    to: Vec<NodeId>,
}

/// A file in a shared folder.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FolderFileView {
    #[schema(value_type = String)]
    hash: Hash,
    #[schema(value_type = String)]
    name: FileName,
    size: u64,
    /// The path in the folder.
    #[schema(value_type = String)]
    path: RelPath,
}

impl From<&ShareView> for ShareFileView {
    /// Leaves out the path and the access of the share.
    fn from(share: &ShareView) -> Self {
        let file = |FolderFile { path, file }: &FolderFile| FolderFileView {
            hash: file.hash,
            name: file.name.clone(),
            size: file.size,
            path: path.clone(),
        };
        let SharedFile { hash, name, size, kind } = share.file.clone();
        let contents = share.contents.as_ref();
        Self {
            hash,
            name,
            size,
            kind,
            path: None,
            files: contents.map(|part| part.files.iter().map(file).collect()),
            count: contents.map(|part| part.total),
            skipped: contents.and(Some(share.skipped)).filter(|skipped| *skipped > 0),
            access: None,
            to: Vec::new(),
        }
    }
}

impl ShareFileView {
    /// Returns the view of a share with its path and its access.
    pub(crate) fn with_access(share: &ShareView) -> Self {
        Self {
            path: Some(share.path.to_string_lossy().into_owned()),
            access: Some(share.access),
            to: share.to.clone(),
            ..Self::from(share)
        }
    }
}

/// A file or folder that a search found.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FoundView {
    #[schema(value_type = String)]
    hash: Hash,
    #[schema(value_type = String)]
    name: FileName,
    /// Size in bytes, as the sources say it.
    size: u64,
    /// `file` or `folder`.
    #[schema(value_type = String)]
    kind: FileKind,
    /// The nodes that share it.
    #[schema(value_type = Vec<String>)]
    sources: Vec<NodeId>,
    /// True if this node shares it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    here: bool,
}

impl FoundView {
    pub(crate) fn new(found: &FoundFile, here: NodeId) -> Self {
        let SharedFile { hash, name, size, kind } = found.file.clone();
        let sources: Vec<NodeId> = found.sources.iter().map(|source| source.id).collect();
        Self { hash, name, size, kind, here: sources.contains(&here), sources }
    }
}

/// The result of a fetch.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FetchedView {
    path: String,
    /// Size of the content in bytes.
    bytes: u64,
    seconds: f64,
    /// The nodes that sent pieces.
    sources: Vec<NodeId>,
    /// The nodes that sent wrong data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<Dropped>,
    /// Entries that have another name here than at their source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    renamed: Vec<RenamedView>,
    /// Number of further entries that have another name.
    #[serde(skip_serializing_if = "is_zero")]
    more_renamed: usize,
    /// Entries that could not be written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<SkippedView>,
    /// Number of further entries that could not be written.
    #[serde(skip_serializing_if = "is_zero")]
    more_left_out: usize,
}

/// An entry that has another name here than at its source.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RenamedView {
    /// The path at the source.
    name: RelPath,
    path: String,
    why: String,
}

impl FetchedView {
    pub(crate) fn new(fetched: &Fetched, changes: &Changes) -> Self {
        let renamed = changes.renamed.iter().map(|renamed| RenamedView {
            name: renamed.name.clone(),
            path: renamed.path.to_string_lossy().into_owned(),
            why: renamed.why.to_string(),
        });
        let left_out = changes
            .left_out
            .iter()
            .map(|left| SkippedView { path: left.path.to_string(), why: left.why.to_string() });
        Self {
            path: fetched.path.to_string_lossy().into_owned(),
            bytes: fetched.bytes,
            seconds: fetched.seconds,
            sources: fetched.sources.clone(),
            dropped: fetched.dropped.clone(),
            renamed: renamed.collect(),
            more_renamed: changes.more_renamed,
            left_out: left_out.collect(),
            more_left_out: changes.more_left_out,
        }
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
