//! The command line of `cargo xtask`: turns words into a [`Command`]. It never touches the machine.

use crate::guest::{self, Nic};
use crate::sim;
use crate::tiers::Tier;

/// What `cargo xtask help` prints.
pub(crate) const USAGE: &str = "\
cargo xtask COMMAND

  test [--tier TIER]... [--list]   run all tiers (or those named); --list only says what they consist of
  bench [NAME]... [--seconds N]    run all benchmarks (or those named) beside their peers, about N seconds a case (2), and write
                                   docs/numbers.jsonl, docs/numbers.md and docs/plots/; what is not named keeps its figures
  fuzz [TARGET]... [--seconds N]   fuzz all targets (or those named), each for N seconds (60)
  sim [--seeds N] [--seed S] [--scenario NAME] [--pcap FILE]
                                   run many seeds of the simulations on all cores (1000 of each, from 0 or from S), or one
                                   seed S again, of those whose name has NAME in it; --pcap writes that one's frames
  guest [--nic NIC] [--rdma] [--memory MIB] [--cpus N] [--limit SECONDS] -- PROGRAM [ARGUMENT]...
                                   run a program of this machine in a virtual one with a kernel of its own (2048 MiB, 2 CPUs, 300 s);
                                   NIC, of igb, e1000e, virtio, vmxnet3, is a card for vfio-pci, with one of the kernel beside it;
                                   --rdma makes rxe0 and rxe1, two RDMA devices at the ends of a cable.
                                   The kernel is Debian's newest; XTASK_GUEST_KERNEL=linux-image-6.12-amd64 takes another
  fmt                              format all code
  clippy                           lint all targets, warnings are errors
  doc                              build the documentation, warnings are errors
  setup                            install the tools that the tiers need (Debian, as root), else name them

tiers: unit sim kernel bench dpdk guest rdma fuzz
With CI=true in the environment a skipped tier or test is a failure. Logs are kept in target/xtask/.";

/// One run of the driver.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print [`USAGE`].
    Help,
    /// Run tiers; an empty list means all.
    Test {
        /// The tiers asked for by name.
        tiers: Vec<Tier>,
    },
    /// Say what tiers consist of; an empty list means all.
    List {
        /// The tiers asked for by name.
        tiers: Vec<Tier>,
    },
    /// Measure, and write tables and plots.
    Bench {
        /// The benchmarks asked for by name; an empty list means all.
        programs: Vec<String>,
        /// Seconds of each case.
        seconds: u32,
    },
    /// Fuzz.
    Fuzz {
        /// The targets asked for by name; an empty list means all.
        targets: Vec<String>,
        /// Seconds of each.
        seconds: u32,
    },
    /// Run simulations.
    Sim(sim::Options),
    /// Run a program in a virtual machine.
    Guest(guest::Options),
    /// Format all code.
    Fmt,
    /// Lint all targets.
    Clippy,
    /// Build the documentation.
    Doc,
    /// Install what the tiers need.
    Setup,
}

/// Reads the words after `cargo xtask`. The error is what to tell the user.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut words = words.into_iter();
    let command = match words.next().as_deref() {
        None | Some("help" | "--help" | "-h") => Command::Help,
        Some("test") => return parse_test(words),
        Some("bench") => {
            return Ok(match parse_timed(words, 2)? {
                Some((programs, seconds)) => Command::Bench { programs, seconds },
                None => Command::Help,
            });
        }
        Some("fuzz") => {
            return Ok(match parse_timed(words, 60)? {
                Some((targets, seconds)) => Command::Fuzz { targets, seconds },
                None => Command::Help,
            });
        }
        Some("sim") => return parse_sim(words),
        Some("guest") => return parse_guest(words),
        Some("fmt") => Command::Fmt,
        Some("clippy") => Command::Clippy,
        Some("doc") => Command::Doc,
        Some("setup") => Command::Setup,
        Some(other) => return Err(format!("no command `{other}`\n\n{USAGE}")),
    };
    match words.next() {
        None => Ok(command),
        Some(word) if word == "--help" || word == "-h" => Ok(Command::Help),
        Some(word) => Err(format!("unexpected `{word}`\n\n{USAGE}")),
    }
}

/// Names, and `--seconds N`; `None` for a call for help.
fn parse_timed(
    mut words: impl Iterator<Item = String>,
    mut seconds: u32,
) -> Result<Option<(Vec<String>, u32)>, String> {
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--seconds" => {
                let number = words.next().ok_or("--seconds wants a number")?;
                seconds = number.parse().map_err(|_| format!("--seconds wants a number, not `{number}`"))?;
            }
            option if option.starts_with('-') => return Err(format!("unexpected `{option}`\n\n{USAGE}")),
            _ => names.push(word),
        }
    }
    Ok(Some((names, seconds)))
}

fn parse_guest(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = guest::Options::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{word} {text}: write a number"));
        match &*word {
            "--help" | "-h" => return Ok(Command::Help),
            "--" => {
                options.command = words.collect();
                break;
            }
            "--nic" => {
                let name = value()?;
                let names = || Nic::ALL.map(Nic::name).join(", ");
                options.nic =
                    Some(Nic::from_name(&name).ok_or_else(|| format!("no card `{name}`: {}", names()))?);
            }
            "--rdma" => options.rdma = true,
            "--memory" => options.memory_mib = number(value()?)?,
            "--cpus" => options.cpus = number(value()?)?,
            "--limit" => options.limit_s = u64::from(number(value()?)?),
            _ => return Err(format!("unexpected `{word}`\n\n{USAGE}")),
        }
    }
    match options.command.is_empty() {
        true => Err(format!("guest wants a program behind `--`\n\n{USAGE}")),
        false => Ok(Command::Guest(options)),
    }
}

fn parse_test(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut tiers = Vec::new();
    let mut list = false;
    while let Some(word) = words.next() {
        let name = match word.as_str() {
            "--list" => {
                list = true;
                continue;
            }
            "--help" | "-h" => return Ok(Command::Help),
            "--tier" => words.next().ok_or_else(|| format!("--tier wants a name: {}", Tier::names()))?,
            other => match other.strip_prefix("--tier=") {
                Some(name) => name.to_owned(),
                None => return Err(format!("unexpected `{other}`\n\n{USAGE}")),
            },
        };
        let tier = Tier::from_name(&name).ok_or_else(|| format!("no tier `{name}`: {}", Tier::names()))?;
        if !tiers.contains(&tier) {
            tiers.push(tier);
        }
    }
    Ok(if list { Command::List { tiers } } else { Command::Test { tiers } })
}

fn parse_sim(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = sim::Options::default();
    while let Some(word) = words.next() {
        let (name, given) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&*word, None),
        };
        if matches!(name, "--help" | "-h") {
            return Ok(Command::Help);
        }
        if !matches!(name, "--seeds" | "--seed" | "--scenario" | "--pcap") {
            return Err(format!("unexpected `{word}`\n\n{USAGE}"));
        }
        let value = given.or_else(|| words.next()).ok_or_else(|| format!("{name} wants a value"))?;
        let number = || value.parse().map_err(|_| format!("{name} {value}: write a number"));
        match name {
            "--seeds" => options.seeds = Some(number()?),
            "--seed" => options.seed = Some(number()?),
            "--scenario" => options.scenario = Some(value),
            _ => options.pcap = Some(value),
        }
    }
    Ok(Command::Sim(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn test_without_a_tier_means_all() {
        assert_eq!(parse_line("test"), Ok(Command::Test { tiers: vec![] }));
    }

    #[test]
    fn tiers_are_named_in_either_form_and_once() {
        let expected = Command::Test { tiers: vec![Tier::Kernel, Tier::Unit] };
        assert_eq!(parse_line("test --tier kernel --tier=unit --tier kernel"), Ok(expected));
    }

    #[test]
    fn bench_takes_programs_and_seconds() {
        let all = Command::Bench { programs: Vec::new(), seconds: 2 };
        assert_eq!(parse_line("bench"), Ok(all));
        let one = Command::Bench { programs: vec!["executor".to_owned()], seconds: 5 };
        assert_eq!(parse_line("bench executor --seconds 5"), Ok(one));
        assert!(parse_line("bench --quick").is_err());
    }

    #[test]
    fn fuzz_takes_targets_and_seconds() {
        let all = Command::Fuzz { targets: vec![], seconds: 60 };
        assert_eq!(parse_line("fuzz"), Ok(all));
        let two = Command::Fuzz { targets: vec!["dns".to_owned(), "icmp".to_owned()], seconds: 5 };
        assert_eq!(parse_line("fuzz dns --seconds 5 icmp"), Ok(two));
        for line in ["fuzz --seconds", "fuzz --seconds x", "fuzz --fast"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn guest_takes_a_machine_and_a_program() {
        let Ok(Command::Guest(options)) = parse_line("guest --nic igb --limit 60 -- ls --nic -l") else {
            panic!("it parses");
        };
        assert_eq!((options.nic, options.limit_s, options.cpus), (Some(Nic::Igb), 60, 2));
        assert_eq!(options.command, ["ls", "--nic", "-l"]);
        for line in ["guest", "guest ls", "guest --nic", "guest --nic ne2000 -- ls", "guest --cpus x -- ls"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn list_keeps_the_tier() {
        assert_eq!(parse_line("test --tier sim --list"), Ok(Command::List { tiers: vec![Tier::Sim] }));
    }

    #[test]
    fn simulations_are_chosen_by_seed_and_name() {
        let options = sim::Options {
            seed: Some(7),
            scenario: Some("outage".to_owned()),
            pcap: Some("f".to_owned()),
            ..sim::Options::default()
        };
        assert_eq!(parse_line("sim --seed 7 --scenario=outage --pcap f"), Ok(Command::Sim(options)));
        let options = sim::Options { seeds: Some(100_000), ..sim::Options::default() };
        assert_eq!(parse_line("sim --seeds 100000"), Ok(Command::Sim(options)));
        for line in ["sim --seeds", "sim --seeds many", "sim now"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_unknown_word_is_named_in_the_error() {
        for (line, word) in
            [("fly", "fly"), ("test --tier moon", "moon"), ("test now", "now"), ("fmt now", "now")]
        {
            let error = parse_line(line).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn a_missing_tier_name_lists_the_tiers() {
        let error = parse_line("test --tier").expect_err("no name");
        assert!(error.contains("unit, sim"), "{error}");
    }

    #[test]
    fn every_tier_is_in_the_usage() {
        for tier in Tier::ALL {
            assert!(USAGE.contains(tier.name()), "{}", tier.name());
        }
    }
}
