//! The device string's arguments: DPDK's, as its environment abstraction layer (EAL) takes them, and our own words among them.
//!
//! Owns what is added when a word is missing. It never starts anything.

use std::io;

/// Which port to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum PortChoice {
    /// The first that is free.
    #[default]
    First,
    /// By number.
    Number(u16),
    /// By the device's name, `net_ring0` or `0000:00:04.0`.
    Name(String),
}

/// A device string taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// The EAL's own, as written.
    pub(super) eal: Vec<String>,
    pub(super) port: PortChoice,
    pub(super) queues: Option<u16>,
    pub(super) rx_descriptors: Option<u16>,
    pub(super) tx_descriptors: Option<u16>,
}

/// Options that say where shared state and huge pages go, or whether there are any: with one of them we do not choose.
const MEMORY_OPTIONS: [&str; 7] = [
    "--in-memory",
    "--no-shconf",
    "--file-prefix",
    "--proc-type",
    "--huge-unlink",
    "--legacy-mem",
    "--single-file-segments",
];
const CORE_OPTIONS: [&str; 4] = ["-l", "-c", "-s", "--lcores"];
const DEVICE_OPTIONS: [&str; 5] = ["-a", "--allow", "-b", "--block", "--no-pci"];

/// Drivers of devices that are software through and through.
const SOFTWARE: [&str; 8] = [
    "net_ring",
    "net_null",
    "net_tap",
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_pcap",
    "net_virtio_user",
];

impl Arguments {
    /// Takes `text` apart, with `more` (`DEMI_DPDK_ARGS`) behind it.
    pub(super) fn parse(text: &str, more: &str) -> io::Result<Arguments> {
        let mut arguments = Arguments::default();
        for word in text.split_whitespace().chain(more.split_whitespace()) {
            let number = |value: &str, least: u16| {
                let number = value.parse().ok().filter(|number| *number >= least);
                number.ok_or_else(|| {
                    let message = format!("dpdk: {word}: write a number from {least} to 65535");
                    io::Error::new(io::ErrorKind::InvalidInput, message)
                })
            };
            match word.split_once('=') {
                Some(("port", value)) => {
                    arguments.port = match value.parse() {
                        Ok(number) => PortChoice::Number(number),
                        Err(_) => PortChoice::Name(value.to_owned()),
                    };
                }
                Some(("queues", value)) => arguments.queues = Some(number(value, 1)?),
                Some(("rx_descriptors", value)) => arguments.rx_descriptors = Some(number(value, 1)?),
                Some(("tx_descriptors", value)) => arguments.tx_descriptors = Some(number(value, 1)?),
                _ => arguments.eal.push(word.to_owned()),
            }
        }
        Ok(arguments)
    }

    /// Devices named after `--vdev` and `-a`, with their arguments: what can be attached again once it was closed.
    pub(super) fn devices(eal: &[String]) -> Vec<&str> {
        let mut devices = Vec::new();
        let mut words = eal.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--vdev" | "-a" | "--allow" => devices.extend(words.next()),
                _ => devices.extend(
                    ["--vdev=", "--allow=", "-a"].iter().find_map(|option| word.strip_prefix(option)),
                ),
            }
        }
        devices
    }
}

fn has(eal: &[String], option: &str) -> bool {
    eal.iter().any(|word| {
        let rest = word.strip_prefix(option);
        // `--lcores=…` and `--lcores …`; `-l3` as well as `-l 3`.
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || !option.starts_with("--"))
    })
}

fn has_any(eal: &[String], options: &[&str]) -> bool {
    options.iter().any(|option| has(eal, option))
}

/// Whether devices are named, and all of them need no bus of the machine's. Others do: a virtual device may be a layer over a NIC.
fn only_virtual(eal: &[String]) -> bool {
    let devices = Arguments::devices(eal);
    let in_software = |device: &&str| SOFTWARE.iter().any(|driver| device.starts_with(driver));
    !devices.is_empty() && devices.iter().all(in_software)
}

/// Whether whoever wrote the arguments wants to see DPDK's own messages.
pub(super) fn wants_log(eal: &[String]) -> bool {
    has(eal, "--log-level")
}

/// What `rte_eal_init` is given: the program's name, what was written, and what was not. `core` is where the calling thread runs:
/// DPDK's threads stay there unless it was told otherwise.
pub(super) fn with_defaults(eal: &[String], core: usize) -> Vec<String> {
    let mut all = vec!["demi".to_owned()];
    all.extend(eal.iter().cloned());
    if !has_any(eal, &CORE_OPTIONS) {
        all.push(format!("--lcores=0@{core}"));
    }
    if !has_any(eal, &MEMORY_OPTIONS) {
        // Nothing stays behind in /dev/hugepages or /var/run, and processes do not meet there. Without huge pages there is nothing
        // to share but the configuration.
        let alone = if has(eal, "--no-huge") { "--no-shconf" } else { "--in-memory" };
        all.push(alone.to_owned());
    }
    if !has_any(eal, &DEVICE_OPTIONS) && only_virtual(eal) {
        // Whoever names virtual devices only does not want NICs to be taken, too.
        all.push("--no-pci".to_owned());
    }
    if !has_any(eal, &["--telemetry", "--no-telemetry"]) {
        all.push("--no-telemetry".to_owned());
    }
    if !wants_log(eal) {
        all.push("--log-level=warning".to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Arguments {
        Arguments::parse(text, "").unwrap()
    }

    #[test]
    fn our_words_are_found_among_dpdks() {
        let arguments = Arguments::parse(
            "--no-huge port=1 -m 64 --vdev=net_memif0,role=server,id=0 queues=2",
            "rx_descriptors=256 -n 4",
        );
        let arguments = arguments.unwrap();
        assert_eq!(arguments.port, PortChoice::Number(1));
        assert_eq!((arguments.queues, arguments.rx_descriptors), (Some(2), Some(256)));
        assert_eq!(arguments.eal, ["--no-huge", "-m", "64", "--vdev=net_memif0,role=server,id=0", "-n", "4"]);
        assert_eq!(parsed("port=0000:00:04.0").port, PortChoice::Name("0000:00:04.0".to_owned()));
    }

    #[test]
    fn a_count_that_is_none_is_an_error_of_one_line() {
        for text in ["queues=0", "queues=x", "tx_descriptors=70000"] {
            let error = Arguments::parse(text, "").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text) && !error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn devices_are_found_in_every_way_to_write_them() {
        let arguments = parsed("-a 0000:00:04.0 -a0000:00:05.0 --vdev=net_ring0 --vdev net_tap0,iface=x");
        assert_eq!(
            Arguments::devices(&arguments.eal),
            ["0000:00:04.0", "0000:00:05.0", "net_ring0", "net_tap0,iface=x"]
        );
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let plain = with_defaults(&parsed("--vdev=net_ring0").eal, 3);
        for word in ["demi", "--vdev=net_ring0", "--lcores=0@3", "--in-memory", "--no-pci", "--no-telemetry"]
        {
            assert!(plain.iter().any(|has| has == word), "{word} in {plain:?}");
        }
        // Over a card's own driver; over whatever a cloud has.
        for layered in ["--vdev=7870:00:00.0,mac=00:22:48:00:00:01", "--vdev=net_vdev_netvsc0,iface=eth1"] {
            let all = with_defaults(&parsed(layered).eal, 0);
            assert!(!all.iter().any(|word| word == "--no-pci"), "{all:?}");
        }
        let small = with_defaults(&parsed("--no-huge -m 64 --vdev=net_ring0").eal, 0);
        assert!(
            small.iter().any(|word| word == "--no-shconf") && !small.iter().any(|word| word == "--in-memory")
        );
        let own = parsed("-l 1 --no-shconf --telemetry --log-level=debug -a 0000:00:04.0");
        assert_eq!(with_defaults(&own.eal, 3)[1..], own.eal[..]);
    }
}
