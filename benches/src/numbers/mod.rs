//! What all benchmarks have measured, as one document: figures read back from their JSON, tables, and plots.
//!
//! `cargo xtask bench` runs the benchmarks and hands their lines to the program `numbers`, which is this module with a command line.
//! It measures nothing by itself.

pub mod facts;
pub mod plots;
pub mod tables;

use crate::kit::json;

/// One figure of one peer, as a benchmark printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The benchmark.
    pub bench: String,
    /// Who was measured.
    pub peer: String,
    /// What was measured.
    pub case: String,
    /// Unit of the figures.
    pub unit: String,
    /// Median of the samples.
    pub median: f64,
    /// Smallest and largest sample, where the benchmark tells them.
    pub range: Option<(f64, f64)>,
    /// Mean of the better third of the samples, where the benchmark tells that.
    pub best_third: Option<f64>,
}

/// Reads a line of JSON; `None` for what is no figure: a benchmark that was skipped, text between.
pub fn read_line(text: &str) -> Option<Line> {
    let fields = json::parse(text).ok()?;
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let number = |name: &str| field(name).and_then(|value| value.parse::<f64>().ok());
    Some(Line {
        bench: field("bench")?,
        peer: field("peer")?,
        case: field("case")?,
        unit: field("unit")?,
        median: number("median")?,
        range: number("min").zip(number("max")),
        best_third: number("best_third"),
    })
}

/// Reads every figure of `text`, in order.
pub fn read(text: &str) -> Vec<Line> {
    text.lines().filter_map(read_line).collect()
}

/// Distinct values in the order of their first appearance.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_all_else_is_left_out() {
        let text = concat!(
            r#"{"bench":"b","peer":"demi","case":"c","unit":"ns","median":2,"min":1,"max":3,"samples":9}"#,
            "\nwarming up\n",
            r#"{"bench":"b","skipped":"needs root"}"#,
            "\n",
            r#"{"bench":"e","peer":"p","case":"c","unit":"us","median":5,"best_third":4.5,"samples":9}"#,
        );
        let lines = read(text);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].median, lines[0].range, lines[0].best_third), (2.0, Some((1.0, 3.0)), None));
        assert_eq!((&*lines[1].bench, lines[1].range, lines[1].best_third), ("e", None, Some(4.5)));
    }
}
