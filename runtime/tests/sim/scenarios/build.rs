//! From a scenario to a simulation: every number is drawn from the seed, and becomes a link, a host, an event.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use demi::config::Config;
use demi::sim::wire::{BurstLoss, LinkConfig, Verdict, WireHandle};
use demi::sim::{Rng, START, Sim};
use demi::time::sleep;
use demi_drivers::PoolConfig;
use demi_drivers::wrap::fault::{Fault, FaultConfig, Faults};
use demi_netstack::StackConfig;

use super::file::{Event, Host, Link, Number, Scenario, Switch, Word};
use super::load::{self, Load};
use crate::hosts::{CLIENT, SERVER};
use crate::support::Hand;

/// Names of the hosts; each is at its number's end of the wire.
const NAMES: [&str; 2] = ["server", "client"];
const PORT: u16 = 7000;

/// The simulation of a scenario with one seed.
pub(super) fn sim(scenario: &Scenario, seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    let rng = &mut Rng::new(sim.seed() ^ 0x5ce0);
    sim.time_limit(Duration::from_secs_f64(scenario.within_s)).drain_limit(Duration::from_secs(7200));
    let v6 = match word(scenario.ip.as_ref(), rng) {
        None => rng.chance(0.5),
        Some(ip) => ip == "v6",
    };
    let hosts = [&scenario.server, &scenario.client].map(|host| Told::draw(&host.over(&scenario.hosts), rng));
    let wire = sim.wire();
    wire.ring_frames = 4096;
    wire.end_pools = hosts.iter().map(|host| host.pool.clone()).collect();
    // From an end, to an end.
    let ways = [(CLIENT, SERVER, &scenario.up), (SERVER, CLIENT, &scenario.down)];
    let ways = ways.map(|(from, to, way)| Way::draw(from, to, way.over(&scenario.link), rng));
    let ack_loss = AckLoss::default();
    wire.link = ways[0].link.clone();
    sim.devices({
        let hosts = hosts.clone();
        move |host, end| {
            let Told { stall, seed, .. } = hosts[usize::from(host == NAMES[CLIENT])];
            let faults = Faults { stall, ..Faults::default() };
            match stall > 0.0 {
                true => Box::new(Fault::new(Box::new(end), FaultConfig { seed, rx: faults, tx: faults })),
                false => Box::new(end),
            }
        }
    });
    sim.stacks({
        let (hosts, patient) = (hosts.clone(), scenario.patient);
        move |host, stack| {
            hosts[usize::from(host == NAMES[CLIENT])].tell(stack);
            if patient {
                (stack.tcp.syn_retries, stack.tcp.syn_ack_retries) = (20, 20);
                (stack.tcp.retries, stack.tcp.orphan_retries) = (30, 30);
            }
        }
    });

    let load = Load::draw(&scenario.load, rng);
    let address = SocketAddr::new(address(SERVER, v6), PORT);
    let serve = |sim: &mut Sim| {
        let load = load.clone();
        sim.server_with(NAMES[SERVER], hosts[SERVER].config(SERVER), move || load::serve(address, load));
    };
    serve(&mut sim);
    let asking = load.clone();
    sim.host_with(NAMES[CLIENT], hosts[CLIENT].config(CLIENT), move || load::ask(address, asking));

    let hand = Hand::default();
    sim.on_wire({
        let (hand, ways, ack_loss) = (hand.clone(), ways.clone(), ack_loss.clone());
        let rng = Rng::new(rng.next_u64());
        move |wire| {
            ways.iter().for_each(|way| way.put(&wire, &ack_loss));
            lose_acks(&wire, ack_loss, rng);
            hand.hold(wire);
        }
    });
    let place = Place { address, load, ways, hand, ack_loss };
    for event in &scenario.event {
        place.happens(&mut sim, event, rng);
    }
    sim
}

/// Probability that an acknowledgement is lost, by the end that sends it.
type AckLoss = Rc<Cell<[f64; 2]>>;

/// Where things happen.
struct Place {
    address: SocketAddr,
    load: Load,
    ways: [Way; 2],
    hand: Hand,
    ack_loss: AckLoss,
}

impl Place {
    /// Adds an event to a simulation.
    fn happens(&self, sim: &mut Sim, event: &Event, rng: &mut Rng) {
        let times = event.times.as_ref().map_or(1, |times| times.draw(rng) as u64);
        let mut at = event.at_s.seconds(rng);
        for time in 0..times {
            if let Some(reboot) = &event.reboot {
                let (address, load, down) = (self.address, self.load.clone(), reboot.for_s.seconds(rng));
                match host(reboot.host.as_ref(), rng) {
                    SERVER => sim.reboot(NAMES[SERVER], at, down, move || load::serve(address, load)),
                    _ => sim.reboot(NAMES[CLIENT], at, down, move || load::ask(address, load)),
                };
            }
            if let Some(freeze) = &event.freeze {
                sim.freeze(NAMES[host(freeze.host.as_ref(), rng)], at, freeze.for_s.seconds(rng));
            }
            if let Some(leap) = &event.leap {
                sim.leap(NAMES[host(leap.host.as_ref(), rng)], at, leap.by_s.seconds(rng));
            }
            let cut = event.cut.as_ref().map(|cut| cut.for_s.seconds(rng));
            let changed = self.changed(event, rng);
            if cut.is_some() || !changed.is_empty() {
                let (hand, ack_loss) = (self.hand.clone(), self.ack_loss.clone());
                // It need not have happened when the client is done.
                sim.server_over(&format!("fate {time} of {at:?}"), Vec::new(), move || async move {
                    sleep(at).await;
                    changed.iter().for_each(|way| way.put(&hand.wire(), &ack_loss));
                    if let Some(cut) = cut {
                        hand.wire().set_partitioned(SERVER, CLIENT, true);
                        sleep(cut).await;
                        hand.wire().set_partitioned(SERVER, CLIENT, false);
                    }
                    Ok(())
                });
            }
            at += event.every_s.as_ref().map_or(Duration::ZERO, |every| every.seconds(rng));
        }
    }

    /// The directions that an event changes, as they are then.
    fn changed(&self, event: &Event, rng: &mut Rng) -> Vec<Way> {
        let both = event.link.clone().unwrap_or_default();
        let own = self.ways.iter().zip([&event.up, &event.down]);
        own.filter(|(_, own)| event.link.is_some() || own.is_some())
            .map(|(way, own)| {
                let told = own.clone().unwrap_or_default().over(&both).over(&way.told);
                Way::draw(way.from, way.to, told, rng)
            })
            .collect()
    }
}

/// Loses segments that carry nothing but an acknowledgement.
fn lose_acks(wire: &WireHandle, loss: AckLoss, mut rng: Rng) {
    wire.set_filter(move |frame| {
        let loss = loss.get()[frame.from];
        let lost = loss > 0.0 && is_pure_ack(frame.bytes) && rng.chance(loss);
        if lost { Verdict::Drop } else { Verdict::Pass }
    });
}

/// Whether a frame is a TCP segment without data, SYN, FIN and RST.
fn is_pure_ack(frame: &[u8]) -> bool {
    let word = |at: usize| frame.get(at..at + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
    let (header, packet) = match (frame.get(12..15), word(16), word(18)) {
        (Some([8, 0, 0x45]), Some(length), _) if frame.get(23) == Some(&6) => (34, 14 + length),
        (Some([0x86, 0xdd, _]), _, Some(length)) if frame.get(20) == Some(&6) => (54, 54 + length),
        _ => return false,
    };
    let (Some(offset), Some(flags)) = (frame.get(header + 12), frame.get(header + 13)) else { return false };
    packet == header + usize::from(offset >> 4) * 4 && flags & 0x17 == 0x10
}

/// A direction of the link.
#[derive(Clone)]
struct Way {
    from: usize,
    to: usize,
    /// What the file says of it.
    told: Link,
    link: LinkConfig,
    ack_loss: f64,
}

impl Way {
    fn draw(from: usize, to: usize, told: Link, rng: &mut Rng) -> Way {
        let mut number = |number: &Option<Number>| number.as_ref().map_or(0.0, |number| number.draw(rng));
        let millis = |millis: f64| Duration::from_secs_f64(millis / 1000.0);
        let mut link = LinkConfig {
            rate_bits_per_s: (number(&told.rate_mbit) * 1e6) as u64,
            queue_bytes: (number(&told.queue_kib) * 1024.0) as usize,
            delay: millis(number(&told.delay_ms)),
            jitter: millis(number(&told.jitter_ms)),
            loss: number(&told.loss),
            duplicate: number(&told.duplicate),
            reorder: number(&told.reorder),
            reorder_delay: millis(number(&told.reorder_ms)),
            corrupt: number(&told.corrupt),
            truncate: number(&told.truncate),
            mtu: told.mtu.as_ref().map(|mtu| number(&Some(mtu.clone())) as u16),
            ..LinkConfig::default()
        };
        let ack_loss = number(&told.ack_loss);
        link.burst_loss = told.burst.as_ref().map(|burst| BurstLoss {
            begin: burst.begin.draw(rng),
            end: burst.end.draw(rng),
            loss: burst.loss.as_ref().map_or(1.0, |loss| loss.draw(rng)),
        });
        link.keep_order = told.keep_order.is_some_and(|order| order.draw(rng));
        Way { from, to, told, link, ack_loss }
    }

    /// Puts it in force.
    fn put(&self, wire: &WireHandle, ack_loss: &AckLoss) {
        wire.set_link(self.from, self.to, self.link.clone());
        let mut losses = ack_loss.get();
        losses[self.from] = self.ack_loss;
        ack_loss.set(losses);
    }
}

/// What a host is told, drawn.
#[derive(Clone)]
struct Told {
    congestion: Option<String>,
    pool: PoolConfig,
    mtu: Option<u16>,
    send_bytes: Option<u64>,
    recv_bytes: Option<u64>,
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    isn: Option<u32>,
    timestamp_offset: Option<u32>,
    rx_burst: Option<usize>,
    tx_queue: Option<usize>,
    stall: f64,
    seed: u64,
}

impl Told {
    fn draw(host: &Host, rng: &mut Rng) -> Told {
        let mut number = |number: &Option<Number>| number.as_ref().map(|number| number.draw(rng));
        let bytes = |kib: f64| ((kib * 1024.0) as u64).max(2048);
        let start_ms = (START.as_nanos() / 1_000_000) as u32;
        let slots = number(&host.slots).map_or(8192, |slots| slots as usize);
        let mut told = Told {
            congestion: None,
            pool: PoolConfig { slots, huge_pages: false, ..PoolConfig::default() },
            mtu: number(&host.mtu).map(|mtu| mtu as u16),
            send_bytes: number(&host.send_kib).map(bytes),
            recv_bytes: number(&host.recv_kib).map(bytes),
            timestamps: true,
            sack: true,
            window_scaling: true,
            isn: number(&host.isn_before_wrap).map(|before| 0u32.wrapping_sub(before as u32)),
            timestamp_offset: number(&host.timestamp_before_wrap_s)
                .map(|before| 0u32.wrapping_sub((before * 1000.0) as u32).wrapping_sub(start_ms)),
            rx_burst: number(&host.rx_burst).map(|burst| burst as usize),
            tx_queue: number(&host.tx_queue).map(|queue| queue as usize),
            stall: number(&host.stall).unwrap_or_default(),
            seed: 0,
        };
        told.congestion = word(host.congestion.as_ref(), rng).map(str::to_owned);
        let mut switch = |switch: Option<Switch>| switch.is_none_or(|switch| switch.draw(rng));
        told.timestamps = switch(host.timestamps);
        told.sack = switch(host.sack);
        told.window_scaling = switch(host.window_scaling);
        told.seed = rng.next_u64();
        told
    }

    fn config(&self, index: usize) -> Config {
        let addresses = [false, true].map(|v6| {
            let address = address(index, v6);
            format!("{address}/{}", if v6 { 64 } else { 24 })
        });
        let mut config = Config::new().address(addresses);
        if let Some(congestion) = &self.congestion {
            config = config.congestion(congestion.as_str());
        }
        if let Some(mtu) = self.mtu {
            config = config.mtu(mtu);
        }
        if let Some(bytes) = self.send_bytes {
            config = config.send_buffer_bytes(bytes);
        }
        if let Some(bytes) = self.recv_bytes {
            config = config.recv_buffer_bytes(bytes);
        }
        config
    }

    fn tell(&self, stack: &mut StackConfig) {
        stack.tcp.timestamps = self.timestamps;
        stack.tcp.sack = self.sack;
        stack.tcp.window_scaling = self.window_scaling;
        stack.tcp.fixed_isn = self.isn;
        stack.tcp.fixed_timestamp_offset = self.timestamp_offset;
        stack.limits.rx_burst = self.rx_burst.unwrap_or(stack.limits.rx_burst);
        stack.limits.tx_queue_frames = self.tx_queue.unwrap_or(stack.limits.tx_queue_frames);
    }
}

fn address(host: usize, v6: bool) -> IpAddr {
    let number = host as u8 + 1;
    if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into() } else { [10, 0, 0, number].into() }
}

/// The end of the host that a file names, or of one of the two.
fn host(named: Option<&Word>, rng: &mut Rng) -> usize {
    match word(named, rng) {
        Some("server") => SERVER,
        Some("client") => CLIENT,
        Some(other) => panic!("no host is called `{other}`: write server or client"),
        None => rng.below(2) as usize,
    }
}

fn word<'a>(word: Option<&'a Word>, rng: &mut Rng) -> Option<&'a str> {
    word.and_then(|word| word.draw(rng))
}
