//! The table that closes a run of the tiers, and its last line. It formats; it decides nothing but whether a run with
//! these results is a success.

use std::time::Duration;

use crate::counts::Counts;

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The tier.
    pub(crate) tier: &'static str,
    /// What ran, or why nothing did.
    pub(crate) what: String,
    /// Its results; `None` where the tier is no part of this release, so that there was nothing to run or to skip.
    pub(crate) counts: Option<Counts>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

/// The sum of all rows.
pub(crate) fn total(rows: &[Row]) -> Counts {
    let mut total = Counts::default();
    for counts in rows.iter().filter_map(|row| row.counts) {
        total += counts;
    }
    total
}

/// Whether a run may end with exit code 0. In CI nothing may be skipped.
pub(crate) fn is_success(total: Counts, in_ci: bool) -> bool {
    total.failed == 0 && !(in_ci && total.skipped > 0)
}

/// The table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut cells = vec![["tier", "what ran", "passed", "failed", "skipped", "seconds"].map(str::to_owned)];
    for row in rows {
        let number =
            |of: fn(Counts) -> u64| row.counts.map_or("-".to_owned(), |counts| of(counts).to_string());
        let seconds = row.counts.map_or("-".to_owned(), |_| format!("{:.1}", row.elapsed.as_secs_f64()));
        cells.push([
            row.tier.to_owned(),
            row.what.clone(),
            number(|counts| counts.passed),
            number(|counts| counts.failed),
            number(|counts| counts.skipped),
            seconds,
        ]);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    let mut text = String::new();
    for row in &cells {
        let [tier, what, passed, failed, skipped, seconds] = row;
        let [w0, w1, w2, w3, w4, w5] = widths;
        text += &format!(
            "{tier:<w0$}  {what:<w1$}  {passed:>w2$}  {failed:>w3$}  {skipped:>w4$}  {seconds:>w5$}\n"
        );
    }
    text
}

/// The last line of a run.
pub(crate) fn last_line(total: Counts) -> String {
    format!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let counts = Counts { passed: 12, failed: 0, skipped: 1 };
        let elapsed = Duration::from_millis(1540);
        vec![
            Row { tier: "unit", what: "tests".to_owned(), counts: Some(counts), elapsed },
            Row {
                tier: "dpdk",
                what: "not part of this release".to_owned(),
                counts: None,
                elapsed: Duration::ZERO,
            },
        ]
    }

    #[test]
    fn columns_line_up_and_an_absent_tier_has_no_numbers() {
        let expected = "\
tier  what ran                  passed  failed  skipped  seconds
unit  tests                         12       0        1      1.5
dpdk  not part of this release       -       -        -        -
";
        assert_eq!(table(&rows()), expected);
    }

    #[test]
    fn the_last_line_sums_what_ran() {
        assert_eq!(last_line(total(&rows())), "12 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_skipped_test_fails_only_in_ci() {
        let total = total(&rows());
        assert!(is_success(total, false));
        assert!(!is_success(total, true));
    }

    #[test]
    fn a_failed_test_fails_everywhere() {
        let total = Counts { passed: 3, failed: 1, skipped: 0 };
        assert!(!is_success(total, false));
        assert!(!is_success(total, true));
    }
}
