//! Networks that mark packets instead of losing them (RFC 3168), and what hosts of all opinions on that make of it: with Accurate ECN
//! (RFC 9768) the sender knows of each mark, and of each marked byte.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use demi::Config;
use demi::net::{TcpInfo, TcpListener, TcpStream};
use demi::sim::wire::Verdict;
use demi::sim::{Rng, Sim};

use crate::hosts::{ADDRESS, CLIENT, answer, ask, flow, tcp_payload};
use crate::support::{run, soon, sweep};

/// Where the ECN bits of an IPv4 packet lie in its frame.
const TOS_AT: usize = 15;

/// What has been marked on the way from the client.
#[derive(Clone, Default)]
struct Marked {
    packets: Rc<Cell<u64>>,
    bytes: Rc<Cell<u64>>,
    /// Packets that could not be.
    incapable: Rc<Cell<u64>>,
}

/// Marks packets that are capable of it, with that probability, in both directions, and mends the header's checksum.
fn mark(sim: &mut Sim, probability: f64) -> Marked {
    let marked = Marked::default();
    let (count, mut rng) = (marked.clone(), Rng::new(sim.seed()));
    sim.on_wire(move |wire| {
        wire.set_filter(move |frame| {
            if frame.bytes.get(12..15) != Some(&[8, 0, 0x45][..]) || !rng.chance(probability) {
                return Verdict::Pass;
            }
            let codepoint = frame.bytes[TOS_AT] & 3;
            if !matches!(codepoint, 1 | 2) {
                count.incapable.set(count.incapable.get() + u64::from(codepoint == 0));
                return Verdict::Pass;
            }
            frame.bytes[TOS_AT] |= 3;
            frame.bytes[24..26].fill(0);
            let words =
                frame.bytes[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let sum: u32 = words.sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            frame.bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            if frame.from == CLIENT {
                count.packets.set(count.packets.get() + 1);
                count.bytes.set(count.bytes.get() + tcp_payload(frame.bytes) as u64);
            }
            Verdict::Pass
        });
    });
    marked
}

/// Sends `bytes` from the client to the server, and a word back. What the client knows of it in the end, and what the server does.
fn upload(sim: &mut Sim, configs: [Config; 2], bytes: u64) -> Rc<Cell<Option<[TcpInfo; 2]>>> {
    let told = Rc::new(Cell::new(None));
    let (seen, known) = (Rc::new(Cell::new(None)), told.clone());
    let of_server = seen.clone();
    let [server, client] = configs;
    sim.host_with("server", server.address("10.0.0.1/24"), move || async move {
        let listener = TcpListener::bind(ADDRESS).await?;
        let (mut stream, _) = listener.accept().await?;
        answer(&mut stream, &flow(bytes), &flow(10)).await?;
        of_server.set(Some(stream.info()?));
        std::io::Result::Ok(())
    });
    sim.host_with("client", client.address("10.0.0.2/24"), move || async move {
        let mut stream = TcpStream::connect(ADDRESS).await?;
        ask(&mut stream, &flow(bytes), &flow(10)).await?;
        let client = stream.info()?;
        demi::time::sleep(Duration::from_millis(100)).await;
        known.set(seen.take().map(|server| [server, client]));
        std::io::Result::Ok(())
    });
    told
}

fn config(ecn: &str, congestion: &str) -> Config {
    Config::new().ecn(ecn).congestion(congestion)
}

#[test]
fn each_mark_and_each_marked_byte_is_known_to_the_sender() {
    sweep("marks::counted", |seed| {
        let mut rng = Rng::new(seed);
        let mut sim = soon(seed);
        sim.link().rate_bits_per_s = 100_000_000;
        let marked = mark(&mut sim, [0.001, 0.01, 0.1, 0.5, 1.0][rng.below(5) as usize]);
        let congestion = ["cubic", "newreno", "dctcp", "bbr"][rng.below(4) as usize];
        let configs = [config("accurate-passive", congestion), config("accurate", congestion)];
        let told = upload(&mut sim, configs, 300_000);
        let check = move || {
            let [server, client] = told.take().expect("both ends have told");
            assert!(server.accurate_ecn && client.accurate_ecn);
            assert_eq!((server.accurate_ecn_failures, client.accurate_ecn_failures), (0, 0));
            assert_eq!(u64::from(client.delivered_ecn_bytes[2]), marked.bytes.get(), "{congestion}");
            let bytes: u32 = client.delivered_ecn_bytes.iter().sum();
            assert_eq!(bytes, 300_000);
            // Acknowledgements that the client sends last are marked, too, and nobody tells it.
            let untold = marked.packets.get() - client.delivered_ce_segments;
            assert!(untold <= 3, "{untold} of {} marks are not known", marked.packets.get());
        };
        sim.host("judge", "10.0.0.3/24", move || async move {
            demi::time::sleep(Duration::from_secs(60)).await;
            check();
            std::io::Result::Ok(())
        });
        sim
    });
}

#[test]
fn hosts_of_all_opinions_on_ecn_understand_each_other() {
    let modes = ["off", "passive", "on", "accurate-passive", "accurate-on", "accurate"];
    for (server_at, server) in modes.into_iter().enumerate() {
        for (client_at, client) in modes.into_iter().enumerate() {
            let mut sim = soon((server_at * 6 + client_at) as u64);
            let marked = mark(&mut sim, 0.05);
            let told = upload(&mut sim, [config(server, "cubic"), config(client, "cubic")], 200_000);
            run(sim);
            let infos = told.take().expect("both ends have told");
            let accurate = client == "accurate" && server.starts_with("accurate");
            let any = !matches!(client, "off" | "passive" | "accurate-passive") && server != "off";
            for info in &infos {
                assert_eq!((info.accurate_ecn, info.ecn), (accurate, any), "{client} to {server}");
            }
            assert_eq!(marked.packets.get() > 0, any, "{client} to {server}");
            assert_eq!(infos[1].delivered_ce_segments > 0, any, "{client} to {server}");
        }
    }
}

#[test]
fn exact_counts_let_dctcp_use_what_one_echo_a_round_trip_leaves() {
    // What is marked is a matter of luck: several seeds together.
    let elapsed = |ecn: [&str; 2], congestion: &str| -> Duration {
        let of_seed = |seed| {
            let mut sim = soon(seed);
            sim.link().rate_bits_per_s = 200_000_000;
            mark(&mut sim, 0.01);
            upload(&mut sim, ecn.map(|ecn| config(ecn, congestion)), 1_500_000);
            run(sim).elapsed
        };
        (0..8).map(of_seed).sum()
    };
    let accurate = ["accurate-passive", "accurate"];
    let [dctcp, cubic] = ["dctcp", "cubic"].map(|congestion| elapsed(accurate, congestion));
    let classic = elapsed(["passive", "on"], "cubic");
    assert!(dctcp < cubic, "a hundredth is marked: {dctcp:?} by the share, {cubic:?} by half");
    assert!(cubic < classic * 5 / 4, "{cubic:?} with exact counts, {classic:?} with one echo");
}
