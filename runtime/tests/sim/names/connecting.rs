//! Connecting to names: the first address that answers wins (RFC 8305), whatever the others do.

use std::io;
use std::time::Duration;

use demi::Config;
use demi::net::{TcpListener, TcpStream, UdpSocket};
use demi::sim::Sim;
use demi::time::Instant;
use hickory_proto::rr::RecordType;

use super::server::{Asked, Log, Say, address, serve};
use crate::support::{run, soon};

/// A name server, a web server of both versions, and a client that runs `main`.
fn with_client<F, R>(seed: u64, say: fn(&Asked) -> Say, main: F)
where
    F: FnOnce() -> R + 'static,
    R: Future<Output = io::Result<()>> + 'static,
{
    let mut sim: Sim = soon(seed);
    sim.server("names", "10.0.0.53/24", move || serve("10.0.0.53:53", Log::default(), say));
    sim.server("web", ["10.0.0.7/24", "fd00::7/64"], || async {
        let listener = TcpListener::bind("[::]:80").await?;
        loop {
            let (stream, _) = listener.accept().await?;
            demi::spawn(async move {
                let mut stream = stream;
                while let Ok(Some(_)) = stream.pop().await {}
            });
        }
    });
    let config = Config::new().address(["10.0.0.2/24", "fd00::2/64"]).dns("10.0.0.53");
    sim.host_with("client", config, main);
    run(sim);
}

/// Whom a connection to `name` reaches, and how long that takes.
async fn reached(name: &str) -> io::Result<(String, Duration)> {
    let start = Instant::now();
    let stream = TcpStream::connect(name).await?;
    Ok((stream.peer_addr()?.ip().to_string(), start.elapsed()))
}

fn web(asked: &Asked) -> Say {
    let records =
        |addresses: &[&str]| Say::Records(addresses.iter().map(|at| address(&asked.name, at)).collect());
    match asked.name.as_str() {
        "web.example." => records(&["10.0.0.7", "fd00::7"]),
        // fd00::66 is nobody's.
        "half.example." => records(&["10.0.0.7", "fd00::66"]),
        "dead.example." => records(&["10.0.0.66", "fd00::66"]),
        "slow6.example." if asked.kind == RecordType::AAAA => {
            Say::Late(Duration::from_secs(3), vec![address(&asked.name, "fd00::7")])
        }
        "slow6.example." => records(&["10.0.0.7"]),
        "slow4.example." if asked.kind == RecordType::A => {
            Say::Late(Duration::from_secs(3), vec![address(&asked.name, "10.0.0.7")])
        }
        "slow4.example." => records(&["fd00::7"]),
        "latehalf.example." if asked.kind == RecordType::A => {
            Say::Late(Duration::from_millis(100), vec![address(&asked.name, "10.0.0.7")])
        }
        "latehalf.example." => records(&["fd00::66"]),
        _ => Say::NoName,
    }
}

#[test]
fn ipv6_is_taken_where_it_works_and_ipv4_a_moment_later_where_it_does_not() {
    with_client(1, web, || async {
        let (peer, took) = reached("web.example:80").await?;
        assert_eq!(peer, "fd00::7");
        assert!(took < Duration::from_millis(50), "{took:?}");
        let (peer, took) = reached("half.example:80").await?;
        assert_eq!(peer, "10.0.0.7");
        assert!((Duration::from_millis(250)..Duration::from_millis(300)).contains(&took), "{took:?}");
        Ok(())
    });
}

#[test]
fn a_kind_of_address_that_lets_wait_is_not_waited_for() {
    with_client(2, web, || async {
        let (peer, took) = reached("slow6.example:80").await?;
        assert_eq!(peer, "10.0.0.7");
        assert!((Duration::from_millis(50)..Duration::from_millis(100)).contains(&took), "{took:?}");
        let (peer, took) = reached("slow4.example:80").await?;
        assert_eq!(peer, "fd00::7");
        assert!(took < Duration::from_millis(50), "{took:?}");
        let (peer, _) = reached("latehalf.example:80").await?;
        assert_eq!(peer, "10.0.0.7", "an address that came late was tried, too");
        Ok(())
    });
}

#[test]
fn a_name_that_nobody_answers_at_says_so_and_a_refusal_is_one() {
    with_client(3, web, || async {
        let error = reached("dead.example:80").await.unwrap_err();
        assert!(
            error.to_string().contains("cannot connect to dead.example:80: none of 2 addresses"),
            "{error}"
        );
        let error = reached("web.example:81").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        let error = reached("no.example:80").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        Ok(())
    });
}

#[test]
fn datagrams_go_to_names_too() {
    with_client(4, web, || async {
        let socket = UdpSocket::bind("10.0.0.2:0").await?;
        socket.send_to(b"hello", "web.example:9").await?;
        socket.connect("web.example:9").await?;
        assert_eq!(socket.peer_addr()?.to_string(), "10.0.0.7:9");
        Ok(())
    });
}
