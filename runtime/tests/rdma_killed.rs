//! What becomes of one end when the other's process is killed: in the middle of a transfer, in the middle of one-sided operations, and
//! while nothing happens. In a guest whose kernel has RDMA devices: `cargo xtask test --tier rdma`.
#![cfg(feature = "rdma")]

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use demi::net::{KeepAlive, TcpListener, TcpStream, rdma};
use demi::{Config, Runtime};

/// Tells this program that it is to be the one that is killed.
const CHILD: &str = "RDMA_TEST_CHILD";

/// Whether this is a guest with `rxe0` and `rxe1` at the ends of a cable; says `SKIP` if not.
fn machine_has_rdma() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with RDMA: cargo xtask test --tier rdma");
    }
    ours
}

fn runtime(device: &str) -> Runtime {
    let config = Config::new().device(device).idle("park").log("off");
    Runtime::new(config.pool_slots(1024).pool_large_slots(16).huge_pages(false)).unwrap()
}

/// The process that is killed: tells its address, gives every client the key of a region, and echoes.
fn serve() {
    runtime("rdma:rxe1").block_on(async {
        let region = rdma::register(1 << 16, rdma::Access::ALL).unwrap();
        let listener = TcpListener::bind("10.77.0.2:0").await.unwrap();
        println!("listening on {}", listener.local_addr().unwrap());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&region.key().to_bytes()).await.unwrap();
            demi::spawn(async move {
                while let Ok(Some(buf)) = stream.pop().await {
                    if stream.push(buf).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// That process; killed when dropped.
struct Victim(Child, SocketAddr);

impl Victim {
    fn start() -> Victim {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_killed", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.split("listening on ").nth(1)?.trim().parse().ok())
            .expect("the server says where it listens");
        Victim(child, address)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of anything by itself: what [`Victim`] runs.
#[test]
fn the_process_that_is_killed() {
    if std::env::var_os(CHILD).is_some() {
        serve();
    }
}

/// Runs `test` with a connection to a process that it may kill; in the end no buffer is missing.
fn with_victim(test: impl AsyncFn(&mut TcpStream, &rdma::RegionKey, &mut Victim)) {
    if !machine_has_rdma() {
        return;
    }
    let mut victim = Victim::start();
    let runtime = runtime("rdma:rxe0");
    runtime.block_on(async {
        let before = demi::usage();
        {
            let mut stream = TcpStream::connect(victim.1).await.unwrap();
            let mut key = [0; rdma::RegionKey::BYTES];
            stream.read_exact(&mut key).await.unwrap();
            let key = rdma::RegionKey::from_bytes(&key).unwrap();
            test(&mut stream, &key, &mut victim).await;
        }
        while demi::usage() != before {
            demi::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// What a connection may say whose peer is gone.
fn is_the_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::TimedOut | ErrorKind::BrokenPipe)
}

#[test]
fn a_transfer_ends_with_a_reset() {
    with_victim(async |stream, _, victim| {
        let (mut read, mut write) = stream.split();
        let writing = async {
            for round in 0.. {
                if round == 40 {
                    victim.kill();
                }
                let mut buf = demi::alloc(60_000).await.unwrap();
                buf.put_slice(&[round as u8; 60_000]);
                if let Err(error) = write.push(buf.freeze()).await {
                    return error.kind();
                }
            }
            unreachable!("it writes until it fails")
        };
        let reading = async {
            loop {
                match read.pop().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return ErrorKind::BrokenPipe,
                    Err(error) => return error.kind(),
                }
            }
        };
        let (wrote, read) = futures_util::join!(writing, reading);
        assert!(is_the_end(wrote) && is_the_end(read), "{wrote:?}, {read:?}");
    });
}

#[test]
fn one_sided_operations_end_with_an_error() {
    with_victim(async |stream, key, victim| {
        let peer = rdma::peer(stream).unwrap();
        for round in 0.. {
            if round == 20 {
                victim.kill();
            }
            let reads = (0..8).map(|at| peer.read(key, at * 4096, 4096));
            let adding = peer.fetch_add(key, 8, 1);
            let (reads, added) = futures_util::join!(futures_util::future::join_all(reads), adding);
            if let Some(error) =
                reads.into_iter().map(|read| read.map(drop)).chain([added.map(drop)]).find_map(Result::err)
            {
                assert!(round >= 20, "{error}");
                assert!(is_the_end(error.kind()) || error.kind() == ErrorKind::NotConnected, "{error:?}");
                break;
            }
        }
    });
}

#[test]
fn a_silent_connection_learns_of_it() {
    with_victim(async |stream, _, victim| {
        let keepalive =
            KeepAlive { idle: Duration::from_millis(500), interval: Duration::from_secs(5), probes: 3 };
        stream.set_keepalive(Some(keepalive)).unwrap();
        victim.kill();
        let error = stream.pop().await.unwrap_err();
        assert!(is_the_end(error.kind()), "{error:?}");
    });
}
