//! Our own stack on two cores, a queue of one interface each, through AF_PACKET, AF_XDP or DPDK with the kernel at the other end of a
//! veth, or of a TAP; in network namespaces of their own. Run by `cargo xtask test --tier kernel`, and with DPDK, as `dpdk_cores`, by
//! `--tier dpdk`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use demi::{Config, net};

/// Devices of the tier that runs this, and how the link that each takes is made. There is a queue for each of two cores.
fn devices() -> &'static [(&'static str, &'static str)] {
    let tier = std::env::var("DEMI_TIER").unwrap_or_default();
    match tier.as_str() {
        #[cfg(not(feature = "dpdk"))]
        "kernel" => &[
            ("packet:dk1", "ip link add dk0 type veth peer name dk1"),
            (
                "xdp:dk1",
                "ip link add dk0 numrxqueues 2 numtxqueues 2 type veth peer name dk1 numrxqueues 2 numtxqueues 2",
            ),
            ("tap:dk0", "ip tuntap add dev dk0 mode tap multi_queue"),
        ],
        #[cfg(feature = "dpdk")]
        "dpdk" => &[(
            "dpdk:--no-huge --no-shconf --no-pci -m 128 --vdev=net_af_packet0,iface=dk1,qpairs=2 queues=2",
            "ip link add dk0 type veth peer name dk1",
        )],
        _ => &[],
    }
}

/// Runs `test` with each device, on a thread of its own in a new network namespace, which is gone when the thread is; or says
/// why not.
fn in_namespace(name: &str, test: impl Fn(&'static str) + Send + Sync + 'static) {
    // DPDK's ports are the process's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    let devices = devices();
    if !root || devices.is_empty() {
        let _ =
            writeln!(io::stderr(), "SKIP {name}: it takes root, and DEMI_TIER=kernel or, with DPDK, dpdk");
        return;
    }
    let test = Arc::new(test);
    for &(device, add) in devices {
        let test = Arc::clone(&test);
        let short = device.split(':').next().unwrap_or_default();
        let thread = std::thread::Builder::new().name(format!("{name}-{short}")).spawn(move || {
            // SAFETY: changes the calling thread's namespace, and no memory.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
            run("ip link set lo up");
            run(add);
            run("ip addr add 10.78.0.1/24 dev dk0");
            run("ip addr add fd78::1/64 dev dk0 nodad");
            run("ip link set dk0 up");
            if !device.starts_with("tap") {
                run("ip link set dk1 up");
            }
            if device.starts_with("dpdk") {
                // DPDK's driver knows nothing of partial checksums, nor of frames that are larger than the MTU.
                run("ethtool -K dk0 tx off");
            }
            test(device);
        });
        if let Err(panic) = thread.unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Runs a command in the calling thread's namespace; answers what it said.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {said} {}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The processors that this process may run on: the first two of them, or the first one twice.
fn cores() -> Option<String> {
    // SAFETY: an all-zero set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the set lives on the stack and its size is given.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) }, 0);
    // SAFETY: each processor's bit lies within the set.
    let mut allowed = (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) });
    Some(format!("{},{}", allowed.next()?, allowed.next()?))
}

/// How the two sides tell each other of themselves.
#[derive(Clone, Default)]
struct Signs {
    up: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Signs {
    async fn serve(&self) {
        self.up.fetch_add(1, Ordering::Release);
        while !self.done.load(Ordering::Acquire) {
            demi::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs `main` on two cores with 10.78.0.2 and fd78::2, and `client` beside them once both say that they are up. `None`: there is
/// one core only.
fn on_two<F, Fut, T>(device: &str, main: F, client: impl FnOnce() + Send + 'static) -> Option<Vec<T>>
where
    F: Fn(Signs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    on_two_with(Config::new().device(device).address(["10.78.0.2/24", "fd78::2/64"]), main, client)
}

/// As [`on_two`], with the device and the addresses of `config`.
fn on_two_with<F, Fut, T>(config: Config, main: F, client: impl FnOnce() + Send + 'static) -> Option<Vec<T>>
where
    F: Fn(Signs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let Some(cores) = cores() else {
        let _ = writeln!(io::stderr(), "SKIP two cores: this machine has one");
        return None;
    };
    let signs = Signs::default();
    let thread = {
        let signs = signs.clone();
        std::thread::spawn(move || {
            while signs.up.load(Ordering::Acquire) < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(client));
            signs.done.store(true, Ordering::Release);
            answer
        })
    };
    let config = config
        .mac("02:00:00:00:78:02")
        .cores(cores)
        .idle("park")
        .pool_slots(2048)
        .pool_large_slots(16)
        .huge_pages(false);
    let outputs = demi::run(config, move || main(signs.clone())).unwrap();
    if let Err(panic) = thread.join().unwrap() {
        std::panic::resume_unwind(panic);
    }
    Some(outputs)
}

#[test]
fn connections_and_datagrams_are_spread_and_answered_once() {
    in_namespace("spread", |device| {
        let server = |signs: Signs| async move {
            let listener = net::TcpListener::bind("0.0.0.0:7000").await.unwrap();
            let listener_v6 = net::TcpListener::bind("[fd78::2]:7000").await;
            let socket = net::UdpSocket::bind("0.0.0.0:7001").await.unwrap();
            let served = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
            for listener in std::iter::once(listener).chain(listener_v6) {
                let served = served.clone();
                demi::spawn(async move {
                    loop {
                        let (mut stream, _) = listener.accept().await.unwrap();
                        let (tcp, udp) = served.get();
                        served.set((tcp + 1, udp));
                        demi::spawn(async move {
                            while let Ok(Some(buf)) = stream.pop().await {
                                stream.push(buf).await.unwrap();
                            }
                        });
                    }
                });
            }
            demi::spawn({
                let served = served.clone();
                async move {
                    loop {
                        let (buf, peer) = socket.pop_from().await.unwrap();
                        let (tcp, udp) = served.get();
                        served.set((tcp, udp + 1));
                        socket.push_to(buf, peer).await.unwrap();
                    }
                }
            });
            signs.serve().await;
            (served.get(), net::counters().get("DemiHandedOver"))
        };
        let client = move || {
            for request in 0..40u8 {
                let to: SocketAddr =
                    if request % 2 == 0 { "10.78.0.2:7000".parse() } else { "[fd78::2]:7000".parse() }
                        .unwrap();
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                stream.write_all(&[request; 3000]).unwrap();
                let mut answer = [0; 3000];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [request; 3000]);
            }
            // One datagram in one piece, and one in three, from each of many ports. DPDK's driver has the kernel put fragments
            // together when it has several queues, and then has no room for the whole.
            let sizes: &[usize] = if device.starts_with("dpdk") { &[100] } else { &[100, 4000] };
            for request in 0..20u8 {
                let socket = UdpSocket::bind("10.78.0.1:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                for &bytes in sizes {
                    socket.send_to(&vec![request; bytes], "10.78.0.2:7001").unwrap();
                    let mut answer = [0; 5000];
                    assert_eq!(socket.recv(&mut answer).unwrap(), bytes);
                    assert_eq!(answer[..bytes], vec![request; bytes]);
                }
                socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                assert!(socket.recv(&mut [0; 10]).is_err(), "answered twice");
            }
            for to in ["10.78.0.2", "fd78::2"] {
                let said = run(&format!("ping -c 3 -i 0.01 -W 2 {to}"));
                // ping waits for the last answer no longer than two of its round trips take.
                let received = said.contains(" 3 received") || said.contains(" 2 received");
                assert!(received && !said.contains("DUP"), "{said}");
            }
        };
        let Some(served) = on_two(device, server, client) else { return };
        let [((tcp_a, udp_a), over_a), ((tcp_b, udp_b), over_b)] = served[..] else { panic!("{served:?}") };
        let datagrams = if device.starts_with("dpdk") { 20 } else { 40 };
        assert_eq!((tcp_a + tcp_b, udp_a + udp_b), (40, datagrams), "{served:?}");
        assert!(tcp_a > 5 && tcp_b > 5 && udp_a > 2 && udp_b > 2, "{served:?}");
        // Neighbours' messages, and the whole datagrams that core 0 has put together for core 1.
        assert!(over_a >= udp_b / 2 && over_a > 0, "{served:?}");
        // The kernel at a TAP does not know our hash: some flows' first packets are handed over, either way. Nor does a veth's
        // other end, which chooses the queue.
        assert!(
            !device.starts_with("packet") || over_b < 100,
            "core 1 gets nothing that is not its own: {served:?}"
        );
    });
}

#[test]
fn what_a_core_asks_is_answered_to_it() {
    in_namespace("ask", |device| {
        // The kernel tells of closed ports once a second, else.
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
        let listener = TcpListener::bind("10.78.0.1:7100").unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut request = [0; 8];
                    while stream.read_exact(&mut request).is_ok() {
                        let _ = stream.write_all(&request);
                    }
                });
            }
        });
        let echo = UdpSocket::bind("10.78.0.1:7101").unwrap();
        std::thread::spawn(move || {
            let mut request = [0; 64];
            while let Ok((bytes, peer)) = echo.recv_from(&mut request) {
                let _ = echo.send_to(&request[..bytes], peer);
            }
        });
        let main = |signs: Signs| async move {
            let deadline = Duration::from_secs(10);
            for request in 0..20u8 {
                let asked = demi::time::timeout(deadline, async {
                    let mut stream = net::TcpStream::connect("10.78.0.1:7100").await?;
                    stream.write_all(&[request; 8]).await?;
                    let mut answer = [0; 8];
                    stream.read_exact(&mut answer).await?;
                    assert_eq!(answer, [request; 8]);

                    let socket = net::UdpSocket::bind("10.78.0.2:0").await?;
                    socket.send_to(&[request; 9], "10.78.0.1:7101").await?;
                    let mut answer = [0; 16];
                    let (bytes, _) = socket.recv_from(&mut answer).await?;
                    assert_eq!(answer[..bytes], [request; 9]);

                    // An ICMP error arrives at core 0, and is for who has asked.
                    let socket = net::UdpSocket::bind("10.78.0.2:0").await?;
                    socket.connect("10.78.0.1:9").await?;
                    socket.send(b"anybody?").await?;
                    let error = socket.recv(&mut answer).await.unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);

                    let refused = net::TcpStream::connect("10.78.0.1:9").await.unwrap_err();
                    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
                    Ok::<_, io::Error>(())
                });
                asked.await.expect("no answer in time").unwrap();
            }
            signs.serve().await;
        };
        let _ = on_two(device, main, || {});
    });
}

#[test]
fn an_address_is_leased_by_one_core_for_both() {
    in_namespace("leased", |device| {
        let line = "--keep-in-foreground --conf-file=/dev/null --port=0 --pid-file= --log-facility=- --log-dhcp --no-ping \
                    --user=root --dhcp-leasefile=/dev/null --interface=dk0 --bind-dynamic \
                    --dhcp-range=10.78.0.50,10.78.0.60,255.255.255.0,2m";
        let log = tempfile();
        let mut server = Command::new("dnsmasq")
            .args(line.split_whitespace())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .expect("dnsmasq");
        let echo = UdpSocket::bind("10.78.0.1:7201").unwrap();
        std::thread::spawn(move || {
            let mut request = [0; 64];
            while let Ok((bytes, peer)) = echo.recv_from(&mut request) {
                let _ = echo.send_to(&request[..bytes], peer);
            }
        });
        let config = Config::new().device(device).address("dhcp").address_wait_ms(Duration::from_secs(60));
        let main = |signs: Signs| async move {
            // The start has waited for the lease.
            let socket = net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect("10.78.0.1:7201").await.unwrap();
            let core = [demi::this_core().index() as u8; 9];
            socket.send(&core).await.unwrap();
            let mut answer = [0; 16];
            let answered = demi::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await;
            assert_eq!(answered.expect("no answer in time").unwrap(), 9);
            assert_eq!(answer[..9], core);
            signs.serve().await;
            socket.local_addr().unwrap().ip()
        };
        let addresses = on_two_with(config, main, || {});
        server.kill().unwrap();
        server.wait().unwrap();
        let said = read_back(log);
        let Some(addresses) = addresses else { return };
        let [first, second] = addresses[..] else { panic!("{addresses:?}") };
        assert_eq!(first, second, "{said}");
        assert!((50..=60).any(|last| first == IpAddr::from([10, 78, 0, last])), "{first}: {said}");
        // One of the two has asked.
        let asked: Vec<&str> = said.lines().filter(|line| line.contains("DHCPREQUEST(dk0)")).collect();
        assert_eq!(asked.len(), 1, "{said}");
    });
}

/// A file of nobody else's, for a program to write to.
fn tempfile() -> File {
    // SAFETY: the name is a string of C's.
    let fd = unsafe { libc::memfd_create(c"said".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours.
    unsafe { File::from_raw_fd(fd) }
}

/// What was written to it.
fn read_back(mut file: File) -> String {
    let mut said = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn what_several_cores_cannot_have_is_said() {
    in_namespace("refused", |device| {
        let Some(cores) = cores() else { return };
        let config = Config::new().device(device).cores(cores).pool_slots(2048).huge_pages(false);
        let errors = demi::run(config.address("10.78.0.2/24"), || async {
            net::TcpListener::bind("10.78.0.2:0").await.unwrap_err().to_string()
        });
        for error in errors.unwrap() {
            assert!(error.contains("port 0 on one of several cores"), "{error}");
        }
    });
}
