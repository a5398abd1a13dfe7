//! From what DPDK logs when it cannot start to one line that names the cause and the cure.

use std::io;

/// What DPDK says, and what to do about it. The first that is found wins.
const CURES: [(&str, io::ErrorKind, &str); 17] = [
    (
        "Could not open AF_PACKET socket",
        io::ErrorKind::PermissionDenied,
        "no CAP_NET_RAW for net_af_packet: run as root or setcap cap_net_raw+ep PROGRAM",
    ),
    (
        "Cannot get hugepage information",
        io::ErrorKind::OutOfMemory,
        "no huge pages: sysctl vm.nr_hugepages=512, or add --no-huge -m 64",
    ),
    (
        "No free",
        io::ErrorKind::OutOfMemory,
        "no huge pages are free: sysctl vm.nr_hugepages=512, or add --no-huge -m 64",
    ),
    (
        "No available",
        io::ErrorKind::OutOfMemory,
        "no huge pages are free: sysctl vm.nr_hugepages=512, or add --no-huge -m 64",
    ),
    (
        "get_seg_fd",
        io::ErrorKind::PermissionDenied,
        "no access to huge pages: run as root, or add --in-memory or --no-huge",
    ),
    (
        "Cannot create lock on",
        io::ErrorKind::AddrInUse,
        "another DPDK process has this file prefix: add --file-prefix=NAME or --in-memory",
    ),
    (
        "group is not viable",
        io::ErrorKind::ResourceBusy,
        "bind every device of its IOMMU group to vfio-pci: dpdk-devbind.py -b vfio-pci ADDRESS",
    ),
    (
        "No supported IOMMU",
        io::ErrorKind::Unsupported,
        "boot with intel_iommu=on or amd_iommu=on, or allow vfio's no-IOMMU mode",
    ),
    (
        "unrecognized option",
        io::ErrorKind::InvalidInput,
        "no such EAL argument: see the EAL parameters in DPDK's guide",
    ),
    (
        "invalid option",
        io::ErrorKind::InvalidInput,
        "no such EAL argument: see the EAL parameters in DPDK's guide",
    ),
    ("requires an argument", io::ErrorKind::InvalidInput, "an EAL argument lacks its value"),
    (
        "invalid core",
        io::ErrorKind::InvalidInput,
        "name cores that this process may run on, or leave -l and --lcores out",
    ),
    (
        "lcore",
        io::ErrorKind::InvalidInput,
        "name cores that this process may run on, or leave -l and --lcores out",
    ),
    (
        "failed to parse device",
        io::ErrorKind::InvalidInput,
        "no driver is called that: see the vdev's name, and that DPDK's drivers are installed (librte-net-…)",
    ),
    (
        "Permission denied",
        io::ErrorKind::PermissionDenied,
        "run as root, or give this user the device (/dev/vfio/…) and CAP_NET_ADMIN, CAP_NET_RAW as it needs",
    ),
    (
        "Operation not permitted",
        io::ErrorKind::PermissionDenied,
        "run as root, or give this program the capabilities that the driver needs (CAP_NET_RAW, CAP_NET_ADMIN)",
    ),
    ("Cannot init memory", io::ErrorKind::OutOfMemory, "less memory with -m, or more huge pages"),
];

/// Lines of `log` that tell something: the usage text, which a wrong argument has printed, and remarks are left out.
fn telling(log: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = Vec::new();
    for line in log.lines().map(str::trim_end) {
        let said = line.split_once(": ").filter(|(who, _)| {
            who.len() < 24
                && *who != "Usage"
                && !who.starts_with(' ')
                && who.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '(' || c == ')')
        });
        let Some((_, what)) = said else { continue };
        let what = what.trim().trim_start_matches("FATAL: ").trim_end_matches('.');
        let remark = ["Detected", "Selected IOVA", "Multi-process", "VFIO support", "Probing"];
        if what.is_empty() || remark.iter().any(|start| what.starts_with(start)) || lines.contains(&what) {
            continue;
        }
        lines.push(what);
    }
    lines
}

/// As [`error`], of a kind and with a cure that are only guesses, unless the log has better ones.
pub(super) fn error_or(what: &str, kind: io::ErrorKind, cure: &str, log: &str) -> io::Error {
    if telling(log).is_empty() {
        return io::Error::new(kind, format!("{what}: {cure}"));
    }
    let error = error(what, 0, log);
    let known = CURES.iter().any(|(said, ..)| log.contains(said));
    if known { error } else { io::Error::new(kind, format!("{error}: {cure}")) }
}

/// An error about `what` could not be done: the number, what was logged of it, and the cure.
pub(super) fn error(what: &str, errno: i32, log: &str) -> io::Error {
    let number = io::Error::from_raw_os_error(errno);
    let lines = telling(log);
    let cure = CURES.iter().find(|(said, ..)| lines.iter().any(|line| line.contains(said)));
    let kind = cure.map_or(number.kind(), |(_, kind, _)| *kind);
    let mut message = format!("{what}: ");
    if lines.is_empty() {
        message += &number.to_string();
    } else {
        // The first lines are nearest to the cause; what follows is its consequences.
        message += &lines[..lines.len().min(3)].join("; ");
    }
    if let Some((_, _, cure)) = cure {
        message += ": ";
        message += cure;
    }
    io::Error::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_and_the_cure_make_one_line() {
        let log = "EAL: Detected CPU lcores: 2\nEAL: No free 2048 kB hugepages reported on node 0\n\
                   EAL: FATAL: Cannot get hugepage information.\nEAL: Cannot get hugepage information.\n";
        let error = error("dpdk:", libc::EACCES, log);
        let text = error.to_string();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(text.contains("No free 2048 kB") && text.contains("--no-huge"), "{text}");
        assert!(!text.contains('\n') && !text.contains("Detected"), "{text}");
    }

    #[test]
    fn the_usage_text_is_left_out() {
        let log = "demi: unrecognized option '--nonsense'\n\nUsage: demi [options]\n\nEAL common options:\n  -c COREMASK         \
                   Hexadecimal bitmask of cores to run on\n  -l CORELIST         List of cores: c1-c2\nEAL: FATAL: Invalid 'command line' \
                   arguments.\n";
        let text = error("dpdk:", libc::EINVAL, log).to_string();
        assert!(text.contains("'--nonsense'") && text.contains("no such EAL argument"), "{text}");
        assert!(!text.contains("COREMASK") && !text.contains("CORELIST"), "{text}");
    }

    #[test]
    fn with_nothing_logged_the_number_speaks() {
        let error = error("dpdk: start port 0", libc::ENODEV, "");
        assert_eq!(error.to_string(), "dpdk: start port 0: No such device (os error 19)");
    }
}
