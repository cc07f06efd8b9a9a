//! curl, from an HTTP server of this bench in another process.

use std::fs::File;
use std::net::TcpListener;

use anyhow::{Context, Result};

use crate::files::Original;
use crate::http::{self, Body};
use crate::job::Job;
use crate::process::Child;
use crate::programs;
use crate::transfer::{Copies, Moved, Plan, Usage};

/// Fetches the file.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<Moved> {
    let copies = Copies::of(&Plan::one(job, original), original)?;
    let from = original.path.to_str().context("no path")?;
    let mut server = Child::start(job.role(&[from]))?;
    let address: String = server.receive().await?;
    let before = server.cpu_seconds();
    let mut command = programs::command("curl")?;
    // Without the user's settings, and without a proxy.
    command.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output"]);
    command.arg(copies.path()?).arg(format!("http://{address}/"));
    let ran = programs::run(command).await?;
    let cpu_s = server.cpu_seconds() - before;
    let source = Usage { cpu_s, peak_bytes: server.peak_bytes() };
    // The server never ends by itself.
    drop(server);
    copies.check().await?;
    Ok(Moved::one(ran.elapsed, source, ran.usage))
}

/// The server.
pub(crate) fn play(rest: &[String]) -> Result<()> {
    let path = rest.first().context("no file")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", serde_json::to_string(&listener.local_addr()?.to_string())?);
    http::serve(&listener, |_| Ok(Body::File(File::open(path)?)))
}
