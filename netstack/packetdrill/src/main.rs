//! `demi-packetdrill [FLAGS] FILES…`: runs scripts and lists what passed.

use std::path::PathBuf;
use std::process::ExitCode;

use demi_packetdrill::Flags;
use demi_packetdrill::suite::{self, Verdict};

const USAGE: &str = "usage: demi-packetdrill [FLAGS] FILES…

Runs scripts in packetdrill's language against the stack, in process and on virtual time. A folder means all *.pkt below.

  --ip_version=ipv4|ipv6|ipv4-mapped-ipv6   with this version only (default: what the script says, else ipv4 and ipv6)
  --tolerance_usecs=N                       how far from its time an event may be (default 4000)
  --tcp_ts_tick_usecs=N                     compare the timestamps sent, at this tick (default: do not)
  --any_option_order                        compare TCP options without their order and padding (scripts for FreeBSD)
  --strict_end                              packets that no line expects fail a script even at its end
  --define=NAME=VALUE, -D NAME=VALUE        what a name in the scripts stands for
  --mss=N                                   segments that larger inbound packets count as coalesced of
  --local_ip, --remote_ip, --gateway_ip, --mtu, --bind_port, --connect_port
  --table                                   print which states of RFC 9293 have met which events
  --quiet                                   list failures only
Flags in a script go before these. The exit code is 0 when every script did what is expected of it.";

fn main() -> ExitCode {
    let mut flags = Flags::default();
    let (mut table, mut quiet) = (false, false);
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(mut argument) = arguments.next() {
        // packetdrill's short form.
        if argument == "-D" {
            argument = format!("--define={}", arguments.next().unwrap_or_default());
        }
        let Some(flag) = argument.strip_prefix("--") else {
            paths.push(argument.into());
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        match name {
            "help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            "table" => table = true,
            "quiet" => quiet = true,
            name => {
                if let Err(message) = flags.set(name, value) {
                    eprintln!("{message}\n\n{USAGE}");
                    return ExitCode::from(2);
                }
            }
        }
    }
    if paths.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let scripts = match suite::find(&paths) {
        Ok(scripts) => scripts,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let summary = suite::run_all(&scripts, &flags, |run| {
        let name = format!("{} ({})", run.path.display(), run.version);
        match &run.verdict {
            Verdict::Passed if quiet => {}
            Verdict::Passed => println!("ok      {name}"),
            Verdict::Known(_) if quiet => {}
            Verdict::Known(message) => println!("known   {name}\n  {message}"),
            Verdict::Mended => println!("MENDED  {name}: it is listed as known to fail"),
            Verdict::Failed(message) => println!("FAILED  {name}\n  {message}"),
        }
    });
    if table {
        let root = std::env::current_dir().unwrap_or_default();
        println!("\n{}", suite::table(&summary, &root));
    }
    println!(
        "{} passed, {} failed, {} known, {} mended; {} scripts",
        summary.count(|verdict| *verdict == Verdict::Passed),
        summary.count(|verdict| matches!(verdict, Verdict::Failed(_))),
        summary.count(|verdict| matches!(verdict, Verdict::Known(_))),
        summary.count(|verdict| *verdict == Verdict::Mended),
        scripts.len(),
    );
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
