//! `rum grid backup` and `rum grid restore` with real slaves, replicated and not, and with folders that are no backups.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use rum_core::{
    config::Config,
    grid::{Grid, Location, ObjectHash, objects::OBJECT_BATCH_BYTES},
};

const ROLE: &str = "RUM_TEST_ROLE";
const FOLDER: &str = "RUM_TEST_FOLDER";
const MIB: u64 = 1 << 20;

/// What a client of a private grid of three slaves says.
fn in_grid(factor: u8, role: &str, folder: &Path) -> String {
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rum"));
    command.args(["local", "--slaves", "3", "--rf", &factor.to_string(), "--memory", "64M", "--"]);
    command.arg(test).args(["play", "--exact", "--nocapture"]).env(ROLE, role).env(FOLDER, folder);
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    said
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `rum grid` of the grid that this process is in.
fn rum(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rum")).arg("grid").args(arguments).output().unwrap()
}

fn rum_ok(arguments: &[&str]) -> String {
    let output = rum(arguments);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// An object of the test: its name, size, and a byte in which its contents differ from others'.
struct Object {
    hash: ObjectHash,
    bytes: Vec<u8>,
    location: Option<Location>,
}

impl Object {
    fn new(name: u8, size: u64, seed: u8, location: Option<Location>) -> Self {
        // Half of it zeros, and none of its pages like another.
        let byte = |at: u64| if at / MIB % 2 == 1 { 0 } else { (at / 4096) as u8 ^ (at % 251) as u8 ^ seed };
        Self { hash: ObjectHash([name; 32]), bytes: (0..size).map(byte).collect(), location }
    }

    fn write(&self, grid: &Grid) {
        let object = grid.open_object(&self.hash, self.location.as_ref(), Some(self.bytes.len() as u64));
        let object = object.unwrap().unwrap();
        for (offset, bytes) in (0..).step_by(OBJECT_BATCH_BYTES).zip(self.bytes.chunks(OBJECT_BATCH_BYTES)) {
            grid.write_object(&object, offset, bytes).unwrap();
        }
    }

    fn is_there(&self, grid: &Grid) -> bool {
        let Some(object) = grid.open_object(&self.hash, self.location.as_ref(), None).unwrap() else { return false };
        assert_eq!(object.size_bytes(), self.bytes.len() as u64);
        let mut found = vec![1; self.bytes.len()];
        for (offset, bytes) in (0..).step_by(OBJECT_BATCH_BYTES).zip(found.chunks_mut(OBJECT_BATCH_BYTES)) {
            grid.read_object(&object, offset, bytes).unwrap();
        }
        found == self.bytes
    }

    fn free(&self, grid: &Grid) {
        let object = grid.open_object(&self.hash, self.location.as_ref(), None).unwrap().unwrap();
        assert!(grid.free_object(object));
    }
}

fn config() -> Config {
    Config::from_env(None).unwrap()
}

/// Of one byte, of several extents, all zeros, and three that are pinned, of which at least two are not where their names belong.
fn objects() -> Vec<Object> {
    let machines = config().machines;
    let location = |slave: usize| Some(Location { ip: machines[slave].ip.clone(), mac: machines[slave].mac });
    let mut objects = vec![Object::new(1, 1, 7, None), Object::new(2, 5 * MIB + 4099, 8, None)];
    objects.push(Object { bytes: vec![0; 70_000], ..Object::new(3, 1, 0, None) });
    objects.extend((0..3).map(|slave| Object::new(4, 9000, slave as u8, location(slave))));
    objects
}

fn all_are_there(grid: &Grid) -> bool {
    objects().iter().all(|object| object.is_there(grid))
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    let folder = std::env::var(FOLDER).unwrap_or_default();
    match std::env::var(ROLE).as_deref() {
        Ok("back up") => play_back_up(&folder),
        Ok("restore") => {
            rum_ok(&["restore", &folder]);
            assert!(all_are_there(&Grid::join(config()).unwrap()));
        }
        _ => {}
    }
}

fn play_back_up(folder: &str) {
    let grid = Grid::join(config()).unwrap();
    assert_eq!(grid.objects().unwrap(), []);
    assert!(rum_ok(&["backup", folder]).contains("backup: 0 objects"));
    objects().iter().for_each(|object| object.write(&grid));
    assert!(rum_ok(&["backup", folder]).contains("backup: 6 objects"));
    // What exists stays as it is, changed or not.
    let changed = Object::new(2, 5 * MIB + 4099, 99, None);
    changed.write(&grid);
    objects()[0].free(&grid);
    let said = rum_ok(&["restore", folder]);
    assert!(said.contains("restore: 1 objects") && said.contains("5 left as they are"), "{said}");
    assert!(objects()[0].is_there(&grid) && changed.is_there(&grid) && !all_are_there(&grid));
    // It is replaced when that is asked for, by zeros too, and whatever its size.
    Object { bytes: vec![9; 70_000], ..Object::new(3, 1, 0, None) }.write(&grid);
    objects()[0].free(&grid);
    Object::new(1, 3 * MIB, 1, None).write(&grid);
    let said = rum_ok(&["restore", folder, "--replace"]);
    assert!(said.contains("restore: 6 objects") && said.contains("replaced"), "{said}");
    assert!(all_are_there(&grid));
}

#[test]
fn objects_come_back_and_into_other_grids() {
    for (from, to) in [(1, 3), (3, 1)] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("backup");
        in_grid(from, "back up", &folder);
        in_grid(to, "restore", &folder);
    }
}

fn refused(arguments: &[&str], part: &str) {
    let output = rum(arguments);
    let said = said(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains(part), "{part} in {said}");
}

#[test]
fn what_is_no_backup_is_refused_before_any_slave_is_asked() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().to_str().unwrap();
    let machines = parent.path().join("machines.csv");
    fs::write(&machines, "::1,02:00:00:00:00:01,vhost:/nonexistent/slave\n").unwrap();
    let machines = machines.to_str().unwrap();
    refused(&["restore", &format!("{folder}/none"), machines], "none/manifest: ");
    fs::write(parent.path().join("manifest"), "rum-backup 9\n").unwrap();
    refused(&["restore", folder, machines], "was written by a newer RUM: it has format 9");
    fs::write(parent.path().join("manifest"), "rum-backup 1\ndata 0\nend 0 00\n").unwrap();
    refused(&["restore", folder, machines], "is damaged: line 3");
    fs::write(parent.path().join("manifest"), "something else\n").unwrap();
    refused(&["restore", folder, machines], "is no list of a backup");
}
