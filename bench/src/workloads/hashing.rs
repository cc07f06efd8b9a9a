//! The time to hash a file before it is shared.

use anyhow::{Result, bail, ensure};

use crate::files::{Original, hash_of};
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::systems::b3sum;
use crate::transfer::TransferPlan;
use crate::workload::{Case, CaseOptions, Job};

/// Size of the file in bytes, in a normal and in a short run.
const SIZE: usize = 1 << 30;
const SHORT: usize = 64 << 20;

/// Returns the only case.
pub(crate) fn cases(options: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(options.size(SIZE, SHORT))]
}

/// Measures the hashing, which uses all processors.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.folder, job.case.amount as u64).await?;
    let (elapsed, usage) = match job.system {
        System::Peerkit => {
            let (offer, shared) = TransferPlan::one(job, &original).share(job).await?;
            let expected = hash_of(&original.path)?.to_string();
            ensure!(
                offer.hash == expected,
                "the file was shared as {} instead of {expected}",
                offer.hash
            );
            (shared.elapsed, shared.usage)
        }
        System::B3sum => {
            let program = b3sum::hash(&original).await?;
            (program.elapsed, program.usage)
        }
        _ => bail!("{} is not measured hashing files", job.system.name()),
    };
    let figures = vec![
        Figure::higher("mb_per_s", original.bytes as f64 / 1e6 / elapsed.as_secs_f64()),
        Figure::lower("cpu_s", usage.cpu_s),
        Figure::lower("peak_mb", usage.peak_bytes as f64 / 1e6),
    ];
    Ok(vec![Measurement::new(job, figures)])
}
