//! Who may join a grid: files that name clients and hold their keys.
//!
//! ```text
//! # one client a line: name, key as 64 hexadecimal digits, and, if it has one, its quota on each slave
//! analytics  7f…31  64G
//! cache      09…e2
//! ```
//! A slave's file has all clients, a client's file its own line. Keys are never part of a message.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{EXTENT_BYTES, units::parse_bytes};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a client's name, at most.
pub const MAX_NAME_BYTES: usize = 32;

/// A file longer than this holds no keys.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// A field longer than this is not shown: it may be a key in the wrong place.
const MAX_SHOWN_BYTES: usize = 16;

/// A 256-bit key. Wiped when dropped, compared in constant time, never printed.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A new key from the system's random source.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> io::Result<Self> {
        let mut key = Self([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut key.0).map_err(|_| io::Error::other("the system gives no random numbers"))?;
        Ok(key)
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        let mut key = Self([0; KEY_BYTES]);
        for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
        }
        Some(key)
    }

    /// As `from_hex` reads it; for the key file only.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        for digit in self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
            text.extend(char::from_digit(digit.into(), 16));
        }
        text
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// A client that may join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientKey {
    /// What it is called: 1 to 32 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// What proves it.
    pub key: Key,
    /// The most bytes that it may hold on one slave; none: as much as there is.
    pub quota_bytes: Option<u64>,
}

/// Whether this can be a client's name.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// What is wrong with a key file, in one line that says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{path}: cannot read keys: {why}; `rum keygen` writes a key file")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// Others than its owner may read or change it.
    #[error("{path}: others may read or change it (mode {mode:04o}): chmod 600 {path}")]
    Open {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// A line is wrong.
    #[error("{path}:{line}:{column}: {what}; expected {expected}")]
    Line {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// Of the field's first character, from 1.
        column: usize,
        /// What stands there; nothing that may be a key.
        what: String,
        /// What should.
        expected: &'static str,
    },
    /// It has no line.
    #[error("{path}: no client in it; `rum keygen` writes a line `NAME KEY`")]
    Empty {
        /// The file.
        path: String,
    },
    /// It has several lines, and nobody said which.
    #[error("{path}: {count} clients in it; set RUM_KEY_NAME to one of their names")]
    Several {
        /// The file.
        path: String,
        /// How many.
        count: usize,
    },
    /// It does not have the name asked for.
    #[error("{path}: no client {name:?} in it; `rum keygen --append --name {name} -o {path}` adds one")]
    NoSuchName {
        /// The file.
        path: String,
        /// The name.
        name: String,
    },
}

/// The clients of a key file, in its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    path: String,
    clients: Vec<ClientKey>,
    by_name: HashMap<String, usize>,
}

impl KeyFile {
    /// Reads a file, if nobody but its owner may read or change it.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let shown = path.display().to_string();
        let unreadable = |why: String| KeyFileError::Unreadable { path: shown.clone(), why };
        let file = fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
        // Of the open file: what its path names may change between two looks.
        let about = file.metadata().map_err(|error| unreadable(error.to_string()))?;
        if about.is_dir() {
            return Err(unreadable("it is a folder".to_owned()));
        }
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { path: shown, mode });
        }
        // Room for all of it at once: a string that grows leaves copies of keys behind.
        let room = usize::try_from(about.len().min(MAX_FILE_BYTES)).unwrap_or_default() + 1;
        let mut text = Zeroizing::new(String::with_capacity(room));
        let read = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
        read.map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&shown, &text)
    }

    /// Reads the text of a file; `path` is what messages call it.
    pub fn parse(path: &str, text: &str) -> Result<Self, KeyFileError> {
        let mut file = Self { path: path.to_owned(), clients: Vec::new(), by_name: HashMap::new() };
        let mut lines = Vec::new();
        for (text, line) in text.lines().zip(1..) {
            let wrong = |Wrong { column, what, expected }| KeyFileError::Line {
                path: path.to_owned(),
                line,
                column,
                what,
                expected,
            };
            let Some(client) = parse_line(text).map_err(wrong)? else { continue };
            if let Some(&other) = file.by_name.get(&client.name) {
                let what = format!("the client {:?} stands on line {} already", client.name, lines[other]);
                return Err(wrong(Wrong { column: 1, what, expected: "each name once" }));
            }
            // A client could pass for another one that has the same key.
            if let Some(other) = file.clients.iter().position(|other| other.key == client.key) {
                let what = format!("{:?} has the key of line {}", client.name, lines[other]);
                return Err(wrong(Wrong { column: 1, what, expected: "a key of its own from `rum keygen`" }));
            }
            file.by_name.insert(client.name.clone(), file.clients.len());
            file.clients.push(client);
            lines.push(line);
        }
        if file.clients.is_empty() {
            return Err(KeyFileError::Empty { path: path.to_owned() });
        }
        Ok(file)
    }

    /// The client of this name. How long it takes tells nothing about keys.
    pub fn find(&self, name: &str) -> Option<&ClientKey> {
        self.by_name.get(name).map(|&index| &self.clients[index])
    }

    /// All clients, in the file's order.
    pub fn clients(&self) -> &[ClientKey] {
        &self.clients
    }

    /// The one client of this name or, without a name, the only one.
    pub fn choose(&self, name: Option<&str>) -> Result<&ClientKey, KeyFileError> {
        match (name, &self.clients[..]) {
            (Some(name), _) => self
                .find(name)
                .ok_or_else(|| KeyFileError::NoSuchName { path: self.path.clone(), name: name.to_owned() }),
            (None, [only]) => Ok(only),
            (None, several) => Err(KeyFileError::Several { path: self.path.clone(), count: several.len() }),
        }
    }
}

/// What is wrong with a line.
struct Wrong {
    column: usize,
    what: String,
    expected: &'static str,
}

fn parse_line(line: &str) -> Result<Option<ClientKey>, Wrong> {
    const NAME: &str = "a name of 1 to 32 letters, digits, dots, underscores or hyphens";
    const KEY: &str = "a key of 64 hexadecimal digits from `rum keygen`";
    const QUOTA: &str = "a quota of 1M or more, such as 4G, or nothing";
    let content = line.split('#').next().unwrap_or_default();
    let end = content.trim_end().chars().count() + 1;
    let mut fields = fields(content);
    let Some((column, name)) = fields.next() else { return Ok(None) };
    if !is_name(name) {
        let bad = name.chars().find(|c| !u8::try_from(*c).is_ok_and(is_name_byte));
        let what = match bad {
            Some(character) => format!("{character:?} in the name"),
            None => format!("a name of {} characters", name.len()),
        };
        return Err(Wrong { column, what, expected: NAME });
    }
    let (column, digits) =
        fields.next().ok_or_else(|| Wrong { column: end, what: "no key".to_owned(), expected: KEY })?;
    let key = Key::from_hex(digits).ok_or_else(|| {
        let count = digits.chars().count();
        let what = match count == 2 * KEY_BYTES {
            true => "a key with characters that are not hexadecimal digits".to_owned(),
            false => format!("a key of {count} characters"),
        };
        Wrong { column, what, expected: KEY }
    })?;
    let quota_bytes = fields.next().map(|(column, text)| {
        let quota = parse_bytes(text).filter(|bytes| *bytes >= EXTENT_BYTES as u64);
        quota.ok_or_else(|| Wrong { column, what: shown(text), expected: QUOTA })
    });
    let quota_bytes = quota_bytes.transpose()?;
    if let Some((column, text)) = fields.next() {
        return Err(Wrong { column, what: shown(text), expected: "the end of the line" });
    }
    Ok(Some(ClientKey { name: name.to_owned(), key, quota_bytes }))
}

/// The fields between blanks, each with its column from 1.
fn fields(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_whitespace().map(|field| {
        let at = field.as_ptr() as usize - line.as_ptr() as usize;
        (line[..at].chars().count() + 1, field)
    })
}

fn shown(field: &str) -> String {
    if field.len() > MAX_SHOWN_BYTES { format!("{} characters", field.chars().count()) } else { format!("{field:?}") }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const B: &str = "FFeeDDccBBaa99887766554433221100ffeeddccbbaa99887766554433221100";

    fn parse(text: &str) -> Result<KeyFile, KeyFileError> {
        KeyFile::parse("keys", text)
    }

    #[test]
    fn clients_keys_and_quotas() {
        let text = format!("# clients\n\n  analytics\t{A}   64G # the large one\nx.Y_z-9 {B}\r\n");
        let file = parse(&text).unwrap();
        let names: Vec<&str> = file.clients().iter().map(|client| client.name.as_str()).collect();
        assert_eq!(names, ["analytics", "x.Y_z-9"]);
        let first = file.find("analytics").unwrap();
        assert_eq!(first.key, Key::from_bytes(std::array::from_fn(|i| i as u8)));
        assert_eq!(first.quota_bytes, Some(64 << 30));
        assert_eq!(file.find("x.Y_z-9").unwrap().quota_bytes, None);
        assert_eq!(file.find("nobody"), None);
        assert_eq!(file.choose(Some("analytics")), Ok(first));
        let said = file.choose(None).unwrap_err().to_string();
        assert_eq!(said, "keys: 2 clients in it; set RUM_KEY_NAME to one of their names");
        let said = file.choose(Some("nobody")).unwrap_err().to_string();
        assert!(said.starts_with("keys: no client \"nobody\" in it; `rum keygen"), "{said}");
        assert_eq!(parse(&format!("a {A}")).unwrap().choose(None).unwrap().name, "a");
    }

    #[test]
    fn wrong_lines_are_named_and_keys_are_not() {
        let long = "n".repeat(33);
        let cases = [
            (String::new(), "keys: no client in it; `rum keygen`"),
            ("# nothing\n\n".to_owned(), "keys: no client in it; `rum keygen`"),
            (format!("{A}\n"), "keys:1:1: a name of 64 characters; expected a name of 1 to 32"),
            (format!("{long} {A}"), "keys:1:1: a name of 33 characters; expected a name"),
            (format!("\n é {A}"), "keys:2:2: 'é' in the name; expected a name"),
            (format!("a:b {A}"), "keys:1:1: ':' in the name; expected a name"),
            ("abc  ".to_owned(), "keys:1:4: no key; expected a key of 64"),
            (format!("abc # {A}"), "keys:1:4: no key; expected a key of 64"),
            (format!("  é{A}  x"), "keys:1:3: 'é' in the name"),
            (format!("abc {}", &A[1..]), "keys:1:5: a key of 63 characters; expected a key of 64"),
            (format!("abc {A}0"), "keys:1:5: a key of 65 characters; expected a key of 64"),
            (format!("abc g{}", &A[1..]), "keys:1:5: a key with characters that are not hexadecimal"),
            (format!("abc +{}", &A[1..]), "keys:1:5: a key with characters that are not hexadecimal"),
            (format!("abc {A} lots"), "keys:1:70: \"lots\"; expected a quota of 1M or more"),
            (format!("abc {A} 4K"), "keys:1:70: \"4K\"; expected a quota of 1M or more"),
            (format!("abc {A} {B}"), "keys:1:70: 64 characters; expected a quota"),
            (format!("abc {A} 4G more"), "keys:1:73: \"more\"; expected the end of the line"),
            (format!("a {A}\n#\na {B}"), "keys:3:1: the client \"a\" stands on line 1 already"),
            (format!("\na {A}\nb {A}"), "keys:3:1: \"b\" has the key of line 2; expected a key of its own"),
        ];
        for (text, expected) in cases {
            let said = parse(&text).unwrap_err().to_string();
            assert!(said.starts_with(expected), "{text:?}: {said}");
            assert_eq!(said.lines().count(), 1);
            for key in [A, B] {
                assert!(!said.contains(&key[..16]) && !said.contains(&key[20..36]), "{said}");
            }
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        let file = parse(&format!("a {A}")).unwrap();
        let said = format!("{file:?} {:?}", file.clients()[0].key);
        assert!(said.contains("Key(secret)") && !said.contains("0001") && !said.contains("1, 2, 3"), "{said}");
    }

    #[test]
    fn only_its_owner_may_read_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "a {A}").unwrap();
        let path = file.path();
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(KeyFile::read(path).unwrap().clients().len(), 1, "{mode:o}");
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o610] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let said = KeyFile::read(path).unwrap_err().to_string();
            assert!(said.ends_with(&format!("(mode 0{mode:o}): chmod 600 {}", path.display())), "{said}");
        }
        for (missing, expected) in [("/does/not/exist", "No such file"), ("/", "it is a folder")] {
            let said = KeyFile::read(Path::new(missing)).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{missing}: cannot read keys: {expected}")), "{said}");
        }
    }

    #[test]
    fn new_keys_are_new() {
        let (a, b) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(a, b);
        assert_eq!(Key::from_hex(&a.to_hex()), Some(a));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[\\PC\n\t #]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(bytes: [u8; 32], name in "[A-Za-z0-9._-]{1,32}", mib in prop::option::of(1u64..9999)) {
            let key = Key::from_bytes(bytes);
            let quota = mib.map(|mib| format!("{mib}M")).unwrap_or_default();
            let file = parse(&format!("{name} {} {quota}\n", *key.to_hex())).unwrap();
            prop_assert_eq!(file.clients(), &[ClientKey { name, key, quota_bytes: mib.map(|mib| mib << 20) }]);
        }
    }
}
