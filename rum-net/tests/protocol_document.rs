//! Holds docs/PROTOCOL.md against the code: each offset, width, number and constant in its tables, and that nothing is left out.

mod protocol;

use protocol::{document::Document, enumerations, layouts, source};

fn text() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap()
}

/// All that is wrong with a text.
fn complaints(text: &str) -> Vec<String> {
    let document = Document::parse(text);
    let mut complaints = layouts::check(&document);
    complaints.extend(enumerations::check(&document));
    complaints.extend(source::check(&document));
    complaints
}

#[test]
fn the_document_says_what_the_code_does() {
    let complaints = complaints(&text());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The number of a table's cell, one more.
fn changed(cell: &str) -> Option<String> {
    let digits = cell.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(cell.len());
    let (number, rest) = cell.split_at(digits);
    if rest.starts_with('x') {
        let hexadecimal = u64::from_str_radix(&cell[2..], 16).ok()?;
        return Some(format!("0x{:04X}", hexadecimal + 1));
    }
    Some(format!("{}{rest}", number.parse::<f64>().ok()? + 1.0))
}

#[test]
fn each_number_that_is_changed_and_each_row_that_is_removed_is_noticed() {
    let text = text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(complaints(&text).is_empty(), "else nothing more can be noticed");
    let (mut numbers, mut rows) = (0, 0);
    for (index, line) in lines.iter().enumerate() {
        if !line.starts_with("| ") || lines.get(index + 1).is_some_and(|next| next.starts_with("|---")) {
            continue;
        }
        let with = |line: Option<String>| {
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            match line {
                Some(line) => lines[index] = line,
                None => drop(lines.remove(index)),
            }
            lines.join("\n")
        };
        assert!(!complaints(&with(None)).is_empty(), "nobody misses {line}");
        rows += 1;
        let cells: Vec<&str> = line.split(" | ").collect();
        for column in 0..2 {
            let cell = cells[column].trim_start_matches("| ");
            let Some(other) = changed(cell) else { continue };
            let mut cells: Vec<String> = cells.iter().map(|cell| (*cell).to_owned()).collect();
            cells[column] = cells[column].replace(cell, &other);
            assert!(!complaints(&with(Some(cells.join(" | ")))).is_empty(), "{cell} may be {other} in {line}");
            numbers += 1;
        }
    }
    assert!(rows > 200 && numbers > 250, "{rows} rows and {numbers} numbers");
}
