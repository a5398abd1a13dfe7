//! How hosts come to their networks: VLANs that share a wire, addresses that are leased over a bad one.

use std::io;
use std::time::Duration;

use demi::Config;
use demi::net::UdpSocket;
use demi::sim::{Rng, Sim};
use demi::time::{sleep, timeout};

use crate::support::{scaled, sweep};

/// Answers every datagram on port 7 of `at`.
async fn echo(at: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(at).await?;
    loop {
        let (datagram, peer) = socket.pop_from().await?;
        socket.push_to(datagram, peer).await?;
    }
}

/// Whether somebody answers on port 7 of `to`, soon.
async fn is_answered(to: &str, bytes: &[u8]) -> io::Result<bool> {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.send_to(bytes, to).await?;
    let mut answer = vec![0; 65_536];
    match timeout(Duration::from_secs(3), socket.recv_from(&mut answer)).await {
        Ok(Ok((count, _))) => Ok(answer[..count] == *bytes),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

#[test]
fn hosts_of_one_vlan_meet_and_hosts_of_others_do_not() {
    for (offload, addresses, at) in [
        (false, ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24", "10.0.0.4/24"], "10.0.0.1:7"),
        (true, ["fd00::1/64", "fd00::2/64", "fd00::3/64", "fd00::4/64"], "[fd00::1]:7"),
    ] {
        let mut sim = Sim::new(5);
        sim.wire().checksum_offload = offload;
        let config = |address: &str| Config::new().address(address);
        sim.server_with("server", config(addresses[0]).vlan(7).vlan_priority(5), move || echo(at));
        let others = [("same", Some(7)), ("other", Some(8)), ("none", None)];
        for ((name, vlan), address) in others.into_iter().zip(&addresses[1..]) {
            let config = match vlan {
                Some(id) => config(address).vlan(id),
                None => config(address),
            };
            sim.host_with(name, config, move || async move {
                for bytes in [10, 1400, 9000] {
                    assert_eq!(
                        is_answered(at, &vec![7; bytes]).await?,
                        vlan == Some(7),
                        "{name}, {bytes} bytes"
                    );
                }
                Ok(())
            });
        }
        sim.run().unwrap();
    }
}

/// A DHCP server as small as it can be: it leases 10.0.0.50 to anybody for a minute, with a router and a name server.
async fn lease() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:67").await?;
    socket.set_broadcast(true)?;
    let mut bytes = [0; 1500];
    loop {
        let (count, from) = socket.recv_from(&mut bytes).await?;
        let request = &bytes[..count];
        let kind = match request.get(240..243) {
            Some([53, 1, 1]) => 2,
            Some([53, 1, 3]) => 5,
            _ => continue,
        };
        let mut reply = request[..240].to_vec();
        reply[0] = 2;
        reply[16..20].copy_from_slice(&[10, 0, 0, 50]);
        reply.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0, 60, 1, 4, 255, 255, 255, 0]);
        reply.extend([3, 4, 10, 0, 0, 1, 6, 4, 10, 0, 0, 1, 255]);
        let to = if from.ip().is_unspecified() { "255.255.255.255:68".parse().unwrap() } else { from };
        // Nobody there, or no room: the client asks again.
        let _ = socket.send_to(&reply, to).await;
    }
}

fn leased(seed: u64) -> Sim {
    leased_on(1, seed)
}

/// A client on several cores: the first one leases, and all of them have the address.
fn leased_on_cores(seed: u64) -> Sim {
    leased_on(3, seed)
}

fn leased_on(cores: u16, seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    let rng = &mut Rng::new(sim.seed());
    let link = sim.link();
    link.delay = Duration::from_micros(scaled(rng, 1, 50_000));
    link.jitter = Duration::from_micros(scaled(rng, 1, 50_000));
    link.loss = rng.below(16) as f64 / 100.0;
    (link.duplicate, link.corrupt, link.truncate) = (link.loss / 2.0, link.loss / 4.0, link.loss / 4.0);
    let lossless = link.loss == 0.0;
    sim.server("server", "10.0.0.1/24", lease);
    sim.server("elsewhere", "10.0.0.2/24", || echo("10.0.0.2:7"));
    let config =
        Config::new().address("dhcp").detect_duplicates(true).address_wait_ms(Duration::from_secs(600));
    let client = move || async move {
        // The start has waited for the lease.
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect("10.0.0.2:7").await?;
        assert_eq!(socket.local_addr()?.ip(), "10.0.0.50".parse::<std::net::IpAddr>().unwrap());
        drop(socket);
        // Many leases later it is still there, but for the times in which all renewals of one were lost.
        let mut answered = 0;
        for _ in 0..40 {
            sleep(Duration::from_secs(15)).await;
            answered += u32::from(is_answered("10.0.0.2:7", b"still here?").await.unwrap_or(false));
        }
        assert!(answered >= if lossless { 40 } else { 5 }, "{answered} of 40 were answered");
        Ok(())
    };
    if cores == 1 {
        sim.host_with("client", config, client);
    } else {
        sim.host_on("client", cores, config, client);
    }
    sim
}

#[test]
fn an_address_is_leased_and_renewed_over_a_bad_wire() {
    sweep("dhcp", leased);
}

#[test]
fn an_address_leased_by_one_core_is_that_of_all() {
    sweep("dhcp_cores", leased_on_cores);
}

#[test]
fn a_program_begins_without_an_address_when_nobody_leases_one() {
    let mut sim = Sim::new(3);
    let config = Config::new().address("dhcp, auto").detect_duplicates(true);
    sim.host_with("lonely", config, || async {
        assert!(UdpSocket::bind("10.0.0.50:7").await.is_err());
        UdpSocket::bind("0.0.0.0:7").await.map(drop)
    });
    sim.server("other", "10.0.0.2/24", std::future::pending);
    let report = sim.run().unwrap();
    assert_eq!(report.elapsed, Duration::from_secs(10), "address_wait_ms");
}
