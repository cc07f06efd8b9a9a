//! b3sum, with all threads.

use anyhow::{Result, ensure};

use crate::external::{self, ProgramResult};
use crate::files::{Original, hash_of};

/// Measures hashing of the file and checks the hash.
pub(crate) async fn hash(original: &Original) -> Result<ProgramResult> {
    let mut command = external::command("b3sum")?;
    command.arg("--no-names").arg(&original.path);
    let ran = external::run(command).await?;
    let wanted = hash_of(&original.path)?.to_string();
    ensure!(ran.output.trim() == wanted, "b3sum printed {:?} instead of {wanted}", ran.output);
    Ok(ran)
}
