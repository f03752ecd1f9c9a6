//! `rum keygen` as a process: what it writes, for whom, and what it refuses.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use rum_net::seal::KeyFile;

fn keygen(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rum")).arg("keygen").args(arguments).current_dir(folder).output().unwrap()
}

/// A wrong command line is clap's to report; the rest is one line.
#[track_caller]
fn assert_refused(output: &Output, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!stderr.starts_with("rum keygen: ") || stderr.lines().count() == 1, "{stderr}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_key_file_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let output = keygen(folder.path(), &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    let path = folder.path().join("rum.keys");
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!((mode(&path), written.lines().count()), (0o600, 1));
    let file = KeyFile::read(&path).unwrap();
    let client = file.choose(None).unwrap();
    assert_eq!((client.name.as_str(), client.quota_bytes), ("client", None));
    for part in ["rum-slave --keys rum.keys", "RUM_KEY=rum.keys PROGRAM"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains(&client.key.to_hex()[..16]), "{said}");

    assert_refused(&keygen(folder.path(), &[]), "rum keygen: rum.keys: it is there already; --append");
    assert_eq!(fs::read_to_string(&path).unwrap(), written, "nothing is overwritten");
}

/// The file's mode is given when it is created, not after: a generous umask changes nothing.
#[test]
fn the_umask_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "umask 0; exec \"$0\" keygen -o keys";
    let shell = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_rum")]).current_dir(folder.path()).output();
    assert!(shell.unwrap().status.success());
    assert_eq!(mode(&folder.path().join("keys")), 0o600);
}

#[test]
fn clients_are_added_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grid");
    assert!(keygen(folder.path(), &["--name", "a", "--quota", "1.5G", "-o", "grid"]).status.success());
    // As an editor may leave it.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();
    let output = keygen(folder.path(), &["--append", "--name", "b-2", "-o", "grid"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("RUM_KEY=grid RUM_KEY_NAME=b-2 PROGRAM"));
    let file = KeyFile::read(&path).unwrap();
    let quotas: Vec<_> = file.clients().iter().map(|client| (client.name.as_str(), client.quota_bytes)).collect();
    assert_eq!(quotas, [("a", Some(3 << 29)), ("b-2", None)]);
    assert_eq!(mode(&path), 0o600);

    let before = fs::read_to_string(&path).unwrap();
    assert_refused(
        &keygen(folder.path(), &["--append", "--name", "a", "-o", "grid"]),
        "the client \"a\" is in it already",
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(&keygen(folder.path(), &["--append", "--name", "c", "-o", "grid"]), "chmod 600 grid");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
}

/// Many at once: each name is there once, and every line whole.
#[test]
fn appending_at_once_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("grid"), "").unwrap();
    fs::set_permissions(folder.path().join("grid"), fs::Permissions::from_mode(0o600)).unwrap();
    let start = |number: usize| {
        let name = format!("c{}", number / 2);
        let mut command = Command::new(env!("CARGO_BIN_EXE_rum"));
        command.args(["keygen", "--append", "-o", "grid", "--name", &name]).current_dir(folder.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..16).map(start).collect();
    let ended: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap().code()).collect();
    assert_eq!(ended.iter().filter(|code| **code == Some(0)).count(), 8, "{ended:?}");
    assert_eq!(KeyFile::read(&folder.path().join("grid")).unwrap().clients().len(), 8);
}

#[test]
fn bad_wishes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("broken"), "a b c\n").unwrap();
    fs::set_permissions(folder.path().join("broken"), fs::Permissions::from_mode(0o600)).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["--name", "two words"], "expected 1 to 32 letters, digits"),
        (&["--name", ""], "expected 1 to 32 letters, digits"),
        (&["--quota", "lots"], "expected a size of 1M or more, such as 4G"),
        (&["--quota", "4K"], "expected a size of 1M or more, such as 4G"),
        (&["-o", "no/such"], "rum keygen: no/such: cannot write: No such file"),
        (&["--append", "-o", "none"], "rum keygen: none: cannot read keys: No such file"),
        (&["--append", "-o", "broken"], "rum keygen: broken:1:3: a key of 1 characters; expected a key of 64"),
    ];
    for (arguments, expected) in cases {
        assert_refused(&keygen(folder.path(), arguments), expected);
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no file is left behind");
}
