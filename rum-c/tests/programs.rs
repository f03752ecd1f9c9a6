//! C and C++ programs, compiled with -lrum alone and run against a real grid under every fault engine.

mod common;

use common::{Grid, compile, engines, run};

#[test]
fn every_c_function_does_what_the_header_says() {
    let grid = Grid::start(2, 64);
    let program = compile("tests/c/api.c", grid.directory.path(), &["-std=c11"]);
    for engine in engines() {
        let ran = run(grid.command(&program, "512K").env("RUM_FAULT_ENGINE", engine));
        assert!(ran.output.status.success(), "{engine}: {ran}");
        assert!(ran.stdout.starts_with("Location        : 127.0.0.1, 02:00:00:00:00:01\nlinks vhost:"), "{ran}");
        assert!(ran.stdout.contains(&format!("\nengine {engine}\nbudget_bytes 524288\n")), "{ran}");
    }
}

#[test]
fn a_program_for_the_original_compiles_unchanged() {
    let grid = Grid::start(1, 64);
    for standard in ["-std=c++98", "-std=c++20"] {
        let program = compile("tests/c/original.cpp", grid.directory.path(), &[standard]);
        let ran = run(grid.command(&program, "64K").env_remove("RUM_MACHINES").arg(grid.machines()));
        assert!(ran.output.status.success() && ran.stdout.ends_with("\nok\n"), "{ran}");
    }
}

#[test]
fn containers_larger_than_the_budget_hold_what_plain_ones_do() {
    let grid = Grid::start(2, 256);
    let program = compile("tests/c/containers.cpp", grid.directory.path(), &["-std=c++17"]);
    for engine in engines() {
        let ran = run(grid.command(&program, "4M").env("RUM_FAULT_ENGINE", engine));
        assert!(ran.output.status.success() && ran.stdout == "ok\n", "{engine}: {ran}");
    }
}

#[test]
fn far_buffers_work_in_system_calls() {
    let grid = Grid::start(1, 128);
    let plain = compile("tests/c/system_calls.c", &grid.subdirectory("plain"), &["-std=gnu11"]);
    let fortified = compile("tests/c/system_calls.c", grid.directory.path(), &["-std=gnu11", "-D_FORTIFY_SOURCE=2"]);
    let runs = engines().into_iter().map(|engine| (&plain, engine)).chain([(&fortified, "uffd-inline")]);
    for (program, engine) in runs {
        let ran = run(grid.command(program, "2M").env("RUM_FAULT_ENGINE", engine));
        assert!(ran.output.status.success() && ran.stdout == "ok\n", "{engine}: {ran}");
    }
}

#[test]
fn a_thread_that_blocks_all_signals_may_touch_far_memory() {
    let grid = Grid::start(1, 64);
    let program = compile("tests/c/blocked_signals.c", grid.directory.path(), &["-std=gnu11", "-pthread"]);
    for engine in engines() {
        let ran = run(grid.command(&program, "512K").env("RUM_FAULT_ENGINE", engine));
        assert!(ran.output.status.success() && ran.stdout == "ok\n", "{engine}: {ran}");
    }
}

#[test]
fn a_named_object_is_found_by_the_next_program() {
    let grid = Grid::start(3, 32);
    let program = compile("tests/c/named.c", grid.directory.path(), &["-std=c11"]);
    for argument in ["create", "change", "check", "free", "missing"] {
        run(grid.command(&program, "256K").arg(argument)).expect("ok\n");
    }
}
