//! `rum bench`: the figures of docs/BENCHMARKS.md, one file a figure.

use std::process::ExitCode;

use serde::Serialize;

/// Whether a small or a large value is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Small is good.
    Lower,
    /// Large is good.
    Higher,
}

/// One figure, measured with both sides in the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `R1`, or `R1.p99` where an id has several.
    pub id: String,
    /// In words.
    pub what: String,
    /// What is compared with the goal, as a rule `ours` ÷ `base`.
    pub value: f64,
    /// What it should be.
    pub goal: f64,
    /// Which side of the goal is good.
    pub better: Better,
    /// What RUM took or did.
    pub ours: f64,
    /// What it is compared with.
    pub base: f64,
    /// Of `ours` and `base`.
    pub unit: String,
    /// Repetitions behind each side.
    pub runs: u32,
}

impl Figure {
    /// Whether the goal is reached.
    pub fn is_reached(&self) -> bool {
        match self.better {
            Better::Lower => self.value <= self.goal,
            Better::Higher => self.value >= self.goal,
        }
    }
}

/// Why a figure could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BenchError(pub String);

/// A measurement that gives one figure or several.
struct Bench {
    /// The figure's id, without a part such as `.p99`.
    id: &'static str,
    measure: fn() -> Result<Vec<Figure>, BenchError>,
}

/// In the order they are measured. A new figure is a new file here and a line in this table.
const BENCHES: &[Bench] = &[];

#[derive(clap::Args)]
pub struct Arguments {
    /// The figures to measure, such as R1; all without
    ids: Vec<String>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.id).collect();
    if let Some(id) = arguments.ids.iter().find(|id| !known.iter().any(|known| known.eq_ignore_ascii_case(id))) {
        eprintln!("rum bench: unknown figure {id:?}; known are: {}", known.join(" "));
        return ExitCode::from(2);
    }
    let is_asked =
        |bench: &&Bench| arguments.ids.is_empty() || arguments.ids.iter().any(|id| id.eq_ignore_ascii_case(bench.id));
    let mut code = ExitCode::SUCCESS;
    if !arguments.json {
        println!("{}", row(["id", "value", "goal", "", "ours", "base", "unit", "what"]));
    }
    for bench in BENCHES.iter().filter(is_asked) {
        match (bench.measure)() {
            Ok(figures) => figures.iter().for_each(|figure| print(figure, arguments.json)),
            Err(error) => {
                eprintln!("rum bench: {}: {error}", bench.id);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn print(figure: &Figure, as_json: bool) {
    if as_json {
        // A struct of numbers and strings always has a JSON form.
        println!("{}", serde_json::to_string(figure).unwrap_or_default());
        return;
    }
    let sign = if figure.better == Better::Lower { "≤" } else { "≥" };
    println!(
        "{}",
        row([
            &figure.id,
            &format!("{:.3}", figure.value),
            &format!("{sign} {}", figure.goal),
            if figure.is_reached() { "yes" } else { "no" },
            &format!("{:.3}", figure.ours),
            &format!("{:.3}", figure.base),
            &figure.unit,
            &figure.what,
        ])
    );
}

fn row(cells: [&str; 8]) -> String {
    let [id, value, goal, reached, ours, base, unit, what] = cells;
    format!("{id:<10} {value:>9} {goal:>8} {reached:<3} {ours:>10} {base:>10} {unit:<6} {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better) -> Figure {
        Figure {
            id: "R1".into(),
            what: "x".into(),
            value: 1.5,
            goal: 1.3,
            better,
            ours: 3.0,
            base: 2.0,
            unit: "us".into(),
            runs: 5,
        }
    }

    #[test]
    fn a_figure_is_one_json_object_with_the_agreed_fields() {
        let text = serde_json::to_string(&figure(Better::Lower)).unwrap();
        let expected = r#"{"id":"R1","what":"x","value":1.5,"goal":1.3,"better":"lower","ours":3.0,"base":2.0,"unit":"us","runs":5}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_goal_is_reached_on_its_good_side() {
        assert!(!figure(Better::Lower).is_reached());
        assert!(figure(Better::Higher).is_reached());
    }
}
