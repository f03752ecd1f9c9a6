//! `rum status`: what the slaves of a grid say of themselves.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use rum_core::{
    config::{Config, ConfigError, Machine},
    grid::draw_incarnation,
};
use rum_net::{
    fabric::{Fabric, PeerIndex},
    port::spec::PortSpec,
    rpc::client::ClientEvent,
    station::LinkError,
    wire::message::{REQUEST_HEAD_BYTES, decode_describe_response, encode_describe},
};
use rum_slave::description::{PartDescription, SlaveDescription};
use serde::Serialize;

/// A slave that says nothing is waited for this long.
const PATIENCE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_millis(1);
const MIB: u64 = 1 << 20;

#[derive(clap::Args)]
pub struct Arguments {
    /// The grid's machines.csv; RUM_MACHINES if there is none
    machines: Option<PathBuf>,
    /// One JSON object with all that the slaves say
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// A slave of machines.csv, and what it says; nothing if it says nothing.
#[derive(Serialize)]
struct Slave {
    link: String,
    name: Option<String>,
    says: Option<SlaveDescription>,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let slaves = match ask_all(arguments) {
        Ok(slaves) => slaves,
        Err(error) => {
            eprintln!("rum status: {error}");
            return ExitCode::from(2);
        }
    };
    if arguments.json {
        // Strings and numbers: there is nothing that could fail.
        println!("{}", serde_json::json!({ "slaves": slaves }));
    } else {
        print(&slaves);
    }
    if slaves.iter().all(|slave| slave.says.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ask_all(arguments: &Arguments) -> Result<Vec<Slave>, StatusError> {
    let config = Config::from_env(arguments.machines.as_deref())?;
    let incarnation = draw_incarnation().map_err(StatusError::Random)?;
    let mut fabric = Fabric::new(incarnation, config.key.clone());
    for machine in &config.machines {
        add(&mut fabric, machine)?;
    }
    let mut answers: Vec<Option<SlaveDescription>> = vec![None; config.machines.len()];
    let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); config.machines.len()];
    let mut asked = vec![false; config.machines.len()];
    let deadline = Instant::now() + PATIENCE;
    while answers.iter().any(Option::is_none) && Instant::now() < deadline {
        for (index, asked) in asked.iter_mut().enumerate().filter(|(_, asked)| !**asked) {
            let mut request = [0; REQUEST_HEAD_BYTES];
            *asked = fabric.request(PeerIndex(index), encode_describe(&mut request), &[]).is_ok();
        }
        fabric.poll(&mut |peer, event| match event {
            ClientEvent::Fragment { offset, bytes: part, .. } => {
                let bytes = &mut bytes[peer.0];
                bytes.resize(bytes.len().max(offset + part.len()), 0);
                bytes[offset..offset + part.len()].copy_from_slice(part);
            }
            ClientEvent::Complete { .. } => {
                let json = decode_describe_response(&bytes[peer.0]).unwrap_or_default();
                answers[peer.0] = serde_json::from_slice(json).ok();
            }
            ClientEvent::Opened { .. } | ClientEvent::Reset => {}
        });
        fabric.idle(IDLE);
    }
    for index in 0..answers.len() {
        fabric.session_mut(PeerIndex(index)).close(Instant::now());
    }
    fabric.poll(&mut |_, _| {});
    let slave =
        |(machine, says): (&Machine, _)| Slave { link: machine.link.to_string(), name: machine.name.clone(), says };
    Ok(config.machines.iter().zip(answers).map(slave).collect())
}

/// A slave on a socket that is not served is shown as silent.
fn add(fabric: &mut Fabric, machine: &Machine) -> Result<(), LinkError> {
    match fabric.add_peer(&machine.link, machine.mac, machine.ip.parse().ok(), REQUEST_HEAD_BYTES) {
        Ok(_) => {}
        Err(error) if error.may_pass() && matches!(machine.link.port, PortSpec::Vhost(_)) => {
            fabric.add_absent_peer(&machine.link, machine.mac, REQUEST_HEAD_BYTES);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn print(slaves: &[Slave]) {
    println!(
        "{:<5} {:<14} {:>8} {:>10} {:>10} {:>9} {:>8}  leads, follows",
        "slave", "name", "up", "memory", "used", "sessions", "leases"
    );
    for (number, slave) in slaves.iter().enumerate() {
        let name = slave.name.as_deref().unwrap_or("-");
        let Some(says) = &slave.says else {
            println!("{number:<5} {name:<14} no answer at {}", slave.link);
            continue;
        };
        let sum = |of: fn(&PartDescription) -> u64| says.parts.iter().map(of).sum::<u64>();
        let groups = |standing: &str| {
            let parts = says.parts.iter().filter(|part| part.standing == standing);
            let numbers: Vec<String> = parts.map(|part| part.group.to_string()).collect();
            if numbers.is_empty() { "-".to_owned() } else { numbers.join(" ") }
        };
        let does = if says.replication_factor > 1 {
            format!("{}, {}", groups("leader"), groups("follower"))
        } else {
            "alone".to_owned()
        };
        let leases = says.parts.iter().map(|part| part.leases).max().unwrap_or(0);
        println!(
            "{number:<5} {name:<14} {:>6} s {:>6} MiB {:>6} MiB {:>9} {leases:>8}  {does}",
            says.up_s,
            says.capacity_bytes / MIB,
            sum(|part| part.used_bytes).div_ceil(MIB),
            says.sessions,
        );
    }
    println!();
    println!(
        "{:<5} {:<10} {:>6} {:>10} {:>10} {:>10} {:>7}  lag of the others, in entries",
        "group", "slaves", "leader", "memory", "reserved", "used", "objects"
    );
    for part in leading(slaves) {
        let numbers: Vec<String> = part.slaves.iter().map(ToString::to_string).collect();
        let lags: Vec<String> = part.lags.iter().map(|(slave, lag)| format!("{slave}: {lag}")).collect();
        println!(
            "{:<5} {:<10} {:>6} {:>6} MiB {:>6} MiB {:>6} MiB {:>7}  {}",
            part.group,
            numbers.join(" "),
            part.leader.map_or("-".to_owned(), |leader| leader.to_string()),
            part.capacity_bytes / MIB,
            part.reserved_bytes / MIB,
            part.used_bytes.div_ceil(MIB),
            part.names,
            lags.join(", "),
        );
    }
    print_scrub(slaves);
    print_holders(slaves);
}

/// What comparing replicas has found, where there are any.
fn print_scrub(slaves: &[Slave]) {
    let says = slaves.iter().map(|slave| slave.says.as_ref());
    let sums = says.zip(0..).filter_map(|(says, number)| {
        let parts = &says.filter(|says| says.replication_factor > 1)?.parts;
        let sum = |of: fn(&PartDescription) -> u64| parts.iter().map(of).sum::<u64>();
        let [compared, repaired, undecided] =
            [sum(|part| part.compared_pages), sum(|part| part.repaired_pages), sum(|part| part.undecided_pages)];
        Some((number, compared, repaired, undecided))
    });
    let sums: Vec<(usize, u64, u64, u64)> = sums.collect();
    if sums.is_empty() {
        return;
    }
    let all = |of: fn(&(usize, u64, u64, u64)) -> u64| sums.iter().map(of).sum::<u64>();
    let where_ = sums.iter().filter(|sum| sum.2 > 0).map(|sum| format!(", {} on slave {}", sum.2, sum.0));
    println!(
        "\nscrub: {} pages compared, {} repaired{}, {} undecided",
        all(|sum| sum.1),
        all(|sum| sum.2),
        where_.collect::<String>(),
        all(|sum| sum.3)
    );
}

/// The parts that know most: those of leaders, and of slaves that do not replicate.
fn leading(slaves: &[Slave]) -> impl Iterator<Item = &PartDescription> {
    let parts = slaves.iter().filter_map(|slave| slave.says.as_ref()).flat_map(|says| &says.parts);
    parts.filter(|part| ["leader", "alone"].contains(&part.standing.as_str()))
}

fn print_holders(slaves: &[Slave]) {
    let mut owners = std::collections::BTreeMap::<&str, u64>::new();
    let mut accounts = std::collections::BTreeMap::<&str, (u64, Option<u64>)>::new();
    for part in leading(slaves) {
        part.owners.iter().for_each(|(owner, bytes)| *owners.entry(owner).or_default() += bytes);
        for (name, held, quota) in &part.accounts {
            let account = accounts.entry(name).or_insert((0, *quota));
            account.0 += held;
        }
    }
    if !owners.is_empty() {
        println!("\n{:<34} {:>10}", "owner", "reserved");
        owners.iter().for_each(|(owner, bytes)| println!("{owner:<34} {:>6} MiB", bytes / MIB));
    }
    if !accounts.is_empty() {
        println!("\n{:<34} {:>10} {:>14}", "account", "reserved", "quota a group");
        for (name, (held, quota)) in accounts {
            let quota = quota.map_or("none".to_owned(), |quota| format!("{} MiB", quota / MIB));
            println!("{name:<34} {:>6} MiB {quota:>14}", held / MIB);
        }
    }
}
