//! Our own stack on a TAP, beside the kernel's sockets, through the public API; each test in a network namespace of its
//! own. Run by `cargo xtask test --tier kernel`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use demi::net::{TcpListener, TcpStream, UdpSocket};
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
