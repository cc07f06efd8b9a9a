//! A file from one source to another process's disk.

use anyhow::{Result, bail};

use crate::files::Original;
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::systems::{aria2, curl};
use crate::transfer::{TransferPlan, TransferResult};
use crate::workload::{Case, CaseOptions, Job};

/// Bytes of the file.
const SIZE: usize = 1 << 30;
const SHORT: usize = 64 << 20;

/// Returns the only case.
pub(crate) fn cases(wanted: CaseOptions) -> Vec<Case> {
    vec![Case::bytes(wanted.size(SIZE, SHORT))]
}

/// Measures one fetch.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let original = Original::file(&job.folder, job.case.amount as u64).await?;
    let moved = match job.system {
        System::RawTls | System::Peerkit => {
            TransferPlan::one(job, &original).run(job, &original).await?
        }
        #[cfg(feature = "systems")]
        System::IrohBlobs => TransferPlan::one(job, &original).run(job, &original).await?,
        System::Curl => curl::fetch(job, &original).await?,
        System::Aria2 => aria2::fetch(job, &original).await?,
        _ => bail!("{} is not measured fetching files", job.system.name()),
    };
    Ok(vec![Measurement::of(job, figures(&moved, original.bytes))])
}

/// Returns the figures of one fetch of `bytes` bytes.
pub(super) fn figures(moved: &TransferResult, bytes: u64) -> Vec<Figure> {
    let mut figures = vec![
        Figure::higher("mb_per_s", bytes as f64 / 1e6 / moved.last_s()),
        Figure::lower("source_cpu_s", moved.sources.cpu_s),
        Figure::lower("fetcher_cpu_s", moved.fetchers.cpu_s),
        Figure::lower("source_peak_mb", moved.sources.peak_bytes as f64 / 1e6),
        Figure::lower("fetcher_peak_mb", moved.fetchers.peak_bytes as f64 / 1e6),
    ];
    let shared = moved.shared.map(|shared| shared.elapsed.as_secs_f64());
    figures.extend(shared.map(|seconds| Figure::info("share_s", seconds)));
    figures
}
