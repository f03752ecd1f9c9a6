//! Times as people write them.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
