//! Names in place of addresses: lookups over our own stack from a name server on the wire, which answers, lies, is silent,
//! or cuts its answers off.

mod connecting;
mod server;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use demi::Config;
use demi::net::lookup_host;
use demi::sim::{Rng, Sim};
use demi::time::{Instant, sleep, timeout};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use self::server::{Asked, Log, Say, address, alias, serve};
use crate::support::{Hand, run, scaled, soon, sweep};

/// A client's configuration: one server.
fn client() -> Config {
    Config::new().address("10.0.0.2/24").dns("10.0.0.53")
}

/// Adds the server, which says what `say` does; answers what it has been asked.
fn with_server(sim: &mut Sim, say: fn(&Asked) -> Say) -> Log {
    let log = Log::default();
    let inside = log.clone();
    sim.server("names", "10.0.0.53/24", move || serve("10.0.0.53:53", inside, say));
    log
}

/// What a name stands for.
async fn found(name: &str) -> io::Result<Vec<String>> {
    Ok(lookup_host(name).await?.map(|address: SocketAddr| address.to_string()).collect())
}

/// Both kinds of address of one name; nothing of others.
fn web(asked: &Asked) -> Say {
    match asked.name.as_str() {
        "web.example." => Say::Records(vec![
            address("web.example.", "10.0.0.7"),
            address("web.example.", "10.0.0.8"),
            address("web.example.", "fd00::7"),
        ]),
        "alias.example." => {
            Say::Records(vec![alias("alias.example.", "web.example."), address("web.example.", "10.0.0.7")])
        }
        "empty.example." => Say::Records(Vec::new()),
        _ => Say::NoName,
    }
}

#[test]
fn both_kinds_are_asked_for_once_by_all_who_ask_and_again_when_they_have_ended() {
    let mut sim = soon(1);
    let log = with_server(&mut sim, web);
    let seen = log.clone();
    sim.host_with("client", client(), move || async move {
        let tasks: Vec<_> = (0..10).map(|_| demi::spawn(found("Web.Example:80"))).collect();
        for task in tasks {
            // Without a route for IPv6, IPv4 comes first.
            assert_eq!(task.await.unwrap()?, ["10.0.0.7:80", "10.0.0.8:80", "[fd00::7]:80"]);
        }
        let kinds: Vec<_> = seen.borrow().iter().map(|asked| asked.kind).collect();
        assert_eq!(kinds, [RecordType::AAAA, RecordType::A]);
        {
            let seen = seen.borrow();
            assert_ne!(seen[0].from.port(), seen[1].from.port(), "each has a port of its own");
            assert_ne!(seen[0].id, seen[1].id, "and a number");
        }
        found("web.example.:81").await?;
        assert_eq!(seen.borrow().len(), 2, "that was remembered");
        sleep(Duration::from_secs(60)).await;
        found("web.example:80").await?;
        assert_eq!(seen.borrow().len(), 4, "and was not for longer than the server said");
        // The server tells the alias's IPv4 address along with it; the other one is asked for by its own name.
        assert_eq!(found("alias.example:80").await?, ["10.0.0.7:80", "[fd00::7]:80"]);
        Ok(())
    });
    run(sim);
}

#[test]
fn names_that_are_not_there_are_not_found_and_that_is_remembered_too() {
    let mut sim = soon(2);
    let log = with_server(&mut sim, web);
    sim.host_with("client", client(), move || async move {
        for (name, says) in [("no.example:1", "there is no such name"), ("empty.example:1", "has no address")]
        {
            for _ in 0..2 {
                let error = found(name).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
                assert!(error.to_string().contains(says), "{error}");
            }
        }
        assert_eq!(log.borrow().len(), 4);
        for odd in ["a..b:1", "10.0.0.256:1", "1.2:3", "-\u{7f}:1"] {
            assert_eq!(found(odd).await.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{odd}");
        }
        Ok(())
    });
    run(sim);
}

#[test]
fn short_names_are_looked_up_in_the_search_list() {
    let mut sim = soon(3);
    let log = with_server(&mut sim, web);
    sim.host_with("client", client().dns_search(["lan", "example"]), move || async move {
        assert_eq!(found("web:80").await?.len(), 3);
        let asked: Vec<_> = log.borrow().iter().map(|asked| asked.name.clone()).collect();
        assert_eq!(asked, ["web.lan.", "web.lan.", "web.example.", "web.example."]);
        assert_eq!(found("web.:80").await.unwrap_err().kind(), io::ErrorKind::NotFound, "that is absolute");
        Ok(())
    });
    run(sim);
}

#[test]
fn files_are_asked_before_servers_and_name_them() {
    let folder = std::env::temp_dir().join(format!("demi-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (hosts, conf) = (folder.join("hosts"), folder.join("resolv.conf"));
    std::fs::write(&hosts, "10.0.0.9 db db.example\nfd00::9 db\n").unwrap();
    // The first one is the machine's own, which no stack of ours can reach.
    std::fs::write(&conf, "nameserver 127.0.0.53\nnameserver 10.0.0.53\nsearch example\n").unwrap();
    let mut sim = soon(11);
    let log = with_server(&mut sim, web);
    let config = Config::new().address("10.0.0.2/24").hosts_file(hosts).resolv_conf(conf);
    sim.host_with("client", config, move || async move {
        assert_eq!(found("DB:1").await?, ["10.0.0.9:1", "[fd00::9]:1"]);
        assert!(log.borrow().is_empty());
        assert_eq!(found("web:1").await?.len(), 3);
        assert_eq!(log.borrow().len(), 2);
        Ok(())
    });
    run(sim);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_answer_that_is_cut_off_is_asked_for_over_tcp() {
    let mut sim = soon(4);
    let log = with_server(&mut sim, |asked| if asked.tcp { web(asked) } else { Say::CutOff });
    sim.host_with("client", client(), move || async move {
        assert_eq!(found("web.example:80").await?.len(), 3);
        assert_eq!(log.borrow().iter().filter(|asked| asked.tcp).count(), 2);
        Ok(())
    });
    run(sim);
}

#[test]
fn forged_answers_are_passed_over_and_many_of_them_move_the_question_to_tcp() {
    let mut sim = soon(5);
    let log = with_server(&mut sim, |asked| match asked.name.as_str() {
        "web.example." if !asked.tcp => Say::Bytes(vec![address("web.example.", "10.0.0.7")], |good| {
            // The forger's address in the last byte.
            let forged = |at: usize, to: u8| {
                let mut bytes = good.clone();
                bytes[at] ^= to;
                *bytes.last_mut().unwrap() = 66;
                bytes
            };
            vec![forged(1, 1), forged(2, 0x80), forged(13, 1), Vec::new(), vec![0; 11], good]
        }),
        "flood.example." if !asked.tcp => Say::Bytes(vec![address("flood.example.", "10.0.0.66")], |good| {
            let mut bytes = good;
            bytes[0] ^= 1;
            vec![bytes; 40]
        }),
        // The name in other cases than it was asked in.
        "loud.example." if !asked.tcp => Say::Bytes(vec![address("loud.example.", "10.0.0.66")], |good| {
            let mut bytes = good;
            bytes[13] ^= 0x20;
            vec![bytes]
        }),
        known => Say::Records(vec![address(known, "10.0.0.7")]),
    });
    sim.host_with("client", client(), move || async move {
        assert_eq!(found("web.example:80").await?, ["10.0.0.7:80"]);
        assert!(log.borrow().iter().all(|asked| !asked.tcp));
        assert_eq!(found("flood.example:80").await?, ["10.0.0.7:80"]);
        assert_eq!(found("loud.example:80").await?, ["10.0.0.7:80"]);
        assert!(log.borrow().iter().any(|asked| asked.tcp));
        Ok(())
    });
    run(sim);
}

#[test]
fn a_server_that_cannot_answer_gives_way_to_the_next_one() {
    let mut sim = soon(6);
    let log = with_server(&mut sim, |_| Say::Code(ResponseCode::ServFail));
    let second = Log::default();
    let inside = second.clone();
    sim.server("second", "10.0.0.54/24", move || serve("10.0.0.54:53", inside, web));
    // The first address is nobody's.
    let servers = client().dns(["10.0.0.99", "10.0.0.53", "10.0.0.54"]);
    sim.host_with("client", servers, move || async move {
        assert_eq!(found("web.example:80").await?.len(), 3);
        assert_eq!((log.borrow().len(), second.borrow().len()), (2, 2));
        Ok(())
    });
    run(sim);
}

#[test]
fn failures_say_which_server_and_what() {
    let mut sim = soon(7);
    let log = with_server(&mut sim, |asked| match asked.name.as_str() {
        "fails.example." => Say::Code(ResponseCode::ServFail),
        "silent.example." => Say::Nothing,
        "circle.example." => Say::Records(vec![alias("circle.example.", "circle.example.")]),
        "far.example." => Say::Records(vec![alias("far.example.", "near.other.")]),
        "near.other." => Say::Bytes(vec![alias("near.other.", "far.example.")], |good| vec![good]),
        _ => Say::NoName,
    });
    sim.host_with("client", client(), move || async move {
        for (name, kind, says) in [
            ("fails.example:1", io::ErrorKind::Other, "name server 10.0.0.53 answers"),
            ("silent.example:1", io::ErrorKind::TimedOut, "name server 10.0.0.53: no answer within 5s"),
            ("circle.example:1", io::ErrorKind::Other, "circle"),
            ("far.example:1", io::ErrorKind::Other, "circle"),
        ] {
            let error = found(name).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(
                error.to_string().starts_with("cannot look `") && error.to_string().contains(says),
                "{error}"
            );
        }
        assert!(log.borrow().len() < 40, "{} questions", log.borrow().len());
        Ok(())
    });
    // One without any server, one whose server has nothing listening.
    sim.host("lonely", "10.0.0.3/24", || async {
        let error = found("web.example:1").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("DEMI_DNS"), "{error}");
        Ok(())
    });
    sim.host_with("misled", Config::new().address("10.0.0.4/24").dns("10.0.0.2"), || async {
        let error = found("web.example:1").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        Ok(())
    });
    run(sim);
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without() {
    let mut sim = soon(8);
    let log = with_server(&mut sim, |asked| match asked.edns {
        true => Say::Code(ResponseCode::FormErr),
        false => web(asked),
    });
    sim.host_with("client", client(), move || async move {
        assert_eq!(found("web.example:80").await?.len(), 3);
        assert_eq!(log.borrow().len(), 4);
        Ok(())
    });
    run(sim);
}

#[test]
fn a_lookup_that_is_dropped_closes_its_sockets_and_one_that_others_wait_for_goes_on() {
    let mut sim = soon(9);
    let _log = with_server(&mut sim, |asked| match asked.name.as_str() {
        "late.example." => Say::Late(Duration::from_secs(3), vec![address("late.example.", "10.0.0.7")]),
        _ => Say::Nothing,
    });
    sim.host_with("client", client(), move || async move {
        let alone = timeout(Duration::from_millis(100), found("silent.example:1")).await;
        assert!(alone.is_err());
        demi::task::yield_now().await;
        assert_eq!(demi::usage().datagrams, 0, "nobody waits any more");
        let stays = demi::spawn(found("late.example:1"));
        let leaves = timeout(Duration::from_millis(100), found("late.example:1")).await;
        assert!(leaves.is_err());
        assert_eq!(stays.await.unwrap()?, ["10.0.0.7:1"]);
        Ok(())
    });
    run(sim);
}

/// Lookups over a bad wire: what is found is right, and what is not found was lost.
fn lossy(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    let rng = &mut Rng::new(sim.seed());
    let link = sim.link();
    link.delay = Duration::from_micros(scaled(rng, 1, 100_000));
    link.jitter = Duration::from_micros(scaled(rng, 1, 100_000));
    let worst = rng.below(31) as f64 / 100.0;
    (link.loss, link.duplicate, link.corrupt, link.truncate) = (worst, worst, worst / 2.0, worst / 4.0);
    // A FIN that is lost eight times in a row is sent again after minutes.
    sim.drain_limit(Duration::from_secs(3600));
    let cuts = rng.chance(0.3);
    let log = Log::default();
    sim.server("names", "10.0.0.53/24", move || {
        serve("10.0.0.53:53", log, move |asked| if cuts && !asked.tcp { Say::CutOff } else { web(asked) })
    });
    sim.host_with("client", client(), move || async move {
        let mut right = 0;
        for _ in 0..5 {
            match found("web.example:80").await {
                // One kind may be had and the other not.
                Ok(all) => {
                    let known = ["10.0.0.7:80", "10.0.0.8:80", "[fd00::7]:80"];
                    assert!(
                        !all.is_empty() && all.iter().all(|one| known.contains(&one.as_str())),
                        "{all:?}"
                    );
                    right += 1;
                }
                Err(error) => assert!(worst > 0.0, "{error}"),
            }
            let missing = found("no.example:80").await.unwrap_err();
            assert!(missing.kind() == io::ErrorKind::NotFound || worst > 0.0, "{missing}");
            sleep(Duration::from_secs(61)).await;
        }
        assert!(right == 5 || worst > 0.0, "{right} of 5");
        Ok(())
    });
    sim
}

#[test]
fn what_is_found_over_a_bad_wire_is_right() {
    sweep("names", lossy);
}

#[test]
fn one_lost_question_costs_a_second_and_no_more() {
    let mut sim = soon(10);
    let _log = with_server(&mut sim, web);
    let hand = Hand::on(&mut sim);
    let done = Rc::new(Cell::new(false));
    let inside = done.clone();
    sim.host_with("client", client(), move || async move {
        // The neighbour is known before.
        found("empty.example:1").await.unwrap_err();
        hand.wire().set_partitioned(0, 1, true);
        let start = Instant::now();
        let lookup = demi::spawn(found("web.example:80"));
        sleep(Duration::from_millis(500)).await;
        hand.wire().set_partitioned(0, 1, false);
        lookup.await.unwrap()?;
        let took = start.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_millis(1100)).contains(&took), "{took:?}");
        inside.set(true);
        Ok(())
    });
    run(sim);
    assert!(done.get());
}
