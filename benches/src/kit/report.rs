//! Figures and how they are shown: a JSON object a line, or one table with each figure beside its peers'.

use super::json::Object;

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The binary.
    pub bench: &'static str,
    /// Who was measured; ourselves are `demi`.
    pub peer: String,
    /// What was measured.
    pub case: String,
    /// Unit of the three values.
    pub unit: &'static str,
    /// Median of the samples.
    pub median: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// How many samples.
    pub samples: usize,
    /// More is better, as with a rate.
    pub more_is_better: bool,
}

impl Figure {
    /// The figure of a set of samples; `values` is sorted by it.
    pub fn of(bench: &'static str, peer: &str, case: &str, unit: super::Unit, values: &mut [f64]) -> Figure {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Figure {
            bench,
            peer: peer.into(),
            case: case.into(),
            unit: unit.name(),
            median: at(values.len() / 2),
            min: at(0),
            max: at(values.len().saturating_sub(1)),
            samples: values.len(),
            more_is_better: unit.more_is_better(),
        }
    }

    /// The best sample.
    pub fn best(&self) -> f64 {
        if self.more_is_better { self.max } else { self.min }
    }

    /// The figure as one line of JSON.
    pub fn to_json(&self) -> String {
        Object::default()
            .text("bench", self.bench)
            .text("peer", &self.peer)
            .text("case", &self.case)
            .text("unit", self.unit)
            .number("median", self.median)
            .number("min", self.min)
            .number("max", self.max)
            .number("samples", self.samples as f64)
            .finish()
    }
}

/// Collects figures: prints them at once as JSON, or keeps them for one table at the end.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    figures: Vec<Figure>,
}

impl Reporter {
    /// A reporter that prints JSON lines when `json`, else a table when it is finished.
    pub fn new(json: bool) -> Self {
        Reporter { json, figures: Vec::new() }
    }

    /// Takes a figure.
    pub fn add(&mut self, figure: Figure) {
        if self.json {
            println!("{}", figure.to_json());
        } else {
            eprintln!(
                "  {:<28} {:<24} {:>12} {}",
                figure.case,
                figure.peer,
                number(figure.median),
                figure.unit
            );
        }
        self.figures.push(figure);
    }

    /// Prints the table, unless the figures went out as JSON.
    pub fn finish(self) {
        if !self.json {
            print!("{}", table(&self.figures));
        }
    }
}

/// The table of `figures`: a block a case, its peers below each other, and how each one's best compares with our best.
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<28} {:<24} {:>12} {:>12} {:>12} {:<8} {:>7} {:>8}\n",
        "case", "peer", "median", "min", "max", "unit", "samples", "vs demi"
    );
    let mut case = "";
    for figure in figures {
        let shown = if figure.case == case { "" } else { figure.case.as_str() };
        case = &figure.case;
        let ours = figures.iter().find(|other| other.case == figure.case && other.peer.starts_with("demi"));
        let ratio = match ours {
            Some(ours) if ours.best() > 0.0 => format!("{:.2}x", figure.best() / ours.best()),
            _ => "-".into(),
        };
        text.push_str(&format!(
            "{shown:<28} {:<24} {:>12} {:>12} {:>12} {:<8} {:>7} {ratio:>8}\n",
            figure.peer,
            number(figure.median),
            number(figure.min),
            number(figure.max),
            figure.unit,
            figure.samples,
        ));
    }
    text
}

/// A number with as many digits as it deserves.
pub fn number(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 100.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::Unit;

    #[test]
    fn a_figure_is_the_median_and_the_ends_of_its_samples() {
        let figure = Figure::of("b", "demi", "c", Unit::Nanos, &mut [3.0, 1.0, 9.0]);
        assert_eq!((figure.median, figure.min, figure.max, figure.samples), (3.0, 1.0, 9.0, 3));
        assert_eq!(
            figure.to_json(),
            r#"{"bench":"b","peer":"demi","case":"c","unit":"ns","median":3,"min":1,"max":9,"samples":3}"#
        );
    }

    #[test]
    fn the_table_compares_best_with_best() {
        let mut figures = vec![Figure::of("b", "demi", "c", Unit::Nanos, &mut [10.0, 20.0])];
        figures.push(Figure::of("b", "other", "c", Unit::Nanos, &mut [25.0, 90.0]));
        assert!(table(&figures).contains("2.50x"), "{}", table(&figures));
        figures.clear();
        figures.push(Figure::of("b", "demi", "c", Unit::Gbits { bytes: 1 }, &mut [10.0, 20.0]));
        figures.push(Figure::of("b", "other", "c", Unit::Gbits { bytes: 1 }, &mut [5.0, 10.0]));
        assert!(table(&figures).contains("0.50x"), "{}", table(&figures));
    }
}
