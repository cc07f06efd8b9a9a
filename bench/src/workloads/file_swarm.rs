//! A file from one source with an upload limit, to one receiver, and to twenty at once that can fetch
//! it from each other.

use anyhow::Result;

use crate::files::Original;
use crate::job::{Case, Job, Wanted};
use crate::report::{Figure, Measurement};
use crate::transfer::{Moved, Plan};

/// Bytes of the file.
const SIZE: usize = 128 << 20;
const SHORT: usize = 32 << 20;

/// Number of receivers.
const FETCHERS: usize = 20;

/// Upload limit of the source, in bytes a second.
const RATE: u64 = 50_000_000;

/// Returns the only case.
pub(crate) fn cases(wanted: Wanted) -> Vec<Case> {
    vec![Case::bytes(wanted.size(SIZE, SHORT))]
}

/// Runs the transfer to one receiver, and then to twenty.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.place, job.case.amount as u64).await?;
    let alone = fetch(job, &original, 1).await?;
    let all = fetch(job, &original, FETCHERS).await?;
    // The source can't have sent more than this meanwhile.
    let at_most = all.last_s() * RATE as f64 / original.bytes as f64;
    let figures = vec![
        Figure::told("alone_s", alone.last_s()),
        Figure::lower("last_s", all.last_s()),
        Figure::lower("last_to_alone", all.last_s() / alone.last_s()),
        Figure::told("sources_each", all.sources_each()),
        Figure::told("copies_sent_at_most", at_most),
        Figure::lower("source_cpu_s", all.sources.cpu_s),
        Figure::lower("fetchers_cpu_s", all.fetchers.cpu_s),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

async fn fetch(job: &Job, original: &Original, fetchers: usize) -> Result<Moved> {
    let plan = Plan { fetchers, upload_rate: RATE, ..Plan::one(job, original) };
    plan.run(job, original).await
}
