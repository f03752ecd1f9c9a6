//! The rules of style that a program can check, over all files of the workspace: lengths of files and functions, a
//! SAFETY comment at every `unsafe` block, nothing left to be done, no ignored test, no path of somebody's machine.
#![forbid(unsafe_code)]

mod code;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The most lines of a file.
pub const FILE_LINES: usize = 1_000;
/// The most lines of a function, from `fn` to its closing brace.
pub const FUNCTION_LINES: usize = 100;
/// How far above an `unsafe` block its SAFETY comment may begin.
const SAFETY_LINES: usize = 12;

const SOURCES: [&str; 6] = ["rs", "c", "h", "cpp", "hpp", "sh"];
const TEXTS: [&str; 9] = ["rs", "c", "h", "cpp", "hpp", "sh", "md", "toml", "csv"];
/// Crates in which there is no unsafe code at all.
const SAFE_CRATES: [&str; 7] = [
    "paxos/src/lib.rs",
    "heartbeat/src/lib.rs",
    "rum-slave/src/lib.rs",
    "rum-slave/src/main.rs",
    "rum-cli/src/main.rs",
    "apps/catalogue/src/main.rs",
    "tests/tidy/src/lib.rs",
];

/// A broken rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Offence {
    /// Of the workspace's root.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// All offences of the workspace at `root`. Folders of build results and hidden ones are left out.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn check(root: &Path) -> io::Result<Vec<Offence>> {
    let mut offences = Vec::new();
    let mut files = Vec::new();
    list(root, &mut files)?;
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file)?).into_owned();
        let path = file.strip_prefix(root).unwrap_or(&file);
        offences.extend(check_file(path, &text));
    }
    offences.sort();
    Ok(offences)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !name.starts_with("target") {
                list(&entry.path(), files)?;
            }
        } else if has_extension(&entry.path(), &TEXTS) {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known))
}

/// The offences of one file.
pub fn check_file(path: &Path, text: &str) -> Vec<Offence> {
    let mut found: Vec<(usize, String)> = machine_paths(text);
    if has_extension(path, &SOURCES) {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            found.push((lines, format!("{lines} lines, more than {FILE_LINES}: divide the file")));
        }
    }
    if has_extension(path, &["rs"]) {
        let code = code::without_comments_and_literals(text);
        found.extend(long_functions(&code));
        found.extend(unexplained_unsafe(text, &code));
        found.extend(unfinished(&code));
        if SAFE_CRATES.iter().any(|safe| path == Path::new(safe)) && !code.contains("#![forbid(unsafe_code)]") {
            found.push((1, "this crate has to forbid unsafe code".to_owned()));
        }
    }
    found.into_iter().map(|(line, what)| Offence { path: path.to_owned(), line, what }).collect()
}

fn machine_paths(text: &str) -> Vec<(usize, String)> {
    // Put together here, so that this file is not an offence itself.
    let folders = ["work", "root", "home"].map(|name| format!("/{name}/"));
    let lines = text.lines().enumerate();
    let offending = lines.filter_map(|(index, line)| {
        let folder = folders.iter().find(|folder| {
            line.match_indices(folder.as_str()).any(|(at, _)| {
                !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-}$*".contains(before))
            })
        })?;
        Some((index + 1, format!("{folder:?} is a path of somebody's machine")))
    });
    offending.collect()
}

fn long_functions(code: &str) -> Vec<(usize, String)> {
    let long = code::functions(code).into_iter().filter(|function| function.lines > FUNCTION_LINES);
    long.map(|f| (f.line, format!("fn {} has {} lines, more than {FUNCTION_LINES}", f.name, f.lines))).collect()
}

fn unexplained_unsafe(text: &str, code: &str) -> Vec<(usize, String)> {
    let original: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '{').collect();
        let is_block =
            words.windows(2).any(|pair| pair[0] == "unsafe" && (pair[1].starts_with('{') || pair[1] == "impl"));
        let above = &original[index.saturating_sub(SAFETY_LINES)..=index];
        if is_block && !above.iter().any(|line| line.contains("SAFETY:")) {
            found.push((index + 1, "unsafe without a SAFETY comment above it".to_owned()));
        }
    }
    found
}

fn unfinished(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (mark, what) in [
            ("todo!", "something is left to be done"),
            ("unimplemented!", "something is left to be done"),
            ("#[ignore", "a test that does not run tests nothing"),
        ] {
            if line.contains(mark) {
                found.push((index + 1, what.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(text: &str) -> Vec<String> {
        check_file(Path::new("a.rs"), text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_code_is_good() {
        let text = "/// Not todo!().\nfn f() {\n    // SAFETY: it is.\n    unsafe { g() }\n}\n";
        assert_eq!(offences(text), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_its_offence() {
        let home = format!("let a = \"/{}/me/x\";", "home");
        let cases = [
            ("fn f() {\n    unsafe { g() }\n}".to_owned(), "a.rs:2: unsafe without"),
            ("unsafe impl Send for X {}".to_owned(), "a.rs:1: unsafe without"),
            ("fn f() {\n    todo!()\n}".to_owned(), "a.rs:2: something is left"),
            ("fn f() {\n    unimplemented!()\n}".to_owned(), "a.rs:2: something is left"),
            ("#[test]\n#[ignore]\nfn f() {}".to_owned(), "a.rs:2: a test that does not run"),
            (format!("fn f() {{\n{}}}", "    g();\n".repeat(99)), "a.rs:1: fn f has 101 lines"),
            ("\n".repeat(1001), "a.rs:1001: 1001 lines"),
            (home, "a.rs:1: \"/h"),
        ];
        for (text, start) in cases {
            let found = offences(&text);
            assert!(found.len() == 1 && found[0].starts_with(start), "{found:?} instead of {start:?}");
        }
    }

    #[test]
    fn words_in_comments_and_literals_are_no_code() {
        assert!(offences("// todo!\n/* unsafe { } */\nlet a = \"todo!()\"; let b = r#\"#[ignore]\"#;\n").is_empty());
        assert!(offences("let quote = '\"'; let c = \"unsafe {\"; fn f<'a>(x: &'a str) {}\n").is_empty());
    }

    #[test]
    fn a_safe_crate_forbids_unsafe_code() {
        assert_eq!(check_file(Path::new("rum-cli/src/main.rs"), "fn main() {}").len(), 1);
    }

    #[test]
    fn build_results_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["target", ".hidden", "src"] {
            fs::create_dir(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("a.rs"), "fn f() { todo!() }").unwrap();
        }
        let found = check(root.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, Path::new("src/a.rs"));
    }
}
