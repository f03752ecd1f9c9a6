//! `rum grid`: what is done with all named objects of a grid.

mod backup;
mod files;
mod manifest;
mod restore;

use std::{io, path::PathBuf, process::ExitCode};

use rum_core::{
    config::{Config, ConfigError},
    grid::{Grid, JoinError, Location, ObjectHash, objects::ObjectError},
};

use manifest::ManifestError;

/// Objects are copied in pieces of their own: the pager needs nothing.
const BUDGET_BYTES: u64 = 1 << 20;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write all named objects of a grid into a folder
    Backup {
        /// The folder: new, empty, or an older backup, which is replaced when the new one is whole
        folder: PathBuf,
        /// The grid's machines.csv; RUM_MACHINES if there is none
        machines: Option<PathBuf>,
    },
    /// Make named objects of those in a folder
    Restore {
        /// The folder that `rum grid backup` wrote
        folder: PathBuf,
        /// The grid's machines.csv; RUM_MACHINES if there is none
        machines: Option<PathBuf>,
        /// Let objects that exist be as in the backup, too; else they stay as they are
        #[arg(long)]
        replace: bool,
    },
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("{path}: {why}")]
    Io { path: String, why: io::Error },
    #[error("{path}: is neither empty nor a backup: {other:?} is in it; name another folder")]
    NotABackup { path: String, other: String },
    #[error("{path}: {why}")]
    Manifest { path: String, why: ManifestError },
    #[error("{path}: is damaged: it has {found} bytes, and the backup says {expected}")]
    Length { path: String, found: u64, expected: u64 },
    #[error("{path}: is damaged: its checksum is not that of the backup")]
    Checksum { path: String },
    #[error("object {0}: it was on {1} of the grid that was backed up, and no line of machines.csv has that address")]
    NoLocation(Name, String),
    #[error("object {0}: {1}")]
    Object(Name, ObjectError),
    #[error(transparent)]
    List(ObjectError),
}

impl GridError {
    fn exit_code(&self) -> u8 {
        // The grid failed, or is full; all else is wrong before anything is done.
        if matches!(self, Self::Object(..) | Self::List(_)) { 1 } else { 2 }
    }
}

/// An object's name, as text where it is that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub ObjectHash);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0.0;
        let text = bytes.iter().take_while(|byte| **byte != 0).count();
        if text > 0 && bytes[..text].iter().all(u8::is_ascii_graphic) && bytes[text..].iter().all(|byte| *byte == 0) {
            return bytes[..text].iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)));
        }
        f.write_str("0x")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let (verb, result) = match &arguments.command {
        Command::Backup { folder, machines } => ("backup", backup::run(folder, machines.as_deref())),
        Command::Restore { folder, machines, replace } => {
            ("restore", restore::run(folder, machines.as_deref(), *replace))
        }
    };
    match result {
        Ok(summary) => {
            println!("{verb}: {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rum grid {verb}: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn join(machines: Option<&std::path::Path>) -> Result<Grid, GridError> {
    let config = Config { local_budget_bytes: BUDGET_BYTES, ..Config::from_env(machines)? };
    Ok(Grid::join(config)?)
}

fn place(location: &Location) -> String {
    format!("{} ({})", location.ip, location.mac)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_text_or_digits() {
        let mut text = [0; 32];
        text[..5].copy_from_slice(b"hello");
        assert_eq!(Name(ObjectHash(text)).to_string(), "hello");
        text[9] = b'x';
        assert!(Name(ObjectHash(text)).to_string().starts_with("0x68656c6c6f00"));
        assert_eq!(Name(ObjectHash([b'a'; 32])).to_string(), "a".repeat(32));
        assert_eq!(Name(ObjectHash([0; 32])).to_string().len(), 66);
    }
}
