//! A file from one source with an upload limit, and from four such sources.

use anyhow::Result;

use crate::files::Original;
use crate::job::{Case, Job, Wanted};
use crate::report::{Figure, Measurement};
use crate::transfer::{Moved, Plan};

/// Bytes of the file.
const SIZE: usize = 256 << 20;
const SHORT: usize = 64 << 20;

/// Number of sources, if there are several.
const SOURCES: usize = 4;

/// Upload limit of each, in bytes a second.
const RATE: u64 = 100_000_000;

/// Returns the only case.
pub(crate) fn cases(wanted: Wanted) -> Vec<Case> {
    vec![Case::bytes(wanted.size(SIZE, SHORT))]
}

/// Runs the transfer from one source, and then from four.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.place, job.case.amount as u64).await?;
    let one = fetch(job, &original, 1).await?;
    let four = fetch(job, &original, SOURCES).await?;
    let mb_per_s = |moved: &Moved| original.bytes as f64 / 1e6 / moved.last_s();
    let figures = vec![
        Figure::told("one_mb_per_s", mb_per_s(&one)),
        Figure::higher("four_mb_per_s", mb_per_s(&four)),
        Figure::higher("four_to_one", one.last_s() / four.last_s()),
        Figure::told("sources", four.sources_each()),
        Figure::lower("sources_cpu_s", four.sources.cpu_s),
        Figure::lower("fetcher_cpu_s", four.fetchers.cpu_s),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

async fn fetch(job: &Job, original: &Original, sources: usize) -> Result<Moved> {
    let plan = Plan { sources, upload_rate: RATE, ..Plan::one(job, original) };
    plan.run(job, original).await
}
