//! A fetch of a file from one source to the disk of another process.

use anyhow::{Result, bail};

use crate::files::Original;
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::systems::{aria2, curl};
use crate::transfer::{TransferPlan, TransferResult};
use crate::workload::{Case, CaseOptions, Job};

/// Size of the file in bytes, in a normal and in a short run.
const SIZE: usize = 1 << 30;
const SHORT: usize = 64 << 20;

/// Returns the only case.
pub(crate) fn cases(options: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(options.size(SIZE, SHORT))]
}

/// Measures one fetch.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.folder, job.case.amount as u64).await?;
    let transfer = match job.system {
        System::RawTls | System::Peerkit => {
            TransferPlan::one(job, &original).run(job, &original).await?
        }
        #[cfg(feature = "systems")]
        System::IrohBlobs => TransferPlan::one(job, &original).run(job, &original).await?,
        System::Curl => curl::fetch(job, &original).await?,
        System::Aria2 => aria2::fetch(job, &original).await?,
        _ => bail!("{} is not measured fetching files", job.system.name()),
    };
    Ok(vec![Measurement::new(job, figures(&transfer, original.bytes))])
}

/// Returns the figures of one fetch of `bytes` bytes.
pub(super) fn figures(transfer: &TransferResult, bytes: u64) -> Vec<Figure> {
    let mut figures = vec![
        Figure::higher("mb_per_s", bytes as f64 / 1e6 / transfer.last_s()),
        Figure::lower("source_cpu_s", transfer.sources.cpu_s),
        Figure::lower("fetcher_cpu_s", transfer.fetchers.cpu_s),
        Figure::lower("source_peak_mb", transfer.sources.peak_bytes as f64 / 1e6),
        Figure::lower("fetcher_peak_mb", transfer.fetchers.peak_bytes as f64 / 1e6),
    ];
    let shared = transfer.shared.map(|shared| shared.elapsed.as_secs_f64());
    figures.extend(shared.map(|seconds| Figure::info("share_s", seconds)));
    figures
}
