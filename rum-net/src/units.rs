//! Sizes as people and the kernel write them.

/// Reads a size such as `512M`, `1.5G`, `4096` into bytes. K, M, G and T are powers of 1,024; `iB` or `B` may follow.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && (fraction.is_empty() || fraction.len() > 9 || shift == 0)) {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) << shift;
    let fraction = match fraction {
        "" => 0,
        _ => (fraction.parse::<u128>().ok()? << shift) / 10u128.pow(fraction.len() as u32),
    };
    u64::try_from(whole + fraction).ok()
}

/// `MemAvailable` of /proc/meminfo, in bytes.
pub fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", Some(4096)),
            ("512M", Some(512 << 20)),
            ("512m", Some(512 << 20)),
            ("1.5G", Some(3 << 29)),
            ("2GiB", Some(2 << 30)),
            ("1T", Some(1 << 40)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("20000000T", None),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("1e9", None),
            ("1.2.3M", None),
            ("infM", None),
            ("12X", None),
            ("12 M", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn available_memory() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   12 kB\nX: 1 kB\n"), Some(12 * 1024));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
        assert_eq!(available_bytes("MemAvailable: many kB\n"), None);
    }
}
