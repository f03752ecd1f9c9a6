//! The command `rum`: a private grid on this host, the demo, what this machine allows, keys, and the figures.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod doctor;
mod folder;
mod grid;
mod keygen;
mod local;
mod signals;
mod slaves;
mod status;
mod tied;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Far memory behind ordinary pointers.
#[derive(Parser)]
#[command(name = "rum", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a private grid on this host, run a command in it, and end it
    Local(local::Arguments),
    /// Run a real program on data several times its local memory, and compare
    Demo(demo::Arguments),
    /// Say what this machine allows, and how to allow the rest
    Doctor,
    /// Say what the slaves of a grid do and keep
    Status(status::Arguments),
    /// Back up all named objects of a grid, and restore them
    Grid(grid::Arguments),
    /// Write a key that lets a client join a grid whose slaves ask for one
    Keygen(keygen::Arguments),
    /// Measure the figures of docs/BENCHMARKS.md
    Bench(bench::Arguments),
    /// Become PROGRAM, and end when the process that started this one ends
    #[command(hide = true)]
    Tied(tied::Arguments),
}

fn main() -> ExitCode {
    // clap ends the process with code 2 itself when the command line is wrong.
    match Arguments::parse().command {
        Command::Local(arguments) => local::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor => doctor::run(),
        Command::Grid(arguments) => grid::run(&arguments),
        Command::Keygen(arguments) => keygen::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tied(arguments) => tied::run(&arguments),
    }
}
