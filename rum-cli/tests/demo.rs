//! `rum demo` with few records, and with a program that does not keep its promises.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

fn demo(catalogue: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rum"));
    command.args(["demo", "--slaves", "2", "--memory", "64M", "--records", "1500"]);
    if let Some(path) = catalogue {
        command.env("RUM_CATALOGUE_BIN", path);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The demo with a stand-in for the catalogue program: `run` is what its runs in far memory do.
fn demo_with(run: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue");
    let plain = r#"{"records":1,"payload_bytes":1,"seed":1,"found":1,"word_counts":[],"answers":"right",
        "load_s":1,"lookups_s":1,"search_s":1,"total_s":3,"far":null}"#;
    let script = format!(
        "#!/bin/sh\n[ $1 = prepare ] && {{ echo none > \"$2\"; exit; }}\n\
         for last; do :; done; [ $last = --plain ] && {{ echo '{plain}'; exit; }}\n{run}\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    demo(Some(&path))
}

#[test]
fn few_records_are_enough_for_a_demo() {
    let (code, said) = demo(None);
    assert_eq!(said.lines().last(), Some("demo: ok"), "{said}");
    assert_eq!(code, Some(0));
    for part in ["2 slaves", "vhost-user", "engine", "plain memory", "all local", "50 % local", "25 % local"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn a_slave_may_die_in_the_middle_of_a_demo() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rum"));
    command.args(["demo", "--kill", "--memory", "128M", "--records", "20000"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().last(), Some("demo: ok"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["3 of them keep each page", "same, slave killed", "longest stall", "it had all pages again"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn nobody_may_die_who_keeps_pages_alone() {
    for (arguments, why) in [
        (&["--kill", "--rf", "1"][..], "demo: FAILED: --kill needs --rf 3 or 5"),
        (&["--rf", "5"], "demo: FAILED: 3 slaves cannot keep each page 5 times: expected --slaves 5 or more"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_rum")).arg("demo").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.lines().last().is_some_and(|line| line.starts_with(why)), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_program_that_fails_fails_the_demo() {
    for (run, why) in [
        ("exit 9", "demo: FAILED: far, all local ended with exit status: 9"),
        ("kill -SEGV $$", "demo: FAILED: far, all local ended with signal: 11"),
        ("echo nonsense", "demo: FAILED: the result of far, all local cannot be read"),
        ("exec \"$0\" run --plain", "demo: FAILED: far, all local did not run in far memory"),
        (
            "\"$0\" run --plain | sed s/right/wrong/",
            "demo: FAILED: far, all local gave other answers (wrong) than plain",
        ),
    ] {
        let (code, said) = demo_with(run);
        assert!(said.lines().last().is_some_and(|line| line.starts_with(why)), "{run}: {said}");
        assert_eq!(code, Some(1));
    }
}
