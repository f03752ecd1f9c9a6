//! Keys as a C program meets them, with a real `rum-slave`: who has the right one joins and is sealed, everybody else gets one
//! clear line and exit code 2, and nobody gets more than his quota.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::{Ran, compile, library_directory, run};

/// A slave on a socket, a folder for it and for keys, and the test program.
struct Place {
    slave: Child,
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Place {
    /// `keys` are the lines of the slave's key file; without any it asks for none.
    fn start(keys: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = compile("tests/c/bad_input.c", folder.path(), &["-std=gnu11", "-Wno-free-nonheap-object"]);
        let socket = folder.path().join("slave.sock");
        // Cargo puts tests into `deps` and programs beside that folder.
        let binary = library_directory().with_file_name("rum-slave");
        assert!(binary.exists(), "there is no {}: run `cargo build -p rum-slave` first", binary.display());
        let mut command = Command::new(binary);
        command.arg("--port").arg(format!("vhost:{}", socket.display())).args(["--memory", "64M"]);
        if !keys.is_empty() {
            command.arg("--keys").arg(key_file(folder.path(), "slave.keys", keys));
        }
        let mut slave = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(slave.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("rum-slave: ready, "), "{ready:?}");
        let sealed = format!(", 64 MiB, sealed for {} clients, ", keys.len());
        assert_eq!(ready.contains(&sealed), keys.len() > 1, "{ready:?}");
        let machines = format!("127.0.0.1,02:00:00:00:00:01,vhost:{}\n", socket.display());
        fs::write(folder.path().join("machines.csv"), machines).unwrap();
        Self { slave, folder, program }
    }

    /// Runs a case of the program as a client with the key file `keys`.
    fn case(&self, name: &str, keys: Option<&Path>) -> Ran {
        run(&mut self.command(name, keys))
    }

    fn command(&self, name: &str, keys: Option<&Path>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(name)
            .env("RUM_MACHINES", self.folder.path().join("machines.csv"))
            .env("RUM_LOCAL_BUDGET", "1M")
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("RUM_FAULT_ENGINE")
            .env_remove("RUM_KEY");
        if let Some(keys) = keys {
            command.env("RUM_KEY", keys);
        }
        command
    }

    fn keys(&self, line: &str) -> PathBuf {
        key_file(self.folder.path(), "client.keys", &[line.to_owned()])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.slave.kill();
        let _ = self.slave.wait();
    }
}

fn key_file(folder: &Path, name: &str, lines: &[String]) -> PathBuf {
    let path = folder.join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, lines.join("\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A line of a key file. Tests need no secret keys.
fn line(name: &str, digit: char, quota: &str) -> String {
    format!("{name} {} {quota}", digit.to_string().repeat(64))
}

#[track_caller]
fn expect_refusal(ran: &Ran, what: &str) {
    assert_eq!(ran.output.status.code(), Some(2), "{ran}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    assert!(ran.stderr.starts_with("rum: rum_init: ") && ran.stderr.contains(what), "{ran}");
    assert!(ran.stdout.is_empty(), "{ran}");
}

#[test]
fn only_who_has_a_key_joins_and_he_is_sealed() {
    let place = Place::start(&[line("a", '1', ""), line("b", '2', "")]);
    let ran = place.case("join", Some(&place.keys(&line("b", '2', ""))));
    ran.expect("ok\n");
    assert!(ran.stderr.starts_with("rum: joined 1 slave over vhost, sealed, nothing replicated"), "{ran}");

    let unknown = "the slave does not know this client's name and key (RUM_KEY)";
    expect_refusal(&place.case("join", Some(&place.keys(&line("b", '3', "")))), unknown);
    expect_refusal(&place.case("join", Some(&place.keys(&line("c", '3', "")))), unknown);
    // One client's key is no other's.
    expect_refusal(&place.case("join", Some(&place.keys(&line("b", '1', "")))), unknown);
    let keyless = "the slave lets in clients with a key only: name your key file in RUM_KEY";
    expect_refusal(&place.case("join", None), keyless);

    let both = key_file(place.folder.path(), "both.keys", &[line("a", '1', ""), line("b", '2', "")]);
    expect_refusal(&place.case("join", Some(&both)), "set RUM_KEY_NAME");
    run(place.command("join", Some(&both)).env("RUM_KEY_NAME", "a")).expect("ok\n");
    fs::set_permissions(&both, fs::Permissions::from_mode(0o644)).unwrap();
    expect_refusal(&place.case("join", Some(&both)), "chmod 600");
    expect_refusal(&place.case("join", Some(Path::new("/does/not/exist"))), "cannot read keys");
}

#[test]
fn a_client_with_a_key_is_not_served_unsealed() {
    let place = Place::start(&[]);
    let ran = place.case("join", None);
    ran.expect("ok\n");
    assert!(ran.stderr.starts_with("rum: joined 1 slave over vhost, not sealed, nothing replicated"), "{ran}");
    let expected = "the slave has no keys, and would not seal the session: unset RUM_KEY, or start it with --keys";
    expect_refusal(&place.case("join", Some(&place.keys(&line("a", '1', "")))), expected);
}

#[test]
fn a_client_over_its_quota_gets_enomem_and_others_get_theirs() {
    let place = Place::start(&[line("small", '1', "16M"), line("big", '2', "")]);
    let small = place.keys(&line("small", '1', ""));
    // What a client that ended by exit held is its own again at once.
    for _ in 0..2 {
        place.case("quota", Some(&small)).expect("ok\n");
    }
    let ran = place.case("quota", Some(&place.keys(&line("big", '2', ""))));
    assert!(!ran.output.status.success() && ran.stderr.contains("rum_c_alloc(24 << 20) == NULL"), "{ran}");
}
