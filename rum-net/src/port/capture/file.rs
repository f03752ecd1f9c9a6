//! The file of a capture, which no two captures share.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Names tried for one process.
const MAX_FILES: u32 = 10_000;

/// Creates or empties `path`, or, while another capture writes that, the same with this process's id and a number in it:
/// `a.pcapng`, `a.1234.1.pcapng`. Returns the file, locked as long as it is open, and its path.
pub fn create(path: &Path) -> io::Result<(Flock<File>, PathBuf)> {
    let pid = std::process::id();
    for number in 0..MAX_FILES {
        let path = if number == 0 { path.to_owned() } else { numbered(path, pid, number) };
        if let Some(file) = try_create(&path)? {
            return Ok((file, path));
        }
    }
    Err(io::Error::other("too many captures at once"))
}

/// `None` when another capture writes the file.
fn try_create(path: &Path) -> io::Result<Option<Flock<File>>> {
    // Not emptied before it is ours.
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => {
            // A pipe or a device has no length.
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            Ok(Some(file))
        }
        Err((file, Errno::EWOULDBLOCK)) if file.metadata()?.is_file() => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn numbered(path: &Path, pid: u32, number: u32) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}.{pid}.{number}{extension}"))
}
