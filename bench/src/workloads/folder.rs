//! A fetch of a folder of small files.

use anyhow::{Result, bail};

use crate::files::Original;
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::systems::rsync;
use crate::transfer::TransferPlan;
use crate::workload::{Case, CaseOptions, Job};

/// Number of files in the folder, in a normal and in a short run.
const FILES: usize = 10_000;
const SHORT: usize = 1_000;

/// Size of each file, in bytes.
const SIZE: u64 = 10 << 10;

/// Returns the only case.
pub(crate) fn cases(options: CaseOptions) -> Vec<Case> {
    vec![Case::count(if options.short { SHORT } else { FILES }, "file")]
}

/// Measures one fetch.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let files = job.case.amount;
    let original = Original::folder(&job.folder, files, SIZE).await?;
    let transfer = match job.system {
        System::Peerkit => TransferPlan::one(job, &original).run(job, &original).await?,
        System::Rsync => rsync::fetch(job, &original).await?,
        _ => bail!("{} is not measured fetching folders", job.system.name()),
    };
    let mut figures = vec![
        Figure::higher("files_per_s", files as f64 / transfer.last_s()),
        Figure::lower("source_cpu_s", transfer.sources.cpu_s),
        Figure::lower("fetcher_cpu_s", transfer.fetchers.cpu_s),
    ];
    let shared = transfer.shared.map(|shared| shared.elapsed.as_secs_f64());
    figures.extend(shared.map(|seconds| Figure::info("share_s", seconds)));
    Ok(vec![Measurement::new(job, figures)])
}
