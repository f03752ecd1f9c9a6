//! What the catalogue program reports, and the table of all runs.

use serde::Deserialize;

use super::Run;

/// The JSON object that the catalogue program prints.
#[derive(Clone, Default, Debug, Deserialize)]
pub struct Report {
    pub records: u64,
    pub payload_bytes: u64,
    pub seed: u64,
    pub found: u64,
    pub word_counts: Vec<(String, u64)>,
    pub answers: String,
    pub load_s: f64,
    pub lookups_s: f64,
    pub search_s: f64,
    pub total_s: f64,
    pub far: Option<Far>,
}

/// Its part about far memory.
#[derive(Clone, Default, Debug, Deserialize)]
pub struct Far {
    pub engine: String,
    pub links: Vec<String>,
    pub is_sealed: bool,
    /// What the program held when it had read everything.
    pub heap_bytes: u64,
    pub faults: u64,
    pub pages_fetched: u64,
    pub pages_written: u64,
    pub resident_peak_bytes: u64,
    pub fault_p50_ns: u64,
    pub fault_p99_ns: u64,
    pub fault_longest_ns: u64,
}

impl Report {
    /// Reads the program's output.
    pub fn parse(output: &str) -> Result<Self, String> {
        serde_json::from_str(output.trim()).map_err(|error| error.to_string())
    }
}

const PAGE_MB: f64 = rum_net::PAGE_BYTES as f64 / 1e6;
const HEAD: [&str; 12] =
    ["run", "time", "÷ local", "÷ plain", "load", "look-up", "search", "faults", "p50 µs", "p99 µs", "MB in", "MB out"];

/// Prints what was done, on what, and a line for each run. The first is plain memory, the second all local.
pub fn print(runs: &[Run]) {
    let [plain, all, ..] = runs else { return };
    let report = &plain.report;
    println!(
        "work: {} records, {:.1} MB of text, seed {}, {} names found, {}",
        report.records,
        report.payload_bytes as f64 / 1e6,
        report.seed,
        report.found,
        report.word_counts.iter().map(|(word, count)| format!("{count} × {word:?}")).collect::<Vec<_>>().join(", "),
    );
    if let Some(far) = &all.report.far {
        let kinds: std::collections::BTreeSet<&str> =
            far.links.iter().map(|link| link.split(':').next().unwrap_or(link)).collect();
        println!(
            "far memory: engine {}, transport {}{}, {} slaves, heap {:.1} MB",
            far.engine,
            kinds.into_iter().collect::<Vec<_>>().join(" and "),
            if far.is_sealed { ", sealed" } else { "" },
            far.links.len(),
            far.heap_bytes as f64 / 1e6
        );
    }
    println!();
    println!(
        "{:<18}{}  {:>13}",
        HEAD[0],
        columns(&HEAD[1..].iter().map(ToString::to_string).collect::<Vec<_>>()),
        "peak / budget"
    );
    for run in runs {
        println!("{}", line(run, plain, all));
    }
    println!();
}

fn columns(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:>9}")).collect()
}

fn line(run: &Run, plain: &Run, all: &Run) -> String {
    let report = &run.report;
    let seconds = |value: f64| format!("{value:.2} s");
    let ratio = |base: &Run| format!("{:.2}", report.total_s / base.report.total_s.max(1e-9));
    let mut cells = vec![
        seconds(report.total_s),
        if run.budget.is_some() { ratio(all) } else { String::new() },
        ratio(plain),
        seconds(report.load_s),
        seconds(report.lookups_s),
        seconds(report.search_s),
    ];
    let mut memory = String::new();
    if let Some(far) = &report.far {
        let microseconds = |nanoseconds: u64| format!("{:.1}", nanoseconds as f64 / 1e3);
        let megabytes = |pages: u64| format!("{:.1}", pages as f64 * PAGE_MB);
        cells.push(far.faults.to_string());
        cells.extend([microseconds(far.fault_p50_ns), microseconds(far.fault_p99_ns)]);
        cells.extend([megabytes(far.pages_fetched), megabytes(far.pages_written)]);
        let budget = run.budget.unwrap_or(0) as f64 / 1e6;
        memory = format!("{:.1} / {budget:.1} MB", far.resident_peak_bytes as f64 / 1e6);
    }
    format!("{:<18}{}  {memory}", run.what, columns(&cells))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_program_prints() {
        let text = r#"{"records":2,"payload_bytes":9,"seed":1,"found":1,"word_counts":[["library",1]],"answers":"ab-1",
            "load_s":0.1,"lookups_s":0.2,"search_s":0.3,"free_s":0.0,"total_s":0.6,"process_peak_bytes":1,"far":null}"#;
        let report = Report::parse(text).unwrap();
        assert_eq!((report.records, report.answers.as_str(), report.far.is_none()), (2, "ab-1", true));
        assert!(Report::parse("").is_err());
    }
}
