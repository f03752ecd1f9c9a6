//! Constants, most of them private: read in the source.

use std::{collections::BTreeMap, fs, path::Path, sync::Mutex};

use super::document::Document;

/// Files each of whose numbers and times must be in the document.
const WHOLE: [&str; 8] = [
    "rpc/mod.rs",
    "rpc/rtt.rs",
    "rpc/congestion.rs",
    "rpc/client/mod.rs",
    "rpc/client/opening.rs",
    "rpc/client/recovery.rs",
    "rpc/server/admission.rs",
    "rpc/server/mod.rs",
];

/// A number, in nanoseconds if it is a time: `20 ms`, `0x4D52`, `0.8`.
fn said(text: &str) -> Option<f64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).ok().map(f64::from);
    }
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let unit = match unit {
        "" => 1.0,
        "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

/// What an expression of the source is worth; `None` if it is of another kind.
fn value(expression: &str) -> Option<f64> {
    let expression = expression.trim();
    if let Some((first, second)) = expression.split_once(" * ") {
        return Some(value(first)? * value(second)?);
    }
    for (function, unit) in [("micros", 1e3), ("millis", 1e6), ("secs", 1e9)] {
        let argument = expression.strip_prefix("Duration::from_").and_then(|rest| rest.strip_prefix(function));
        if let Some(argument) = argument {
            return Some(value(argument.trim_matches(['(', ')']))? * unit);
        }
    }
    match expression {
        "crate::PAGE_BYTES" => Some(rum_net::PAGE_BYTES as f64),
        hexadecimal if hexadecimal.starts_with("0x") => said(hexadecimal),
        number => number.replace('_', "").parse().ok(),
    }
}

static READ: Mutex<BTreeMap<String, BTreeMap<String, f64>>> = Mutex::new(BTreeMap::new());

/// The constants of a file's outermost module.
fn constants(file: &str) -> BTreeMap<String, f64> {
    let mut read = READ.lock().unwrap();
    read.entry(file.to_owned()).or_insert_with(|| constants_of(file)).clone()
}

fn constants_of(file: &str) -> BTreeMap<String, f64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let constant = |line: &str| {
        let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(super) ")).unwrap_or(line);
        let (name, rest) = line.strip_prefix("const ")?.split_once(": ")?;
        let (_, expression) = rest.split_once(" = ")?;
        Some((name.to_owned(), value(expression.trim_end_matches(';'))?))
    };
    text.lines().filter_map(constant).collect()
}

/// All constants that the document does not have, or has otherwise.
pub fn check(document: &Document) -> Vec<String> {
    let Some(table) = document.table(0, "constant") else { return vec!["no table of constants".to_owned()] };
    let mut complaints = Vec::new();
    let mut files: BTreeMap<&str, BTreeMap<String, f64>> = BTreeMap::new();
    for row in &table.rows {
        let (name, file) = (&row[0], row[2].as_str());
        let constants = files.entry(file).or_insert_with(|| constants(file));
        match (constants.remove(name), said(&row[1])) {
            (Some(value), Some(said)) if value == said => {}
            (value, _) => complaints.push(format!("{name} is {} here, and {value:?} in {file}", row[1])),
        }
    }
    for file in WHOLE {
        for name in files.entry(file).or_insert_with(|| constants(file)).keys() {
            complaints.push(format!("{name} of {file} is missing"));
        }
    }
    // One row each, so that none can go unnoticed.
    if table.rows.len() != CONSTANTS {
        complaints.push(format!("{} constants, expected {CONSTANTS}", table.rows.len()));
    }
    complaints
}

/// In the document.
const CONSTANTS: usize = 67;
