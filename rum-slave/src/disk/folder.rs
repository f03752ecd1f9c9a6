//! A slave's data folder: whose it is, and that nobody else uses it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use paxos::Configuration;
use rum_net::{machines::Machine, placement::SlaveIndex};
use serde::{Deserialize, Serialize};

use super::{
    Disk, DiskOptions, SEGMENT_BYTES,
    files::{FileError, Folder, IDENTITY, LOCK},
    lane::ThreadLane,
    memory::{self, Memory, MemoryError},
};
use crate::account::Accounts;

const VERSION: u32 = 1;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has it.
    #[error("{0} is used by another slave that runs")]
    Locked(String),
    /// It was made by another slave, or in another grid.
    #[error("{path} belongs to {found}, and this is {expected}: use its own folder, or an empty one")]
    Foreign {
        /// The folder.
        path: String,
        /// Whose it is.
        found: String,
        /// Who asks.
        expected: String,
    },
    /// Something that is no data folder.
    #[error("{0} has files in it and is no data folder of a slave: use an empty one")]
    NotOurs(String),
    /// The file that says whose it is.
    #[error("{path} is not what a slave wrote: {why}")]
    Identity {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// What is in it.
    #[error("{path}: {why}")]
    Memory {
        /// The folder.
        path: String,
        /// What is wrong.
        why: MemoryError,
    },
    /// A thread.
    #[error("cannot start: {0}")]
    Thread(#[from] io::Error),
}

/// Whose folder it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    version: u32,
    salt: u64,
    slave: SlaveIndex,
    replication_factor: usize,
    /// All slaves of the grid.
    grid: Vec<String>,
}

impl Identity {
    fn describe(&self) -> String {
        format!(
            "slave {} of {} ({}) at RF {}",
            self.slave,
            self.grid.len(),
            self.grid.join(" "),
            self.replication_factor
        )
    }
}

/// A data folder, for this process alone until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Mixed into checksums.
    pub salt: u64,
    _lock: Flock<File>,
}

impl DataDir {
    /// Takes the folder for slave `me` of a grid; makes it if there is none.
    ///
    /// # Errors
    /// When it is somebody else's, or cannot be used.
    pub fn open(path: &Path, machines: &[Machine], factor: usize, me: SlaveIndex) -> Result<Self, DataDirError> {
        let shown = path.display().to_string();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| FileError::new("create", &shown, error))?;
        let lock = path.join(LOCK);
        let file_error = |doing, path: &Path| {
            let path = path.display().to_string();
            move |error| FileError::new(doing, path, error)
        };
        let is_used = path.join(IDENTITY).exists();
        if !is_used
            && fs::read_dir(path).map_err(file_error("read", path))?.flatten().any(|entry| entry.file_name() != LOCK)
        {
            return Err(DataDirError::NotOurs(shown));
        }
        let file = File::options().create(true).append(true).open(&lock).map_err(file_error("open", &lock))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let file = file.map_err(|_| DataDirError::Locked(shown.clone()))?;
        let grid = machines.iter().map(|machine| format!("{},{}", machine.ip, machine.mac)).collect();
        let mine = Identity { version: VERSION, salt: rand::random(), slave: me, replication_factor: factor, grid };
        let salt = if is_used { Self::check(path, &mine)? } else { Self::write(path, &mine)? };
        Ok(Self { path: path.to_owned(), salt, _lock: file })
    }

    fn check(path: &Path, mine: &Identity) -> Result<u64, DataDirError> {
        let file = path.join(IDENTITY);
        let shown = file.display().to_string();
        let bytes = fs::read(&file).map_err(|error| FileError::new("read", &shown, error))?;
        let found: Identity = serde_json::from_slice(&bytes)
            .map_err(|error| DataDirError::Identity { path: shown.clone(), why: error.to_string() })?;
        if found.version > VERSION {
            let why = format!("it is of version {}: a newer RUM wrote it", found.version);
            return Err(DataDirError::Identity { path: shown, why });
        }
        let expected = Identity { version: found.version, salt: found.salt, ..mine.clone() };
        if found != expected {
            let path = path.display().to_string();
            return Err(DataDirError::Foreign { path, found: found.describe(), expected: expected.describe() });
        }
        Ok(found.salt)
    }

    fn write(path: &Path, mine: &Identity) -> Result<u64, DataDirError> {
        let file = path.join(IDENTITY);
        let written = || {
            let mut file = File::create_new(&file)?;
            file.write_all(&serde_json::to_vec(mine)?)?;
            file.sync_all()?;
            File::open(path)?.sync_all()
        };
        written().map_err(|error| FileError::new("write", file.display().to_string(), error))?;
        Ok(mine.salt)
    }

    /// Reads what is remembered of `groups`, each with the configuration that it began with, and goes on from there.
    ///
    /// # Errors
    /// When it cannot be read. What is damaged is no error: it is set aside.
    pub fn start(
        self,
        groups: &[(u16, Configuration)],
        accounts: &Accounts,
        checkpoint_bytes: u64,
    ) -> Result<(Disk, Vec<Memory>), DataDirError> {
        let remembered = memory::read(&mut Folder::new(&self.path), self.salt, groups, accounts);
        let mut remembered =
            remembered.map_err(|why| DataDirError::Memory { path: self.path.display().to_string(), why })?;
        let journal = ThreadLane::start("rum-journal", Folder::new(&self.path))?;
        let checkpoints = ThreadLane::start("rum-checkpoint", Folder::new(&self.path))?;
        let memories = std::mem::take(&mut remembered.groups);
        let options = DiskOptions { salt: self.salt, checkpoint_bytes, segment_bytes: SEGMENT_BYTES };
        let mut disk = Disk::new(options, &remembered, (Box::new(journal), Box::new(checkpoints)));
        disk.keep(self);
        Ok((disk, memories))
    }
}
