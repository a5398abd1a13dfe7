//! Our stack against smoltcp, whole hosts over a bad wire on virtual time: each of them is the server once, in both IP
//! versions, with whatever options and buffers the seed says. The stream that comes out is the stream that went in.
//!
//! Seeds are chosen as in the runtime's own simulations, whose sweeps and flows these are.

#[path = "../../../runtime/tests/sim/support.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod support;
#[path = "../../../runtime/tests/sim/traffic.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod traffic;

mod peer;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpSocket, TcpStream};
use demi::sim::wire::LinkConfig;
use demi::sim::{Rng, Sim};
use demi::time::sleep;

use peer::{Peer, Shared};
use support::{pick, scaled, sweep};
use traffic::{Flow, Receiving, Sending};

const PORT: u16 = 7000;
/// Bytes of a direction of a connection.
const MOST_BYTES: u64 = 300_000;

/// What passes over one connection.
#[derive(Clone, Debug)]
struct Exchange {
    /// From us to it.
    there: Flow,
    /// From it to us.
    back: Flow,
}

impl Exchange {
    fn any(rng: &mut Rng) -> Exchange {
        let mut flow = || {
            let bytes = if rng.chance(0.1) { 0 } else { scaled(rng, 1, MOST_BYTES) };
            let mut flow = Flow::plain(rng.next_u64(), bytes);
            flow.sending =
                pick(rng, &[Sending::Write(16 << 10), Sending::Push(1400), Sending::Vectored(3000)]);
            flow.receiving = pick(rng, &[Receiving::Read(16 << 10), Receiving::Pop, Receiving::Read(100)]);
            let rest = (scaled(rng, 1000, 300_000), Duration::from_micros(scaled(rng, 1, 3_000_000)));
            flow.receive_rest = rng.chance(0.2).then_some(rest);
            flow
        };
        Exchange { there: flow(), back: flow() }
    }

    /// Our side of it: both directions at once.
    async fn run(&self, mut stream: TcpStream) -> io::Result<()> {
        let (mut read, mut write) = stream.split();
        let send = async {
            self.there.send(&mut write).await?;
            write.shutdown().await?;
            // The simulation ends with us: our last byte must have arrived by then.
            write.drained().await
        };
        let (sent, received) = futures_util::join!(send, self.back.receive(&mut read));
        received.and(sent)
    }
}

fn any_link(rng: &mut Rng) -> LinkConfig {
    let mut link =
        LinkConfig { delay: Duration::from_micros(scaled(rng, 1, 100_000)), ..LinkConfig::default() };
    let worst = pick(rng, &[0.0, 0.02, 0.1]);
    let mut upto = |most: f64| most * rng.below(1001) as f64 / 1000.0;
    (link.loss, link.duplicate, link.reorder, link.corrupt) =
        (upto(worst), upto(worst), upto(worst), upto(worst / 4.0));
    link.reorder_delay = Duration::from_micros(scaled(rng, 1, 50_000));
    if rng.chance(0.3) {
        link.jitter = Duration::from_micros(scaled(rng, 1, 20_000));
    }
    if rng.chance(0.3) {
        link.rate_bits_per_s = scaled(rng, 256_000, 1_000_000_000);
        link.queue_bytes = if rng.chance(0.5) { 0 } else { scaled(rng, 20_000, 1 << 20) as usize };
    }
    link
}

/// Connects until it works: a wire this bad loses all attempts to reach a neighbour now and then, and smoltcp, which has no
/// backlog, may not listen again yet.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    for _ in 0..10_000 {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        match socket.connect(address).await {
            Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
    Err(io::Error::other("smoltcp cannot be reached"))
}

fn mixed(seed: u64, we_serve: bool) -> Sim {
    let mut sim = Sim::new(seed);
    let rng = &mut Rng::new(sim.seed() ^ 0x5301);
    sim.time_limit(Duration::from_secs(7 * 86_400)).drain_limit(Duration::from_secs(7200));
    let v6 = rng.chance(0.5);
    let [ours, its]: [IpAddr; 2] = match v6 {
        true => ["fd00::1", "fd00::2"].map(|ip| ip.parse().unwrap()),
        false => ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap()),
    };
    let links = [any_link(rng), any_link(rng)];
    let wire = sim.wire();
    wire.pool.huge_pages = false;
    wire.link = links[0].clone();
    sim.on_wire(move |wire| wire.set_link(1, 0, links[1].clone()));
    let options = [0.8, 0.8, 0.8].map(|probability| rng.chance(probability));
    sim.stacks(move |_, stack| {
        [stack.tcp.timestamps, stack.tcp.sack, stack.tcp.window_scaling] = options;
        (stack.tcp.syn_retries, stack.tcp.syn_ack_retries) = (20, 20);
        (stack.tcp.retries, stack.tcp.orphan_retries) = (30, 30);
    });

    let exchanges: Vec<_> = (0..1 + rng.below(3)).map(|_| Exchange::any(rng)).collect();
    let shared = Shared::new(exchanges.iter().map(|it| (it.back.clone(), it.there.clone())).collect());
    let mut config = Config::new().address(format!("{ours}/{}", if v6 { 64 } else { 24 }));
    if rng.chance(0.5) {
        config = config.send_buffer_bytes(scaled(rng, 2048, 1 << 19));
    }
    // Our window never closes: smoltcp 0.14 loses its retransmission timer now and then when one reopens, or goes on
    // probing it for ever, one seed in ten thousand. Its own windows close as they like.
    config = config.recv_buffer_bytes(scaled(rng, MOST_BYTES + 4096, 1 << 20));
    sim.host_with("ours", config, move || async move {
        let listener = match we_serve {
            true => Some(TcpListener::bind(SocketAddr::new(ours, PORT)).await?),
            false => None,
        };
        for exchange in &exchanges {
            let stream = match &listener {
                Some(listener) => listener.accept().await?.0,
                None => connect(SocketAddr::new(its, PORT)).await?,
            };
            exchange.run(stream).await?;
        }
        Ok(())
    });
    let (of_peer, seen) = (peer::Options::any(rng), shared.clone());
    let peer_of = SocketAddr::new(ours, PORT);
    let address = its;
    sim.machine(
        "smoltcp",
        move |end| Box::new(Peer::new(end, address, (!we_serve).then_some(PORT), peer_of, of_peer, shared)),
        move || async move { seen.done().await },
    );
    sim
}

#[test]
fn smoltcp_serves_us_on_a_bad_wire() {
    sweep("smoltcp_serves", |seed| mixed(seed, false));
}

#[test]
fn we_serve_smoltcp_on_a_bad_wire() {
    sweep("smoltcp_asks", |seed| mixed(seed, true));
}
