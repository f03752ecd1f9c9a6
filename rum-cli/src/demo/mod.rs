//! `rum demo`: a real program on data several times its local memory, the rest of it on slaves.
//!
//! The catalogue program runs in plain memory, then in far memory with all of it, a half and a quarter of it allowed
//! to be local, each time as a process of its own. All four must give the same answers.

mod ethernet;
mod table;

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rum_core::config::MIN_LOCAL_BUDGET_BYTES;
use rum_slave::replication::PEER_KEY;

use crate::{
    folder::PrivateFolder,
    keygen,
    signals::Signals,
    slaves::{self, Place, Slaves, SlavesError},
    tied,
};
use ethernet::Switch;
pub use ethernet::ip;
use table::{Far, Report};

/// So long may one of the four runs take.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);
/// A slave that was killed is started again after this long.
const AWAY: Duration = Duration::from_millis(300);
/// The local budget has to be honoured to within this and `BUDGET_SLACK_PERCENT`.
const BUDGET_SLACK_BYTES: u64 = 1 << 20;
const BUDGET_SLACK_PERCENT: u64 = 2;

#[derive(clap::Args)]
pub struct Arguments {
    /// Slaves to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    slaves: u8,
    /// Memory that each slave gives
    #[arg(long, default_value = "256M", value_parser = crate::local::size)]
    memory: u64,
    /// Give each slave and the client a host of its own (a network namespace), and let them speak raw Ethernet through
    /// DPDK's af_packet driver. Needs root
    #[arg(long)]
    ethernet: bool,
    /// How many slaves keep each page: 1, 3 or 5. With 3, any one may die
    #[arg(long, default_value = "1", default_value_if("kill", "true", "3"), value_parser = slaves::replication_factor)]
    rf: u8,
    /// Kill a slave in the middle of a further run, and start it again: the answers have to stay the same
    #[arg(long, conflicts_with = "ethernet")]
    kill: bool,
    /// Use so many records of the data at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..))]
    records: Option<u32>,
    /// Where the choice of the names to look up begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Slaves(#[from] SlavesError),
    #[error("cannot run a process: {0}")]
    Process(#[from] io::Error),
    #[error("{what} ended with {status}")]
    Ended { what: String, status: ExitStatus },
    #[error("{what} was not done after {RUN_TIMEOUT:?}")]
    Late { what: String },
    #[error("the result of {what} cannot be read: {why}")]
    Result { what: String, why: String },
    #[error("{what} gave other answers ({theirs}) than plain memory ({ours})")]
    Differ { what: String, theirs: String, ours: String },
    #[error("{0}")]
    Unconvincing(String),
    #[error("interrupted by {0}")]
    Interrupted(Signal),
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match demonstrate(arguments) {
        Ok(()) => {
            println!("demo: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("demo: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(arguments: &Arguments) -> Result<(), DemoError> {
    if arguments.kill && arguments.rf == 1 {
        return Err(DemoError::Unconvincing(
            "--kill needs --rf 3 or 5: what is on one slave alone dies with it".to_owned(),
        ));
    }
    let mut demo = Demo::start(arguments)?;
    let mut runs = demo.runs()?;
    let death = if arguments.kill { Some(demo.run_with_a_death(&mut runs)?) } else { None };
    table::print(&runs);
    if let Some(death) = death {
        println!("{death}\n");
    }
    check(&runs)
}

/// The network of hosts of their own, and the key file of all of them.
struct Ethernet {
    switch: Switch,
    keys: PathBuf,
}

/// A grid, and the data.
struct Demo {
    signals: Signals,
    seed: u64,
    input: PathBuf,
    machines: PathBuf,
    memory_bytes: u64,
    grid_bytes: u64,
    ethernet: Option<Ethernet>,
    // Dropped in this order: the slaves end before their folder goes.
    slaves: Slaves,
    _directory: PrivateFolder,
}

impl Demo {
    fn start(arguments: &Arguments) -> Result<Self, DemoError> {
        let signals = Signals::take_over().map_err(io::Error::from)?;
        let directory = PrivateFolder::new().map_err(SlavesError::Directory)?;
        let input = directory.path().join("catalogue.txt");
        prepare_data(&input, arguments.records, &signals)?;
        let (count, factor) = slaves::count_and_factor(arguments.slaves, arguments.rf)?;
        let memory = arguments.memory;
        let copies = if factor > 1 { format!("; {factor} of them keep each page") } else { String::new() };
        let (slaves, machines, ethernet) = if arguments.ethernet {
            let mut switch = Switch::start()?;
            let keys = directory.path().join("rum.keys");
            keygen::write_new(&keys, &[slaves::CLIENT_KEY, PEER_KEY]).map_err(SlavesError::Keys)?;
            let (slaves, machines) = switch.start_slaves((count, factor), memory, directory.path(), &keys, &signals)?;
            println!(
                "grid: {count} slaves over raw Ethernet (DPDK af_packet, MTU {}, sealed), each a host of its own{copies}",
                ethernet::MTU
            );
            (slaves, machines, Some(Ethernet { switch, keys }))
        } else {
            let (slaves, machines) = Slaves::start_local((count, factor), memory, directory.path(), &signals)?;
            println!("grid: {count} slaves over vhost-user, each a process of its own{copies}");
            (slaves, machines, None)
        };
        let grid_bytes = memory * count as u64 / factor as u64;
        Ok(Self {
            signals,
            seed: arguments.seed,
            input,
            machines,
            memory_bytes: memory,
            grid_bytes,
            ethernet,
            slaves,
            _directory: directory,
        })
    }

    /// Plain memory, then all of the far memory local, then a half, then a quarter.
    fn runs(&mut self) -> Result<Vec<Run>, DemoError> {
        let plain = self.run("plain memory", None)?;
        let all = self.run("far, all local", Some(self.grid_bytes))?;
        let heap = all.report.far.as_ref().map_or(0, |far| far.heap_bytes);
        let mut runs = vec![plain, all];
        for percent in [50, 25] {
            let budget = (heap * percent / 100).max(MIN_LOCAL_BUDGET_BYTES);
            runs.push(self.run(&format!("far, {percent} % local"), Some(budget))?);
        }
        Ok(runs)
    }

    fn run(&mut self, what: &str, budget: Option<u64>) -> Result<Run, DemoError> {
        let child = self.start_run(what, budget)?;
        self.finish_run(child, what, budget)
    }

    fn start_run(&mut self, what: &str, budget: Option<u64>) -> Result<Child, DemoError> {
        let program = slaves::program("catalogue", "RUM_CATALOGUE_BIN")?;
        let place = match &self.ethernet {
            Some(ethernet) => Place::OwnHost { keys: &ethernet.keys },
            None => Place::Here,
        };
        let mut command = match budget {
            None => tied::command(program.as_os_str(), false)?,
            Some(bytes) => slaves::client_command(program.as_os_str(), &self.machines, bytes, place)?,
        };
        command.arg("run").arg(&self.input).args(["--seed", &self.seed.to_string(), "--label", what]);
        if budget.is_none() {
            command.arg("--plain");
        }
        let on_own_host = budget.is_some() && self.ethernet.is_some();
        command.stdout(Stdio::piped()).stdin(if on_own_host { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn()?;
        if let (true, Some(ethernet)) = (on_own_host, &mut self.ethernet) {
            ethernet.switch.connect_client(&mut child)?;
        }
        Ok(child)
    }

    fn finish_run(&self, child: Child, what: &str, budget: Option<u64>) -> Result<Run, DemoError> {
        let output = finish(child, what, &self.signals)?;
        let report = Report::parse(&output).map_err(|why| DemoError::Result { what: what.to_owned(), why })?;
        Ok(Run { what: what.to_owned(), budget, report })
    }

    /// As the last run, with the death of a slave in the middle of it, and its return. Says what came of it.
    fn run_with_a_death(&mut self, runs: &mut Vec<Run>) -> Result<String, DemoError> {
        let Some(last) = runs.last() else { return Err(DemoError::Unconvincing("nothing has run".to_owned())) };
        let (budget, usual) = (last.budget, Duration::from_secs_f64(last.report.total_s));
        let what = "same, slave killed";
        let child = self.start_run(what, budget)?;
        self.pause(usual / 3)?;
        self.slaves.kill(0)?;
        self.pause(AWAY)?;
        self.slaves.restart(0, self.memory_bytes, &self.machines)?;
        let run = self.finish_run(child, what, budget)?;
        let recovered = self.slaves.wait_until_recovered(0, &self.signals)?;
        let stall = run.report.far.as_ref().map_or(0, |far| far.fault_longest_ns) / 1_000_000;
        runs.push(run);
        Ok(format!(
            "slave 0 was killed (SIGKILL) {:.2} s into the last run and started again {AWAY:?} later: longest stall \
             {stall} ms; it had all pages again, {recovered}",
            usual.as_secs_f64() / 3.0
        ))
    }

    /// Waits for so long.
    fn pause(&self, time: Duration) -> Result<(), DemoError> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.signals.wait(None, Some(until)).map_err(io::Error::from)?;
            while let Some(arrived) = self.signals.next() {
                if arrived.signal != Signal::SIGCHLD {
                    return Err(DemoError::Interrupted(arrived.signal));
                }
            }
        }
        Ok(())
    }
}

fn prepare_data(input: &Path, records: Option<u32>, signals: &Signals) -> Result<(), DemoError> {
    let program = slaves::program("catalogue", "RUM_CATALOGUE_BIN")?;
    let mut command = tied::command(program.as_os_str(), false)?;
    command.arg("prepare").arg(input).stdout(Stdio::piped()).stdin(Stdio::null());
    if let Some(records) = records {
        command.args(["--records", &records.to_string()]);
    }
    let said = finish(command.spawn()?, "preparing the data", signals)?;
    let bytes = std::fs::metadata(input)?.len();
    println!("data: {}, {:.1} MB", said.trim(), bytes as f64 / 1e6);
    Ok(())
}

/// Waits for a child that prints less than a pipe holds, and returns what it printed.
fn finish(mut child: Child, what: &str, signals: &Signals) -> Result<String, DemoError> {
    let deadline = Instant::now() + RUN_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(DemoError::Late { what: what.to_owned() });
        }
        signals.wait(None, Some(deadline)).map_err(io::Error::from)?;
        while let Some(arrived) = signals.next() {
            if arrived.signal != Signal::SIGCHLD {
                child.kill()?;
                child.wait()?;
                return Err(DemoError::Interrupted(arrived.signal));
            }
        }
    };
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut output)?;
    }
    if status.success() { Ok(output) } else { Err(DemoError::Ended { what: what.to_owned(), status }) }
}

/// One run of the program.
#[derive(Clone, Debug)]
struct Run {
    what: String,
    /// The local budget in bytes; absent in plain memory.
    budget: Option<u64>,
    report: Report,
}

/// That the answers agree, and that far memory was really used and the budget honoured.
fn check(runs: &[Run]) -> Result<(), DemoError> {
    let Some(plain) = runs.first() else { return Err(DemoError::Unconvincing("nothing has run".to_owned())) };
    for run in &runs[1..] {
        let differ = || DemoError::Differ {
            what: run.what.clone(),
            theirs: run.report.answers.clone(),
            ours: plain.report.answers.clone(),
        };
        if run.report.answers != plain.report.answers || run.report.records != plain.report.records {
            return Err(differ());
        }
        let (Some(far), Some(budget)) = (&run.report.far, run.budget) else {
            return Err(DemoError::Unconvincing(format!("{} did not run in far memory", run.what)));
        };
        check_budget(run, far, budget)?;
    }
    Ok(())
}

fn check_budget(run: &Run, far: &Far, budget: u64) -> Result<(), DemoError> {
    let most = budget + budget * BUDGET_SLACK_PERCENT / 100 + BUDGET_SLACK_BYTES;
    if far.resident_peak_bytes > most {
        let (peak, what) = (far.resident_peak_bytes, &run.what);
        return Err(DemoError::Unconvincing(format!("{what}: {peak} bytes were local, {budget} are allowed")));
    }
    if budget < far.heap_bytes && far.pages_fetched == 0 {
        return Err(DemoError::Unconvincing(format!("{}: nothing was fetched, so nothing was far", run.what)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(answers: &str, far: Option<Far>) -> Run {
        let report = Report { records: 1, answers: answers.to_owned(), far, ..Report::default() };
        Run { what: "a run".into(), budget: report.far.as_ref().map(|_| 10 << 20), report }
    }

    fn far(peak: u64, fetched: u64) -> Option<Far> {
        Some(Far { heap_bytes: 40 << 20, resident_peak_bytes: peak, pages_fetched: fetched, ..Far::default() })
    }

    #[test]
    fn a_good_demo_is_good() {
        assert!(check(&[run("x", None), run("x", far(10 << 20, 5)), run("x", far(11 << 20, 5))]).is_ok());
    }

    #[test]
    fn each_doubt_fails_the_demo() {
        let cases = [
            (vec![], "nothing has run"),
            (vec![run("x", None), run("y", far(1, 1))], "gave other answers (y) than plain memory (x)"),
            (vec![run("x", None), run("x", None)], "did not run in far memory"),
            (vec![run("x", None), run("x", far(12 << 20, 1))], "bytes were local"),
            (vec![run("x", None), run("x", far(1, 0))], "nothing was fetched"),
        ];
        for (runs, why) in cases {
            let message = check(&runs).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }
}
