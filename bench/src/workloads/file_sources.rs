//! A fetch of a file from one source with a limited upload rate, and from four such sources.

use anyhow::Result;

use crate::files::Original;
use crate::report::{Figure, Measurement};
use crate::transfer::{TransferPlan, TransferResult};
use crate::workload::{Case, CaseOptions, Job};

/// Size of the file in bytes, in a normal and in a short run.
const SIZE: usize = 256 << 20;
const SHORT: usize = 64 << 20;

/// Number of sources in the second fetch.
const SOURCES: usize = 4;

/// Upload limit of each source, in bytes per second.
// This is far less than the 1,500 MB/s that a source can send, so the rate depends only on the limits.
const RATE: u64 = 100_000_000;

/// Returns the only case.
pub(crate) fn cases(options: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(options.size(SIZE, SHORT))]
}

/// Measures a fetch from one source, and then a fetch from four sources.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.folder, job.case.amount as u64).await?;
    let one = fetch(job, &original, 1).await?;
    let four = fetch(job, &original, SOURCES).await?;
    let mb_per_s = |transfer: &TransferResult| original.bytes as f64 / 1e6 / transfer.last_s();
    let figures = vec![
        Figure::info("one_mb_per_s", mb_per_s(&one)),
        Figure::higher("four_mb_per_s", mb_per_s(&four)),
        Figure::higher("four_to_one", one.last_s() / four.last_s()),
        Figure::info("sources", four.sources_each()),
        Figure::lower("sources_cpu_s", four.sources.cpu_s),
        Figure::lower("fetcher_cpu_s", four.fetchers.cpu_s),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

async fn fetch(job: &Job, original: &Original, sources: usize) -> Result<TransferResult> {
    let plan = TransferPlan { sources, upload_rate: RATE, ..TransferPlan::one(job, original) };
    plan.run(job, original).await
}
