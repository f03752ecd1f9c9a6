//! The examples of the README, compiled by its lines and run; and the installed tree.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::{Grid, engines, here, library_directory, run};

fn examples() -> PathBuf {
    here().join("../examples")
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(line);
    command
}

/// Compiles by a shell line of the README and runs what it made.
fn compile_and_run(line: &str, grid: &Grid, library: &Path, headers: &Path) -> String {
    let ran = run(shell(line)
        .current_dir(grid.directory.path())
        .env("EXAMPLES", examples())
        .env("HEADERS", headers)
        .env("LIBRARY", library));
    assert!(ran.output.status.success(), "{line}\n{ran}");
    let ran = run(&mut grid.command(&grid.directory.path().join("hello"), "4M"));
    assert!(ran.output.status.success(), "{ran}");
    ran.stdout
}

#[test]
fn the_c_and_cpp_examples_compile_by_the_lines_of_the_readme() {
    let grid = Grid::start(3, 64);
    let (library, headers) = (library_directory(), here().join("include"));
    let line = r#"cc -I "$HEADERS" "$EXAMPLES/hello.c" -L "$LIBRARY" -Wl,-rpath,"$LIBRARY" -lrum -o hello"#;
    let sum: u64 = (0..8u64 << 20).fold(0, |sum, i| sum.wrapping_add(i * i));
    assert_eq!(compile_and_run(line, &grid, &library, &headers), format!("hello from far memory: {sum}\n"));
    let line =
        r#"c++ -std=c++17 -I "$HEADERS" "$EXAMPLES/hello.cpp" -L "$LIBRARY" -Wl,-rpath,"$LIBRARY" -lrum -o hello"#;
    assert_eq!(compile_and_run(line, &grid, &library, &headers), "hello from far memory: 1522756\n");
}

#[test]
fn the_rust_example_runs() {
    let grid = Grid::start(3, 64);
    let program = library_directory().join("../examples/hello");
    assert!(program.exists(), "`cargo test --test examples` alone does not build it; `cargo test -p rum-c` does");
    for engine in engines() {
        let ran = run(grid.command(&program, "4M").env("RUM_FAULT_ENGINE", engine));
        let sum: u64 = (0..2_000_000u64).map(|i| i * i).sum();
        ran.expect(&format!("hello from far memory: {sum}\n"));
    }
}

#[test]
fn an_installed_tree_serves_pkg_config_and_is_removed_whole() {
    let grid = Grid::start(1, 128);
    // What stands for the built programs: this test is about the tree.
    let built = grid.subdirectory("built");
    for program in ["rum", "rum-slave"] {
        std::fs::write(built.join(program), "").unwrap();
    }
    std::fs::copy(library_directory().join("librum.so"), built.join("librum.so")).unwrap();
    let prefix = grid.directory.path().join("tree");
    let install = |argument: &str| {
        let line = format!("\"$0\" {argument}");
        let ran = run(shell(&line)
            .arg(here().join("../scripts/install.sh"))
            .env("PREFIX", &prefix)
            .env_remove("DESTDIR")
            .env("RUM_INSTALL_BUILT", &built));
        assert!(ran.output.status.success(), "{ran}");
    };
    install("");
    let line = format!(
        "PKG_CONFIG_PATH='{0}/lib/pkgconfig' && export PKG_CONFIG_PATH
         cc \"$EXAMPLES/hello.c\" $(pkg-config --cflags --libs rum) -Wl,-rpath,'{0}/lib' -o hello",
        prefix.display()
    );
    let said = compile_and_run(&line, &grid, Path::new(""), Path::new(""));
    assert!(said.starts_with("hello from far memory: "), "{said}");
    install("--uninstall");
    let left = run(&mut shell(&format!("find '{}' ! -type d", prefix.display())));
    assert_eq!(left.stdout, "");
}
