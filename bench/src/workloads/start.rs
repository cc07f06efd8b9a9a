//! The time from the start of a process until its first message has arrived. The process starts a node,
//! connects, and sends the message.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::link::{Link, Listener};
use crate::messages::MIN_SIZE;
use crate::messages::OnMessage;
use crate::process::{Child, Parent};
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::workload::{Case, Job};

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case { name: "1 message".into(), amount: MIN_SIZE }]
}

/// Measures the time until a new process has sent a message to this one.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let listener = Listener::bind(job.system, OnMessage::Count).await?;
    let started = Instant::now();
    let mut child = Child::start(job.to_args().into_iter().chain([listener.address()]))?;
    let mut link = listener.accept().await?;
    link.receive_all(job.case.amount).await?;
    let elapsed = started.elapsed();
    // After this line the child has nothing more to do, so its memory can be read.
    child.receive::<()>().await?;
    let resident = child.resident_bytes();
    child.end().await?;
    link.close().await;
    let mut figures = vec![
        Figure::lower("start_ms", elapsed.as_secs_f64() * 1e3),
        Figure::lower("resident_mb", resident as f64 / 1e6),
    ];
    if let (System::Peerkit, Some(bytes)) = (job.system, program_bytes()) {
        figures.push(Figure::info("program_mb", bytes as f64 / 1e6));
    }
    Ok(vec![Measurement::new(job, figures)])
}

/// Runs the process that sends.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    let address = rest.first().context("no address")?;
    let mut link = Link::connect(job.system, address, OnMessage::Count).await?;
    // As the duration is zero, only the last message is sent.
    link.send(job.case.amount, Duration::ZERO).await?;
    let mut parent = Parent::new();
    parent.send(&())?;
    parent.wait_for_end().await?;
    link.close().await;
    Ok(())
}

/// Returns the size of the program `peerkit` in bytes, if it is in the same folder as this program.
fn program_bytes() -> Option<u64> {
    let own = std::env::current_exe().ok()?;
    let name = format!("peerkit{}", std::env::consts::EXE_SUFFIX);
    Some(own.with_file_name(name).metadata().ok()?.len())
}
