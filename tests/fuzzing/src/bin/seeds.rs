//! Writes the seeds into the corpora: `cargo run -p fuzzing --bin seeds -- fuzz/corpus`.

use std::{env, fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let Some(folder) = env::args().nth(1) else {
        eprintln!("usage: seeds FOLDER");
        return ExitCode::from(2);
    };
    for (number, (target, bytes)) in fuzzing::seeds::all().into_iter().enumerate() {
        let folder = Path::new(&folder).join(target);
        let written =
            fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(format!("seed-{number:03}")), bytes));
        if let Err(error) = written {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
