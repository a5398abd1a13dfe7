//! Our own stack on a TAP, beside the kernel's sockets, through the public API; each test in a network namespace of its
//! own. Run by `cargo xtask test --tier kernel`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use demi::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use demi::{Config, Runtime};

/// Runs `test` on a thread of its own in a new network namespace, which is gone when the thread is; or says why not.
fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    // SAFETY: always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    let tier = std::env::var("DEMI_TIER").is_ok_and(|tier| tier == "kernel");
    if !root || !tier {
        let _ = writeln!(io::stderr(), "SKIP {name}: it takes root, and DEMI_TIER=kernel");
        return;
    }
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // SAFETY: changes the calling thread's namespace, and no memory.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
        run("ip link set lo up");
        // Which every namespace may have, whatever the host prefers; the speed of the kernel's BBR is unsteady on a busy machine.
        std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap();
        test();
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the calling thread's namespace.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A runtime whose stack is 10.77.0.2 on a TAP, at the other side of which the kernel is 10.77.0.1; `devices` in order.
fn runtime(devices: &[&str]) -> Runtime {
    run("ip tuntap add dev dtap0 mode tap");
    run("ip addr add 10.77.0.1/24 dev dtap0");
    run("ip link set dtap0 up");
    let config =
        Config::new().device(devices.join(";").as_str()).address("10.77.0.2/24").log("off").idle("park");
    Runtime::new(config.pool_slots(1024).pool_large_slots(8).huge_pages(false)).unwrap()
}

/// Deletes the TAP.
fn cut() {
    run("ip link delete dtap0");
}

#[track_caller]
fn assert_names_the_cause<T>(what: &str, result: io::Result<T>) {
    let Err(error) = result else { panic!("{what} goes on") };
    let text = error.to_string();
    assert!(text.contains("tap:dtap0") && text.contains("deleted"), "{what}: {text}");
}

#[test]
fn a_deleted_interface_ends_every_future_with_the_cause() {
    in_namespace("deleted", || {
        let runtime = runtime(&["tap:dtap0"]);
        runtime.block_on(async {
            let listener = TcpListener::bind("10.77.0.2:7000").await.unwrap();
            let peer = aside(&current(), || connect_and_greet("10.77.0.2:7000".parse().unwrap()));
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = [0; 5];
            stream.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
            let socket = UdpSocket::bind("10.77.0.2:7000").await.unwrap();

            let accepting = demi::spawn(async move { listener.accept().await });
            let receiving = demi::spawn(async move { socket.recv_from(&mut [0; 10]).await });
            let connecting = demi::spawn(TcpStream::connect("10.77.0.99:7000"));
            let reading = demi::spawn(async move {
                let read = stream.read(&mut [0; 10]).await;
                (read, stream)
            });
            demi::task::yield_now().await;
            cut();
            assert_names_the_cause("accept", accepting.await.unwrap());
            assert_names_the_cause("recv_from", receiving.await.unwrap());
            assert_names_the_cause("connect", connecting.await.unwrap());
            let (read, mut stream) = reading.await.unwrap();
            assert_names_the_cause("read", read);
            assert_names_the_cause("write", stream.write_all(b"x").await);
            assert_names_the_cause("bind", TcpListener::bind("10.77.0.2:7001").await);
            drop(stream);
            // Nobody waits any more, and no turn asks at full speed.
            let before = demi::metrics().turns;
            demi::time::sleep(Duration::from_millis(100)).await;
            let turns = demi::metrics().turns - before;
            assert!(turns < 100, "{turns} turns of nothing");
            drop(peer);
        });
        let usage = runtime.usage();
        assert_eq!((usage.streams, usage.listeners, usage.buffers), (0, 0, 0), "{usage:?}");
        assert_eq!(runtime.shut_down(), demi::Drained::Clean);
    });
}

/// The calling thread's namespace.
fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Moves the calling thread to a namespace.
fn enter(namespace: &File) {
    // SAFETY: changes the calling thread's namespace, and no memory.
    let answer = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "setns: {}", io::Error::last_os_error());
}

/// Runs `call` on a thread of its own in `namespace`.
fn aside<T: Send + 'static>(namespace: &File, call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let namespace = namespace.try_clone().unwrap();
    std::thread::spawn(move || {
        enter(&namespace);
        call()
    })
}

/// What the thread returns; the runtime goes on meanwhile.
async fn join<T>(thread: JoinHandle<T>) -> T {
    while !thread.is_finished() {
        demi::time::sleep(Duration::from_millis(1)).await;
    }
    thread.join().unwrap()
}

/// A kernel's socket that has connected and said hello.
fn connect_and_greet(to: SocketAddr) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    stream.write_all(b"hello").unwrap();
    stream
}

/// Takes a kernel's connection from `namespace` to `to` at `listener`, and talks a little.
async fn talk(listener: &TcpListener, namespace: &File, to: &str) {
    let address: SocketAddr = to.parse().unwrap();
    let peer = aside(namespace, move || {
        let mut answer = String::new();
        connect_and_greet(address).read_to_string(&mut answer).unwrap();
        answer
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(stream.local_addr().unwrap(), address);
    let mut said = vec![0; 5];
    stream.read_exact(&mut said).await.unwrap();
    stream.write_all(b"bye").await.unwrap();
    drop(stream);
    assert_eq!((&said[..], join(peer).await.as_str()), (&b"hello"[..], "bye"), "{to}");
}

/// Moves the TAP's other side to a host of its own, so that this one's kernel knows nothing of the network behind it.
fn move_away() -> File {
    let elsewhere = std::thread::spawn(|| {
        // SAFETY: changes the calling thread's namespace, and no memory.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
        current()
    });
    let elsewhere = elsewhere.join().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), elsewhere.as_raw_fd());
    run(&format!("ip link set dtap0 netns {path}"));
    let set_up = aside(&elsewhere, || {
        run("ip addr add 10.77.0.1/24 dev dtap0");
        run("ip link set dtap0 up");
    });
    set_up.join().unwrap();
    elsewhere
}

#[test]
fn a_socket_takes_the_transport_that_its_address_belongs_to() {
    for kernel in ["posix", "uring"] {
        in_namespace("addresses", move || {
            let runtime = runtime(&["tap:dtap0", kernel]);
            let (here, there) = (current(), move_away());
            runtime.block_on(async {
                // By the address bound to; on all of them by none.
                let ours = TcpListener::bind("10.77.0.2:7000").await.unwrap();
                let loopback = TcpListener::bind("127.0.0.1:7000").await.unwrap();
                let anywhere = TcpListener::bind("0.0.0.0:7001").await.unwrap();
                assert_eq!(ours.device(), "tap:dtap0");
                assert_eq!(loopback.device(), kernel);
                assert_eq!(anywhere.device(), format!("tap:dtap0,{kernel}"));
                talk(&ours, &there, "10.77.0.2:7000").await;
                talk(&loopback, &here, "127.0.0.1:7000").await;
                talk(&anywhere, &there, "10.77.0.2:7001").await;
                talk(&anywhere, &here, "127.0.0.1:7001").await;

                // By the route to the peer: the network behind the TAP is our stack's, loopback the kernel's.
                let peer =
                    join(aside(&there, || std::net::TcpListener::bind("10.77.0.1:7000").unwrap())).await;
                let across = TcpStream::connect("10.77.0.1:7000").await.unwrap();
                assert_eq!(across.local_addr().unwrap().ip().to_string(), "10.77.0.2");
                let accepted = join(aside(&there, move || peer.accept().unwrap())).await;
                assert_eq!(accepted.1, across.local_addr().unwrap());
                let near = TcpStream::connect("127.0.0.1:7001").await.unwrap();
                assert_eq!(near.local_addr().unwrap().ip().to_string(), "127.0.0.1");

                // Datagrams alike, each from one socket that is bound nowhere.
                let anywhere = UdpSocket::bind("0.0.0.0:0").await.unwrap();
                let far = join(aside(&there, || std::net::UdpSocket::bind("10.77.0.1:7000").unwrap())).await;
                let near = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                for (peer, from) in [(far, "10.77.0.2"), (near, "127.0.0.1")] {
                    anywhere.send_to(b"there", peer.local_addr().unwrap()).await.unwrap();
                    let mut room = [0; 10];
                    let receiving = aside(&here, move || peer.recv_from(&mut room).map(|(_, from)| from));
                    assert_eq!(join(receiving).await.unwrap().ip().to_string(), from);
                }

                // An address that is nobody's.
                let error = TcpListener::bind("10.99.0.1:7000").await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
                assert!(error.to_string().contains("10.99.0.1:7000"), "{error}");
                let error = TcpStream::connect("10.99.0.1:7000").await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
                assert!(error.to_string().contains("10.99.0.1:7000"), "{error}");
            });
        });
    }
}

#[test]
fn a_device_that_is_gone_takes_nothing_from_the_others() {
    for devices in [["posix", "tap:dtap0"], ["uring", "tap:dtap0"], ["tap:dtap0", "posix"]] {
        in_namespace("others", move || {
            let runtime = runtime(&devices);
            runtime.block_on(async {
                let doomed = TcpListener::bind("10.77.0.2:7000").await.unwrap();
                let kernels = TcpListener::bind("127.0.0.1:7000").await.unwrap();
                let accepting = demi::spawn(async move { doomed.accept().await });
                demi::task::yield_now().await;
                cut();
                assert_names_the_cause("accept", accepting.await.unwrap());
                talk(&kernels, &current(), "127.0.0.1:7000").await;
                // The descriptor of the dead device does not keep the loop awake.
                let before = demi::metrics().turns;
                demi::time::sleep(Duration::from_millis(100)).await;
                let turns = demi::metrics().turns - before;
                assert!(turns < 100, "{devices:?}: {turns} turns of nothing");
            });
        });
    }
}

/// A setting of a kernel's socket.
fn set(socket: &impl AsRawFd, option: libc::c_int, value: libc::c_int) {
    // SAFETY: `value` is readable for its size during the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(answer, 0, "option {option}: {}", io::Error::last_os_error());
}

/// What a kernel's client is answered that says hello with its SYN, if it can.
fn greet_early(to: SocketAddr) -> String {
    // SAFETY: makes a descriptor that nobody else owns.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    assert!(socket >= 0, "{}", io::Error::last_os_error());
    // SAFETY: as above.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    set(&socket, libc::TCP_FASTOPEN_CONNECT, 1);
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: `address` is readable for its size during the call.
    let answer = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    assert_eq!(answer, 0, "{}", io::Error::last_os_error());
    let (mut stream, mut answer) = (std::net::TcpStream::from(socket), String::new());
    stream.write_all(b"hello").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Says hello with the SYN, if it can; the answer, and whether it could.
async fn greet(to: &str) -> (String, bool) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_fastopen_connect(true).unwrap();
    let mut stream = socket.connect(to.parse().unwrap()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).await.unwrap();
    let early = stream.info().unwrap().syn_data;
    (String::from_utf8_lossy(&answer).into_owned(), early)
}

/// A listener that takes data with SYNs.
fn early_listener(at: &str) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_fastopen(Some(16)).unwrap();
    socket.bind(at.parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

/// Answers one hello; whether it came with the SYN.
async fn answer_one(listener: &TcpListener) -> bool {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    stream.write_all(b"bye").await.unwrap();
    stream.info().unwrap().syn_data
}

#[test]
fn fast_open_is_spoken_with_the_kernel_both_ways() {
    in_namespace("fastopen", || {
        run("sysctl -q -w net.ipv4.tcp_fastopen=3");
        let runtime = runtime(&["tap:dtap0"]);
        runtime.block_on(async {
            let listener = early_listener("10.77.0.2:7000");
            for early in [false, true, true] {
                let peer = aside(&current(), || greet_early("10.77.0.2:7000".parse().unwrap()));
                assert_eq!(answer_one(&listener).await, early);
                assert_eq!(join(peer).await, "bye");
            }
            let peer = std::net::TcpListener::bind("10.77.0.1:7001").unwrap();
            set(&peer, libc::TCP_FASTOPEN, 16);
            let answering = std::thread::spawn(move || {
                for _ in 0..3 {
                    let (mut stream, mut said) = (peer.accept().unwrap().0, [0; 5]);
                    stream.read_exact(&mut said).unwrap();
                    stream.write_all(b"bye").unwrap();
                }
            });
            for early in [false, true, true] {
                assert_eq!(greet("10.77.0.1:7001").await, ("bye".to_owned(), early));
            }
            join(answering).await;
            let counters = demi::net::counters();
            let counts = ["CookieReqd", "Passive", "Active", "PassiveFail", "ActiveFail"]
                .map(|name| counters.get(&format!("TcpExtTCPFastOpen{name}")));
            assert_eq!(counts, [1, 2, 2, 0, 0]);
        });
    });
}

#[test]
fn fast_open_is_passed_on_to_kernel_sockets() {
    for kernel in ["posix", "uring"] {
        in_namespace("fastopen-kernel", move || {
            run("sysctl -q -w net.ipv4.tcp_fastopen=3");
            let runtime = Runtime::new(Config::new().device(kernel).log("off")).unwrap();
            runtime.block_on(async {
                let listener = std::rc::Rc::new(early_listener("127.0.0.1:7000"));
                for early in [false, true, true] {
                    let listener = listener.clone();
                    let answering = demi::spawn(async move { answer_one(&listener).await });
                    let (answer, syn_data) = greet("127.0.0.1:7000").await;
                    let answered = answering.await.unwrap();
                    assert_eq!((answer.as_str(), syn_data, answered), ("bye", early, early), "{kernel}");
                }
            });
        });
    }
}

#[test]
fn the_kernels_clients_bring_syn_cookies_back() {
    in_namespace("cookies", || {
        run("ip tuntap add dev dtap0 mode tap");
        run("ip addr add 10.77.0.1/24 dev dtap0");
        run("ip link set dtap0 up");
        let config = Config::new().device("tap:dtap0").address("10.77.0.2/24").log("off").idle("park");
        let config = config.pool_slots(4096).pool_large_slots(8).huge_pages(false);
        let runtime = Runtime::new(config.syn_cookies("always")).unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("10.77.0.2:7000").await.unwrap();
            for round in 0..5 {
                talk(&listener, &current(), "10.77.0.2:7000").await;
                let peer = aside(&current(), || {
                    let mut stream = std::net::TcpStream::connect("10.77.0.2:7000").unwrap();
                    stream.write_all(&[7; 100_000]).unwrap();
                });
                let (mut stream, _) = listener.accept().await.unwrap();
                let info = stream.info().unwrap();
                assert!(info.sack && info.timestamps && info.send_window_scale > 0, "{round}: {info:?}");
                assert_eq!(info.send_mss_bytes, 1448, "{round}");
                let mut bytes = 0;
                while let Some(buf) = stream.pop().await.unwrap() {
                    bytes += buf.len();
                }
                assert_eq!(bytes, 100_000, "{round}");
                join(peer).await;
            }
            let counters = demi::net::counters();
            let counts =
                ["Sent", "Recv", "Failed"].map(|name| counters.get(&format!("TcpExtSyncookies{name}")));
            assert_eq!(counts, [10, 10, 0]);
        });
    });
}
