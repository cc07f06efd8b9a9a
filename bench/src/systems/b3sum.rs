//! The program b3sum, which hashes a file with all processor threads.

use anyhow::{Result, ensure};

use crate::external::{self, ProgramResult};
use crate::files::{Original, hash_of};

/// Measures how long b3sum takes to hash the file, and checks the hash that it prints.
pub(crate) async fn hash(original: &Original) -> Result<ProgramResult> {
    let mut command = external::command("b3sum")?;
    command.arg("--no-names").arg(&original.path);
    let result = external::run(command).await?;
    let expected = hash_of(&original.path)?.to_string();
    ensure!(
        result.output.trim() == expected,
        "b3sum printed {:?} instead of {expected}",
        result.output
    );
    Ok(result)
}
