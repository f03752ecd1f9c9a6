//! `rum bench` with short measurements: that each of the transport's figures is printed, not what it is.

use std::process::Command;

use serde_json::Value;

fn bench(id: &str) -> (Vec<Value>, String) {
    let arguments = ["bench", "--smoke", "--runs", "1", "--json", id];
    let output = Command::new(env!("CARGO_BIN_EXE_rum")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{id}: {said}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), said)
}

#[test]
fn the_transports_figures_are_printed() {
    for (id, parts) in [
        ("R12", &["R12"][..]),
        ("T1", &["T1", "T1.sealed"]),
        ("T2", &["T2", "T2.sealed"]),
        ("R9", &["R9", "R9.stall", "R9.lossless"]),
        ("T3", &["T3", "T3.fair"]),
        ("T4", &["T4", "T4.hellos", "T4.alone"]),
    ] {
        let (figures, said) = bench(id);
        let ids: Vec<&str> = figures.iter().map(|figure| figure["id"].as_str().unwrap()).collect();
        let media = if matches!(id, "R12" | "T1" | "T2") { &["", ".dpdk", ".veth"][..] } else { &["", ".veth"] };
        let measured = media.iter().filter(|medium| !said.contains(&format!("{id}{medium}: not measured")));
        let expected: Vec<String> =
            measured.flat_map(|medium| parts.iter().map(move |part| format!("{part}{medium}"))).collect();
        assert_eq!(ids, expected, "{said}");
        for figure in &figures {
            let keys: Vec<&str> = figure.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys.len(), 9, "{figure}");
            for key in ["ours", "base"] {
                assert!(figure[key].as_f64().is_some_and(|value| value > 0.0), "{key} of {figure}");
            }
        }
    }
}
