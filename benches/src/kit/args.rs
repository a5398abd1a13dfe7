//! Command line of the bench binaries: long flags only, the common ones in every binary, unknown ones refused with the list.

use std::fmt::Display;
use std::str::FromStr;

/// One flag of a binary.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without the dashes.
    pub name: &'static str,
    /// What its value is called in the help text; `None`: the flag takes no value.
    pub value: Option<&'static str>,
    /// One line of help, with the default.
    pub help: &'static str,
}

/// Flags every bench binary takes.
const COMMON: &[Flag] = &[
    Flag { name: "json", value: None, help: "one JSON object a line instead of a table" },
    Flag { name: "seconds", value: Some("S"), help: "time to spend on each case, all peers together (2)" },
    Flag {
        name: "peer",
        value: Some("NAME"),
        help: "only peers whose name contains NAME (comma-separated list)",
    },
    Flag {
        name: "case",
        value: Some("NAME"),
        help: "only cases whose name contains NAME (comma-separated list)",
    },
    Flag { name: "core", value: Some("N"), help: "core to pin this process to (not pinned)" },
];

/// A parsed command line.
#[derive(Clone, Debug, Default)]
pub struct Args {
    given: Vec<(&'static str, String)>,
}

impl Args {
    /// Parses the process's command line against the common flags and `own`. `--help` and mistakes end the process.
    pub fn parse(about: &str, own: &[Flag]) -> Args {
        let line: Vec<String> = std::env::args().skip(1).collect();
        match Args::from_words(&line, own) {
            Ok(args) => args,
            Err(message) => {
                let help = message.is_empty();
                let text = usage(about, own);
                if help {
                    println!("{text}");
                } else {
                    eprintln!("{message}\n\n{text}");
                }
                std::process::exit(if help { 0 } else { 2 });
            }
        }
    }

    /// Parses `words`.
    ///
    /// # Errors
    /// What is wrong with them, as one line; an empty message stands for `--help`.
    pub fn from_words(words: &[String], own: &[Flag]) -> Result<Args, String> {
        let mut given = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            // `cargo bench` hands this to every bench target.
            if word == "--bench" {
                continue;
            }
            if word == "--help" || word == "-h" {
                return Err(String::new());
            }
            let Some(name) = word.strip_prefix("--") else {
                return Err(format!("unexpected argument {word}"));
            };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (name, None),
            };
            let Some(flag) = COMMON.iter().chain(own).find(|flag| flag.name == name) else {
                return Err(format!("unknown flag --{name}"));
            };
            let value = match (flag.value, inline) {
                (None, None) => String::new(),
                (None, Some(_)) => return Err(format!("--{name} takes no value")),
                (Some(_), Some(value)) => value,
                (Some(what), None) => match words.next() {
                    Some(value) => value.clone(),
                    None => return Err(format!("--{name} needs {what}")),
                },
            };
            given.push((flag.name, value));
        }
        Ok(Args { given })
    }

    /// Whether `--name` was given.
    pub fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The value of `--name`, the last one given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// The value of `--name` as a number, or `default`; a value that is none ends the process.
    pub fn number<T: FromStr + Display>(&self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            eprintln!("--{name} {text}: not a number (for example {default})");
            std::process::exit(2)
        })
    }

    /// The value of `--name` as a list of numbers separated by commas, or `default`.
    pub fn numbers(&self, name: &str, default: &[usize]) -> Vec<usize> {
        let Some(text) = self.text(name) else { return default.to_vec() };
        text.split(',')
            .map(|one| {
                one.trim().parse().unwrap_or_else(|_| {
                    eprintln!("--{name} {text}: not a list of numbers (for example 1,64,1000)");
                    std::process::exit(2)
                })
            })
            .collect()
    }

    /// Whether `--peer` lets `peer` through.
    pub fn wants_peer(&self, peer: &str) -> bool {
        passes(self.text("peer"), peer)
    }

    /// Whether `--case` lets `case` through.
    pub fn wants_case(&self, case: &str) -> bool {
        passes(self.text("case"), case)
    }
}

fn passes(filter: Option<&str>, name: &str) -> bool {
    filter.is_none_or(|filter| filter.split(',').any(|part| name.contains(part.trim())))
}

fn usage(about: &str, own: &[Flag]) -> String {
    let mut text = format!("{about}\n\nFlags:");
    for flag in own.iter().chain(COMMON) {
        let left = match flag.value {
            Some(value) => format!("--{} {value}", flag.name),
            None => format!("--{}", flag.name),
        };
        text.push_str(&format!("\n  {left:<24} {}", flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[Flag] = &[Flag { name: "depth", value: Some("N"), help: "" }];

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::from_words(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>(), OWN)
    }

    #[test]
    fn values_come_after_a_space_or_an_equals_sign_and_the_last_one_wins() {
        let args = parse(&["--depth", "3", "--json", "--depth=4"]).unwrap();
        assert_eq!(args.number("depth", 1), 4);
        assert!(args.has("json"));
        assert_eq!(args.number("seconds", 2.0), 2.0);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse(&["--deep"]).unwrap_err(), "unknown flag --deep");
        assert_eq!(parse(&["--depth"]).unwrap_err(), "--depth needs N");
        assert_eq!(parse(&["--json=1"]).unwrap_err(), "--json takes no value");
        assert_eq!(parse(&["x"]).unwrap_err(), "unexpected argument x");
        assert_eq!(parse(&["--help"]).unwrap_err(), "");
    }

    #[test]
    fn filters_are_lists_of_parts_of_names() {
        let args = parse(&["--peer", "tokio,smol"]).unwrap();
        assert!(args.wants_peer("tokio local"));
        assert!(args.wants_peer("smoltcp"));
        assert!(!args.wants_peer("monoio"));
        assert!(args.wants_case("anything"));
    }
}
