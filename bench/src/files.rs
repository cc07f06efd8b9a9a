//! The files that are sent, and the temporary folder for them.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The folder on Linux whose files are kept in memory.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Number of bytes that `all` needs in [`MEMORY_FOLDER`]: for a source of 1 GiB, the sources of the other
/// workloads, and the copies of twenty fetchers.
const NEEDED_IN_MEMORY: u64 = 6 << 30;

/// Age at which peerkit is sure that a file is no longer being written. peerkit's own limit is 2 s. It hashes
/// a younger file again when it sends the file.
const SETTLED_AGE: Duration = Duration::from_millis(2500);

/// Number of bytes of each write.
const BLOCK: usize = 1 << 20;

/// Distance between the blocks of data in a sparse file, in bytes.
const DATA_DISTANCE: u64 = 1 << 30;

/// A temporary folder for files. Dropping this value removes the folder.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    /// Creates a temporary folder in `folder`. If `folder` is `None`, creates it in memory if there is enough
    /// room, and otherwise in the target folder.
    pub(crate) fn in_memory(folder: Option<&Path>) -> Result<Self> {
        let memory = Path::new(MEMORY_FOLDER);
        let has_room = || {
            FreeSpace::of(memory)
                .is_ok_and(|space| space.in_memory && space.free > NEEDED_IN_MEMORY)
        };
        match folder {
            None if has_room() => Self::create_in(memory),
            folder => Self::on_disk(folder),
        }
    }

    /// Creates a temporary folder in `folder`, or in the target folder if `folder` is `None`.
    pub(crate) fn on_disk(folder: Option<&Path>) -> Result<Self> {
        // This program is in target/PROFILE.
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(2).context("the program has no target folder")?;
        Self::create_in(folder.unwrap_or(target))
    }

    fn create_in(folder: &Path) -> Result<Self> {
        static CREATED: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), CREATED.fetch_add(1, Ordering::Relaxed));
        let folder =
            folder.canonicalize().with_context(|| format!("cannot open the folder {folder:?}"))?;
        let folder = folder.join(format!("peerkit-bench-{process}-{number}"));
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

/// The free space of a file system, as `df` reports it.
pub(crate) struct FreeSpace {
    /// Number of free bytes.
    pub free: u64,
    /// True if the files of this file system are in memory.
    pub in_memory: bool,
}

impl FreeSpace {
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        // The standard library has no function for this.
        let mut df = Command::new("df");
        let output = df.args(["-B1", "--output=fstype,avail"]).arg(folder).output();
        let output = output.context("cannot run `df`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().nth(1).context("`df` printed no result")?;
        let (kind, free) =
            line.trim().split_once(' ').context("`df` printed no file system type")?;
        Ok(Self { free: free.trim().parse()?, in_memory: kind == "tmpfs" })
    }
}

/// A file or folder to send. It has not been changed for [`SETTLED_AGE`].
#[derive(Debug, Clone)]
pub(crate) struct Original {
    pub path: PathBuf,
    /// Size of all files together, in bytes.
    pub bytes: u64,
    /// Number of files: 1, or the number of files in the folder.
    pub files: usize,
}

impl Original {
    /// Returns a file of `bytes` incompressible bytes. Writes the file if it is missing.
    pub(crate) async fn file(folder: &Path, bytes: u64) -> Result<Self> {
        let path = folder.join(format!("file-{bytes}"));
        Self::write_once(path, bytes, 1, move |path| {
            let mut file = BufWriter::with_capacity(BLOCK, File::create_new(path)?);
            let content = RandomBytes::with_seed(bytes);
            std::io::copy(&mut content.take(bytes), &mut file)?;
            Ok(file.flush()?)
        })
        .await
    }

    /// Returns a sparse file of `bytes` bytes. All bytes are zero, except for 1 MiB of data in each GiB.
    pub(crate) async fn sparse(folder: &Path, bytes: u64) -> Result<Self> {
        let path = folder.join(format!("sparse-{bytes}"));
        Self::write_once(path, bytes, 1, move |path| {
            let mut file = File::create_new(path)?;
            file.set_len(bytes)?;
            let mut block = vec![0; BLOCK];
            for at in (0..bytes).step_by(DATA_DISTANCE as usize) {
                // Each GiB has different bytes, so that the check finds data at a wrong position.
                RandomBytes::with_seed(at).read_exact(&mut block)?;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&block[..block.len().min((bytes - at) as usize)])?;
            }
            Ok(())
        })
        .await
    }

    /// Returns a folder of `files` files of `bytes` bytes each. Each subfolder has a hundred files.
    pub(crate) async fn folder(folder: &Path, files: usize, bytes: u64) -> Result<Self> {
        let path = folder.join(format!("folder-{files}-{bytes}"));
        Self::write_once(path, files as u64 * bytes, files, move |path| {
            for file in 0..files {
                let folder = path.join(format!("{:03}", file / 100));
                fs::create_dir_all(&folder)?;
                let mut content = RandomBytes::with_seed(file as u64).take(bytes);
                let mut file = File::create_new(folder.join(format!("{file:05}.bin")))?;
                std::io::copy(&mut content, &mut file)?;
            }
            Ok(())
        })
        .await
    }

    /// Returns the file or folder at `path`. If it is missing, writes it and waits until it is old enough.
    async fn write_once(
        path: PathBuf,
        bytes: u64,
        files: usize,
        write: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let original = Self { path: path.clone(), bytes, files };
        // All rounds and workloads of a run share their files.
        if !path.exists() {
            tokio::task::spawn_blocking(move || {
                write(&path).with_context(|| format!("cannot write {path:?}"))
            })
            .await??;
            tokio::time::sleep(SETTLED_AGE).await;
        }
        Ok(original)
    }

    /// Returns the name, without the folder.
    pub(crate) fn name(&self) -> Result<&str> {
        self.path.file_name().and_then(|name| name.to_str()).context("the path has no name")
    }

    /// Checks that each of the `copies` equals the original.
    ///
    /// # Errors
    /// Fails if a copy differs or is missing.
    pub(crate) async fn check(&self, copies: Vec<PathBuf>) -> Result<()> {
        let original = self.clone();
        tokio::task::spawn_blocking(move || original.check_now(&copies)).await?
    }

    fn check_now(&self, copies: &[PathBuf]) -> Result<()> {
        if self.path.is_dir() {
            for copy in copies {
                let files = compare_folders(&self.path, copy)?;
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
    /// Starts a sequence. It differs for each `seed`.
    fn with_seed(seed: u64) -> Self {
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

/// Compares two folders. Returns the number of files in each of them.
///
/// # Errors
/// Fails if the folders differ.
fn compare_folders(one: &Path, other: &Path) -> Result<usize> {
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
            (true, true) => files += compare_folders(&one, &other)?,
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
        let folder = TempFolder::on_disk(Some(&std::env::temp_dir())).unwrap();
        let original = Original::file(folder.path(), 3 << 20).await.unwrap();
        let copy = folder.path().join("copy");
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
        let folder = TempFolder::on_disk(Some(&std::env::temp_dir())).unwrap();
        let first = folder.path().join("first");
        let second = folder.path().join("second");
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        let original = Original::folder(&first, 150, 10).await.unwrap();
        let copy = Original::folder(&second, 150, 10).await.unwrap().path;
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
