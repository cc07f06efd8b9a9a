//! curl, fetching from our own HTTP server in another process.

use std::fs::File;
use std::net::TcpListener;

use anyhow::{Context, Result};

use crate::external;
use crate::files::Original;
use crate::http::{self, Body};
use crate::process::Child;
use crate::transfer::{Copies, ResourceUsage, TransferPlan, TransferResult};
use crate::workload::Job;

/// Measures a fetch of the file.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<TransferResult> {
    let copies = Copies::of(&TransferPlan::one(job, original), original)?;
    let from = original.path.to_str().context("no path")?;
    let mut server = Child::start(job.args_with_role(&[from]))?;
    let address: String = server.receive().await?;
    let before = server.cpu_seconds();
    let mut command = external::command("curl")?;
    // Ignore the user's curl settings, and use no proxy.
    // `-q` counts only as the first option.
    command.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output"]);
    command.arg(copies.path()?).arg(format!("http://{address}/"));
    let ran = external::run(command).await?;
    let cpu_s = server.cpu_seconds() - before;
    let source = ResourceUsage { cpu_s, peak_bytes: server.peak_bytes() };
    // The server never exits by itself.
    drop(server);
    copies.check().await?;
    Ok(TransferResult::one(ran.elapsed, source, ran.usage))
}

/// Runs the server process.
pub(crate) fn run_child(rest: &[String]) -> Result<()> {
    let path = rest.first().context("no file")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", serde_json::to_string(&listener.local_addr()?.to_string())?);
    http::serve(&listener, |_| Ok(Body::File(File::open(path)?)))
}
