//! rsync, fetching from a daemon.

use std::path::Path;

use anyhow::{Context, Result};

use crate::external::{self, ServerProgram, free_port};
use crate::files::Original;
use crate::transfer::{Copies, TransferPlan, TransferResult};
use crate::workload::Job;

/// Measures a fetch of the folder.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<TransferResult> {
    let plan = TransferPlan::one(job, original);
    let copies = Copies::of(&plan, original)?;
    let port = free_port().await?;
    let settings = plan.to.join("rsyncd.conf");
    std::fs::write(&settings, describe(&original.path)?)?;
    let mut command = external::command("rsync")?;
    command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
    command.arg(format!("--port={port}")).arg(format!("--config={}", settings.display()));
    let mut server = ServerProgram::start(command, port).await?;
    // Let the daemon finish the connection that checked whether it listens.
    server.usage().await;
    server.reset();

    let mut command = external::command("rsync")?;
    // There is no old copy that a delta could refer to.
    command.args(["--recursive", "--whole-file", "--inplace"]);
    command.arg(format!("rsync://127.0.0.1:{port}/bench/{}", original.name()?));
    command.arg(plan.folder(0));
    let ran = external::run(command).await?;
    let source = server.usage().await;
    server.end().await?;
    copies.check().await?;
    Ok(TransferResult::one(ran.elapsed, source, ran.usage))
}

/// Returns the daemon's settings. They set the user: started by root, the daemon would otherwise
/// drop to one that may not read the files.
fn describe(folder: &Path) -> Result<String> {
    let folder = folder.parent().context("no folder")?.display();
    Ok(format!(
        "uid = 0\ngid = 0\nuse chroot = no\nreverse lookup = no\n\n[bench]\npath = {folder}\n"
    ))
}
