//! The program of the demo: the Debian package catalogue in a hash map, asked by name and by full text, in plain memory
//! or in far memory.
//!
//! The two differ in the allocator alone. The result is one JSON object on stdout, with a digest over all answers that
//! must be the same in both.
#![forbid(unsafe_code)]

mod catalogue;
mod progress;
mod questions;
mod records;
mod report;
mod source;

use std::{
    fs::File,
    io::{self, BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use allocator_api2::alloc::{Allocator, Global};
use clap::{Parser, Subcommand};
use rum_core::{
    collections::FarAllocator,
    config::Config,
    fault::EngineKind,
    grid::{Grid, JoinError},
};

use crate::{catalogue::Catalogue, progress::Progress, questions::Questions, records::Records, report::Report};

/// The Debian package catalogue in a hash map, in plain or far memory.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the data: what `apt-cache dumpavail` says, or else the files under /usr/share/doc and /usr/include
    Prepare {
        /// Where to
        output: PathBuf,
        /// At most so many records
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        records: usize,
    },
    /// Read the data, answer the questions, print the result
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    /// What `prepare` has written
    input: PathBuf,
    /// Plain memory instead of far memory (which RUM_MACHINES and RUM_LOCAL_BUDGET describe)
    #[arg(long)]
    plain: bool,
    /// Look-ups by name
    #[arg(long, default_value_t = 20_000)]
    lookups: usize,
    /// Where the choice of names begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stands before the progress bar
    #[arg(long, default_value = "catalogue")]
    label: String,
}

/// What can go wrong; printed as one line.
#[derive(Debug, thiserror::Error)]
enum CatalogueError {
    #[error("{0}: {1}")]
    Input(PathBuf, io::Error),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("out of memory after {0} records: give the slaves more (`--memory`)")]
    OutOfMemory(usize),
    #[error("cannot print the result: {0}")]
    Output(#[from] io::Error),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Prepare { output, records } => {
            source::prepare(&output, records).map_err(|error| CatalogueError::Input(output, error))
        }
        Command::Run(arguments) => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ CatalogueError::Join(JoinError::Config(_))) => complain(&error, 2),
        Err(error) => complain(&error, 1),
    }
}

fn complain(error: &CatalogueError, code: u8) -> ExitCode {
    eprintln!("catalogue: {error}");
    ExitCode::from(code)
}

fn run(arguments: &Run) -> Result<(), CatalogueError> {
    let questions = draw_questions(arguments)?;
    let mut report = if arguments.plain {
        answer(arguments, &questions, Global, || 0)?.0
    } else {
        let grid = join()?;
        let heap = || grid.stats().allocated_bytes;
        let (mut report, heap_bytes) = answer(arguments, &questions, FarAllocator::new(&grid), heap)?;
        report.far = Some(report::Far::of(&grid, heap_bytes));
        report
    };
    report.seed = arguments.seed;
    let mut line = serde_json::to_string(&report).map_err(io::Error::from)?;
    line.push('\n');
    io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

/// This program gives no far buffer to the kernel, so that it may take the fastest engine. Where that one is not to be
/// had, the grid chooses.
fn join() -> Result<Grid, JoinError> {
    let mut config = Config::from_env(None)?;
    if config.engine.is_some() {
        return Grid::join(config);
    }
    config.engine = Some(EngineKind::UffdInline);
    match Grid::join(config.clone()) {
        Err(JoinError::Engine(error)) => {
            eprintln!("catalogue: {error}: taking the best other engine");
            config.engine = None;
            Grid::join(config)
        }
        joined => joined,
    }
}

fn open(path: &Path) -> Result<Records<BufReader<File>>, CatalogueError> {
    let file = File::open(path).map_err(|error| CatalogueError::Input(path.to_owned(), error))?;
    Ok(Records::new(BufReader::with_capacity(1 << 20, file)))
}

/// Draws the names to ask for from the names in the data, which are kept no longer than that.
fn draw_questions(arguments: &Run) -> Result<Questions, CatalogueError> {
    let input = |error| CatalogueError::Input(arguments.input.clone(), error);
    let mut names = Vec::new();
    let mut records = open(&arguments.input)?;
    while let Some(record) = records.next().map_err(input)? {
        names.push(record.name.to_vec());
    }
    Ok(Questions::draw(&names, arguments.lookups, arguments.seed))
}

/// Does the work. Also returns what `heap_bytes` says while everything is in memory.
fn answer<A: Allocator + Copy>(
    arguments: &Run,
    questions: &Questions,
    allocator: A,
    heap_bytes: impl Fn() -> u64,
) -> Result<(Report, u64), CatalogueError> {
    let input = |error| CatalogueError::Input(arguments.input.clone(), error);
    let bytes = std::fs::metadata(&arguments.input).map_err(input)?.len();
    let progress = Progress::new(&arguments.label);

    let start = Instant::now();
    progress.phase("reading", bytes);
    let mut catalogue = Catalogue::new_in(allocator);
    let mut records = open(&arguments.input)?;
    while let Some(record) = records.next().map_err(input)? {
        let size = record.text.len() as u64 + 1;
        catalogue.insert(&record).map_err(|_| CatalogueError::OutOfMemory(catalogue.len()))?;
        progress.advance(size);
    }
    let load = start.elapsed();

    let start = Instant::now();
    progress.phase("looking up", questions.names.len() as u64);
    let found = questions.look_up(&catalogue, &progress);
    let lookups = start.elapsed();

    let start = Instant::now();
    progress.phase("searching", (questions::WORDS.len() * catalogue.len()) as u64);
    let counts = questions.search(&catalogue, &progress);
    let search = start.elapsed();

    let (records, payload_bytes, heap_bytes) = (catalogue.len(), catalogue.payload_bytes(), heap_bytes());
    let start = Instant::now();
    progress.phase("freeing", 1);
    drop(catalogue);
    let free = start.elapsed();
    progress.finish();
    Ok((Report::new(records, payload_bytes, found, counts, [load, lookups, search, free]), heap_bytes))
}
