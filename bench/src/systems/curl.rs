//! curl, which fetches from the HTTP server of this bench in another process.

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
    let copies = Copies::new(&TransferPlan::one(job, original), original)?;
    let from = original.path.to_str().context("the path is not UTF-8")?;
    let mut server = Child::start(job.args_with_role(&[from]))?;
    let address: String = server.receive().await?;
    let before = server.cpu_seconds();
    let mut command = external::command("curl")?;
    // `-q` makes curl ignore the user's settings. It must be the first option. No proxy is used.
    command.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output"]);
    command.arg(copies.path()?).arg(format!("http://{address}/"));
    let program = external::run(command).await?;
    let cpu_s = server.cpu_seconds() - before;
    let source = ResourceUsage { cpu_s, peak_bytes: server.peak_bytes() };
    // The server does not exit by itself, so it is killed.
    drop(server);
    copies.check().await?;
    Ok(TransferResult::one(program.elapsed, source, program.usage))
}

/// Runs the server process.
pub(crate) fn run_child(rest: &[String]) -> Result<()> {
    let path = rest.first().context("no file")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", serde_json::to_string(&listener.local_addr()?.to_string())?);
    http::serve(&listener, |_| Ok(Body::File(File::open(path)?)))
}
