//! The data's text, record by record: fields a line, the first `Package: NAME`, records divided by a blank line.

use std::io::{self, BufRead};

const NAME_FIELD: &[u8] = b"Package: ";

/// One package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The value of its field `Package`.
    pub name: &'a [u8],
    /// All of its lines.
    pub text: &'a [u8],
}

/// Reads records one after the other; only one is in memory at a time.
#[derive(Debug)]
pub struct Records<R> {
    input: R,
    text: Vec<u8>,
}

impl<R: BufRead> Records<R> {
    /// The records of `input`.
    pub fn new(input: R) -> Self {
        Self { input, text: Vec::new() }
    }

    /// The next record that has a name, or `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        loop {
            self.text.clear();
            while self.input.read_until(b'\n', &mut self.text)? > 0 {
                if self.text.ends_with(b"\n\n") || self.text == b"\n" {
                    break;
                }
            }
            if self.text.is_empty() {
                return Ok(None);
            }
            if self.name().is_some() {
                break;
            }
        }
        let text = self.text.trim_ascii_end();
        // Checked by the loop: without a name it goes on.
        Ok(self.name().map(|name| Record { name, text }))
    }

    fn name(&self) -> Option<&[u8]> {
        let line = self.text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(NAME_FIELD))?;
        let name = line.trim_ascii();
        (!name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(String, String)> {
        let mut records = Records::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(record) = records.next().unwrap() {
            let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            all.push((string(record.name), string(record.text)));
        }
        all
    }

    #[test]
    fn records_are_divided_by_blank_lines() {
        let text = "Package: a\nVersion: 1\n\n\nPackage: b \n\nSource: none\n\nVersion: 2\nPackage: c";
        let expected = [("a", "Package: a\nVersion: 1"), ("b", "Package: b"), ("c", "Version: 2\nPackage: c")];
        assert_eq!(all(text), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn nothing_is_in_nothing() {
        assert!(all("").is_empty());
        assert!(all("\n\n\n").is_empty());
        assert!(all("Package: \n\n").is_empty());
    }
}
