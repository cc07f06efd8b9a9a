//! A file larger than memory, from one source to another process's disk: the memory that both ends
//! take. The source is sparse; the copy takes its full size on the disk.

use anyhow::{Result, ensure};

use super::file::figures;
use crate::files::{FreeSpace, Original};
use crate::report::Measurement;
use crate::transfer::TransferPlan;
use crate::workload::{Case, CaseOptions, Job};

/// Bytes of the file.
const SIZE: usize = 64 << 30;
const SHORT: usize = 1 << 30;

/// Bytes that must be free in addition to the copy's.
const SPARE: u64 = 1 << 30;

/// Returns the only case.
pub(crate) fn cases(wanted: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(wanted.size(SIZE, SHORT))]
}

/// Measures one fetch.
///
/// # Errors
/// Fails also if there is no room for the copy.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let (bytes, folder) = (job.case.amount as u64, job.folder.display());
    let space = FreeSpace::of(&job.folder)?;
    ensure!(!space.in_memory, "{folder} is in memory: choose a folder on a disk with --dir");
    let needed = bytes.saturating_add(SPARE);
    ensure!(
        space.free >= needed,
        "{needed} bytes are needed but only {} are free in {folder}: use --dir or --bytes",
        space.free
    );
    let original = Original::sparse(&job.folder, bytes).await?;
    let moved = TransferPlan::one(job, &original).run(job, &original).await?;
    Ok(vec![Measurement::of(job, figures(&moved, bytes))])
}
