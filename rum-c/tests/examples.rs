//! The examples of the README, compiled by its lines and run; and the installed tree.

mod common;

use std::{path::PathBuf, process::Command};

use common::{Grid, engines, here, library_directory, run};

fn examples() -> PathBuf {
    here().join("../examples")
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(line);
    command
}

/// Compiles by a shell line and runs what it made.
fn compile_and_run(line: &str, grid: &Grid) -> String {
    let ran = run(shell(line).current_dir(grid.directory.path()).env("EXAMPLES", examples()));
    assert!(ran.output.status.success(), "{line}\n{ran}");
    let ran = run(&mut grid.command(&grid.directory.path().join("hello"), "4M"));
    assert!(ran.output.status.success(), "{ran}");
    ran.stdout
}

fn readme() -> String {
    std::fs::read_to_string(here().join("../README.md")).unwrap()
}

/// The README's line that begins so, with this build's folders in the place of its own.
fn readme_line(start: &str) -> String {
    let readme = readme();
    let line = readme.lines().find(|line| line.starts_with(start)).expect("the README has the line");
    let library = library_directory().display().to_string();
    let root = here().join("..").display().to_string();
    line.replace("$PWD/target/release", &library)
        .replace("-Ltarget/release", &format!("-L{library}"))
        .replace("-Irum-c/include", &format!("-I{root}/rum-c/include"))
        .replace("examples/", &format!("{root}/examples/"))
}

#[test]
fn the_readme_shows_the_examples_word_for_word() {
    let readme = readme();
    for name in ["hello.c", "hello.cpp", "hello.rs"] {
        let example = std::fs::read_to_string(examples().join(name)).unwrap();
        assert!(readme.contains(&format!("\n{example}```\n")), "README.md does not show examples/{name} as it is");
    }
}

#[test]
fn the_c_and_cpp_examples_compile_by_the_lines_of_the_readme() {
    let grid = Grid::start(3, 64);
    let sum: u64 = (0..8u64 << 20).fold(0, |sum, i| sum.wrapping_add(i * i));
    let said = compile_and_run(&readme_line("cc -I"), &grid);
    assert_eq!(said, format!("hello from far memory: {sum}\n"));
    let said = compile_and_run(&readme_line("c++ -std"), &grid);
    assert_eq!(said, "hello from far memory: 1522756\n");
}

#[test]
fn the_readme_opens_with_a_program_that_runs() {
    let grid = Grid::start(3, 512);
    let readme = readme();
    let program = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a C program");
    std::fs::write(grid.directory.path().join("opening.c"), program).unwrap();
    let line = readme_line("cc -I").replace(&format!("{}/../examples/hello.c", here().display()), "opening.c");
    compile_and_run(&line, &grid);
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
    let said = compile_and_run(&line, &grid);
    assert!(said.starts_with("hello from far memory: "), "{said}");
    install("--uninstall");
    let left = run(&mut shell(&format!("find '{}' ! -type d", prefix.display())));
    assert_eq!(left.stdout, "");
}
