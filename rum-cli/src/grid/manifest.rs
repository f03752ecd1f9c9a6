//! The list of what a backup has: text, with a version in the first line and a checksum in the last. docs/BACKUP.md draws it.

use rum_core::grid::{Location, ObjectHash};
use rum_net::machines::parse_mac;
use twox_hash::XxHash3_128;

/// Of the format.
pub const VERSION: u32 = 1;
/// The first word of the file.
const MAGIC: &str = "rum-backup";
const NOWHERE: &str = "-";

/// An object in a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub hash: ObjectHash,
    pub size_bytes: u64,
    /// Where it was pinned to, if it was not where its name belongs.
    pub pinned: Option<Location>,
    /// The XXH3-128 of its bytes.
    pub checksum: u128,
}

/// What a backup has.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Manifest {
    /// The objects' bytes lie in the folder `data-N`, each in a file of the number of its entry.
    pub data: u64,
    pub objects: Vec<Entry>,
}

/// Why a manifest is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("is no list of a backup")]
    Foreign,
    #[error("was written by a newer RUM: it has format {0}, and this one reads up to {VERSION}")]
    Newer(u32),
    #[error("is damaged: line {line}: {what}")]
    Damaged { line: usize, what: &'static str },
}

impl Manifest {
    /// The folder of the objects' bytes.
    pub fn folder(&self) -> String {
        format!("data-{}", self.data)
    }

    /// As it is written.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC} {VERSION}\ndata {}\n", self.data);
        for Entry { hash, size_bytes, pinned, checksum } in &self.objects {
            let hash: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
            let pinned = match pinned {
                None => NOWHERE.to_owned(),
                Some(Location { ip, mac }) => format!("{ip},{mac}"),
            };
            text += &format!("object {hash} {size_bytes} {pinned} {checksum:032x}\n");
        }
        let checksum = XxHash3_128::oneshot(text.as_bytes());
        text + &format!("end {} {checksum:032x}\n", self.objects.len())
    }

    /// Reads a manifest and checks all of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let first = std::str::from_utf8(first).map_err(|_| ManifestError::Foreign)?;
        let version = first.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' '));
        match version.and_then(|version| version.parse::<u32>().ok()) {
            None => return Err(ManifestError::Foreign),
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => return Err(ManifestError::Newer(newer)),
            Some(_) => return Err(ManifestError::Foreign),
        }
        let damaged = |line, what| ManifestError::Damaged { line, what };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged(0, "no UTF-8"))?;
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len();
        let end =
            lines.last().and_then(|line| line.strip_prefix("end ")).ok_or(damaged(last, "no end: it is cut off"))?;
        let body = text.len() - (end.len() + "end \n".len()).min(text.len());
        let (count, checksum) = end.split_once(' ').ok_or(damaged(last, "no checksum"))?;
        if !text.ends_with('\n') || checksum != format!("{:032x}", XxHash3_128::oneshot(&bytes[..body])) {
            return Err(damaged(last, "the checksum is another"));
        }
        let data = lines[1].strip_prefix("data ").and_then(|data| data.parse().ok());
        let data = data.ok_or(damaged(2, "no folder of data"))?;
        let entries =
            lines[2..last - 1].iter().zip(3..).map(|(line, number)| entry(line).ok_or(damaged(number, "no object")));
        let objects = entries.collect::<Result<Vec<Entry>, _>>()?;
        if count.parse() != Ok(objects.len()) {
            return Err(damaged(last, "another number of objects"));
        }
        Ok(Self { data, objects })
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    if words.next() != Some("object") {
        return None;
    }
    let (hash, size, pinned, checksum) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || hash.len() != 64 || !hash.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(hash.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let pinned = match pinned {
        NOWHERE => None,
        place => {
            let (ip, mac) = place.rsplit_once(',')?;
            Some(Location { ip: ip.to_owned(), mac: parse_mac(mac).ok()? })
        }
    };
    let size_bytes = size.parse().ok().filter(|&size: &u64| size > 0)?;
    Some(Entry { hash: ObjectHash(bytes), size_bytes, pinned, checksum: u128::from_str_radix(checksum, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use rum_net::port::MacAddr;

    use super::*;

    fn manifest() -> Manifest {
        let pinned = Location { ip: "10.0.0.2".to_owned(), mac: MacAddr([2, 0, 0, 0, 0, 0xab]) };
        let entry = |byte, pinned, size_bytes| Entry { hash: ObjectHash([byte; 32]), size_bytes, pinned, checksum: 77 };
        Manifest { data: 3, objects: vec![entry(1, None, 5), entry(0xfe, Some(pinned), u64::MAX)] }
    }

    #[test]
    fn what_is_written_is_read() {
        for manifest in [manifest(), Manifest::default()] {
            assert_eq!(Manifest::parse(manifest.to_text().as_bytes()), Ok(manifest));
        }
        let text = manifest().to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["rum-backup 1", "data 3"]);
        assert!(
            lines[3].ends_with(" 18446744073709551615 10.0.0.2,02:00:00:00:00:ab 0000000000000000000000000000004d"),
            "{text}"
        );
    }

    #[test]
    fn every_damage_is_found() {
        let bytes = manifest().to_text().into_bytes();
        for length in 0..bytes.len() {
            assert!(Manifest::parse(&bytes[..length]).is_err(), "cut off after {length}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Manifest::parse(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
        let longer = [&bytes[..], b"object\n"].concat();
        assert!(Manifest::parse(&longer).is_err());
    }

    #[test]
    fn a_newer_one_is_named_so() {
        let newer = manifest().to_text().replace("rum-backup 1\n", "rum-backup 12\nsomething else\n");
        assert_eq!(Manifest::parse(newer.as_bytes()), Err(ManifestError::Newer(12)));
        for foreign in ["", "rum-backup", "rum-backup x\n", "rum-backup 0\n", "hello\n", "\u{fe}\n"] {
            assert_eq!(Manifest::parse(foreign.as_bytes()), Err(ManifestError::Foreign), "{foreign:?}");
        }
        assert_eq!(Manifest::parse(&[0xff, 0xfe, 10]), Err(ManifestError::Foreign));
    }

    #[test]
    fn a_right_checksum_over_nonsense_is_no_manifest() {
        for body in [
            "rum-backup 1\n",
            "rum-backup 1\ndata x\n",
            "rum-backup 1\ndata 1\nobject 00\n",
            "rum-backup 1\ndata 1\nsubject\n",
        ] {
            let checksum = XxHash3_128::oneshot(body.as_bytes());
            let text = format!("{body}end 0 {checksum:032x}\n");
            assert!(matches!(Manifest::parse(text.as_bytes()), Err(ManifestError::Damaged { .. })), "{text}");
        }
    }
}
