//! Hashing on all cores: small files in parallel, and the pieces of a large file in parallel.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use peerkit_proto::files::{PIECE, PieceHasher, PieceList, PieceValue};
use tokio_util::sync::CancellationToken;

use super::HashProgress;
use crate::blocking::cores;
use crate::disk::fingerprint::Fingerprint;
use crate::disk::read_exact_at;
use crate::store::KnownFile;

/// Minimum size of a file whose pieces are hashed on all cores. Each smaller file is hashed by one thread.
const LARGE: u64 = 16 * PIECE;

/// Maximum number of threads.
const MAX_THREADS: usize = 16;

/// A file to hash.
#[derive(Debug)]
pub(super) struct HashJob {
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// A file that was hashed.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) file: KnownFile,
    /// The piece list, if the file has several pieces. The list of a file with one piece follows from its
    /// hash.
    pub(super) list: Option<PieceList>,
}

/// The reason why a file has no hash.
#[derive(Debug)]
pub(super) enum HashFailure {
    Io(io::Error),
    /// It was written to while it was hashed.
    Changing,
    /// Something else, such as a pipe, has replaced it.
    NotAFile,
    Stopped,
}

impl From<io::Error> for HashFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

enum HashReport {
    Bytes(u64),
    File(usize, Result<Hashed, HashFailure>),
}

/// Hashes every file. The results are in the order of the jobs. `done` grows by the bytes that are read.
pub(super) fn hash_all(
    jobs: &[HashJob],
    done: &mut HashProgress,
    progress: &mut dyn FnMut(HashProgress),
    stop: &CancellationToken,
) -> Vec<Result<Hashed, HashFailure>> {
    let mut results: Vec<_> = jobs.iter().map(|_| Err(HashFailure::Stopped)).collect();
    let threads = cores(MAX_THREADS);
    let next = AtomicUsize::new(0);
    let mut collect = |reports: Receiver<HashReport>| {
        for report in reports {
            match report {
                HashReport::Bytes(bytes) => {
                    done.done = done.done.saturating_add(bytes);
                    progress(*done);
                }
                HashReport::File(at, result) => {
                    if let Some(slot) = results.get_mut(at) {
                        *slot = result;
                    }
                }
            }
        }
    };
    // First the small files, each read by one thread: seeks between files cost less than seeks within them.
    thread::scope(|scope| {
        // Bounded, so that a slow `progress` slows the reading down and reports do not pile up in memory.
        let (report, reports) = sync_channel(64);
        for _ in 0..threads {
            let report = report.clone();
            scope.spawn(|| hash_small(jobs, &next, report, stop));
        }
        // The threads hold the other senders, so the reports end with the last thread.
        drop(report);
        collect(reports);
    });
    // Then the large ones, one after the other, each read by all threads.
    for (at, job) in jobs.iter().enumerate().filter(|(_, job)| job.size >= LARGE) {
        thread::scope(|scope| {
            let (report, reports) = sync_channel(64);
            scope.spawn(move || {
                let result = hash_large(&job.path, threads, &report, stop);
                let _ = report.send(HashReport::File(at, result));
            });
            collect(reports);
        });
    }
    results
}

fn hash_small(
    jobs: &[HashJob],
    next: &AtomicUsize,
    report: SyncSender<HashReport>,
    stop: &CancellationToken,
) {
    let mut buffer = Vec::new();
    while let Some((at, job)) = {
        let at = next.fetch_add(1, Ordering::Relaxed);
        jobs.get(at).map(|job| (at, job))
    } {
        if job.size < LARGE {
            let result = hash_whole(&job.path, &mut buffer, &report, stop);
            let _ = report.send(HashReport::File(at, result));
        }
    }
}

fn hash_whole(
    path: &Path,
    buffer: &mut Vec<u8>,
    report: &SyncSender<HashReport>,
    stop: &CancellationToken,
) -> Result<Hashed, HashFailure> {
    let (mut file, before) = open(path)?;
    let piece = usize::try_from(PIECE.min(before.size)).map_err(io::Error::other)?;
    buffer.resize(piece.max(1), 0);
    let mut hasher = PieceHasher::new();
    loop {
        if stop.is_cancelled() {
            return Err(HashFailure::Stopped);
        }
        let read = fill(&mut file, buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        let _ = report.send(HashReport::Bytes(bytes.len() as u64));
    }
    finish(&file, before, hasher.finish())
}

fn hash_large(
    path: &Path,
    threads: usize,
    report: &SyncSender<HashReport>,
    stop: &CancellationToken,
) -> Result<Hashed, HashFailure> {
    let (file, before) = open(path)?;
    let next = AtomicU64::new(0);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| hash_pieces(&file, before.size, &next, report, stop)))
            .collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let mut values: Vec<(u64, PieceValue)> = parts.into_iter().flatten().collect();
    // Each thread has hashed some of the pieces.
    values.sort_unstable_by_key(|(index, _)| *index);
    let values = values.into_iter().map(|(_, value)| value).collect();
    let list = PieceList::from_values(before.size, values).map_err(io::Error::other)?;
    finish(&file, before, list)
}

fn hash_pieces(
    file: &File,
    size: u64,
    next: &AtomicU64,
    report: &SyncSender<HashReport>,
    stop: &CancellationToken,
) -> Result<Vec<(u64, PieceValue)>, HashFailure> {
    use peerkit_proto::files::pieces::{piece_range, piece_value};
    let mut buffer = Vec::new();
    let mut values = Vec::new();
    loop {
        if stop.is_cancelled() {
            return Err(HashFailure::Stopped);
        }
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(range) = piece_range(size, index) else {
            return Ok(values);
        };
        let len = range.end - range.start;
        buffer.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        // A file that has become shorter is being written to.
        read_exact_at(file, &mut buffer, range.start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => HashFailure::Changing,
            _ => HashFailure::Io(error),
        })?;
        values.extend(piece_value(size, index, &buffer).map(|value| (index, value)));
        let _ = report.send(HashReport::Bytes(len));
    }
}

fn open(path: &Path) -> Result<(File, Fingerprint), HashFailure> {
    // Checked before it is opened: opening a pipe would wait for ever.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(HashFailure::NotAFile);
    }
    let file = File::open(path)?;
    let fingerprint = Fingerprint::of(&file.metadata()?);
    Ok((file, fingerprint))
}

fn finish(file: &File, before: Fingerprint, list: PieceList) -> Result<Hashed, HashFailure> {
    let after = Fingerprint::of(&file.metadata()?);
    // A write during the hashing shows in these. The inode can't change: the file is open.
    let looks =
        |fingerprint: Fingerprint| (fingerprint.size, fingerprint.modified, fingerprint.changed);
    if looks(before) != looks(after) || list.size() != before.size {
        return Err(HashFailure::Changing);
    }
    let file = KnownFile { fingerprint: before, hash: list.root() };
    Ok(Hashed { file, list: Some(list).filter(|list| list.count() > 1) })
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
