//! Where the data comes from: apt's list of all packages, or, where apt has none, the files that lie on every machine.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Fewer packages than this, and apt has no list.
const FEWEST_PACKAGES: usize = 1_000;
/// The most bytes of one file that become a record, and of all of them.
const FILE_BYTES: u64 = 64 << 10;
const ALL_BYTES: u64 = 64 << 20;
const FOLDERS: [&str; 2] = ["/usr/include", "/usr/share/doc"];

/// Writes at most `limit` records to `output`.
pub fn prepare(output: &Path, limit: usize) -> io::Result<()> {
    let mut count = match from_apt(File::create(output)?, limit) {
        Ok(count) => count,
        // No apt here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mut what = "packages of apt-cache dumpavail";
    if count < FEWEST_PACKAGES.min(limit) {
        count = from_files(File::create(output)?, limit, &FOLDERS.map(PathBuf::from))?;
        what = "files, since apt has no list of packages";
    }
    if count == 0 {
        return Err(io::Error::other("no data: apt has no list of packages, and there are no files in /usr/share/doc"));
    }
    println!("{count} {what}");
    Ok(())
}

fn from_apt(output: File, limit: usize) -> io::Result<usize> {
    let mut apt = Command::new("apt-cache").arg("dumpavail").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let input = apt.stdout.take().ok_or_else(|| io::Error::other("no pipe from apt-cache"))?;
    let copied = copy_records(BufReader::new(input), BufWriter::new(output), limit);
    // With a limit it is not read to its end, and would wait for ever.
    let _ = apt.kill();
    apt.wait()?;
    copied
}

fn copy_records(mut input: impl BufRead, mut output: impl Write, limit: usize) -> io::Result<usize> {
    let (mut count, mut in_record) = (0, false);
    let mut line = Vec::new();
    while count < limit && input.read_until(b'\n', &mut line)? > 0 {
        output.write_all(&line)?;
        let is_blank = line.trim_ascii().is_empty();
        count += usize::from(in_record && is_blank);
        in_record = !is_blank;
        line.clear();
    }
    output.flush()?;
    Ok(count + usize::from(in_record && count < limit))
}

/// Every file under `folders` becomes a record: its path the name, its lines indented, so that a blank one is none.
fn from_files(output: File, limit: usize, folders: &[PathBuf]) -> io::Result<usize> {
    let mut output = BufWriter::new(output);
    let mut folders = folders.to_vec();
    let (mut count, mut bytes) = (0, 0);
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(&folder).map(|entries| entries.flatten().collect()).unwrap_or_default();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && count < limit && bytes < ALL_BYTES {
                let mut content = Vec::new();
                // A file that may not be read is no record.
                let Ok(file) = File::open(entry.path()) else { continue };
                bytes += file.take(FILE_BYTES).read_to_end(&mut content)? as u64;
                writeln!(output, "Package: {}\nDescription:", entry.path().display())?;
                for line in content.split(|byte| *byte == b'\n') {
                    output.write_all(b" ")?;
                    output.write_all(line)?;
                    output.write_all(b"\n")?;
                }
                output.write_all(b"\n")?;
                count += 1;
            }
        }
    }
    output.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    #[test]
    fn a_limit_cuts_after_a_whole_record() {
        let mut copy = Vec::new();
        let text = "Package: a\nX: 1\n\nPackage: b\n\nPackage: c\n";
        assert_eq!(copy_records(text.as_bytes(), &mut copy, 2).unwrap(), 2);
        assert_eq!(copy, b"Package: a\nX: 1\n\nPackage: b\n\n");
        copy.clear();
        assert_eq!(copy_records(text.as_bytes(), &mut copy, 9).unwrap(), 3);
        assert_eq!(copy, text.as_bytes());
    }

    #[test]
    fn files_become_records() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("one"), "first\n\nsecond").unwrap();
        fs::write(folder.path().join("sub/two"), [0xff, b'\n', b'\n', 0]).unwrap();
        let path = folder.path().join("out");
        let count = from_files(File::create(&path).unwrap(), 9, &[folder.path().join("sub"), folder.path().into()]);
        // The output lies among them; being empty when it is read, it is a record, too.
        assert!(count.unwrap() >= 2);
        let mut records = Records::new(BufReader::new(File::open(&path).unwrap()));
        let mut texts = Vec::new();
        while let Some(record) = records.next().unwrap() {
            texts.push(record.text.to_vec());
        }
        assert!(texts.iter().any(|text| text.ends_with(b"one\nDescription:\n first\n \n second")));
        assert!(texts.len() >= 2);
    }
}
