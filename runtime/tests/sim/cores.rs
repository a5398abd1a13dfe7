//! A server on four cores, on one thread: each core has a stack on a queue of its own, and what concerns another one is passed on.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use demi::Config;
use demi::mesh;
use demi::net::{TcpListener, TcpStream, UdpSocket};
use demi::sim::{Report, Rng, Sim};
use demi::time::{sleep, timeout};

use crate::support::{run, sweep};
use crate::traffic::Flow;

const CORES: u16 = 4;
const CLIENTS: u64 = 3;
/// Connections of each client, half of them over IPv6.
const CONNECTIONS: u64 = 12;
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(300);

/// What the cores have seen, all together.
#[derive(Default)]
struct Seen {
    /// Connections accepted by each.
    accepted: [Cell<u64>; CORES as usize],
    datagrams: [Cell<u64>; CORES as usize],
    /// What core 0 was told by way of the mesh.
    told: Cell<u64>,
}

fn more(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// A core's part of the server: echoes of streams and datagrams.
async fn serve(seen: Rc<Seen>) -> io::Result<()> {
    let core = demi::this_core().index();
    for address in ["0.0.0.0", "fd00::1"] {
        let listener = TcpListener::bind((address.parse::<std::net::IpAddr>().unwrap(), PORT)).await?;
        let seen = Rc::clone(&seen);
        demi::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                more(&seen.accepted[core]);
                demi::spawn(async move {
                    while let Ok(Some(bytes)) = stream.pop().await {
                        if stream.push(bytes).await.is_err() {
                            return;
                        }
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
    }
    let socket = UdpSocket::bind("0.0.0.0:7001").await?;
    let echoes = Rc::clone(&seen);
    demi::spawn(async move {
        let mut bytes = vec![0; 8000];
        while let Ok((count, peer)) = socket.recv_from(&mut bytes).await {
            more(&echoes.datagrams[core]);
            let _ = socket.send_to(&bytes[..count], peer).await;
        }
    });
    Ok(())
}

/// What a core asks of others, from ports whose replies come home.
async fn ask(backend: &str) -> io::Result<()> {
    for number in 0..3 {
        let flow = Flow::plain(number, 3000);
        let mut stream = TcpStream::connect(format!("{backend}:7100")).await?;
        flow.send(&mut stream).await?;
        stream.shutdown().await?;
        flow.receive(&mut stream).await?;
    }
    // Nobody is there, says an ICMP error, which arrives at whichever core; or the refusal is lost.
    let socket = UdpSocket::bind("10.0.0.1:0").await?;
    socket.connect(format!("{backend}:9")).await?;
    for _ in 0..100 {
        match timeout(Duration::from_secs(2), socket.send(b"anybody?")).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Ok(answer) => drop(answer?),
            Err(_) => {}
        }
        let mut bytes = [0; 10];
        match timeout(Duration::from_secs(2), socket.recv(&mut bytes)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Ok(answer) => panic!("an answer from nobody: {answer:?}"),
            Err(_) => {}
        }
    }
    Err(io::Error::other("nobody has refused"))
}

/// One client: streams from many ports, and datagrams, some of which travel in pieces.
async fn client(number: u64, seed: u64) -> io::Result<()> {
    let mut rng = Rng::new(seed ^ number);
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|at| {
            let flow = Flow::plain(number << 8 | at, rng.below(60_000) + 1);
            demi::spawn(async move {
                let address = if at % 2 == 0 { "10.0.0.1:7000" } else { "[fd00::1]:7000" };
                let mut stream = TcpStream::connect(address).await?;
                flow.send(&mut stream).await?;
                stream.shutdown().await?;
                flow.receive(&mut stream).await
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    for at in 0..10u8 {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        let sent = vec![at; if at % 2 == 0 { 200 } else { 4000 }];
        let mut bytes = vec![0; 8000];
        // Datagrams are lost, and pieces of them.
        let echoed = async {
            loop {
                socket.send_to(&sent, "10.0.0.1:7001").await?;
                if let Ok(answer) = timeout(Duration::from_millis(500), socket.recv_from(&mut bytes)).await {
                    return io::Result::Ok(answer?.0);
                }
            }
        };
        let count = echoed.await?;
        assert_eq!(bytes[..count], sent);
    }
    Ok(())
}

/// The backend of the server's: echoes.
async fn backend() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:7100").await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        demi::spawn(async move {
            while let Ok(Some(bytes)) = stream.pop().await {
                if stream.push(bytes).await.is_err() {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        });
    }
}

fn sim(seed: u64, seen: &Rc<Seen>) -> Sim {
    let mut sim = Sim::new(seed);
    let mut rng = Rng::new(seed);
    sim.link().delay = Duration::from_micros(rng.below(20_000));
    sim.link().jitter = Duration::from_micros(rng.below(2_000));
    sim.link().loss = rng.below(30) as f64 / 1000.0;
    let config = || Config::new().pool_slots(2048).pool_large_slots(64);
    sim.server_with("backend", config().address("10.0.0.2/24"), backend);
    let (seen, config) = (Rc::clone(seen), config());
    let server = config.clone().address(["10.0.0.1/24", "fd00::1/64"]);
    sim.host_on("server", CORES, server, move || {
        let seen = Rc::clone(&seen);
        async move {
            serve(Rc::clone(&seen)).await?;
            let core = demi::this_core().index();
            // Every core tells the first one through a ring, which a job there has been given the other end of.
            let (mut tell, mut told) = mesh::channel::<u64>(4);
            let count = demi::core(0).spawn(move || async move {
                let mut sum = 0;
                while let Some(number) = told.recv().await {
                    sum += number;
                }
                sum
            });
            for number in 0..20 {
                tell.send(number).await.map_err(io::Error::other)?;
            }
            drop(tell);
            let count = count.await.map_err(io::Error::other)?;
            assert_eq!(count, 190, "core {core}");
            seen.told.set(seen.told.get() + count);
            ask("10.0.0.2").await?;
            // Until the clients are done.
            let all = CLIENTS * CONNECTIONS;
            let accepted = || seen.accepted.iter().map(Cell::get).sum::<u64>();
            timeout(PATIENCE, async {
                while accepted() < all {
                    sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .map_err(|_| io::Error::other(format!("{} of {all} connections", accepted())))?;
            // Their datagrams may be lost again and again.
            sleep(Duration::from_secs(120)).await;
            Ok(())
        }
    });
    for number in 0..CLIENTS {
        let host = 11 + number;
        let addresses = [format!("10.0.0.{host}/24"), format!("fd00::{host}/64")];
        let addresses = [addresses[0].as_str(), addresses[1].as_str()];
        sim.host_with(&format!("client {number}"), config.clone().address(addresses), move || {
            client(number, seed)
        });
    }
    sim
}

#[test]
fn four_cores_serve_as_one() {
    sweep("cores::four_cores_serve_as_one", |seed| sim(seed, &Rc::default()));
}

#[test]
fn each_core_has_its_share() {
    for seed in 0..3 {
        let seen = Rc::new(Seen::default());
        let report = run(sim(seed, &seen));
        let accepted = seen.accepted.each_ref().map(Cell::get);
        assert_eq!(accepted.iter().sum::<u64>(), CLIENTS * CONNECTIONS, "{accepted:?}");
        assert!(accepted.iter().all(|count| *count > 1), "seed {seed}: {accepted:?}");
        assert!(seen.datagrams.iter().all(|count| count.get() > 0), "seed {seed}");
        assert_eq!(seen.told.get(), 190 * u64::from(CORES));
        let cores: Vec<_> = report.hosts.iter().filter(|host| host.name.starts_with("server")).collect();
        assert_eq!(cores.len(), usize::from(CORES));
    }
}

#[test]
fn a_run_of_several_cores_is_the_same_again() {
    let again = |seed| -> Report { run(sim(seed, &Rc::default())) };
    for seed in 0..3 {
        let first = again(seed);
        assert_eq!(again(seed), first, "seed {seed}");
    }
    assert_ne!(again(0).trace, again(1).trace);
}
