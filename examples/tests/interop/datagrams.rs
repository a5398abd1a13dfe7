//! UDP through `echo` and `relay`, with and without loss: many datagrams under way at once from a kernel's socket. What
//! comes back is what was sent, at most once, and but for what the network lost all of it.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::support::{Lab, matrix};

/// Datagrams sent.
const COUNT: usize = 500;
/// Datagrams under way at once.
const WINDOW: usize = 16;

/// Datagram `number`: its number, and up to as much as IP has no need to fragment.
fn datagram(number: usize) -> Vec<u8> {
    let body = (0..number * 37 % 1390).map(|at| (at * 31 + number) as u8);
    (number as u64).to_be_bytes().into_iter().chain(body).collect()
}

/// Sends all datagrams to `server` and answers the numbers of those that came back.
fn exchange(server: SocketAddr) -> HashSet<usize> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(server).expect("a route");
    let mut returned = HashSet::new();
    let mut room = [0; 2048];
    let (mut sent, mut lost) = (0, 0);
    loop {
        while sent < COUNT && sent - returned.len() - lost < WINDOW {
            socket.send(&datagram(sent)).expect("it is sent");
            sent += 1;
        }
        // What has not come by then does not come any more.
        let patience = if sent < COUNT { Duration::from_millis(200) } else { Duration::from_secs(1) };
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        match socket.recv(&mut room) {
            Ok(bytes) => {
                let number = room.first_chunk().map_or(0, |number| u64::from_be_bytes(*number)) as usize;
                assert!(number < sent, "datagram {number} came back of {sent}");
                assert!(room[..bytes] == datagram(number), "datagram {number} came back as another");
                assert!(returned.insert(number), "datagram {number} came back twice");
            }
            Err(_) if sent == COUNT => return returned,
            Err(_) => lost = sent - returned.len(),
        }
    }
}

fn assert_all_came(lab: &Lab, returned: &HashSet<usize>) {
    // One in a hundred is lost on each of up to four ways.
    let expected = if lab.case.loss_permille == 0 { COUNT } else { COUNT * 9 / 10 };
    assert!(returned.len() >= expected, "{} of {COUNT} came back", returned.len());
}

fn echo_sends_them_back(lab: &Lab) {
    let _server = lab.serve("echo", 7000, "");
    let returned = lab.foreign().inside(|| exchange(lab.case.server(7000)));
    assert_all_came(lab, &returned);
}

matrix!(echo, crate::datagrams::echo_sends_them_back);

fn relay_passes_them_on(lab: &Lab) {
    // A kernel's echo that answers every client from one socket.
    let upstream = lab.foreign().inside(|| UdpSocket::bind(lab.case.foreign(7000)).expect("a socket"));
    let echo = upstream.try_clone().expect("a second handle");
    let serving = std::thread::spawn(move || {
        let mut room = [0; 2048];
        // An empty datagram ends it.
        while let Ok((bytes @ 1.., from)) = echo.recv_from(&mut room) {
            let _ = echo.send_to(&room[..bytes], from);
        }
    });
    let mut relay = lab.serve("relay", 7001, &format!("--to {}", lab.case.foreign(7000)));
    let returned = lab.foreign().inside(|| exchange(lab.case.server(7001)));
    let _ = lab.foreign().inside(|| upstream.send_to(&[], lab.case.foreign(7000)));
    serving.join().expect("the echo ends");
    assert!(!returned.is_empty(), "nothing came back\n{}", relay.report());
    assert_all_came(lab, &returned);
}

matrix!(relay, crate::datagrams::relay_passes_them_on);
