//! Reads data that is already in memory, without waiting for a disk.

use std::fs::File;

/// The way to read a file without waiting for a disk, if the operating system has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachedRead {
    /// True if the file system is in memory, so that no read waits.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    in_memory: bool,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl CachedRead {
    pub(crate) fn of(file: &File) -> Self {
        Self { in_memory: crate::disk::space::is_memory(file) }
    }

    /// Reads into `out` from `offset` on, and returns the number of bytes read. Returns `None` if no byte can
    /// be read without waiting, or if the file ends at `offset`.
    pub(crate) fn read(self, file: &File, out: &mut [u8], offset: u64) -> Option<usize> {
        use rustix::io::{ReadWriteFlags, pread, preadv2};
        let read = if self.in_memory {
            pread(file, out, offset)
        } else {
            let out = &mut [std::io::IoSliceMut::new(out)];
            preadv2(file, out, offset, ReadWriteFlags::NOWAIT)
        };
        read.ok().filter(|read| *read > 0)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl CachedRead {
    pub(crate) fn of(_: &File) -> Self {
        Self { in_memory: false }
    }

    /// Returns `None`, because other systems do not report whether a read would wait.
    pub(crate) fn read(self, _: &File, _: &mut [u8], _: u64) -> Option<usize> {
        None
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_was_just_written_is_read_from_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let cached = CachedRead::of(&file);
        let mut out = [0; 4096];
        // The result is `None` on a file system that does not support this.
        if let Some(read) = cached.read(&file, &mut out, 5_000) {
            assert!(out[..read].iter().all(|byte| *byte == 7));
        }
        assert_eq!(cached.read(&file, &mut out, 10_000), None);
    }
}
