//! What figures were measured with: this machine, its kernel and compiler, and the versions of the peers.

/// Whose versions the document names, as far as the lock file has them.
const PEERS: [&str; 8] = ["smoltcp", "tokio", "monoio", "compio", "glommio", "smol", "futures", "io-uring"];

/// Name and value of each: machine, kernel, compiler, versions of the peers.
pub fn of_this_machine() -> Vec<(String, String)> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let compiler = std::process::Command::new("rustc").arg("--version").output();
    let compiler = compiler
        .map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    let lock = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));
    let peers = PEERS.iter().filter_map(|peer| Some(format!("{peer} {}", version(lock, peer)?)));
    vec![
        ("machine".into(), format!("{cores} × {model}")),
        ("kernel".into(), format!("Linux {}", kernel.trim().split('-').next().unwrap_or_default())),
        ("compiler".into(), compiler.trim().to_owned()),
        ("peers".into(), peers.collect::<Vec<_>>().join(", ")),
    ]
}

/// The newest version of `package` in a lock file.
fn version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"\nversion = \"");
    lock.rsplit_once(&name)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_lock_files() {
        let lock =
            "[[package]]\nname = \"a\"\nversion = \"1.2\"\n\n[[package]]\nname = \"a\"\nversion = \"2.0\"\n";
        assert_eq!(version(lock, "a"), Some("2.0"));
        assert_eq!(version(lock, "b"), None);
    }
}
