//! `rum keygen`: writes keys for clients into files that nobody else may read, not even while they are written.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::fcntl::{Flock, FlockArg};
use rum_net::{
    EXTENT_BYTES,
    seal::{Key, KeyFile, KeyFileError, MAX_NAME_BYTES, is_name},
    units::parse_bytes,
};
use zeroize::Zeroizing;

/// What `rum keygen` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to call the client: letters, digits, dots, underscores and hyphens
    #[arg(long, default_value = "client", value_parser = name)]
    name: String,
    /// The most memory that the client may hold on each slave, such as 4G; without it as much as there is
    #[arg(long, value_name = "SIZE", value_parser = quota)]
    quota: Option<String>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "rum.keys")]
    output: PathBuf,
    /// Add the client to the file, which is there already
    #[arg(long)]
    append: bool,
}

/// Why there is no new key.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// Nothing is overwritten.
    #[error("{path}: it is there already; --append adds a client to it, -o names another file")]
    Exists {
        /// The file.
        path: String,
    },
    /// Each name stands once in a file.
    #[error("{path}: the client {name:?} is in it already; --name gives the new one another name")]
    NameTaken {
        /// The file.
        path: String,
        /// The name asked for.
        name: String,
    },
    /// The system refused.
    #[error("{path}: cannot write: {why}")]
    Unwritable {
        /// The file.
        path: String,
        /// Why.
        why: io::Error,
    },
    /// What the file has already is wrong.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The system gives no random numbers.
    #[error("{0}")]
    Random(io::Error),
}

/// Writes a key, and says what to do with it.
pub fn run(arguments: &Arguments) -> ExitCode {
    match write(arguments) {
        Ok(clients) => {
            // That nobody reads it is no reason to fail.
            let _ = writeln!(io::stdout(), "{}", advice(arguments, clients));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rum keygen: {error}");
            ExitCode::from(2)
        }
    }
}

/// Writes a file with a new key for each of these clients, without quotas.
pub fn write_new(path: &Path, names: &[&str]) -> Result<(), KeygenError> {
    let mut text = Zeroizing::new(String::with_capacity(256 * names.len()));
    for name in names {
        text.push_str(&new_line(name, None)?);
    }
    create(path, &text)
}

fn new_line(name: &str, quota: Option<&str>) -> Result<Zeroizing<String>, KeygenError> {
    let key = Key::generate().map_err(KeygenError::Random)?;
    let mut line = Zeroizing::new(String::with_capacity(256));
    for part in [name, " ", &key.to_hex(), " ", quota.unwrap_or_default()] {
        line.push_str(part);
    }
    let length = line.trim_end().len();
    line.truncate(length);
    line.push('\n');
    Ok(line)
}

/// Returns how many clients the file has now.
fn write(arguments: &Arguments) -> Result<usize, KeygenError> {
    let line = new_line(&arguments.name, arguments.quota.as_deref())?;
    if arguments.append { append(arguments, line) } else { create(&arguments.output, &line).map(|()| 1) }
}

fn create(path: &Path, line: &str) -> Result<(), KeygenError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeygenError::Exists { path: path.display().to_string() },
        _ => unwritable(path, error),
    })?;
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        unwritable(path, error)
    })
}

fn append(arguments: &Arguments, mut line: Zeroizing<String>) -> Result<usize, KeygenError> {
    let path = &arguments.output;
    let unwritable = |error| unwritable(path, error);
    // Reading it says best what is wrong with it.
    clients(path)?;
    let file = OpenOptions::new().read(true).append(true).open(path).map_err(unwritable)?;
    // Two that append at once must not add one name twice.
    let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| unwritable(error.into()))?;
    let names = clients(path)?;
    if names.contains(&arguments.name) {
        return Err(KeygenError::NameTaken { path: path.display().to_string(), name: arguments.name.clone() });
    }
    if !ends_with_newline(&file).map_err(unwritable)? {
        line.insert(0, '\n');
    }
    let length = file.metadata().map_err(unwritable)?.len();
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = file.set_len(length);
        unwritable(error)
    })?;
    Ok(names.len() + 1)
}

fn unwritable(path: &Path, why: io::Error) -> KeygenError {
    KeygenError::Unwritable { path: path.display().to_string(), why }
}

/// The names in a key file; an empty one has none.
fn clients(path: &Path) -> Result<Vec<String>, KeyFileError> {
    match KeyFile::read(path) {
        Ok(file) => Ok(file.clients().iter().map(|client| client.name.clone()).collect()),
        Err(KeyFileError::Empty { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn ends_with_newline(file: &File) -> io::Result<bool> {
    let mut last = *b"\n";
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last == *b"\n")
}

fn advice(arguments: &Arguments, clients: usize) -> String {
    let (path, name) = (arguments.output.display(), &arguments.name);
    let choice = if clients > 1 { format!("RUM_KEY_NAME={name} ") } else { String::new() };
    format!(
        "{path}: a key for the client {name:?}; only you may read the file\n\
         next, on each slave:  rum-slave --keys {path} --port … --memory …\n\
         and for the client:   RUM_KEY={path} {choice}PROGRAM\n\
         Carry the file only by ways that nobody else can read, such as scp -p; a client needs only its own line."
    )
}

fn name(text: &str) -> Result<String, String> {
    let expected = format!("expected 1 to {MAX_NAME_BYTES} letters, digits, dots, underscores or hyphens");
    if is_name(text) { Ok(text.to_owned()) } else { Err(expected) }
}

/// A quota as it is written into the file.
fn quota(text: &str) -> Result<String, String> {
    let is_good = parse_bytes(text).is_some_and(|bytes| bytes >= EXTENT_BYTES as u64);
    if is_good { Ok(text.trim().to_owned()) } else { Err("expected a size of 1M or more, such as 4G".to_owned()) }
}
