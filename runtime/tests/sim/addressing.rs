//! How hosts come to their networks: VLANs that share a wire.

use std::io;
use std::time::Duration;

use demi::Config;
use demi::net::UdpSocket;
use demi::sim::Sim;
use demi::time::timeout;

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
