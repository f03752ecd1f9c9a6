//! `rum bench`: the figures of docs/BENCHMARKS.md, one file a figure.
//!
//! Each measurement runs in a child process of its own, a *worker* (`worker.rs`), since a process has one region and
//! one engine. `stage.rs` keeps the slave and runs the workers one after the other, pinned: the slave on the last CPU,
//! whoever measures on the first.

mod bare;
mod data;
mod etcd;
mod failover;
mod fault_latency;
mod figure;
mod locality;
mod metadata;
mod replication;
mod resident;
mod stage;
mod stats;
mod swap;
mod throughput;
mod transport;
mod worker;
mod zram;

use std::process::ExitCode;

use self::{
    figure::{Figure, head},
    stage::{BenchError, Stage},
};

/// A measurement that gives one figure or several.
struct Bench {
    /// The figure's id, without a part such as `.p99`.
    id: &'static str,
    measure: fn(&mut Stage) -> Result<Vec<Figure>, BenchError>,
}

/// In the order they are measured. A new figure is a new file here and a line in this table.
const BENCHES: &[Bench] = &[
    Bench { id: "R1", measure: fault_latency::measure },
    Bench { id: "R2", measure: throughput::measure },
    Bench { id: "R3", measure: locality::measure },
    Bench { id: "R5", measure: swap::measure },
    Bench { id: "R6", measure: replication::memory },
    Bench { id: "R7", measure: replication::quorum },
    Bench { id: "R8", measure: replication::recovery },
    Bench { id: "R9", measure: transport::loss },
    Bench { id: "R10", measure: metadata::measure },
    Bench { id: "R11", measure: resident::measure },
    Bench { id: "R12", measure: transport::small },
    Bench { id: "R13", measure: failover::measure },
    Bench { id: "R15", measure: etcd::measure },
    Bench { id: "T1", measure: transport::latency },
    Bench { id: "T2", measure: transport::stream },
    Bench { id: "T3", measure: transport::many },
    Bench { id: "T4", measure: transport::flood },
];

#[derive(clap::Args)]
pub struct Arguments {
    /// The figures to measure: R1 R2 R3 R5 R6 R7 R8 R9 R10 R11 R12 R13, R15 beside etcd, and of the transport T1 T2 T3 T4; all without
    ids: Vec<String>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// How often to repeat each measurement; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Measure the transport's figures (R9, R12, R15, T1 to T4) so shortly that they only show that they can be measured
    #[arg(long)]
    smoke: bool,
    /// Be this worker of a bench, with IDS as its arguments
    #[arg(long, hide = true)]
    worker: Option<String>,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    if let Some(name) = &arguments.worker {
        return worker::run(name, &arguments.ids);
    }
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.id).collect();
    if let Some(id) = arguments.ids.iter().find(|id| !known.iter().any(|known| known.eq_ignore_ascii_case(id))) {
        eprintln!("rum bench: unknown figure {id:?}; known are: {}", known.join(" "));
        return ExitCode::from(2);
    }
    match measure(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rum bench: {error}");
            error.exit_code()
        }
    }
}

fn measure(arguments: &Arguments) -> Result<ExitCode, BenchError> {
    let is_asked =
        |bench: &&Bench| arguments.ids.is_empty() || arguments.ids.iter().any(|id| id.eq_ignore_ascii_case(bench.id));
    let mut stage = Stage::set_up(arguments.runs, arguments.smoke)?;
    let mut code = ExitCode::SUCCESS;
    eprintln!("rum bench: {}", stage.describe());
    if !arguments.json {
        println!("{}", head());
    }
    for bench in BENCHES.iter().filter(is_asked) {
        match (bench.measure)(&mut stage) {
            Ok(figures) => {
                for figure in &figures {
                    println!("{}", if arguments.json { figure.to_json() } else { figure.to_row() });
                }
            }
            Err(error @ BenchError::Interrupted(_)) => return Err(error),
            Err(error) => {
                eprintln!("rum bench: {}: {error}", bench.id);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;

    #[test]
    fn the_help_names_every_figure() {
        let help = Arguments::augment_args(Command::new("bench")).render_long_help().to_string();
        for bench in BENCHES {
            assert!(help.split_whitespace().any(|word| word.trim_end_matches([',', ';']) == bench.id), "{}", bench.id);
        }
    }
}
