//! The files to send, and the temporary folder for them.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Folder on Linux whose files are kept in memory.
const MEMORY: &str = "/dev/shm";

/// Bytes that `all` needs there: a source of 1 GiB, the sources of the other workloads, and the
/// copies of twenty fetchers.
const NEEDED: u64 = 6 << 30;

/// Age at which peerkit no longer takes a file for one that is still being written. It waits 2 s; a
/// younger file would be hashed again when it is sent.
const SETTLED: Duration = Duration::from_millis(2500);

/// Bytes per write.
const BLOCK: usize = 1 << 20;

/// Distance between the blocks of data in a sparse file, in bytes.
const MARKS: u64 = 1 << 30;

/// A temporary folder for files. Dropping it removes it.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    /// Creates it in `folder`, or in memory if `folder` is `None` and there is room.
    pub(crate) fn in_memory(folder: Option<&Path>) -> Result<Self> {
        let memory = Path::new(MEMORY);
        let has_room =
            || FreeSpace::of(memory).is_ok_and(|space| space.in_memory && space.free > NEEDED);
        match folder {
            None if has_room() => Self::make(memory),
            folder => Self::on_disk(folder),
        }
    }

    /// Creates it in `folder`, or in the target folder if `folder` is `None`.
    pub(crate) fn on_disk(folder: Option<&Path>) -> Result<Self> {
        // This program is in target/PROFILE.
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(2).context("the program is in no folder")?;
        Self::make(folder.unwrap_or(target))
    }

    fn make(folder: &Path) -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let (process, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let folder =
            folder.canonicalize().with_context(|| format!("cannot open the folder {folder:?}"))?;
        let folder = folder.join(format!("peerkit-bench-{process}-{made}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {folder:?}"))?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Free space of a file system, as `df` reports it.
pub(crate) struct FreeSpace {
    /// Free bytes.
    pub free: u64,
    /// True if files there take memory.
    pub in_memory: bool,
}

impl FreeSpace {
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        // std has no function for the free space.
        let mut df = Command::new("df");
        let output = df.args(["-B1", "--output=fstype,avail"]).arg(folder).output();
        let output = output.context("cannot run `df`")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().nth(1).context("`df` printed no result")?;
        let (kind, free) =
            line.trim().split_once(' ').context("`df` printed no file system type")?;
        Ok(Self { free: free.trim().parse()?, in_memory: kind == "tmpfs" })
    }
}

/// A file or folder to send, unmodified for long enough.
#[derive(Debug, Clone)]
pub(crate) struct Original {
    pub path: PathBuf,
    /// Bytes in all.
    pub bytes: u64,
    /// Number of files: 1, or those in the folder.
    pub files: usize,
}

impl Original {
    /// Returns a file of `bytes` incompressible bytes, writing it if it is missing.
    pub(crate) async fn file(place: &Path, bytes: u64) -> Result<Self> {
        let path = place.join(format!("file-{bytes}"));
        Self::made(path, bytes, 1, move |path| {
            let mut file = BufWriter::with_capacity(BLOCK, File::create_new(path)?);
            let content = RandomBytes::of(bytes);
            std::io::copy(&mut content.take(bytes), &mut file)?;
            Ok(file.flush()?)
        })
        .await
    }

    /// Returns a file of `bytes` zero bytes, except for 1 MiB of data in each GiB.
    pub(crate) async fn sparse(place: &Path, bytes: u64) -> Result<Self> {
        let path = place.join(format!("sparse-{bytes}"));
        Self::made(path, bytes, 1, move |path| {
            let mut file = File::create_new(path)?;
            file.set_len(bytes)?;
            let mut block = vec![0; BLOCK];
            for at in (0..bytes).step_by(MARKS as usize) {
                // Different bytes in each GiB, so that the check finds data in the wrong place.
                RandomBytes::of(at).read_exact(&mut block)?;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&block[..block.len().min((bytes - at) as usize)])?;
            }
            Ok(())
        })
        .await
    }

    /// Returns a folder of `files` files of `bytes` bytes each, a hundred to a subfolder.
    pub(crate) async fn folder(place: &Path, files: usize, bytes: u64) -> Result<Self> {
        let path = place.join(format!("folder-{files}-{bytes}"));
        Self::made(path, files as u64 * bytes, files, move |path| {
            for file in 0..files {
                let folder = path.join(format!("{:03}", file / 100));
                fs::create_dir_all(&folder)?;
                let mut content = RandomBytes::of(file as u64).take(bytes);
                let mut file = File::create_new(folder.join(format!("{file:05}.bin")))?;
                std::io::copy(&mut content, &mut file)?;
            }
            Ok(())
        })
        .await
    }

    async fn made(
        path: PathBuf,
        bytes: u64,
        files: usize,
        write: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let original = Self { path: path.clone(), bytes, files };
        // Rounds and workloads of a run share their files.
        if !path.exists() {
            tokio::task::spawn_blocking(move || {
                write(&path).with_context(|| format!("cannot write {path:?}"))
            })
            .await??;
            tokio::time::sleep(SETTLED).await;
        }
        Ok(original)
    }

    /// Returns its name without the folder.
    pub(crate) fn name(&self) -> Result<&str> {
        self.path.file_name().and_then(|name| name.to_str()).context("the path has no name")
    }

    /// Checks that each of the `copies` equals the original.
    ///
    /// # Errors
    /// Fails if one differs or is missing.
    pub(crate) async fn check(&self, copies: Vec<PathBuf>) -> Result<()> {
        let original = self.clone();
        tokio::task::spawn_blocking(move || original.check_now(&copies)).await?
    }

    fn check_now(&self, copies: &[PathBuf]) -> Result<()> {
        if self.path.is_dir() {
            for copy in copies {
                let files = same_folders(&self.path, copy)?;
                ensure!(
                    files == self.files,
                    "{copy:?} has {files} files instead of {}",
                    self.files
                );
            }
            return Ok(());
        }
        let hash = hash_of(&self.path)?;
        for copy in copies {
            let bytes = fs::metadata(copy).with_context(|| format!("{copy:?} is missing"))?.len();
            ensure!(bytes == self.bytes, "{copy:?} has {bytes} bytes instead of {}", self.bytes);
            ensure!(hash_of(copy)? == hash, "{copy:?} differs from the original");
        }
        Ok(())
    }
}

/// An endless sequence of incompressible bytes.
struct RandomBytes(blake3::OutputReader);

impl RandomBytes {
    /// Starts a sequence, a different one for each `seed`.
    fn of(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }
}

impl Read for RandomBytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Returns the BLAKE3 hash of a file.
pub(crate) fn hash_of(path: &Path) -> Result<blake3::Hash> {
    let mut file = File::open(path).with_context(|| format!("cannot open {path:?}"))?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finalize()),
            read => hasher.update(&block[..read]),
        };
    }
}

/// Compares two folders and returns how many files each has.
///
/// # Errors
/// Fails if they differ.
fn same_folders(one: &Path, other: &Path) -> Result<usize> {
    let names = |folder: &Path| -> Result<Vec<_>> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder:?}"))?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let found = names(one)?;
    ensure!(found == names(other)?, "{other:?} and {one:?} contain different files");
    let mut files = 0;
    for name in found {
        let (one, other) = (one.join(&name), other.join(&name));
        match (one.is_dir(), other.is_dir()) {
            (true, true) => files += same_folders(&one, &other)?,
            (false, false) => {
                ensure!(
                    fs::read(&one)? == fs::read(&other)?,
                    "{other:?} differs from the original"
                );
                files += 1;
            }
            _ => bail!("one of {one:?} and {other:?} is a folder, the other a file"),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_that_differs_is_found() {
        let place = TempFolder::on_disk(Some(&std::env::temp_dir())).unwrap();
        let original = Original::file(place.path(), 3 << 20).await.unwrap();
        let copy = place.path().join("copy");
        fs::copy(&original.path, &copy).unwrap();
        original.check(vec![copy.clone()]).await.unwrap();
        let mut bytes = fs::read(&copy).unwrap();
        bytes[1 << 20] ^= 1;
        fs::write(&copy, &bytes).unwrap();
        assert!(original.check(vec![copy.clone()]).await.is_err());
        fs::write(&copy, &bytes[1..]).unwrap();
        assert!(original.check(vec![copy.clone()]).await.is_err());
        fs::remove_file(&copy).unwrap();
        assert!(original.check(vec![copy]).await.is_err());
    }

    #[tokio::test]
    async fn folders_are_compared_file_by_file() {
        let place = TempFolder::on_disk(Some(&std::env::temp_dir())).unwrap();
        let here = place.path().join("here");
        let there = place.path().join("there");
        fs::create_dir_all(&here).unwrap();
        fs::create_dir_all(&there).unwrap();
        let original = Original::folder(&here, 150, 10).await.unwrap();
        let copy = Original::folder(&there, 150, 10).await.unwrap().path;
        original.check(vec![copy.clone()]).await.unwrap();
        fs::write(copy.join("001/00149.bin"), "another").unwrap();
        assert!(original.check(vec![copy.clone()]).await.is_err());
        fs::remove_file(copy.join("001/00149.bin")).unwrap();
        assert!(original.check(vec![copy]).await.is_err());
    }

    #[test]
    fn df_reports_free_space() {
        let program = std::env::current_exe().unwrap();
        assert!(FreeSpace::of(program.parent().unwrap()).unwrap().free > 0);
    }
}
