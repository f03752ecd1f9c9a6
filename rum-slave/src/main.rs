//! Starts a slave.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use rum_net::{
    machines::Machines,
    port::{inject::Faults, middleware::Middlewares},
    station::spec::LinkSpec,
};
use rum_slave::{Options, Slave, access, port, replication::ReplicationOptions, server::End, stop::stop, units};
use tracing_subscriber::EnvFilter;

/// Serves a part of this machine's memory to RUM's clients.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where clients come from: vhost:PATH, af_packet:IFACE, af_xdp:IFACE, pci:ADDR or vdev:DEVARGS; in front of it
    /// udp: or udp@ADDRESS[/PREFIX]: for networks that pass only IP. May be repeated.
    #[arg(long = "port", value_name = "LINK", required = true)]
    ports: Vec<LinkSpec>,
    /// Memory to serve, such as 512M or 4G. Taken as clients fill it, not at start.
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    memory: u64,
    /// What to call this slave in messages.
    #[arg(long)]
    name: Option<String>,
    /// How long a client may be silent before its memory goes to others, such as 10s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = lease)]
    lease: Duration,
    /// Take a network interface even if this machine's default route leaves by it.
    #[arg(long)]
    force: bool,
    /// The clients that may join: a file of `NAME KEY [QUOTA]` lines, written by `rum keygen`.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    keys: Option<PathBuf>,
    /// Serve whoever reaches the port, without keys and unencrypted, also on a network.
    #[arg(long)]
    insecure: bool,
    /// The grid that this slave is one of: a machines.csv with a line `# rf=3`. What it keeps is then replicated on as many
    /// slaves; it finds itself by its link or its name.
    #[arg(long, value_name = "FILE")]
    machines: Option<PathBuf>,
    /// Keep all on disk, in this folder: the slave comes back with what it had, also if all slaves end at once. Needs --machines with `# rf=3`
    /// or 5. What is acknowledged is durable.
    #[arg(long, value_name = "DIR", requires = "machines")]
    data_dir: Option<PathBuf>,
    /// How much of what it leads a slave compares with the other copies in a second, to find pages that are damaged; 0 for nothing.
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = rate)]
    scrub: u64,
    /// For tests: lose, double, reorder, damage or delay packets, such as loss=0.01,dup=0.01,latency=50us,rate=1Gbit,seed=7.
    #[arg(long, value_name = "FAULTS")]
    inject: Option<Faults>,
    /// Write every packet into a pcapng file, readable by you alone: it has what clients store. Of several ports each
    /// has a file, with a number in its name.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // Help or version.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return bad(&first_line(&error.to_string())),
    };
    let filter = EnvFilter::try_from_env("RUM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    warn_of_little_memory(arguments.memory);
    match serve(arguments) {
        Ok(code) => code,
        Err(problem) => bad(&problem),
    }
}

fn serve(arguments: Arguments) -> Result<ExitCode, String> {
    let keys = access::keys(&arguments.ports, arguments.keys.as_deref(), arguments.insecure);
    let keys = keys.map_err(|error| error.to_string())?;
    let replication = replication(&arguments)?;
    // Before the port opens, so that a signal from then on removes its socket.
    let (stopper, stop) = stop().map_err(|error| error.to_string())?;
    stopper.on_signals().map_err(|error| error.to_string())?;
    let middlewares = Middlewares { faults: arguments.inject, capture: arguments.capture };
    let (ports, own) = match replication {
        None => (port::open_links(&arguments.ports, arguments.force, &middlewares), None),
        Some(_) => match port::open_links_to_others(&arguments.ports, arguments.force, &middlewares) {
            Ok((ports, own)) => (Ok(ports), own),
            Err(error) => (Err(error), None),
        },
    };
    let ports = ports.map_err(|error| error.to_string())?;
    let options =
        Options { name: arguments.name, lease: arguments.lease, keys, replication, ..Options::new(arguments.memory) };
    let mut slave = Slave::with_own_port(ports, options, own).map_err(|error| error.to_string())?;
    say(&slave.ready_line());
    let end = slave.run_and_say(&stop, &mut say);
    let totals = slave.totals();
    let drops = drops(&slave);
    drop(slave);
    say(&format!("rum-slave: stopped, {totals}{drops}"));
    Ok(match end {
        End::Stopped => ExitCode::SUCCESS,
        End::PortsGone => {
            eprintln!("rum-slave: no port is left to serve");
            ExitCode::FAILURE
        }
        End::DiskFailed(error) => {
            eprintln!("rum-slave: {error}: ending, since nothing can be acknowledged any more");
            ExitCode::FAILURE
        }
    })
}

/// Who replicates with whom; nobody at a replication factor of 1.
fn replication(arguments: &Arguments) -> Result<Option<ReplicationOptions>, String> {
    let Some(path) = &arguments.machines else { return Ok(None) };
    let machines = Machines::read(path, arguments.ports.first()).map_err(|error| error.to_string())?;
    if machines.replication_factor == 1 {
        return match &arguments.data_dir {
            None => Ok(None),
            Some(_) => Err(format!("--data-dir needs replication: put `# rf=3` into {}", path.display())),
        };
    }
    let shown = path.display().to_string();
    let options = ReplicationOptions::find(machines, &shown, arguments.name.as_deref(), &arguments.ports);
    let mut options = options.map_err(|error| error.to_string())?;
    options.data_dir = arguments.data_dir.clone();
    options.scrub.bytes_per_second = arguments.scrub;
    Ok(Some(options))
}

/// What was dropped, by reason, as the end of a line: `, dropped: missed 3, rpc_checksum 12`.
fn drops(slave: &Slave) -> String {
    let mut sums = BTreeMap::new();
    slave.counters(&mut |name, count| {
        if let Some(reason) = name.strip_prefix("dropped_") {
            *sums.entry(reason).or_insert(0) += count;
        }
    });
    let drops: Vec<String> =
        sums.iter().filter(|(_, count)| **count > 0).map(|(reason, count)| format!("{reason} {count}")).collect();
    if drops.is_empty() { String::new() } else { format!(", dropped: {}", drops.join(", ")) }
}

fn memory(text: &str) -> Result<u64, String> {
    rum_net::units::parse_bytes(text).ok_or_else(|| "expected a size such as 512M, 1.5G or 1048576".to_owned())
}

fn rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { memory(text) }
}

fn lease(text: &str) -> Result<Duration, String> {
    units::parse_duration(text)
        .filter(|lease| *lease >= Duration::from_millis(100))
        .ok_or_else(|| "expected a time of 100ms or more, such as 10s or 500ms".to_owned())
}

/// Memory is taken as clients write, so that more than there is may be promised: by whom it matters to.
fn warn_of_little_memory(memory_bytes: u64) {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some(available) = rum_net::units::available_bytes(&meminfo)
        && memory_bytes > available
    {
        eprintln!(
            "rum-slave: warning: {} MiB are to be served, but only {} MiB are available: when clients fill more, this \
             machine will swap or kill",
            memory_bytes >> 20,
            available >> 20
        );
    }
}

/// Prints a line that others wait for. That nobody reads it is no reason to end.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn bad(problem: &str) -> ExitCode {
    eprintln!("rum-slave: {problem}");
    ExitCode::from(2)
}

/// What clap says, in one line.
fn first_line(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").map_or(line.clone(), str::to_owned) + "; see rum-slave --help"
}
