//! b3sum, with all threads.

use anyhow::{Result, ensure};

use crate::files::{Original, hash_of};
use crate::programs::{self, Ran};

/// Hashes the file.
pub(crate) async fn hash(original: &Original) -> Result<Ran> {
    let mut command = programs::command("b3sum")?;
    command.arg("--no-names").arg(&original.path);
    let ran = programs::run(command).await?;
    let wanted = hash_of(&original.path)?.to_string();
    ensure!(ran.output.trim() == wanted, "b3sum says {:?} and not {wanted}", ran.output);
    Ok(ran)
}
