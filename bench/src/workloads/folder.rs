//! A folder of small files.

use anyhow::{Result, bail};

use crate::files::Original;
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::systems::rsync;
use crate::transfer::TransferPlan;
use crate::workload::{Case, CaseOptions, Job};

/// Files in the folder.
const FILES: usize = 10_000;
const SHORT: usize = 1_000;

/// Bytes of each.
const SIZE: u64 = 10 << 10;

/// Returns the only case.
pub(crate) fn cases(wanted: CaseOptions) -> Vec<Case> {
    vec![Case::count(if wanted.short { SHORT } else { FILES }, "file")]
}

/// Measures one fetch.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let files = job.case.amount;
    let original = Original::folder(&job.folder, files, SIZE).await?;
    let moved = match job.system {
        System::Peerkit => TransferPlan::one(job, &original).run(job, &original).await?,
        System::Rsync => rsync::fetch(job, &original).await?,
        _ => bail!("{} is not measured fetching folders", job.system.name()),
    };
    let mut figures = vec![
        Figure::higher("files_per_s", files as f64 / moved.last_s()),
        Figure::lower("source_cpu_s", moved.sources.cpu_s),
        Figure::lower("fetcher_cpu_s", moved.fetchers.cpu_s),
    ];
    let shared = moved.shared.map(|shared| shared.elapsed.as_secs_f64());
    figures.extend(shared.map(|seconds| Figure::info("share_s", seconds)));
    Ok(vec![Measurement::of(job, figures)])
}
