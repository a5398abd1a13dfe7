//! The README's second half, word for word where a test can: an administrator makes a TAP for a user, and the user's
//! server answers on it without any privilege.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::running::example;
use crate::support::{Client, Namespace, Running, machine_is_ours};

/// The user that no machine gives any right to.
const USER: &str = "nobody";

/// A folder that every user reaches, with a server and something to serve; removed when dropped.
struct Shared(PathBuf);

impl Shared {
    fn new() -> Shared {
        let folder = std::env::temp_dir().join(format!("demi-it-{}-shared", std::process::id()));
        let shared = Shared(folder);
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(&shared.0)?;
            fs::set_permissions(&shared.0, fs::Permissions::from_mode(0o755))?;
            // Where the tests are built may be nobody else's to look at.
            fs::copy(example("http"), shared.0.join("http"))?;
            fs::set_permissions(shared.0.join("http"), fs::Permissions::from_mode(0o755))?;
            fs::write(shared.0.join("README.md"), "# demi\n")?;
            fs::set_permissions(shared.0.join("README.md"), fs::Permissions::from_mode(0o644))
        };
        make().unwrap_or_else(|error| panic!("{}: {error}", shared.0.display()));
        shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts the server as a user, with `tun` as the mode of /dev/net/tun, which is theirs alone to see.
fn serve_as(namespace: &Namespace, shared: &Shared, user: &str, tun: &str) -> Running {
    // Entering a namespace has given it mounts of its own.
    let script = format!(
        "mount -t tmpfs -o mode=755,dev none /dev/net && mknod -m {tun} /dev/net/tun c 10 200 && \
         exec setpriv --reuid {user} --regid nogroup --clear-groups --bounding-set -all --inh-caps -all \
         {folder}/http --listen 0.0.0.0:8080 --folder {folder}",
        folder = shared.0.display()
    );
    let environment = [("DEMI_DEVICE", "tap:demi0".to_owned()), ("DEMI_ADDRESS", "10.0.0.2/24".to_owned())];
    Running::start_words(namespace, "sh", &["-c", &script], &environment)
}

#[test]
fn a_user_serves_on_a_tap_that_was_made_for_them() {
    if !machine_is_ours() {
        return;
    }
    let (namespace, shared) = (Namespace::new("user"), Shared::new());
    namespace.ip(&format!("tuntap add dev demi0 mode tap user {USER}"));
    namespace.ip("addr add 10.0.0.1/24 dev demi0");
    namespace.ip("link set demi0 up");

    let mut server = serve_as(&namespace, &shared, USER, "666").ready();
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
    assert!(status.contains("CapEff:\t0000000000000000"), "it has privileges\n{status}");
    let pings = Client::new(&namespace, "ping").args("-c 3 -i 0.2 10.0.0.2").must();
    assert!(pings.contains(" 0% packet loss"), "{pings}");
    let page = Client::new(&namespace, "curl").args("-sS --fail http://10.0.0.2:8080/README.md").must();
    assert_eq!(page, "# demi\n", "{}", server.report());
    drop(server);
    assert_eq!(namespace.links(), ["demi0"], "what the administrator made stays");

    // Somebody else's, and a machine that keeps /dev/net/tun to root: each with its cure.
    for (user, tun, cure) in [("daemon", "666", "mode tap user YOU"), (USER, "600", "chmod 666 /dev/net/tun")]
    {
        let mut refused = serve_as(&namespace, &shared, user, tun);
        let status = refused.wait(std::time::Duration::from_secs(20));
        let report = refused.report();
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{report}");
        assert!(report.contains("tap:demi0") && report.contains(cure), "{report}");
    }
}
