//! The tools that tiers call beside cargo, and their Debian packages: finds what is missing and installs it where that
//! is possible (Debian, as root), otherwise says what to install. It never installs anything that no tier names.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::process::{self, Invocation};
use crate::tiers::Tier;
use crate::workspace::Workspace;

/// A program that a tier calls (or a library: `NAME.pc` as pkg-config calls it, `NAME.so` that is loaded, `NAME.driver` of libibverbs), and the Debian package that
/// has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The program's name.
    pub(crate) program: &'static str,
    /// The package that installs it.
    pub(crate) package: &'static str,
}

/// A program and its package.
pub(crate) const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What the kernel tier calls: namespaces and faults, then the clients that play the stranger.
pub(crate) const KERNEL: &[Tool] = &[
    tool("ip", "iproute2"),
    tool("ss", "iproute2"),
    tool("nft", "nftables"),
    tool("ethtool", "ethtool"),
    tool("curl", "curl"),
    tool("nc", "netcat-openbsd"),
    tool("socat", "socat"),
    tool("dnsmasq", "dnsmasq-base"),
    tool("ping", "iputils-ping"),
    tool("redis-benchmark", "redis-tools"),
    tool("tshark", "tshark"),
    tool("nmap", "nmap"),
    tool("scapy", "python3-scapy"),
    tool("tcptrace", "tcptrace"),
    tool("dnsmasq", "dnsmasq-base"),
];

/// What the bench tier calls.
pub(crate) const BENCH: &[Tool] = &[tool("valgrind", "valgrind")];

/// What the fuzz tier calls: libFuzzer is C++.
pub(crate) const FUZZ: &[Tool] = &[tool("c++", "g++")];

/// What the DPDK tier calls, and what building the binding takes.
pub(crate) const DPDK: &[Tool] = &[
    tool("ip", "iproute2"),
    tool("nft", "nftables"),
    tool("ethtool", "ethtool"),
    tool("curl", "curl"),
    tool("nc", "netcat-openbsd"),
    tool("socat", "socat"),
    tool("ping", "iputils-ping"),
    tool("redis-benchmark", "redis-tools"),
    tool("tshark", "tshark"),
    tool("nmap", "nmap"),
    tool("scapy", "python3-scapy"),
    tool("tcptrace", "tcptrace"),
    tool("dnsmasq", "dnsmasq-base"),
    tool("pkg-config", "pkg-config"),
    tool("clang", "clang"),
    tool("libclang.so", "libclang-dev"),
    tool("dpdk-testpmd", "dpdk-dev"),
    tool("libdpdk.pc", "libdpdk-dev"),
];

/// What the RDMA tier calls, and what building the bindings takes; its suites run in a guest.
pub(crate) const RDMA: &[Tool] = &[
    tool("ip", "iproute2"),
    tool("rdma", "iproute2"),
    tool("tc", "iproute2"),
    tool("pkg-config", "pkg-config"),
    tool("libclang-14.so", "libclang-14-dev"),
    tool("libibverbs.pc", "libibverbs-dev"),
    tool("librdmacm.pc", "librdmacm-dev"),
    tool("rxe.driver", "ibverbs-providers"),
    tool("ibv_devices", "ibverbs-utils"),
    tool("rping", "rdmacm-utils"),
    tool("redis-benchmark", "redis-tools"),
];

/// Makes sure that `tools` are there, installing them if that can be done. The error says what to install by hand.
pub(crate) fn ensure(workspace: &Workspace, tools: &[Tool]) -> Result<(), String> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let packages = packages(&missing);
    let by_hand = format!("missing {}: apt-get install {packages}", names(&missing));
    if !is_root() {
        return Err(format!("{by_hand} (not root, so not installed by itself)"));
    }
    if find("apt-get").is_none() {
        return Err(format!("{by_hand} (or what these are called here: this is not Debian)"));
    }
    println!("installing {packages}");
    let apt = |line: &str| {
        Invocation::new("apt-get -q -o DPkg::Lock::Timeout=300")
            .args(line)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit_s(15 * 60)
    };
    let install = apt(&format!("install -y --no-install-recommends {packages}"));
    for (log, invocation) in [("apt-update", apt("update")), ("apt-install", install)] {
        match process::run(workspace, log, &invocation) {
            Ok(outcome) if outcome.success => {}
            // A stale mirror must not stop what the lists at hand can still install.
            Ok(_) if log == "apt-update" => {}
            Ok(outcome) => {
                println!("{}", outcome.output);
                return Err(format!("{by_hand} failed, see {}", outcome.log.display()));
            }
            Err(error) => return Err(format!("{by_hand}: {error}")),
        }
    }
    let missing = self::missing(tools);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("{packages} installed, yet missing {}", names(&missing)))
    }
}

/// Makes sure that cargo has the subcommands the unit tier calls; rustup's minimal profile leaves them out.
pub(crate) fn ensure_components(workspace: &Workspace) -> Result<(), String> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let version = Invocation::new("cargo --quiet").args(&format!("{subcommand} --version"));
        let works = |outcome: process::Outcome| outcome.success;
        if process::run(workspace, "component-check", &version).is_ok_and(works) {
            continue;
        }
        println!("installing the component {component}");
        let add = Invocation::new("rustup component add").args(component).limit_s(5 * 60);
        if !process::run(workspace, "component-add", &add).is_ok_and(works) {
            return Err(format!("missing cargo {subcommand}: rustup component add {component}"));
        }
    }
    Ok(())
}

/// `cargo xtask setup`: whether all that any tier needs is there in the end.
pub(crate) fn setup(workspace: &Workspace) -> bool {
    let all: Vec<Tool> = Tier::ALL.iter().flat_map(|tier| tier.tools()).copied().collect();
    match ensure_components(workspace).and_then(|()| ensure(workspace, &all)) {
        Ok(()) => {
            println!("every tool is there: {}", names(&all));
            true
        }
        Err(message) => {
            eprintln!("{message}");
            false
        }
    }
}

fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().copied().filter(|tool| !is_there(tool.program)).collect()
}

fn names(tools: &[Tool]) -> String {
    tools.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ")
}

fn packages(tools: &[Tool]) -> String {
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages.join(" ")
}

/// Whether a program or a library is there.
fn is_there(name: &str) -> bool {
    if let Some(library) = name.strip_suffix(".pc") {
        let asked = std::process::Command::new("pkg-config").args(["--exists", library]).status();
        return asked.is_ok_and(|status| status.success());
    }
    if name.ends_with(".driver") {
        return Path::new("/etc/libibverbs.d").join(name).exists();
    }
    if name.ends_with(".so") {
        // Where Debian puts libraries: its own folder for those of LLVM.
        let folders = children("/usr/lib").into_iter();
        return folders
            .flat_map(|folder| [folder.join("lib").join(name), folder.join(name)])
            .any(|path| path.exists());
    }
    find(name).is_some()
}

fn children(folder: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Where `program` is, looked up as a shell would, and in the folders that root's path has and others' lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    // proc(5), `Uid: real effective saved filesystem`: std has no geteuid.
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .is_some_and(|effective| effective == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_found_and_nonsense_is_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }

    #[test]
    fn libraries_that_nobody_has_are_missing() {
        assert!(!is_there("no-such-library-anywhere.pc") && !is_there("libno-such-library-anywhere.so"));
    }

    #[test]
    fn a_package_of_two_tools_is_named_once() {
        let tools = [tool("ss", "iproute2"), tool("nft", "nftables"), tool("ip", "iproute2")];
        assert_eq!(packages(&tools), "iproute2 nftables");
    }

    #[test]
    fn what_is_there_needs_no_installing() {
        let workspace = Workspace::open().expect("target is writable");
        assert_eq!(ensure(&workspace, &[tool("sh", "dash")]), Ok(()));
    }
}
