//! Sizes and times as people write them.

use std::time::Duration;

/// Reads a size such as `512M`, `1.5G`, `4096` into bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let bytes = decimal(digits)? * f64::from(2).powi(shift);
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// Reads a time such as `10s`, `500ms`, `1.5s`; a number alone is in seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(decimal(digits)? * seconds).ok()
}

/// Digits with at most one point: not all that a float may look like.
fn decimal(digits: &str) -> Option<f64> {
    let is_plain = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_plain.then(|| digits.parse().ok())?
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
    fn times() {
        for (text, millis) in [
            ("10s", Some(10_000)),
            ("10", Some(10_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("2min", Some(120_000)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("10x", None),
            ("99999999999999999999999h", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn available_memory() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   12 kB\nX: 1 kB\n"), Some(12 * 1024));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
        assert_eq!(available_bytes("MemAvailable: many kB\n"), None);
    }
}
