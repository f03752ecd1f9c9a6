//! What programs do wrong, and what RUM answers: one clear line, the documented errno or exit code, never a hang.

mod common;

use std::{fs, os::unix::process::ExitStatusExt, path::PathBuf};

use common::{Grid, Ran, compile, run};

/// The test program, compiled into the grid's directory.
fn program(grid: &Grid) -> PathBuf {
    let program = grid.directory.path().join("bad_input");
    if !program.exists() {
        compile("tests/c/bad_input.c", grid.directory.path(), &["-std=gnu11", "-Wno-free-nonheap-object"]);
    }
    program
}

fn case(grid: &Grid, name: &str) -> Ran {
    run(grid.command(&program(grid), "256K").arg(name))
}

/// The process aborts after one line that contains `what`.
#[track_caller]
fn expect_abort(ran: &Ran, what: &str) {
    assert_eq!(ran.output.status.signal(), Some(6), "{ran}");
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.contains(what)).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("rum: "), "{ran}");
}

/// The process ends with code 2 after one line that contains all of `what`.
#[track_caller]
fn expect_refusal(ran: &Ran, what: &[&str]) {
    assert_eq!(ran.output.status.code(), Some(2), "{ran}");
    let last = ran.stderr.lines().last().unwrap_or("");
    assert!(last.starts_with("rum: rum_init: ") && what.iter().all(|part| last.contains(part)), "{ran}");
}

#[track_caller]
fn expect_ok(ran: &Ran) {
    assert!(ran.output.status.success() && ran.stdout == "ok\n", "{ran}");
}

#[test]
fn calls_before_init_fail_with_one_line() {
    let grid = Grid::start(1, 16);
    let ran = case(&grid, "before-init");
    expect_ok(&ran);
    assert_eq!(ran.stderr, "rum: rum_alloc: no grid is joined; call rum_init first\n");
    expect_abort(&case(&grid, "free-before-init"), "call rum_init first");
}

#[test]
fn a_second_init_is_ignored_for_the_same_file_and_refused_for_another() {
    let grid = Grid::start(1, 16);
    let ran = case(&grid, "twice");
    expect_ok(&ran);
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("joined already")).count(), 1, "{ran}");
    fs::copy(grid.machines(), grid.directory.path().join("other.csv")).unwrap();
    expect_refusal(&case(&grid, "twice-other"), &["machines.csv", "other.csv", "rum_end"]);
}

#[test]
fn impossible_sizes_are_enomem() {
    let grid = Grid::start(1, 16);
    expect_ok(&case(&grid, "huge"));
    expect_ok(&case(&grid, "calloc-overflow"));
}

#[test]
fn a_full_grid_is_enomem_and_what_is_freed_can_be_had_again() {
    let grid = Grid::start(2, 64);
    // A program that ended by exit has left: the next one finds all the memory at once, not when a lease has run out.
    for _ in 0..2 {
        expect_ok(&case(&grid, "full"));
    }
}

#[test]
fn wrong_frees_abort_with_one_line() {
    let grid = Grid::start(1, 64);
    for (name, what) in [
        ("double-free", "freed twice"),
        ("double-free-large", "freed twice"),
        ("free-inside", "not the start"),
        ("free-foreign", "not far memory"),
        ("realloc-foreign", "not far memory"),
        ("free-named-as-other", "not the object of this name"),
    ] {
        expect_abort(&case(&grid, name), what);
    }
}

#[test]
fn the_grid_can_be_left_and_joined_again() {
    let grid = Grid::start(1, 64);
    expect_ok(&case(&grid, "after-end"));
    expect_ok(&case(&grid, "join-again"));
}

#[test]
fn threads_may_touch_far_memory_while_the_program_exits() {
    let grid = Grid::start(1, 64);
    for _ in 0..5 {
        expect_ok(&case(&grid, "exit-while-touching"));
    }
}

#[test]
fn a_forked_child_leaves_its_parents_grid_alone() {
    let grid = Grid::start(1, 64);
    let ran = case(&grid, "fork");
    expect_ok(&ran);
    assert!(ran.stderr.contains("rum: rum_alloc: a forked child does not have its parent's grid"), "{ran}");
}

#[test]
fn a_bad_machines_file_is_named_with_line_and_column() {
    let grid = Grid::start(1, 16);
    let join = |machines: &str| run(grid.command(&program(&grid), "256K").arg("join").arg(machines));
    expect_refusal(&join("missing.csv"), &["missing.csv", "No such file"]);
    expect_refusal(
        &run(grid.command(&program(&grid), "256K").env_remove("RUM_MACHINES").arg("join")),
        &["RUM_MACHINES"],
    );
    for (contents, what) in [
        ("", "empty.csv"),
        ("127.0.0.1,02:00:00:00:00:01,vhost:a.sock\nnot an address\n", "bad.csv:2:1"),
        ("127.0.0.1,02:00:00:00:00,vhost:a.sock\n", "bad.csv:1:11"),
        ("127.0.0.1,02:00:00:00:00:01,carrier_pigeon:x\n", "carrier_pigeon"),
    ] {
        let name = if contents.is_empty() { "empty.csv" } else { "bad.csv" };
        fs::write(grid.directory.path().join(name), contents).unwrap();
        expect_refusal(&join(name), &[what]);
    }
    let ran = run(grid.command(&program(&grid), "lots").arg("join"));
    expect_refusal(&ran, &["RUM_LOCAL_BUDGET", "lots"]);
    let ran = run(grid.command(&program(&grid), "1M").env("RUM_FAULT_ENGINE", "magic").arg("join"));
    expect_refusal(&ran, &["RUM_FAULT_ENGINE", "magic"]);
}

#[test]
fn a_socket_that_nobody_serves_is_an_error_after_a_bounded_wait() {
    let grid = Grid::start(1, 16);
    let socket = grid.directory.path().join("nobody.sock");
    let machines = grid.directory.path().join("nobody.csv");
    fs::write(&machines, format!("127.0.0.1,02:00:00:00:00:01,vhost:{}\n", socket.display())).unwrap();
    let started = std::time::Instant::now();
    let ran = run(grid.command(&program(&grid), "256K").arg("join").arg(&machines));
    expect_refusal(&ran, &["nobody.sock", "rum-slave"]);
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
}
