//! `rum status` of a grid with replication, of one whose slave is gone, and of none.

use std::process::{Command, Output};

fn in_grid(arguments: &[&str], script: &str) -> Output {
    let rum = env!("CARGO_BIN_EXE_rum");
    let mut command = Command::new(rum);
    command.arg("local").args(arguments).args(["--", "sh", "-c", script]).env("RUM", rum).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn who_leads_and_follows() {
    // Until each slave leads its own group.
    let script = "for i in $(seq 100); do \"$RUM\" status --json | grep -o leader.:[0-2] | sort -u | wc -l | grep -qx 3 && break; \
                  sleep 0.1; done; \"$RUM\" status; \"$RUM\" status --json";
    let output = in_grid(&["--slaves", "3", "--rf", "3", "--memory", "96M"], script);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let json = said.lines().last().unwrap();
    let status: serde_json::Value = serde_json::from_str(json).unwrap();
    for slave in status["slaves"].as_array().unwrap() {
        let says = &slave["says"];
        assert_eq!(
            (says["replication_factor"].as_u64(), says["parts"].as_array().map(Vec::len)),
            (Some(3), Some(3)),
            "{json}"
        );
    }
    for part in ["leads, follows", "slave-0", "lag of the others", "32 MiB", "scrub: "] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn a_slave_alone() {
    let output = in_grid(&["--slaves", "1", "--memory", "64M"], "\"$RUM\" status");
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("alone"), "{said}");
}

#[test]
fn what_does_not_answer_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machines.csv");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rum"));
        command.arg("status").args(arguments).env_remove("RUM_MACHINES").output().unwrap()
    };
    let output = run(&[]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(2), 1));
    std::fs::write(&path, "::1,02:00:00:00:00:01,vhost:/nonexistent/slave\n").unwrap();
    let output = run(&[path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("no answer at vhost:/nonexistent/slave"));
}
