//! A file that is larger than memory, from one process to another's disk: the memory that both use. The
//! source is sparse. The copy takes its whole size on the disk.

use anyhow::{Result, ensure};

use super::file::figures;
use crate::files::{Original, Room};
use crate::job::{Case, Job, Wanted};
use crate::report::Measurement;
use crate::transfer::Plan;

/// Bytes of the file.
const SIZE: usize = 64 << 30;
const SHORT: usize = 1 << 30;

/// Bytes that have to be free beside the copy.
const SPARE: u64 = 1 << 30;

/// Returns the only case.
pub(crate) fn cases(wanted: Wanted) -> Vec<Case> {
    vec![Case::bytes(wanted.size(SIZE, SHORT))]
}

/// Runs the transfer.
///
/// # Errors
/// If there is no room for the copy.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let (bytes, place) = (job.case.amount as u64, job.place.display());
    let room = Room::of(&job.place)?;
    ensure!(!room.in_memory, "{place} is in memory: say --dir FOLDER, on a disk");
    let needed = bytes.saturating_add(SPARE);
    ensure!(
        room.free >= needed,
        "{needed} bytes are needed and {} free in {place}: say --dir FOLDER, or --bytes",
        room.free
    );
    let original = Original::sparse(&job.place, bytes).await?;
    let moved = Plan::one(job, &original).run(job, &original).await?;
    Ok(vec![Measurement::of(job, figures(&moved, bytes))])
}
