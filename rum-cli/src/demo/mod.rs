//! stub
use std::process::ExitCode;
#[derive(clap::Args)]
pub struct Arguments {}
pub fn run(_: &Arguments) -> ExitCode {
    ExitCode::FAILURE
}
