//! The example programs as processes, and the guest that they run in.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use demi::{Config, Runtime};

/// Whether this is a guest with `rxe0` and `rxe1` at the ends of a cable; says `SKIP` if not.
pub(crate) fn machine_has_rdma() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with RDMA: cargo xtask test --tier rdma");
    }
    ours
}

/// One of the examples, which cargo puts beside this test, on `device` and in the folder of its package.
pub(crate) fn example(name: &str, device: &str, args: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    // target/PROFILE/deps/rdma_programs-HASH → target/PROFILE/examples/NAME
    let path: PathBuf = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not there: cargo build --examples", path.display());
    let mut command = Command::new(path);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DEMI_")) {
        command.env_remove(name);
    }
    let settings = [("DEVICE", device), ("IDLE", "park"), ("HUGE_PAGES", "false"), ("POOL_SLOTS", "2048")];
    command.envs(settings.map(|(key, value)| (format!("DEMI_{key}"), value)));
    command.args(args.split_whitespace()).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    /// Held: each core of a program may have something to say.
    _stdout: BufReader<ChildStdout>,
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it, with `more` of its configuration, and waits until it can be reached.
    pub(crate) fn start(name: &str, device: &str, args: &str, more: &[(&str, &str)]) -> Server {
        let mut command = example(name, device, args);
        command.envs(more.iter().map(|(key, value)| (format!("DEMI_{key}"), value)));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.split(' ').find_map(|word| word.parse().ok());
        let Some(address) = address else { panic!("{name} {args}: {line:?}, {:?}", child.wait()) };
        Server { _stdout: stdout, child, address }
    }

    pub(crate) fn kv(args: &str) -> Server {
        Server::start("kv", "rdma:rxe1", &format!("--listen 10.77.0.2:0 {args}"), &[])
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A runtime of a client's.
pub(crate) fn runtime() -> Runtime {
    let config = Config::new().device("rdma:rxe0").idle("park").log("off");
    Runtime::new(config.pool_slots(1024).pool_large_slots(16).huge_pages(false)).unwrap()
}

/// A relay from the kernel's TCP to `to` over RDMA.
pub(crate) fn relay(to: SocketAddr) -> Server {
    let args = format!("--tcp --listen 127.0.0.1:0 --from 10.77.0.1 --to {to}");
    Server::start("relay", "posix;rdma:rxe0", &args, &[])
}
