//! A backup's folder: `manifest`, and beside it the folder `data-N` that it names, with a file for each object. A new backup writes another `data-N` first,
//! then its manifest under another name, which takes the place of the old one in a single step; what the old one had goes last. So there is
//! a whole backup at every moment, the old or the new.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use twox_hash::XxHash3_128;

use super::{
    GridError,
    manifest::{Entry, Manifest},
};

const MANIFEST: &str = "manifest";
const NEW_MANIFEST: &str = "manifest.new";
const DATA: &str = "data-";
/// Files are read in pieces of so many bytes.
const PIECE_BYTES: usize = 1 << 20;

fn failed(path: &Path) -> impl Fn(io::Error) -> GridError + '_ {
    |why| GridError::Io { path: path.display().to_string(), why }
}

fn data_number(name: &str) -> Option<u64> {
    name.strip_prefix(DATA)?.parse().ok()
}

/// A backup that is being written.
pub struct Writing {
    folder: PathBuf,
    data: u64,
    objects: Vec<Entry>,
}

impl Writing {
    /// Takes a folder: one that is not there, is empty, or has nothing in it but a backup.
    pub fn begin(folder: &Path) -> Result<Self, GridError> {
        private().recursive(true).create(folder).map_err(failed(folder))?;
        let mut data = 0;
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let name = entry.map_err(failed(folder))?.file_name().to_string_lossy().into_owned();
            match data_number(&name) {
                Some(number) => data = data.max(number.saturating_add(1)),
                None if [MANIFEST, NEW_MANIFEST].contains(&&*name) => {}
                None => return Err(GridError::NotABackup { path: folder.display().to_string(), other: name }),
            }
        }
        if let Some(manifest) = read_manifest(folder)? {
            // What is no manifest is not replaced; a damaged one may be.
            if Manifest::parse(&manifest) == Err(super::ManifestError::Foreign) {
                let (path, other) = (folder.display().to_string(), MANIFEST.to_owned());
                return Err(GridError::NotABackup { path, other });
            }
        }
        let writing = Self { folder: folder.to_owned(), data, objects: Vec::new() };
        private().create(writing.data_folder()).map_err(failed(&writing.data_folder()))?;
        Ok(writing)
    }

    fn data_folder(&self) -> PathBuf {
        self.folder.join(format!("{DATA}{}", self.data))
    }

    /// Begins the file of the next object.
    pub fn object(&self) -> Result<ObjectFile, GridError> {
        let path = self.data_folder().join(self.objects.len().to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed(&path))?;
        Ok(ObjectFile { path, file, hasher: XxHash3_128::new(), bytes: 0 })
    }

    /// An object whose file is whole.
    pub fn add(&mut self, entry: Entry) {
        self.objects.push(entry);
    }

    /// Makes this the folder's backup.
    pub fn finish(self) -> Result<Manifest, GridError> {
        sync(&self.data_folder())?;
        sync(&self.folder)?;
        let manifest = Manifest { data: self.data, objects: self.objects };
        let (new, path) = (self.folder.join(NEW_MANIFEST), self.folder.join(MANIFEST));
        let mut file = OpenOptions::new();
        let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed(&new))?;
        file.write_all(manifest.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed(&new))?;
        fs::rename(&new, &path).map_err(failed(&path))?;
        sync(&self.folder)?;
        for entry in fs::read_dir(&self.folder).map_err(failed(&self.folder))?.flatten() {
            let number = data_number(&entry.file_name().to_string_lossy());
            if number.is_some_and(|number| number != self.data) {
                // It is part of no backup any more; the next one tries again.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(manifest)
    }
}

/// The bytes of one object on their way into a file.
pub struct ObjectFile {
    path: PathBuf,
    file: File,
    hasher: XxHash3_128,
    bytes: u64,
}

impl ObjectFile {
    /// Appends bytes; where they are zeros, the file has a hole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), GridError> {
        self.hasher.write(bytes);
        self.bytes += bytes.len() as u64;
        let written = if bytes.iter().all(|&byte| byte == 0) {
            self.file.seek(SeekFrom::Current(bytes.len() as i64)).map(drop)
        } else {
            self.file.write_all(bytes)
        };
        written.map_err(failed(&self.path))
    }

    /// The file is whole, and on disk. Returns its checksum.
    pub fn finish(self) -> Result<u128, GridError> {
        self.file.set_len(self.bytes).and_then(|()| self.file.sync_all()).map_err(failed(&self.path))?;
        Ok(self.hasher.finish_128())
    }

    /// Removes the file.
    pub fn abandon(self) -> Result<(), GridError> {
        fs::remove_file(&self.path).map_err(failed(&self.path))
    }
}

/// A backup to be read: its manifest was checked.
pub struct Reading {
    folder: PathBuf,
    pub manifest: Manifest,
}

impl Reading {
    /// Reads the manifest, and checks it.
    pub fn open(folder: &Path) -> Result<Self, GridError> {
        let path = folder.join(MANIFEST);
        let bytes = read_manifest(folder)?.ok_or_else(|| failed(&path)(ErrorKind::NotFound.into()))?;
        let manifest = Manifest::parse(&bytes);
        let manifest = manifest.map_err(|why| GridError::Manifest { path: path.display().to_string(), why })?;
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// Reads an object's file in pieces, gives `sink` each, and checks at the end that all was as in the manifest.
    pub fn read<E: From<GridError>>(
        &self,
        number: usize,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Entry { size_bytes, checksum, .. } = self.manifest.objects[number];
        let path = self.folder.join(self.manifest.folder()).join(number.to_string());
        let shown = || path.display().to_string();
        let file = File::open(&path).map_err(failed(&path))?;
        let found = file.metadata().map_err(failed(&path))?.len();
        if found != size_bytes {
            return Err(GridError::Length { path: shown(), found, expected: size_bytes }.into());
        }
        let (mut file, mut hasher, mut at) = (BufReader::new(file).take(size_bytes), XxHash3_128::new(), 0);
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        while at < size_bytes {
            piece.clear();
            file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(failed(&path))?;
            if piece.is_empty() {
                return Err(GridError::Length { path: shown(), found: at, expected: size_bytes }.into());
            }
            hasher.write(&piece);
            sink(at, &piece)?;
            at += piece.len() as u64;
        }
        if hasher.finish_128() != checksum {
            return Err(GridError::Checksum { path: shown() }.into());
        }
        Ok(())
    }
}

fn read_manifest(folder: &Path) -> Result<Option<Vec<u8>>, GridError> {
    let path = folder.join(MANIFEST);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path)(error)),
    }
}

/// Folders that nobody else may read: they have what clients stored.
fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

fn sync(folder: &Path) -> Result<(), GridError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}

#[cfg(test)]
mod tests {
    use rum_core::grid::ObjectHash;

    use super::*;

    fn write(folder: &Path, objects: &[(u8, &[u8])]) -> Manifest {
        let mut writing = Writing::begin(folder).unwrap();
        for (byte, bytes) in objects {
            let mut file = writing.object().unwrap();
            bytes.chunks(3000).for_each(|piece| file.push(piece).unwrap());
            let checksum = file.finish().unwrap();
            let hash = ObjectHash([*byte; 32]);
            writing.add(Entry { hash, size_bytes: bytes.len() as u64, pinned: None, checksum });
        }
        writing.finish().unwrap()
    }

    fn read(folder: &Path) -> Result<Vec<Vec<u8>>, GridError> {
        let reading = Reading::open(folder)?;
        let mut objects = Vec::new();
        for number in 0..reading.manifest.objects.len() {
            let mut bytes = Vec::new();
            reading.read(number, |at, piece| {
                assert_eq!(at, bytes.len() as u64);
                bytes.extend_from_slice(piece);
                Ok::<_, GridError>(())
            })?;
            objects.push(bytes);
        }
        Ok(objects)
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_backup_takes_the_place_of_the_one_before() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new/one");
        let long: Vec<u8> = (0..3 << 20).map(|at: u32| if at < 2 << 20 { 0 } else { at as u8 }).collect();
        write(&folder, &[(1, b"one"), (2, &long)]);
        assert_eq!(read(&folder).unwrap(), [b"one".to_vec(), long]);
        assert_eq!(names(&folder), ["data-0", "manifest"]);
        // One that breaks off changes nothing.
        let broken = Writing::begin(&folder).unwrap();
        broken.object().unwrap().push(b"half").unwrap();
        drop(broken);
        assert_eq!(read(&folder).unwrap().len(), 2);
        write(&folder, &[(3, b"three")]);
        assert_eq!(read(&folder).unwrap(), [b"three".to_vec()]);
        assert_eq!(names(&folder), ["data-2", "manifest"]);
    }

    #[test]
    fn other_folders_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        for (name, text) in [("notes.txt", "mine"), ("manifest", "of a ship"), ("data-x", "")] {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(name), text).unwrap();
            assert!(matches!(Writing::begin(&folder), Err(GridError::NotABackup { .. })), "{name}");
            assert_eq!(names(&folder), [name]);
            assert!(Reading::open(&folder).is_err());
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path();
        write(folder, &[(1, &[7; 5000]), (2, &[0; 5000])]);
        let (first, second) = (folder.join("data-0/0"), folder.join("data-0/1"));
        let right = fs::read(&first).unwrap();
        let changes: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes[4999] ^= 1, |bytes| bytes.truncate(4999), |bytes| bytes.push(0)];
        for change in changes {
            let mut bytes = right.clone();
            change(&mut bytes);
            fs::write(&first, bytes).unwrap();
            let error = read(folder).unwrap_err();
            assert!(error.to_string().contains("data-0/0: is damaged") && error.exit_code() == 2, "{error}");
        }
        fs::write(&first, right).unwrap();
        fs::remove_file(&second).unwrap();
        assert!(read(folder).unwrap_err().to_string().contains("data-0/1"));
    }
}
