//! The kernel behind a TAP, and its sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use demi_drivers::tap::{Tap, TapConfig};
use demi_drivers::{Device, Offload, PoolConfig, RxFrame, TxQueue};

use crate::Host;
use crate::answer::Answer;
use crate::family::{Family, PEER_MAC};
use crate::story::{Peer, Step, Story};

const LINK: &str = "demidiff0";

fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Listens, as soon as the listener before is gone: a process that is being started has its descriptor for a moment longer.
fn listen(address: SocketAddr) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && start.elapsed() < Duration::from_secs(5) =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{address}: {error}"),
        }
    }
}

/// The kernel, in a namespace that the calling thread is in from now on, and that goes with it.
pub(crate) struct Kernel {
    family: Family,
    tap: Tap,
    mac: [u8; 6],
    port: u16,
}

impl Kernel {
    pub(crate) fn new(family: Family) -> Kernel {
        // SAFETY: changes the calling thread's namespace, and no memory.
        let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(answer, 0, "unshare: {}", std::io::Error::last_os_error());
        // An address is to be there at once.
        run("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
        let config = TapConfig {
            mac: Some(PEER_MAC),
            host_address: Some((family.host(), family.prefix_bits())),
            offload: false,
            pool: PoolConfig::small(1024),
            ..TapConfig::new(LINK)
        };
        let tap = Tap::open(&config).unwrap();
        let mac = PEER_MAC.map(|byte| format!("{byte:02x}")).join(":");
        run(&format!("ip neigh replace {} lladdr {mac} dev {LINK} nud permanent", family.peer()));
        let shown = run(&format!("ip -o link show {LINK}"));
        let own = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
        let mut bytes = own.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        Kernel { family, tap, mac: std::array::from_fn(|_| bytes.next().unwrap()), port: 10_000 }
    }

    /// A host for one story, on a port of the peer's that none had before; each answer is waited for so long.
    pub(crate) fn host(&mut self, story: &Story, patience: Duration) -> Linux<'_> {
        self.port += 1;
        let listener = listen((self.family.host(), 80).into());
        listener.set_nonblocking(true).unwrap();
        let peer = Peer::new(story, self.port);
        let mut host = Linux {
            kernel: self,
            patience,
            peer,
            listener: Some(listener),
            stream: None,
            connecting: None,
            queue: TxQueue::new(8),
        };
        // What the story before left on the way.
        host.answers();
        host
    }
}

pub(crate) struct Linux<'a> {
    kernel: &'a mut Kernel,
    patience: Duration,
    peer: Peer,
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
    connecting: Option<Receiver<TcpStream>>,
    queue: TxQueue,
}

impl Linux<'_> {
    fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut frames: Vec<RxFrame> = Vec::new();
        let mut until = Instant::now() + self.patience;
        while Instant::now() < until {
            if self.kernel.tap.rx_burst(demi_drivers::Instant::ZERO, &mut frames, 64).unwrap() == 0 {
                thread::yield_now();
                continue;
            }
            for frame in frames.drain(..) {
                if let Some(answer) =
                    self.kernel.family.segment(&frame.buf).and_then(|segment| self.peer.hear(segment))
                {
                    answers.push(answer);
                    until = Instant::now() + self.patience;
                }
            }
        }
        answers
    }

    fn stream(&mut self) -> Option<&mut TcpStream> {
        if self.stream.is_none()
            && let Some(stream) = self.connecting.as_ref().and_then(|connecting| connecting.try_recv().ok())
        {
            stream.set_nonblocking(true).unwrap();
            self.stream = Some(stream);
        }
        self.stream.as_mut()
    }
}

impl Host for Linux<'_> {
    fn hear(&mut self, step: &Step) -> Vec<Answer> {
        match *step {
            Step::Segment(spoken) => {
                let bytes = self.peer.bytes(&spoken);
                let bytes = self.kernel.family.frame(self.kernel.mac, bytes);
                self.queue.push(self.kernel.tap.pool().copy_from_slice(&bytes).unwrap(), Offload::default());
                self.kernel.tap.tx_burst(demi_drivers::Instant::ZERO, &mut self.queue).unwrap();
            }
            Step::Accept => {
                if self.stream.is_none()
                    && let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept)
                {
                    stream.set_nonblocking(true).unwrap();
                    self.stream = Some(stream);
                }
            }
            Step::Connect => {
                let (sender, receiver) = mpsc::channel();
                let remote = (self.kernel.family.peer(), self.peer.ports.0).into();
                // A thread of its own, of this one's namespace: std has no connect that does not wait.
                thread::spawn(move || {
                    if let Ok(stream) = TcpStream::connect_timeout(&remote, Duration::from_millis(300)) {
                        let _ = sender.send(stream);
                    }
                });
                self.connecting = Some(receiver);
                // Until it has sent its SYN, nothing can be answered.
                let mut answers = Vec::new();
                for _ in 0..100 {
                    answers.extend(self.answers());
                    if !answers.is_empty() {
                        break;
                    }
                }
                return answers;
            }
            Step::Read => {
                if let Some(stream) = self.stream() {
                    let mut into = [0; 65_536];
                    while matches!(stream.read(&mut into), Ok(1..)) {}
                }
            }
            Step::Write(len) => {
                if let Some(stream) = self.stream() {
                    let _ = stream.write(&vec![b'y'; len]);
                }
            }
            Step::Shutdown => {
                if let Some(stream) = self.stream() {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
            Step::Close => {
                if self.stream().is_some() {
                    self.stream = None;
                } else {
                    self.listener = None;
                }
            }
        }
        self.answers()
    }
}
