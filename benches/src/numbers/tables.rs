//! Figures as Markdown: a table a benchmark, a row a case, a column a peer.

use super::{Line, distinct};
use crate::kit::report::number;

/// A benchmark's place in the document.
struct Section {
    bench: &'static str,
    title: &'static str,
    text: &'static str,
}

const SECTIONS: &[Section] = &[
    Section {
        bench: "stack_echo",
        title: "Echo of 64 bytes, two hosts in memory",
        text: "Wire to application to wire, four passes through the stack, both hosts on one thread.",
    },
    Section {
        bench: "stack_bulk",
        title: "Bulk transfer, two hosts in memory",
        text: "Both hosts on one core, an MSS of 1460 bytes.",
    },
    Section {
        bench: "connect_rate",
        title: "Connections, opened and closed",
        text: "Both sides; ours keep TIME_WAIT.",
    },
    Section {
        bench: "scaling",
        title: "How an echo's cost grows",
        text: "Over connections, each in its turn, and over the payload of one.",
    },
    Section { bench: "executor", title: "The executor", text: "An operation, on one thread." },
    Section {
        bench: "kernel_echo",
        title: "Echo of 64 bytes on kernel sockets",
        text: "Over loopback, the server on one core and the load generator on another. CPU is the server's, user and system, for each request. \
               `demi-uring` and `demi-posix` poll for up to 50 µs before they block, which buys latency with CPU; all others, `demi-uring-park` \
               among them, block at once. The open loop's requests come by the clock, and their latency counts from when they were due.",
    },
    Section {
        bench: "goodput",
        title: "Goodput over a link that loses",
        text: "Ours and Linux over the same link; 100 Mbit/s. A cell is one transfer of a few seconds: where frames are lost, another one \
               can come to half or twice as much.",
    },
    Section {
        bench: "cores",
        title: "Cores",
        text: "A request's cost by the number of cores that serve; `capacity` is how many cores' worth of requests that is, by the \
               instructions, which are the same again tomorrow: the times are those of a server under callgrind.",
    },
    Section {
        bench: "devices",
        title: "Devices",
        text: "An echo over veth, each device beside the kernel's own.",
    },
    Section {
        bench: "reflect",
        title: "A frame through a device",
        text: "60 bytes that come over a veth go back, beside the same in C over the same rings: AF_PACKET with one copy where ours makes two, \
               since a buffer may be kept; AF_XDP with none, as ours. Times are mostly the kernel's; instructions are the program's own.",
    },
    Section {
        bench: "idle_connections",
        title: "Memory of an idle connection",
        text: "Heap, sockets and tasks of a server included, by the number of connections open.",
    },
    Section { bench: "floor", title: "The floor", text: "What parsing, sums and copies take by themselves." },
    Section { bench: "buf", title: "Packet memory", text: "An operation on buffers." },
];

/// The whole document: `facts` on what was measured with, and the names of the plots that lie beside it.
pub fn document(lines: &[Line], facts: &[(String, String)], plots: &[(String, String)]) -> String {
    let mut text = String::from(
        "# Numbers\n\nWritten by `cargo xtask bench`: every benchmark beside its peers, samples interleaved, on one machine. Machines are shared and \
         noisy, so compare within a row only, and take small differences for none. A cell is the median, with smallest and largest sample \
         behind it, or with the mean of the best third where that is said. The lines as they were printed: [numbers.jsonl](numbers.jsonl).\n\n",
    );
    text.push_str("| | |\n|---|---|\n");
    for (name, value) in facts {
        text.push_str(&format!("| {name} | {value} |\n"));
    }
    for (file, title) in plots {
        text.push_str(&format!("\n![{title}](plots/{file})\n"));
    }
    let known = |bench: &str| SECTIONS.iter().find(|section| section.bench == bench);
    let all = distinct(lines.iter().map(|line| &*line.bench));
    let ordered = SECTIONS.iter().map(|section| section.bench).filter(|bench| all.contains(bench));
    for bench in ordered.chain(all.iter().copied().filter(|bench| known(bench).is_none())) {
        let (title, about) = known(bench).map_or((bench, ""), |section| (section.title, section.text));
        text.push_str(&format!("\n## {title}\n\n"));
        if !about.is_empty() {
            text.push_str(&format!("{about}\n"));
        }
        text.push_str(&format!("\n`cargo run --release -p demi-benches --bin {bench}`\n\n"));
        let lines: Vec<&Line> = lines.iter().filter(|line| line.bench == bench).collect();
        text.push_str(&table(&lines));
    }
    text
}

/// One benchmark's table.
fn table(lines: &[&Line]) -> String {
    let peers = distinct(lines.iter().map(|line| &*line.peer));
    let cases = distinct(lines.iter().map(|line| &*line.case));
    let mut text =
        format!("| case | unit | {} |\n|---|---|{}\n", peers.join(" | "), "---:|".repeat(peers.len()));
    for case in cases {
        let of_case = || lines.iter().filter(|line| line.case == case);
        for unit in distinct(of_case().map(|line| &*line.unit)) {
            text.push_str(&format!("| {case} | {unit} |"));
            for peer in &peers {
                let cell = of_case().find(|line| line.peer == *peer && line.unit == unit);
                text.push_str(&format!(" {} |", cell.map_or_else(String::new, |line| figure(line))));
            }
            text.push('\n');
        }
    }
    text
}

fn figure(line: &Line) -> String {
    let median = number(line.median);
    match (line.best_third, line.range) {
        (Some(best), _) => format!("{median} (best third {})", number(best)),
        (None, Some((min, max))) => format!("{median} ({}–{})", number(min), number(max)),
        (None, None) => median,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::read;

    #[test]
    fn a_row_has_the_peers_of_a_case_beside_each_other() {
        let lines = read(concat!(
            r#"{"bench":"executor","peer":"demi","case":"yield","unit":"ns","median":2,"min":1,"max":3}"#,
            "\n",
            r#"{"bench":"executor","peer":"other","case":"spawn","unit":"ns","median":7,"best_third":6}"#,
            "\n",
            r#"{"bench":"executor","peer":"other","case":"yield","unit":"ns","median":4}"#,
        ));
        let text = document(&lines, &[("kernel".into(), "6.1".into())], &[("a.svg".into(), "A".into())]);
        assert!(text.contains("| kernel | 6.1 |"), "{text}");
        assert!(text.contains("![A](plots/a.svg)"), "{text}");
        assert!(text.contains("## The executor"), "{text}");
        assert!(text.contains("| case | unit | demi | other |\n|---|---|---:|---:|\n"), "{text}");
        assert!(text.contains("| yield | ns | 2.00 (1.00–3.00) | 4.00 |\n"), "{text}");
        assert!(text.contains("| spawn | ns |  | 7.00 (best third 6.00) |\n"), "{text}");
    }

    #[test]
    fn a_benchmark_that_nobody_described_has_a_section_all_the_same() {
        let lines = read(r#"{"bench":"new","peer":"demi","case":"c","unit":"ns","median":2}"#);
        assert!(document(&lines, &[], &[]).contains("## new\n"));
    }
}
