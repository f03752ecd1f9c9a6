//! Lesson 15: what clients had is free again soon after they die, at whatever point that was, and nothing else is touched:
//! neither named objects, nor what the living have, under the same key and on the same host or not. Slaves are real `rum-slave` processes.

mod grid_common;

use std::{
    path::PathBuf,
    sync::Mutex,
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use grid_common::{
    MIB, PAGE, Turn,
    dice::{Dice, seed},
    far::Far,
    hosts::{RealSlave, key_file, slaves_key_file, status},
    local_grid::{client, join_as_told},
    player::{Player, number, role, say, told},
    wait_for,
};
use rum_core::grid::{Grid, ObjectHash};

const SLAVES: usize = 3;
const LEASE: Duration = Duration::from_secs(2);
/// After the lease of the last of the dead, everything of theirs is free within this time.
const AFTER: Duration = Duration::from_secs(2);
const CLIENTS: usize = 100;
/// So many are started at once.
const AT_ONCE: usize = 10;
/// What clients say before they come to rest.
const STEPS: [&str; 5] = ["joined", "allocated", "named", "freed", "resting"];
const LONGEST: Duration = Duration::from_secs(60);

/// How slaves on sockets are reached.
struct Slaves {
    machines: String,
    machines_file: PathBuf,
    keys: PathBuf,
    _folder: tempfile::TempDir,
}

impl Slaves {
    /// Slaves that keep each page `factor` times, and the processes.
    fn start(factor: usize) -> (Self, Vec<RealSlave>) {
        let folder = tempfile::tempdir().expect("a folder");
        let link = |number: usize| format!("vhost:{}", folder.path().join(format!("s{number}")).display());
        let line = |number: usize| format!(";10.0.0.{0},02:00:00:00:00:0{0},{1}", number + 1, link(number));
        let machines = format!("# rf={factor}") + &(0..SLAVES).map(line).collect::<String>();
        let machines_file = folder.path().join("machines.csv");
        std::fs::write(&machines_file, machines.replace(';', "\n")).expect("our own folder");
        let keys = key_file(folder.path());
        let slaves_keys = slaves_key_file(&keys);
        let lease = format!("{}ms", LEASE.as_millis());
        let text = |path: &PathBuf| path.to_str().expect("a path of ours").to_owned();
        let (machines_path, keys_path) = (text(&machines_file), text(&slaves_keys));
        let start = |number: usize| {
            let link = link(number);
            let arguments = ["--port", &link, "--memory", "2G", "--lease", &lease, "--machines", &machines_path];
            RealSlave::start(None, &[&arguments[..], &["--keys", &keys_path]].concat())
        };
        let slaves: Vec<RealSlave> = (0..SLAVES).map(start).collect();
        if factor > 1 {
            slaves.iter().for_each(RealSlave::recover);
        }
        (Self { machines, machines_file, keys, _folder: folder }, slaves)
    }

    fn client(&self, role: &str, number: usize) -> Player {
        let keys = ("keys", self.keys.display().to_string());
        client(role, &self.machines, 1, &[keys, ("number", number.to_string())])
    }

    /// Clients that hold memory, and bytes of named objects, as the leaders know it.
    fn held(&self) -> (usize, u64) {
        let slaves = status(None, &self.machines_file, Some(&self.keys));
        let parts = slaves.into_iter().flatten().flat_map(|slave| slave.parts);
        let leading = parts.filter(|part| ["leader", "alone"].contains(&part.standing.as_str()));
        let owners: Vec<(String, u64)> = leading.flat_map(|part| part.owners).collect();
        let (named, clients): (Vec<_>, Vec<_>) = owners.into_iter().partition(|(owner, _)| owner == "named objects");
        let clients: std::collections::HashSet<String> = clients.into_iter().map(|(owner, _)| owner).collect();
        (clients.len(), named.iter().map(|(_, bytes)| bytes).sum())
    }
}

/// A client's life, and its end after `steps` of what it says, or a moment after its start. One that is to rest is given back.
fn live(slaves: &Slaves, number: usize, mut dice: Dice) -> (Option<Player>, bool) {
    let mut client = slaves.client("victim", number);
    let steps = dice.below(2 * STEPS.len());
    for step in STEPS.iter().take(steps) {
        client.hear(step);
    }
    if steps >= STEPS.len() {
        return (Some(client), true);
    }
    sleep(Duration::from_micros(dice.below(if steps == 0 { 100_000 } else { 8_000 }) as u64));
    client.kill();
    (None, steps > 2)
}

fn what_the_dead_had_is_free_and_nothing_else(factor: usize) {
    let _turn = Turn::wait();
    let ((slaves, _processes), seed) = (Slaves::start(factor), seed());
    let started = Instant::now();
    let mut living: Vec<Player> = (0..2).map(|number| slaves.client("living", number)).collect();
    living.iter_mut().for_each(|client| drop(client.hear("working")));

    // One that is killed and started anew at once, under the same key, while the other still has its lease.
    let killed = living.pop().expect("the second");
    killed.kill();
    living.push(slaves.client("living", 1));
    let restarted = living.last_mut().expect("the second");
    restarted.hear("working");

    let (resting, named) = (Mutex::new(vec![]), Mutex::new(vec![]));
    scope(|scope| {
        for thread in 0..AT_ONCE {
            let (slaves, resting, named) = (&slaves, &resting, &named);
            scope.spawn(move || {
                for number in (thread..CLIENTS).step_by(AT_ONCE) {
                    let (client, has_named) = live(slaves, number, Dice::new(seed + number as u64));
                    resting.lock().unwrap().extend(client);
                    named.lock().unwrap().extend(has_named.then_some(number));
                }
            });
        }
    });
    let (resting, named) = (resting.into_inner().unwrap(), named.into_inner().unwrap());
    println!(
        "after {:.1?} {} of {CLIENTS} were killed on their way, {} hold memory",
        started.elapsed(),
        CLIENTS - resting.len(),
        slaves.held().0
    );
    assert!(slaves.held().0 >= resting.len() + living.len() && named.len() > CLIENTS / 4, "that is no work");
    resting.into_iter().for_each(Player::kill);
    let died = Instant::now();
    while slaves.held().0 > living.len() {
        let waited = died.elapsed();
        assert!(waited < LEASE + AFTER, "{} clients hold memory after {waited:.1?}", slaves.held().0);
    }
    println!("all that the dead had is free after {:.1?}", died.elapsed());

    // The living have what they had.
    for client in &mut living {
        client.tell("look");
        client.hear("all there");
    }
    let mut reader = slaves.client("reader", 0);
    for number in &named {
        reader.tell(&number.to_string());
        reader.hear("intact");
    }
    println!("{} named objects are intact", named.len());
    for number in 0..CLIENTS {
        reader.tell(&format!("{}", CLIENTS + number));
        reader.hear("gone");
    }
    assert_eq!(slaves.held(), (living.len(), 0), "named objects are freed by their names alone");
    for mut client in living.into_iter().chain([reader]) {
        client.tell("end");
        client.succeed(LONGEST);
    }
    wait_for("those who left hold nothing", LEASE, || slaves.held() == (0, 0));
}

#[test]
fn what_a_hundred_dead_clients_had_is_free_again() {
    what_the_dead_had_is_free_and_nothing_else(1);
}

#[test]
fn what_a_hundred_dead_clients_had_is_free_again_on_all_replicas() {
    what_the_dead_had_is_free_and_nothing_else(3);
}

// ---- the parts ----

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("victim") => play_victim(),
        Some("living") => play_living(),
        Some("reader") => play_reader(),
        Some(other) => panic!("no role {other:?}"),
    }
}

const OBJECT_BYTES: usize = MIB + 2 * PAGE;

fn hash(number: u64) -> ObjectHash {
    ObjectHash(std::array::from_fn(|at| number as u8 ^ at as u8))
}

/// Pages that a client uses: every so many bytes one.
const STRIDE: usize = 4 * PAGE;

/// Each of them has its number, and the client's.
fn fill(far: &Far, number: u64) {
    (0..far.len()).step_by(STRIDE).for_each(|at| far.set_word(at, at as u64 | 1 | number << 32));
}

fn check(far: &Far, number: u64) {
    (0..far.len()).step_by(STRIDE).for_each(|at| assert_eq!(far.word(at), at as u64 | 1 | number << 32));
}

fn play_victim() {
    let (grid, number) = (join_as_told(), number("number"));
    let (first, second) = (Far::zeroed(&grid, 2 * MIB), Far::zeroed(&grid, MIB));
    say("allocated");
    fill(&first, number);
    let object = grid.alloc_named(&hash(number), OBJECT_BYTES, None).expect("room");
    fill(&Far::of(object.pointer, OBJECT_BYTES), number);
    grid.flush();
    say("named");
    grid.free(second.base()).expect("allocated");
    say("freed");
    check(&first, number);
    say("resting");
    told();
}

fn play_living() {
    let grid = join_as_told();
    let kept = Far::zeroed(&grid, 3 * MIB);
    fill(&kept, 1000 + number("number"));
    say("working");
    while told() == "look" {
        check(&kept, 1000 + number("number"));
        say("all there");
    }
}

/// Checks the named object of a client, or frees it.
fn play_reader() {
    let grid: Grid = join_as_told();
    while let Ok(number) = told().parse::<u64>() {
        if number >= CLIENTS as u64 {
            grid.free_named(&hash(number - CLIENTS as u64), None);
            say("gone");
        } else {
            let object = grid.get_named(&hash(number), None).expect("it stays");
            assert_eq!(object.size, OBJECT_BYTES);
            check(&Far::of(object.pointer, OBJECT_BYTES), number);
            say("intact");
        }
    }
}
