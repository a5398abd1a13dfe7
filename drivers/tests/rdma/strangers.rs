//! Programs that do not speak this protocol: rdma-core's own `rping`, as a client of our listener and as a server of our client. Each side
//! learns that the other is a stranger, and goes on.

use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};

use demi_drivers::Transport;
use demi_drivers::transport::StreamOptions;

use crate::support::{Cable, Ip, machine_has_rdma};

/// `rping`, killed when this is dropped, if it runs on.
struct Rping(Child);

impl Rping {
    fn start(line: &str) -> Rping {
        let piped =
            Command::new("rping").args(line.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Rping(piped.expect("rping of rdmacm-utils"))
    }

    /// What it has said, once it has ended.
    fn said(&mut self) -> String {
        let mut said = String::new();
        for pipe in [
            self.0.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read>),
            self.0.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read>),
        ] {
            pipe.unwrap().read_to_string(&mut said).unwrap();
        }
        said
    }
}

impl Drop for Rping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stranger_that_connects_is_refused_and_nobody_else_suffers() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (listener, address) = cable.listen(Ip::V4, 1);
    let (one, other) = cable.connect(listener, address);
    let mut rping =
        Rping::start(&format!("-c -a {} -p {} -I {} -C 1 -d", address.ip(), address.port(), Ip::V4.of(0)));
    let status = cable.wait(|_, _| match rping.0.try_wait().unwrap() {
        Some(status) => std::task::Poll::Ready(status),
        None => std::task::Poll::Pending,
    });
    let said = rping.said();
    assert!(!status.success() && said.contains("REJECTED"), "{status}: {said}");
    let refused = cable.ends[1].counters().into_iter().find(|(name, _)| name == "RdmaRefused");
    assert_eq!(refused.map(|(_, count)| count), Some(1));
    assert_eq!(cable.ends[1].usage().streams, 1, "nothing of the stranger is left");
    cable.write_all(0, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
}

#[test]
fn a_stranger_that_listens_is_told_from_nobody() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let address = std::net::SocketAddr::new(Ip::V4.of(1), 7174);
    let mut rping = Rping::start(&format!("-s -a {} -p {} -C 1", address.ip(), address.port()));
    // Until it listens, nobody does.
    let error = loop {
        let stream = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
        let error = cable.wait(|ends, cx| ends[0].poll_connect(cx, stream)).unwrap_err();
        cable.ends[0].close(stream);
        assert!(
            rping.0.try_wait().unwrap().is_none() || error.kind() == ErrorKind::ConnectionAborted,
            "{error}"
        );
        if error.kind() != ErrorKind::ConnectionRefused {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    assert!(error.to_string().contains("does not speak demi's protocol"), "{error}");
    cable.settle();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
}
