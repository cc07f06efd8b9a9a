//! rsync, from a daemon.

use std::path::Path;

use anyhow::{Context, Result};

use crate::files::Original;
use crate::job::Job;
use crate::programs::{self, Server, free_port};
use crate::transfer::{Copies, Moved, Plan};

/// Fetches the folder.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<Moved> {
    let plan = Plan::one(job, original);
    let copies = Copies::of(&plan, original)?;
    let port = free_port().await?;
    let settings = plan.to.join("rsyncd.conf");
    std::fs::write(&settings, describe(&original.path)?)?;
    let mut command = programs::command("rsync")?;
    command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
    command.arg(format!("--port={port}")).arg(format!("--config={}", settings.display()));
    let mut server = Server::start(command, port).await?;
    // The connection that checked whether the daemon listens is closed by now.
    server.usage().await;
    server.reset();

    let mut command = programs::command("rsync")?;
    command.args(["--recursive", "--whole-file", "--inplace"]);
    command.arg(format!("rsync://127.0.0.1:{port}/bench/{}", original.name()?));
    command.arg(plan.folder(0));
    let ran = programs::run(command).await?;
    let source = server.usage().await;
    server.end().await?;
    copies.check().await?;
    Ok(Moved::one(ran.elapsed, source, ran.usage))
}

/// Returns the daemon's configuration. It names the user, as a daemon of the system's administrator
/// would not read files as that one by default.
fn describe(folder: &Path) -> Result<String> {
    let folder = folder.parent().context("no folder")?.display();
    Ok(format!(
        "uid = 0\ngid = 0\nuse chroot = no\nreverse lookup = no\n\n[bench]\npath = {folder}\n"
    ))
}
