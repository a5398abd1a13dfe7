//! Results of a step: read out of libtest's summary lines and of the `SKIP` lines of tests that could not run here.
//! It only reads text.

use std::ops::AddAssign;

/// Tests that passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ran and held.
    pub(crate) passed: u64,
    /// Ran and did not hold, or could not be built.
    pub(crate) failed: u64,
    /// Did not run.
    pub(crate) skipped: u64,
}

impl Counts {
    /// One check that passed.
    pub(crate) const PASSED: Counts = Counts { passed: 1, failed: 0, skipped: 0 };
    /// One check that failed.
    pub(crate) const FAILED: Counts = Counts { passed: 0, failed: 1, skipped: 0 };
    /// One check that did not run.
    pub(crate) const SKIPPED: Counts = Counts { passed: 0, failed: 0, skipped: 1 };

    /// Tests accounted for.
    pub(crate) fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Reads the output of `cargo test`: all its `test result:` lines together.
///
/// A test that cannot run on this machine prints a line `SKIP why` and returns; libtest calls that passed, here it
/// moves to the skipped ones, as do ignored tests. A command that failed without a failed test (it did not build, or
/// the process died) counts as one failure, and so does one that ran no test at all: a filter that matches nothing must
/// not look like success.
pub(crate) fn of_tests(output: &str, success: bool) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines() {
        let line = line.trim_start();
        if let Some(summary) = line.strip_prefix("test result:") {
            counts.passed += number_before(summary, "passed");
            counts.failed += number_before(summary, "failed");
            counts.skipped += number_before(summary, "ignored");
        }
    }
    let skips = skip_reasons(output).len() as u64;
    let moved = skips.min(counts.passed);
    counts.passed -= moved;
    counts.skipped += moved;
    if counts.failed == 0 && (!success || counts.total() == 0) {
        counts.failed = 1;
    }
    counts
}

/// Reads the output of a check that either holds or does not.
pub(crate) fn of_check(success: bool) -> Counts {
    if success { Counts::PASSED } else { Counts::FAILED }
}

/// Reads the output of a benchmark with `--json`: it must end well, and have measured something.
pub(crate) fn of_benchmark(output: &str, success: bool) -> Counts {
    of_check(success && output.lines().any(|line| line.starts_with('{') && line.ends_with('}')))
}

/// What the `SKIP` lines say.
pub(crate) fn skip_reasons(output: &str) -> Vec<&str> {
    output.lines().filter_map(|line| line.trim_start().strip_prefix("SKIP ")).map(str::trim).collect()
}

/// The number that stands before `word` in `ok. 12 passed; 0 failed; …`.
fn number_before(summary: &str, word: &str) -> u64 {
    summary
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_BINARIES: &str = "\
running 3 tests
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 2 tests
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.02s
";

    #[test]
    fn summaries_of_all_binaries_add_up() {
        assert_eq!(of_tests(TWO_BINARIES, false), Counts { passed: 4, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_build_that_fails_is_one_failure() {
        assert_eq!(of_tests("error[E0308]: mismatched types\n", false), Counts::FAILED);
    }

    #[test]
    fn a_process_that_dies_after_good_tests_is_a_failure() {
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored\nerror: signal: 11\n";
        assert_eq!(of_tests(output, false), Counts { passed: 3, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_filter_that_matches_nothing_is_a_failure() {
        let output = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";
        assert_eq!(of_tests(output, true), Counts::FAILED);
    }

    #[test]
    fn a_benchmark_that_measures_nothing_is_a_failure() {
        assert_eq!(of_benchmark("{\"bench\":\"buf\"}\n", true), Counts::PASSED);
        assert_eq!(of_benchmark("{\"bench\":\"buf\"}\n", false), Counts::FAILED);
        assert_eq!(of_benchmark("no case matches\n", true), Counts::FAILED);
    }

    #[test]
    fn a_test_that_says_skip_is_not_a_passed_one() {
        let output =
            "---- tap stdout ----\nSKIP no /dev/net/tun\n\ntest result: ok. 2 passed; 0 failed; 1 ignored\n";
        assert_eq!(of_tests(output, true), Counts { passed: 1, failed: 0, skipped: 2 });
        assert_eq!(skip_reasons(output), ["no /dev/net/tun"]);
    }
}
