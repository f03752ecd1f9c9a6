//! A figure, and how it is printed.

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

/// What a figure says, apart from what was measured.
#[derive(Clone, Debug)]
pub struct Label {
    pub id: String,
    pub what: String,
    pub goal: f64,
    pub better: Better,
    pub unit: &'static str,
}

impl Label {
    pub fn new(id: impl Into<String>, what: impl Into<String>, unit: &'static str) -> Self {
        Self { id: id.into(), what: what.into(), goal: 1.0, better: Better::Lower, unit }
    }

    pub fn at_most(self, goal: f64) -> Self {
        Self { goal, better: Better::Lower, ..self }
    }

    pub fn at_least(self, goal: f64) -> Self {
        Self { goal, better: Better::Higher, ..self }
    }

    /// The figure of these pairs of `ours` and `base`, each pair measured one right after the other: the pair whose
    /// ratio is the median. A machine whose speed changes between the pairs does not move it.
    pub fn figure(self, pairs: &[(f64, f64)]) -> Figure {
        let mut sorted = pairs.to_vec();
        sorted.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
        let (ours, base) = sorted.get(sorted.len() / 2).copied().unwrap_or((f64::NAN, f64::NAN));
        let Self { id, what, goal, better, unit } = self;
        Figure { id, what, value: ours / base, goal, better, ours, base, unit: unit.into(), runs: pairs.len() as u32 }
    }
}

impl Figure {
    /// Whether the goal is reached.
    pub fn is_reached(&self) -> bool {
        match self.better {
            Better::Lower => self.value <= self.goal,
            Better::Higher => self.value >= self.goal,
        }
    }

    /// The line for a program to read.
    pub fn to_json(&self) -> String {
        // A struct of numbers and strings always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The line of the table for people.
    pub fn to_row(&self) -> String {
        let sign = if self.better == Better::Lower { "≤" } else { "≥" };
        row([
            &self.id,
            &format!("{:.3}", self.value),
            &format!("{sign} {}", self.goal),
            if self.is_reached() { "yes" } else { "no" },
            &format!("{:.3}", self.ours),
            &format!("{:.3}", self.base),
            &self.unit,
            &self.what,
        ])
    }
}

/// The table's head.
pub fn head() -> String {
    row(["id", "value", "goal", "", "ours", "base", "unit", "what"])
}

fn row(cells: [&str; 8]) -> String {
    let [id, value, goal, reached, ours, base, unit, what] = cells;
    format!("{id:<11} {value:>9} {goal:>8} {reached:<3} {ours:>10} {base:>10} {unit:<6} {what}")
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
        let text = figure(Better::Lower).to_json();
        let expected = r#"{"id":"R1","what":"x","value":1.5,"goal":1.3,"better":"lower","ours":3.0,"base":2.0,"unit":"us","runs":5}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_goal_is_reached_on_its_good_side() {
        assert!(!figure(Better::Lower).is_reached());
        assert!(figure(Better::Higher).is_reached());
    }

    #[test]
    fn the_pair_in_the_middle_is_shown() {
        // The third pair ran while the machine was four times slower.
        let figure = Label::new("R1", "x", "us").at_most(2.0).figure(&[(5.0, 4.0), (6.0, 4.0), (24.0, 16.0)]);
        assert_eq!((figure.value, figure.runs), (1.5, 3));
        let outlier = Label::new("R1", "x", "us").at_least(1.0).figure(&[(1.0, 1.0), (2.0, 1.0), (50.0, 1.0)]);
        assert_eq!((outlier.ours, outlier.base, outlier.value), (2.0, 1.0, 2.0));
    }
}
