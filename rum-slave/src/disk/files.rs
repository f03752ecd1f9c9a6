//! The files of a data folder. Behind a trait, so that simulations can lose power.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

/// What a file of the data folder did not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct FileError {
    /// What was to be done.
    doing: &'static str,
    /// With which file.
    path: String,
    source: io::Error,
}

impl FileError {
    /// An error of `doing` something with the file at `path`.
    pub fn new(doing: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        Self { doing, path: path.into(), source }
    }
}

/// Files of one folder, by name. What was written is durable after a `sync` of that file, and may be lost or torn before.
pub trait Files {
    /// All names.
    fn names(&self) -> Result<Vec<String>, FileError>;
    /// The size in bytes; 0 if there is no such file.
    fn len(&mut self, name: &str) -> Result<u64, FileError>;
    /// Reads from `offset` on; returns how many bytes there were.
    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError>;
    /// Writes at `offset`. Creates the file if there is none.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), FileError>;
    /// Returns when all that was written is durable.
    fn sync(&mut self, name: &str) -> Result<(), FileError>;
    /// Gives a file another name, durably. False if there is none.
    fn rename(&mut self, from: &str, to: &str) -> Result<bool, FileError>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> Result<(), FileError>;

    /// Puts all files where they are not used any more, so that somebody can look at them. A name remains that begins with `damaged-`.
    fn set_aside(&mut self) -> Result<(), FileError>;

    /// The whole content.
    fn read(&mut self, name: &str) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; self.len(name)? as usize];
        let count = self.read_at(name, 0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

/// Locked while a process uses the folder.
pub const LOCK: &str = "lock";
/// Says whose folder it is.
pub const IDENTITY: &str = "slave";
/// Files that are kept open.
const OPEN: usize = 8;

/// Files in a folder of the operating system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    open: VecDeque<(String, File)>,
}

impl Folder {
    /// The files of this folder, which has to be there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), open: VecDeque::new() }
    }

    fn error(&self, doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = self.path.join(name).display().to_string();
        move |source| FileError { doing, path, source }
    }

    /// The file, if there is one or it is to be created.
    fn file(&mut self, name: &str, create: bool) -> Result<Option<&File>, FileError> {
        if let Some(at) = self.open.iter().position(|(open, _)| open == name) {
            return Ok(Some(&self.open[at].1));
        }
        let path = self.path.join(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
                let file = file.map_err(self.error("create", name))?;
                self.sync_names()?;
                file
            }
            Err(error) => return Err(self.error("open", name)(error)),
        };
        if self.open.len() == OPEN {
            self.open.pop_front();
        }
        self.open.push_back((name.to_owned(), file));
        Ok(self.open.back().map(|(_, file)| file))
    }

    fn close(&mut self, name: &str) {
        self.open.retain(|(open, _)| open != name);
    }

    /// Makes it durable which files there are.
    fn sync_names(&self) -> Result<(), FileError> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(self.error("sync", ""))
    }
}

impl Files for Folder {
    fn names(&self) -> Result<Vec<String>, FileError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(self.error("read", ""))? {
            let entry = entry.map_err(self.error("read", ""))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    fn len(&mut self, name: &str) -> Result<u64, FileError> {
        let error = self.error("read", name);
        let Some(file) = self.file(name, false)? else { return Ok(0) };
        Ok(file.metadata().map_err(error)?.len())
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        let error = self.error("read", name);
        let Some(file) = self.file(name, false)? else { return Ok(0) };
        let mut count = 0;
        while count < into.len() {
            match file.read_at(&mut into[count..], offset + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(again) if again.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(error(source)),
            }
        }
        Ok(count)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let error = self.error("write", name);
        let Some(file) = self.file(name, true)? else { return Ok(()) };
        file.write_all_at(bytes, offset).map_err(error)
    }

    fn sync(&mut self, name: &str) -> Result<(), FileError> {
        let error = self.error("sync", name);
        let Some(file) = self.file(name, false)? else { return Ok(()) };
        file.sync_data().map_err(error)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<bool, FileError> {
        self.close(from);
        self.close(to);
        match fs::rename(self.path.join(from), self.path.join(to)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed.map_err(self.error("rename", from))?,
        }
        self.sync_names()?;
        Ok(true)
    }

    fn set_aside(&mut self) -> Result<(), FileError> {
        self.open.clear();
        let names = self.names()?;
        let aside = (0u32..).map(|number| format!("damaged-{number}")).find(|name| !names.contains(name));
        let aside = aside.unwrap_or_default();
        fs::create_dir(self.path.join(&aside)).map_err(self.error("create", &aside))?;
        self.sync_names()?;
        let stays = |name: &str| name.starts_with("damaged-") || name == LOCK || name == IDENTITY;
        for name in names.iter().filter(|name| !stays(name)) {
            let moved = fs::rename(self.path.join(name), self.path.join(&aside).join(name));
            moved.map_err(self.error("rename", name))?;
        }
        self.sync_names()
    }

    fn remove(&mut self, name: &str) -> Result<(), FileError> {
        self.close(name);
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(self.error("remove", name)),
        }
    }
}
