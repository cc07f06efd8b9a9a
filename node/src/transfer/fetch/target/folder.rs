//! Folders on the disk: the one that is being fetched, and those that were created for a target.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use peerkit_proto::files::{ManifestEntry, PiecePosition, RelPath};

use super::super::error::FetchError;
use super::super::fetch_request::FetchDestination;
use super::disk;
use crate::disk::folder::OpenFolder;
use crate::disk::write_all_at;
use crate::lock::lock;
use crate::transfer::folder_plan::FolderPlan;

/// Maximum number of files with several pieces that are kept open.
const MAX_OPEN: usize = 8;

/// A folder that is being fetched, or was found complete.
#[derive(Debug)]
pub(super) struct Folder {
    /// The folder that its entries are in.
    pub(super) files: OpenFolder,
    pub(super) plan: FolderPlan,
    /// The files with several pieces that are being written. The one that was used last is at the end.
    open: Mutex<Vec<(usize, Arc<File>)>>,
    /// The files with several pieces that this fetch has created. If a file exists that the fetch has not
    /// created, the file belongs to another entry: the disk takes their names, such as `A` and `a`, for the
    /// same.
    created: Mutex<HashSet<usize>>,
}

impl Folder {
    /// Returns the folder whose entries are at `path`.
    pub(super) fn new(path: PathBuf, plan: FolderPlan) -> Self {
        let files = OpenFolder::new(path);
        Self { files, plan, open: Mutex::default(), created: Mutex::default() }
    }

    /// Creates the folders in it that are missing.
    pub(super) fn create_folders(&self) -> Result<(), FetchError> {
        let entries = self.plan.entries();
        let folders = entries.filter(|(entry, _)| matches!(entry, ManifestEntry::Folder { .. }));
        for (_, path) in folders {
            let path = path.join_to(self.files.path());
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(disk(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a piece of a file that has `size` bytes.
    pub(super) fn write(
        &self,
        position: &PiecePosition,
        size: u64,
        bytes: &[u8],
    ) -> Result<(), FetchError> {
        let (path, mode) = self.plan.file(position.file).ok_or(FetchError::Unfinished)?;
        // Most files of a folder have one piece. They are closed after the write, so that the open files are
        // those with several pieces.
        let written = if size == position.len() {
            let file = self.files.create(path, mode);
            file.and_then(|file| write_all_at(&file, bytes, 0))
        } else {
            let file = self.open_large(position.file, path, mode, size);
            file.and_then(|file| write_all_at(&file, bytes, position.range.start))
        };
        written.map_err(|error| disk(&path.join_to(self.files.path()))(error))
    }

    /// Notes that this fetch has created a file, or has found one that it can continue.
    pub(super) fn note_created(&self, file: usize) {
        lock(&self.created).insert(file);
    }

    /// Opens a file of several pieces, and creates it if this fetch has not done so.
    fn open_large(
        &self,
        file: usize,
        path: &RelPath,
        mode: u32,
        size: u64,
    ) -> io::Result<Arc<File>> {
        // Held until the file is open, so that two pieces of one file do not both create it.
        let mut open = lock(&self.open);
        if let Some(at) = open.iter().position(|(known, _)| *known == file) {
            let found = open.remove(at);
            open.push(found.clone());
            return Ok(found.1);
        }
        let opened = match lock(&self.created).contains(&file) {
            true => fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path.join_to(self.files.path()))?,
            false => {
                let made = self.files.create(path, mode)?;
                made.set_len(size)?;
                made
            }
        };
        self.note_created(file);
        let opened = Arc::new(opened);
        if open.len() >= MAX_OPEN {
            open.remove(0);
        }
        open.push((file, Arc::clone(&opened)));
        Ok(opened)
    }
}

/// Folders that were created for a target. When this is dropped, those that are empty are removed.
#[derive(Debug)]
pub(super) struct CreatedFolders(Vec<PathBuf>);

impl CreatedFolders {
    /// Notes the folders that a fetch to `to` will create: its folder and the folders above it, as far as they
    /// are missing.
    pub(super) fn before(to: &FetchDestination) -> Self {
        let FetchDestination::Folder(folder) = to else { return Self(Vec::new()) };
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        Self(folder.ancestors().take_while(is_missing).map(Path::to_owned).collect())
    }
}

impl Drop for CreatedFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Usually it is not empty, and then the folders above it are not empty either.
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}
