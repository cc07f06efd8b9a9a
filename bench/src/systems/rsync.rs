//! rsync, which fetches from its daemon.

use std::path::Path;

use anyhow::{Context, Result};

use crate::external::{self, ServerProgram, free_port};
use crate::files::Original;
use crate::transfer::{Copies, TransferPlan, TransferResult};
use crate::workload::Job;

/// Measures a fetch of the folder.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<TransferResult> {
    let plan = TransferPlan::one(job, original);
    let copies = Copies::new(&plan, original)?;
    let port = free_port().await?;
    let settings = plan.to.join("rsyncd.conf");
    std::fs::write(&settings, settings_text(&original.path)?)?;
    let mut command = external::command("rsync")?;
    command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
    command.arg(format!("--port={port}")).arg(format!("--config={}", settings.display()));
    let mut server = ServerProgram::start(command, port).await?;
    // Lets the daemon finish the connection that has checked whether it listens.
    server.usage().await;
    server.reset();

    let mut command = external::command("rsync")?;
    // There is no old copy, so a delta would be useless.
    command.args(["--recursive", "--whole-file", "--inplace"]);
    command.arg(format!("rsync://127.0.0.1:{port}/bench/{}", original.name()?));
    command.arg(plan.folder(0));
    let program = external::run(command).await?;
    let source = server.usage().await;
    server.end().await?;
    copies.check().await?;
    Ok(TransferResult::one(program.elapsed, source, program.usage))
}

/// Returns the settings of the daemon. They name the user, because a daemon that root has started would
/// otherwise switch to a user that may not read the files.
fn settings_text(folder: &Path) -> Result<String> {
    let folder = folder.parent().context("the path has no folder")?.display();
    Ok(format!(
        "uid = 0\ngid = 0\nuse chroot = no\nreverse lookup = no\n\n[bench]\npath = {folder}\n"
    ))
}
