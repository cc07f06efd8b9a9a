//! A fetch of a file that is larger than memory, from one source to the disk of another process. Measures the
//! memory of both ends. The source's file is sparse, but the copy takes its full size on the disk.

use anyhow::{Result, ensure};

use super::file::figures;
use crate::files::{FreeSpace, Original};
use crate::report::Measurement;
use crate::transfer::TransferPlan;
use crate::workload::{Case, CaseOptions, Job};

/// Size of the file in bytes, in a normal and in a short run.
const SIZE: usize = 64 << 30;
const SHORT: usize = 1 << 30;

/// Number of bytes that must be free in addition to the size of the copy.
const SPARE: u64 = 1 << 30;

/// Returns the only case.
pub(crate) fn cases(options: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(options.size(SIZE, SHORT))]
}

/// Measures one fetch.
///
/// # Errors
/// Also fails if there is no room for the copy.
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
    let transfer = TransferPlan::one(job, &original).run(job, &original).await?;
    Ok(vec![Measurement::new(job, figures(&transfer, bytes))])
}
