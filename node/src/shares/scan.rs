//! Scans of paths: finds the files there, and hashes those that have changed.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use peerkit_proto::files::{
    Access, FileKind, FileName, MAX_ENTRIES, Manifest, ManifestEntry, ManifestError, NameError,
    PIECE, PieceList, RelPath, SharedFile, folded,
};
use tokio_util::sync::CancellationToken;

use super::hashing::{HashFailure, HashJob, Hashed, hash_all};
use super::index::{Share, ShareFile};
use super::name_list::NameList;
use super::{HashProgress, ShareError, SkipReason, Skipped};
use crate::disk::fingerprint::{Comparison, Fingerprint};
use crate::disk::private::mode_of;
use crate::store::{KnownFile, Store, StoreError};
use crate::transfer::is_part_name;

/// Number of files that are hashed before their hashes are stored. A crash loses at most that many hashes.
const BATCH: usize = 4096;

/// A share, ready to be added.
pub(super) struct Scanned {
    pub(super) share: Share,
    pub(super) skipped: Vec<Skipped>,
}

/// Scans paths, and hashes the files that have changed since the last scan.
pub(super) struct Scanner<'s> {
    pub(super) store: &'s Store,
    pub(super) progress: &'s mut dyn FnMut(HashProgress),
    pub(super) stop: &'s CancellationToken,
}

impl Scanner<'_> {
    /// Scans `path`, which has no links in it. Files that look as they did when they were hashed are not
    /// hashed again. No node may have the share in the result until the caller has set its access.
    pub(super) fn scan(mut self, path: PathBuf) -> Result<Scanned, ShareError> {
        if path.file_name().is_none() {
            return Err(ShareError::Nameless(path));
        }
        let name = FileName::of_path(&path)?;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => return Err(ShareError::Io { path, error }),
        };
        if metadata.is_dir() {
            self.scan_folder(path, name)
        } else if metadata.is_file() {
            self.scan_file(path, name, &metadata)
        } else {
            Err(ShareError::Special(path))
        }
    }

    fn scan_file(
        &mut self,
        path: PathBuf,
        name: FileName,
        metadata: &Metadata,
    ) -> Result<Scanned, ShareError> {
        let found =
            vec![ScannedFile { rel: None, fingerprint: Fingerprint::of(metadata), mode: 0 }];
        let KnownFile { fingerprint, hash } = match self.hash_files(&path, &found)?.pop() {
            Some(Ok(file)) => file,
            Some(Err(HashFailure::Io(error))) => return Err(ShareError::Io { path, error }),
            Some(Err(HashFailure::Changing)) => return Err(ShareError::Changing(path)),
            Some(Err(HashFailure::NotAFile)) => return Err(ShareError::Special(path)),
            Some(Err(HashFailure::Stopped)) | None => return Err(ShareError::Stopped),
        };
        let shared = SharedFile { hash, name, size: fingerprint.size, kind: FileKind::File };
        let items = vec![ShareFile { hash, fingerprint }];
        let (paths, lower) = (NameList::default(), NameList::default());
        let access = Access::Nodes(Vec::new());
        Ok(Scanned {
            share: Share { path, shared, access, manifest: None, items, paths, lower },
            skipped: Vec::new(),
        })
    }

    fn scan_folder(&mut self, path: PathBuf, name: FileName) -> Result<Scanned, ShareError> {
        let mut walk = FolderWalk::new(&path)?;
        // Sorted as in the manifest: the order must not depend on the file system.
        walk.files.sort_unstable_by(|a, b| a.rel.cmp(&b.rel));
        let hashed = self.hash_files(&path, &walk.files)?;
        let mut items = Vec::with_capacity(hashed.len());
        let (mut paths, mut lower) = (NameList::default(), NameList::default());
        for (found, result) in walk.files.into_iter().zip(hashed) {
            let Some(rel) = found.rel else { continue };
            let why = match result {
                Ok(KnownFile { fingerprint, hash }) => {
                    items.push(ShareFile { hash, fingerprint });
                    paths.push(rel.as_str());
                    lower.push(&folded(rel.as_str()));
                    let (size, mode) = (fingerprint.size, found.mode);
                    walk.entries.push(ManifestEntry::File { path: rel, size, hash, mode });
                    continue;
                }
                Err(HashFailure::Io(error)) => SkipReason::Unreadable(error.to_string()),
                Err(HashFailure::Changing) => SkipReason::Changing,
                Err(HashFailure::NotAFile) => SkipReason::Special,
                Err(HashFailure::Stopped) => return Err(ShareError::Stopped),
            };
            walk.skipped.push(Skipped { path: rel.join_to(&path), why });
        }
        // Both lists stay in memory as long as the folder is shared.
        paths.shrink();
        lower.shrink();
        let manifest = Manifest::new(walk.entries)
            .map_err(|error| ShareError::Folder { path: path.clone(), error })?;
        let bytes = Bytes::from(manifest.encode());
        let list = PieceList::of(&bytes);
        let hash = list.root();
        if list.count() > 1 && !self.store.has_piece_list(&hash)? {
            self.store.save_piece_list(&hash, &list)?;
        }
        let shared = SharedFile { hash, name, size: manifest.total(), kind: FileKind::Folder };
        let access = Access::Nodes(Vec::new());
        let share = Share { path, shared, access, manifest: Some(bytes), items, paths, lower };
        Ok(Scanned { share, skipped: walk.skipped })
    }

    /// Hashes the files whose hash is not known. The results are in the order of the files.
    fn hash_files(
        &mut self,
        top: &Path,
        found: &[ScannedFile],
    ) -> Result<Vec<Result<KnownFile, HashFailure>>, ShareError> {
        let total = found.iter().fold(0u64, |sum, file| sum.saturating_add(file.fingerprint.size));
        let mut done = HashProgress { done: 0, total };
        let mut results = Vec::with_capacity(found.len());
        for batch in found.chunks(BATCH) {
            let known = self.known_files(top, batch)?;
            let mut jobs = Vec::new();
            for (file, known) in batch.iter().zip(&known) {
                match known {
                    Some(_) => done.done = done.done.saturating_add(file.fingerprint.size),
                    None => {
                        jobs.push(HashJob { path: file.path(top), size: file.fingerprint.size });
                    }
                }
            }
            (self.progress)(done);
            let hashed = hash_all(&jobs, &mut done, self.progress, self.stop);
            let fresh = jobs.iter().zip(&hashed).filter_map(|(job, result)| {
                let Hashed { file, list } = result.as_ref().ok()?;
                Some((&*job.path, file, list.as_ref()))
            });
            // A commit waits for the disk even if it changes nothing, and most rescans find nothing new.
            if !jobs.is_empty() {
                self.store.save_files(fresh)?;
            }
            // Puts known and new hashes back into the order of the files.
            let mut hashed = hashed.into_iter();
            results.extend(known.into_iter().map(|known| match known {
                Some(file) => Ok(file),
                None => match hashed.next() {
                    Some(result) => result.map(|hashed| hashed.file),
                    None => Err(HashFailure::Stopped),
                },
            }));
        }
        Ok(results)
    }

    /// Returns the known hashes of files that look as they did when they were hashed, and whose piece
    /// lists are there.
    fn known_files(
        &self,
        top: &Path,
        batch: &[ScannedFile],
    ) -> Result<Vec<Option<KnownFile>>, StoreError> {
        let paths: Vec<PathBuf> = batch.iter().map(|file| file.path(top)).collect();
        let mut known = self.store.files(paths.iter().map(PathBuf::as_path))?;
        for (file, slot) in batch.iter().zip(&mut known) {
            let Some(then) = slot else { continue };
            let is_same = then.fingerprint.compare(&file.fingerprint) == Comparison::Same;
            // The piece list may have been pruned: then the file has to be read again.
            let needs_list = file.fingerprint.size > PIECE;
            if !is_same || (needs_list && !self.store.has_piece_list(&then.hash)?) {
                *slot = None;
            }
        }
        Ok(known)
    }
}

/// A file that was found.
struct ScannedFile {
    /// Its path in the scanned folder; `None` if the file itself is scanned.
    rel: Option<RelPath>,
    fingerprint: Fingerprint,
    mode: u32,
}

impl ScannedFile {
    fn path(&self, top: &Path) -> PathBuf {
        match &self.rel {
            None => top.to_owned(),
            Some(rel) => rel.join_to(top),
        }
    }
}

/// The entries of a folder and its subfolders, not hashed yet.
#[derive(Default)]
struct FolderWalk {
    files: Vec<ScannedFile>,
    /// The entries of the manifest: the folders first, the files once they are hashed.
    entries: Vec<ManifestEntry>,
    skipped: Vec<Skipped>,
}

impl FolderWalk {
    fn new(top: &Path) -> Result<Self, ShareError> {
        let mut walk = Self::default();
        // A list instead of recursion, as a deep tree must not overflow the stack.
        let mut open: Vec<(PathBuf, Option<RelPath>)> = vec![(top.to_owned(), None)];
        while let Some((folder, rel)) = open.pop() {
            let inside = match fs::read_dir(&folder) {
                Ok(inside) => inside,
                Err(error) if rel.is_none() => {
                    let path = folder;
                    return Err(ShareError::Io { path, error });
                }
                Err(error) => {
                    walk.skip_unreadable(folder, &error);
                    continue;
                }
            };
            if let Some(path) = &rel {
                let mode = fs::symlink_metadata(&folder).map_or(0o755, |found| mode_of(&found));
                let path = path.clone();
                walk.entries.push(ManifestEntry::Folder { path, mode });
            }
            for entry in inside {
                match entry {
                    Err(error) => walk.skip_unreadable(folder.clone(), &error),
                    Ok(entry) => walk.visit(&entry, rel.as_ref(), &mut open),
                }
            }
            // Checked during the walk, as an endless folder must not fill the memory.
            let count = walk.files.len() + walk.entries.len() + open.len();
            if count > MAX_ENTRIES {
                return Err(ShareError::Folder {
                    path: top.to_owned(),
                    error: ManifestError::TooMany(count),
                });
            }
        }
        Ok(walk)
    }

    /// Adds an entry of `folder`, or the reason why it is skipped. Adds a subfolder to `open`, to be walked later.
    fn visit(
        &mut self,
        entry: &DirEntry,
        folder: Option<&RelPath>,
        open: &mut Vec<(PathBuf, Option<RelPath>)>,
    ) {
        let path = entry.path();
        // Not followed: a link could lead out of the folder.
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => return self.skip_unreadable(path, &error),
        };
        if metadata.is_symlink() {
            return self.skip(path, SkipReason::Symlink);
        }
        let rel = match rel_of(&path, folder) {
            Ok(rel) => rel,
            Err(error) => return self.skip(path, SkipReason::Name(error.fault)),
        };
        if is_part_name(rel.name().as_str()) {
            self.skip(path, SkipReason::Unfinished);
        } else if metadata.is_dir() {
            open.push((path, Some(rel)));
        } else if metadata.is_file() {
            let (fingerprint, mode) = (Fingerprint::of(&metadata), mode_of(&metadata));
            self.files.push(ScannedFile { rel: Some(rel), fingerprint, mode });
        } else {
            self.skip(path, SkipReason::Special);
        }
    }

    fn skip_unreadable(&mut self, path: PathBuf, error: &io::Error) {
        self.skip(path, SkipReason::Unreadable(error.to_string()));
    }

    fn skip(&mut self, path: PathBuf, why: SkipReason) {
        self.skipped.push(Skipped { path, why });
    }
}

fn rel_of(path: &Path, folder: Option<&RelPath>) -> Result<RelPath, NameError> {
    let name = FileName::of_path(path)?;
    match folder {
        None => Ok(name.into()),
        Some(folder) => folder.child(&name),
    }
}
