//! Streams between two hosts over any wire there may be: what comes out is what went in, both ends see the end, and
//! nothing is left.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpSocket, TcpStream};
use demi::sim::wire::{BurstLoss, LinkConfig};
use demi::sim::{Rng, Sim};
use demi::sync::mpsc;
use demi::time::sleep;
use demi_drivers::PoolConfig;
use demi_drivers::transport::CongestionControl;
use demi_drivers::wrap::fault::{Fault, FaultConfig, Faults};

use crate::support::{attempt, pick, scaled, sweep};
use crate::traffic::{Flow, Reader, Writer, insist};

/// Who says what when, and who leaves first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// Both directions at once; each side ends when it has sent all.
    Both,
    /// The client sends and ends, then the server does.
    Ask,
    /// The server sends and ends, then the client does.
    Tell,
    /// The client sends, and drops the stream; the server says nothing.
    Leave,
}

/// How a side drives both directions.
#[derive(Clone, Copy, Debug)]
enum Drive {
    /// One task, halves borrowed.
    Borrowed,
    /// A task a direction.
    Tasks,
}

/// One connection.
#[derive(Clone, Debug)]
struct Plan {
    number: u64,
    start: Duration,
    up: Flow,
    down: Flow,
    course: Course,
    client: Side,
    server: Side,
}

/// What one side is told.
#[derive(Clone, Copy, Debug)]
struct Side {
    drive: Drive,
    nodelay: bool,
    cork: bool,
    /// Wait until all is acknowledged before leaving.
    drained: bool,
}

impl Side {
    fn any(rng: &mut Rng) -> Side {
        Side {
            drive: pick(rng, &[Drive::Borrowed, Drive::Tasks]),
            nodelay: rng.chance(0.5),
            cork: rng.chance(0.1),
            drained: rng.chance(0.3),
        }
    }
}

impl Plan {
    fn any(rng: &mut Rng, number: u64, most: u64) -> Plan {
        let mut plan = Plan {
            number,
            start: Duration::from_micros(rng.below(5) * scaled(rng, 1, 100_000)),
            up: Flow::any(rng, most),
            down: Flow::any(rng, most),
            course: pick(rng, &[Course::Both, Course::Both, Course::Ask, Course::Tell, Course::Leave]),
            client: Side::any(rng),
            server: Side::any(rng),
        };
        if plan.course == Course::Leave {
            plan.down.bytes = 0;
        }
        plan
    }

    /// The client's side of the connection.
    async fn talk(self, address: SocketAddr, socket: Buffers) -> io::Result<()> {
        sleep(self.start).await;
        let mut stream = self.connect(address, socket).await?;
        self.client.prepare(&stream)?;
        stream.write_all(&self.number.to_be_bytes()).await?;
        match self.course {
            Course::Both => both(stream, self.client, self.up, self.down).await,
            Course::Ask => {
                send(&mut stream, self.client, &self.up).await?;
                self.down.receive(&mut stream).await
            }
            Course::Tell => {
                self.down.receive(&mut stream).await?;
                send(&mut stream, self.client, &self.up).await
            }
            Course::Leave => self.up.send(&mut stream).await,
        }
    }

    /// Tries until it works: a wire this bad loses all attempts to reach a neighbour now and then.
    async fn connect(&self, address: SocketAddr, buffers: Buffers) -> io::Result<TcpStream> {
        let mut rng = Rng::new(self.up.key ^ 3);
        for _ in 0..100 {
            let connect = async || {
                let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
                socket.set_send_buffer_size(buffers.send)?;
                socket.set_recv_buffer_size(buffers.recv)?;
                socket.connect(address).await
            };
            let result = if self.up.impatient { insist(&mut rng, connect).await } else { connect().await };
            match result {
                Err(error) if matches!(error.kind(), io::ErrorKind::HostUnreachable) => {}
                result => return result,
            }
        }
        Err(io::Error::other("the server cannot be reached"))
    }

    /// The server's side.
    async fn answer(self, mut stream: TcpStream) -> io::Result<()> {
        self.server.prepare(&stream)?;
        match self.course {
            Course::Both => both(stream, self.server, self.down, self.up).await,
            Course::Tell => {
                send(&mut stream, self.server, &self.down).await?;
                self.up.receive(&mut stream).await
            }
            Course::Ask | Course::Leave => {
                self.up.receive(&mut stream).await?;
                send(&mut stream, self.server, &self.down).await
            }
        }
    }
}

impl Side {
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(self.nodelay)?;
        stream.set_cork(self.cork)
    }
}

/// Sends a flow and ends the direction.
async fn send(to: &mut impl Writer, side: Side, flow: &Flow) -> io::Result<()> {
    flow.send(to).await?;
    to.end().await?;
    if side.drained {
        to.drained().await?;
    }
    Ok(())
}

/// Sends one flow and receives the other at the same time.
async fn both(mut stream: TcpStream, side: Side, out: Flow, back: Flow) -> io::Result<()> {
    match side.drive {
        Drive::Borrowed => {
            let (mut read, mut write) = stream.split();
            let (sent, received) =
                futures_util::join!(send(&mut write, side, &out), receive(&mut read, &back));
            sent.and(received)
        }
        Drive::Tasks => {
            let (mut read, mut write) = stream.into_split();
            let sender = demi::spawn(async move { send(&mut write, side, &out).await });
            let received = receive(&mut read, &back).await;
            sender.await.map_err(io::Error::other)?.and(received)
        }
    }
}

async fn receive(from: &mut impl Reader, flow: &Flow) -> io::Result<()> {
    flow.receive(from).await
}

/// Sizes of the buffers that a socket is told to have; 0: the stack's own choice.
#[derive(Clone, Copy, Debug)]
struct Buffers {
    send: u32,
    recv: u32,
}

impl Buffers {
    fn any(rng: &mut Rng) -> Buffers {
        let mut size = || if rng.chance(0.4) { 0 } else { scaled(rng, 2048, 1 << 20) as u32 };
        Buffers { send: size(), recv: size() }
    }
}

/// Accepts connections until one of each plan has ended. One that says nothing is one that its client gave up.
async fn serve(address: SocketAddr, plans: Vec<Plan>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut left = plans.len();
    let mut rng = Rng::new(plans[0].up.key ^ 4);
    let impatient = plans[0].up.impatient;
    demi::spawn(async move {
        loop {
            let accept = async || listener.accept().await;
            let accepted = if impatient { insist(&mut rng, accept).await } else { listener.accept().await };
            let Ok((mut stream, _)) = accepted else { break };
            let (plans, done) = (plans.clone(), done.clone());
            demi::spawn(async move {
                let mut number = [0; 8];
                if stream.read_exact(&mut number).await.is_err() {
                    return;
                }
                let number = u64::from_be_bytes(number);
                let result = match plans.into_iter().find(|plan| plan.number == number) {
                    Some(plan) => plan.answer(stream).await,
                    None => Err(io::Error::other(format!("a connection that calls itself {number:#x}"))),
                };
                let _ = done.send(result);
            });
        }
    });
    while left > 0 {
        ended.recv().await.ok_or_else(|| io::Error::other("the listener has failed"))??;
        left -= 1;
    }
    Ok(())
}

/// A direction that does up to everything that a network can do.
fn any_link(rng: &mut Rng) -> LinkConfig {
    let mut link = LinkConfig::default();
    let micros = Duration::from_micros;
    if rng.chance(0.1) {
        return link;
    }
    link.delay = micros(scaled(rng, 1, 200_000));
    let worst = pick(rng, &[0.0, 0.02, 0.05, 0.2]);
    let mut upto = |most: f64| most * rng.below(1001) as f64 / 1000.0;
    (link.loss, link.duplicate, link.reorder) = (upto(worst), upto(worst), upto(worst));
    (link.corrupt, link.truncate) = (upto(worst / 4.0), upto(worst / 8.0));
    if rng.chance(0.5) {
        link.jitter = micros(rng.below(2 * link.delay.as_micros() as u64 + 1));
    }
    link.keep_order = rng.chance(0.2);
    link.reorder_delay = micros(scaled(rng, 1, 100_000));
    if rng.chance(0.1) {
        link.burst_loss = Some(BurstLoss { begin: 0.01, end: 0.3, loss: 1.0 });
    }
    if rng.chance(0.3) {
        link.rate_bits_per_s = scaled(rng, 64_000, 10_000_000_000);
        link.queue_bytes = if rng.chance(0.5) { 0 } else { scaled(rng, 20_000, 1 << 20) as usize };
    }
    link
}

/// A host of any shape.
fn any_host(rng: &mut Rng, addresses: [&str; 2], mtus: &[u16]) -> Config {
    let mut config = Config::new().address(addresses).mtu(pick(rng, mtus));
    config.congestion =
        pick(rng, &[CongestionControl::Cubic, CongestionControl::NewReno, CongestionControl::None]);
    if rng.chance(0.5) {
        config = config.send_buffer_bytes(scaled(rng, 2048, 1 << 20));
    }
    if rng.chance(0.5) {
        config = config.recv_buffer_bytes(scaled(rng, 2048, 1 << 20));
    }
    config
}

/// What a host's stack and device are told beside its configuration.
#[derive(Clone, Copy, Debug)]
struct Inside {
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    tx_queue_frames: usize,
    rx_burst: usize,
    stall: f64,
    seed: u64,
}

impl Inside {
    fn any(rng: &mut Rng) -> Inside {
        Inside {
            timestamps: rng.chance(0.8),
            sack: rng.chance(0.8),
            window_scaling: rng.chance(0.8),
            tx_queue_frames: if rng.chance(0.5) { 512 } else { scaled(rng, 1, 64) as usize },
            rx_burst: if rng.chance(0.5) { 64 } else { scaled(rng, 1, 64) as usize },
            stall: if rng.chance(0.7) { 0.0 } else { 0.3 },
            seed: rng.next_u64(),
        }
    }
}

/// The simulation of one seed.
fn any_streams(seed: u64) -> Sim {
    any(seed, false)
}

/// As [`any_streams`], with futures dropped at any await.
fn any_impatient_streams(seed: u64) -> Sim {
    any(seed, true)
}

/// As [`any_streams`], with hardly any memory.
fn any_starved_streams(seed: u64) -> Sim {
    let mut sim = any(seed, false);
    let rng = &mut Rng::new(sim.seed() ^ 0x51a7);
    sim.wire().pool.slots = scaled(rng, 64, 256) as usize;
    sim
}

/// As [`any_starved_streams`], with plenty of memory at one of the two ends: the one that sends, receives, or both.
fn any_half_starved_streams(seed: u64) -> Sim {
    let mut sim = any(seed, false);
    let rng = &mut Rng::new(sim.seed() ^ 0x51a8);
    let wire = sim.wire();
    let starved = PoolConfig { slots: scaled(rng, 64, 256) as usize, ..wire.pool.clone() };
    wire.pool.slots = 8192;
    wire.end_pools = if rng.chance(0.5) { vec![starved] } else { vec![wire.pool.clone(), starved] };
    sim
}

fn any(seed: u64, impatient: bool) -> Sim {
    let mut sim = Sim::new(seed);
    let rng = &mut Rng::new(sim.seed());
    sim.time_limit(Duration::from_secs(7 * 86_400)).drain_limit(Duration::from_secs(7200));

    let v6 = rng.chance(0.5);
    let jumbo = rng.chance(0.1);
    let wire = sim.wire();
    wire.mtu = if jumbo { 9000 } else { 1500 };
    wire.pool = PoolConfig {
        slot_bytes: if jumbo { 10_240 } else { 2048 },
        slots: scaled(rng, 256, 8192) as usize,
        large_slots: rng.below(3) as usize * 4,
        large_slot_bytes: 16 << 10,
        huge_pages: false,
    };
    wire.ring_frames = scaled(rng, 16, 1024) as usize;
    wire.checksum_offload = rng.chance(0.3);
    let links = [any_link(rng), any_link(rng)];
    wire.link = links[0].clone();
    sim.on_wire(move |wire| wire.set_link(1, 0, links[1].clone()));

    let insides = [Inside::any(rng), Inside::any(rng)];
    let inside = move |host: &str| insides[usize::from(host == "client")];
    sim.stacks(move |host, stack| {
        let inside = inside(host);
        stack.tcp.timestamps = inside.timestamps;
        stack.tcp.sack = inside.sack;
        stack.tcp.window_scaling = inside.window_scaling;
        stack.limits.tx_queue_frames = inside.tx_queue_frames;
        stack.limits.rx_burst = inside.rx_burst;
        // The wire is as bad as it is: nobody is to give up.
        (stack.tcp.syn_retries, stack.tcp.syn_ack_retries) = (20, 20);
        (stack.tcp.retries, stack.tcp.orphan_retries) = (30, 30);
    });
    sim.devices(move |host, end| {
        let Inside { stall, seed, .. } = inside(host);
        let faults = Faults { stall, ..Faults::default() };
        match stall > 0.0 {
            true => Box::new(Fault::new(Box::new(end), FaultConfig { seed, rx: faults, tx: faults })),
            false => Box::new(end),
        }
    });

    let mtus: &[u16] = match (v6, jumbo) {
        (true, false) => &[1280, 1500],
        (false, false) => &[576, 1280, 1500],
        (_, true) => &[1500, 9000],
    };
    let server = if v6 { ["fd00::1/64", "fd01::1/64"] } else { ["10.0.0.1/24", "10.0.1.1/24"] };
    let client = if v6 { ["fd00::2/64", "fd01::2/64"] } else { ["10.0.0.2/24", "10.0.1.2/24"] };
    let address: IpAddr = server[0].split('/').next().and_then(|ip| ip.parse().ok()).unwrap();
    let address = SocketAddr::new(address, 7000);

    let most = scaled(rng, 1000, 8_000_000);
    let connections = 1 + if rng.chance(0.5) { 0 } else { rng.below(6) };
    let mut plans: Vec<_> =
        (0..connections).map(|number| Plan::any(rng, number << 48 | 0xdeb1, most)).collect();
    for plan in &mut plans {
        (plan.up.impatient, plan.down.impatient) = (impatient, impatient);
    }
    let sockets: Vec<_> = plans.iter().map(|_| Buffers::any(rng)).collect();

    let config = any_host(rng, server, mtus);
    let serving = plans.clone();
    sim.host_with("server", config, move || serve(address, serving));
    let config = any_host(rng, client, mtus);
    sim.host_with("client", config, move || async move {
        let talks: Vec<_> = plans
            .into_iter()
            .zip(sockets)
            .map(|(plan, socket)| demi::spawn(plan.talk(address, socket)))
            .collect();
        for talk in talks {
            talk.await.map_err(io::Error::other)??;
        }
        Ok(())
    });
    sim
}

#[test]
fn what_comes_out_is_what_went_in() {
    sweep("streams", any_streams);
}

#[test]
fn dropping_any_future_at_any_await_loses_no_byte() {
    sweep("impatient_streams", any_impatient_streams);
}

#[test]
fn exhausted_pools_hold_streams_up_and_lose_nothing() {
    sweep("starved_streams", any_starved_streams);
}

#[test]
fn a_pool_exhausted_at_one_end_holds_streams_up_and_loses_nothing() {
    sweep("half_starved_streams", any_half_starved_streams);
}

#[test]
fn one_seed_is_one_run_to_the_last_frame() {
    let mut traces: Vec<_> = (0..20)
        .map(|seed| {
            let (first, second) = (attempt(any_streams(seed)), attempt(any_streams(seed)));
            assert_eq!(first, second, "seed {seed}");
            first.map(|report| report.trace)
        })
        .collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 20, "each seed is a run of its own");
}
