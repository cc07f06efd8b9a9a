//! Fetches of a file from one source with a limited upload rate: by one fetcher, and by twenty fetchers at
//! the same time, which can also fetch from each other.

use anyhow::Result;

use crate::files::Original;
use crate::report::{Figure, Measurement};
use crate::transfer::{TransferPlan, TransferResult};
use crate::workload::{Case, CaseOptions, Job};

/// Size of the file in bytes, in a normal and in a short run.
const SIZE: usize = 128 << 20;
const SHORT: usize = 32 << 20;

/// Number of fetchers of the swarm.
const FETCHERS: usize = 20;

/// Upload limit of the source, in bytes per second.
// This is so low that only the limit counts. If the source sent a copy to each fetcher, that would take
// twenty times as long as one copy.
const RATE: u64 = 50_000_000;

/// Returns the only case.
pub(crate) fn cases(options: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(options.size(SIZE, SHORT))]
}

/// Measures a fetch by one fetcher, and then the fetches by twenty fetchers.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.folder, job.case.amount as u64).await?;
    let alone = fetch(job, &original, 1).await?;
    let all = fetch(job, &original, FETCHERS).await?;
    // The upper bound of the number of copies that the source can have sent in this time.
    let at_most = all.last_s() * RATE as f64 / original.bytes as f64;
    let figures = vec![
        Figure::info("alone_s", alone.last_s()),
        Figure::lower("last_s", all.last_s()),
        Figure::lower("last_to_alone", all.last_s() / alone.last_s()),
        Figure::info("sources_each", all.sources_each()),
        Figure::info("copies_sent_at_most", at_most),
        Figure::lower("source_cpu_s", all.sources.cpu_s),
        Figure::lower("fetchers_cpu_s", all.fetchers.cpu_s),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

async fn fetch(job: &Job, original: &Original, fetchers: usize) -> Result<TransferResult> {
    let plan = TransferPlan { fetchers, upload_rate: RATE, ..TransferPlan::one(job, original) };
    plan.run(job, original).await
}
