//! A private folder for sockets and data, removed when its owner ends, or, if that was killed, by the next one.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

const PREFIX: &str = "rum-grid-";
/// Held by the owner for as long as it lives: the kernel lets go of it even when the owner is killed.
const LOCK: &str = "lock";
/// A folder younger than this may just be being made.
const AGE_OF_LEFTOVERS: Duration = Duration::from_secs(60);
/// A Unix socket's path may be this long, and this much of it is for names below the folder's parent.
const SOCKET_PATH_BYTES: usize = 107;
const ROOM_FOR_NAMES: usize = 40;

/// A directory that only its owner may enter.
#[derive(Debug)]
pub struct PrivateFolder {
    directory: TempDir,
    _lock: Flock<File>,
}

impl PrivateFolder {
    /// Makes one in the usual place for temporary files, or in /tmp if sockets there would have too long a path. Removes
    /// what earlier owners left there when they were killed.
    pub fn new() -> io::Result<Self> {
        let usual = std::env::temp_dir();
        let is_short = usual.as_os_str().len() + ROOM_FOR_NAMES <= SOCKET_PATH_BYTES;
        let parent = if is_short { usual.as_path() } else { Path::new("/tmp") };
        remove_leftovers(parent, AGE_OF_LEFTOVERS);
        Self::new_in(parent)
    }

    fn new_in(parent: &Path) -> io::Result<Self> {
        let permissions = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(permissions).tempdir_in(parent)?;
        let file = File::create(directory.path().join(LOCK))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| io::Error::from(error))?;
        Ok(Self { directory, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn remove_leftovers(parent: &Path, age: Duration) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_old =
            entry.metadata().and_then(|data| data.modified()).is_ok_and(|made| made.elapsed().is_ok_and(|e| e >= age));
        if is_ours && is_old && is_left(&entry.path()) {
            // Somebody else's cannot be removed, and need not be.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether nobody holds the lock of a folder. One that cannot be looked into is somebody's.
fn is_left(folder: &Path) -> bool {
    File::open(folder.join(LOCK)).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_may_enter_and_it_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::new_in(parent.path()).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_owner_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("rum-grid-left");
        let other = parent.path().join("other");
        for folder in [&left, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(LOCK), "").unwrap();
        }
        let held = PrivateFolder::new_in(parent.path()).unwrap();
        remove_leftovers(parent.path(), Duration::from_secs(3600));
        assert!(left.exists(), "it is young");
        remove_leftovers(parent.path(), Duration::ZERO);
        assert!(!left.exists());
        assert!(other.exists() && held.path().exists());
    }
}
