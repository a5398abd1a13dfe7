//! `kv`: keys read out of the server's memory, by `kv_get` and by its client in this process, and Redis' own tools through `relay`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use demi::time::sleep;
use demi_examples::kv::client::{Client, Source};
use demi_examples::kv::layout::ROOM_BYTES;
use demi_examples::kv::reply::Reply;

use crate::support::{Server, example, machine_has_rdma, relay, runtime};

/// Runs a command given as a line, which succeeds.
async fn must(client: &mut Client, line: &str) -> Reply {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let reply = client.command(&words).await.unwrap();
    assert!(!matches!(reply, Reply::Error(_)), "{line}: {reply:?}");
    reply
}

#[track_caller]
fn assert_got(got: (Option<Vec<u8>>, Source), value: Option<&str>, source: Source) {
    let shown = got.0.as_deref().map(String::from_utf8_lossy);
    assert_eq!((shown.as_deref(), got.1), (value, source));
}

#[test]
fn small_keys_are_read_out_of_memory_and_are_always_what_the_server_would_answer() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("--published 1000");
    runtime().block_on(async {
        let mut client = Client::connect(kv.address).await.unwrap();
        must(&mut client, "SET early bird").await;
        client.find_region().await.unwrap();
        assert_got(client.get(b"early").await.unwrap(), Some("bird"), Source::Memory);
        assert_got(client.get(b"a").await.unwrap(), None, Source::Server);

        // Overwritten by longer and by shorter ones, counted, deleted.
        let long = "x".repeat(200);
        for value in ["1", &long, "22", ""] {
            client.command(&[b"SET", b"a", value.as_bytes()]).await.unwrap();
            assert_got(client.get(b"a").await.unwrap(), Some(value), Source::Memory);
        }
        must(&mut client, "SET a 41").await;
        must(&mut client, "INCR a").await;
        assert_got(client.get(b"a").await.unwrap(), Some("42"), Source::Memory);
        must(&mut client, "DEL a").await;
        assert_got(client.get(b"a").await.unwrap(), None, Source::Server);

        // What expires is the server's to tell.
        must(&mut client, "SET b mortal PX 60000").await;
        assert_got(client.get(b"b").await.unwrap(), Some("mortal"), Source::Server);
        must(&mut client, "PERSIST b").await;
        assert_got(client.get(b"b").await.unwrap(), Some("mortal"), Source::Memory);
        must(&mut client, "PEXPIRE b 50").await;
        sleep(Duration::from_millis(100)).await;
        assert_got(client.get(b"b").await.unwrap(), None, Source::Server);
        must(&mut client, "SET b again").await;
        assert_got(client.get(b"b").await.unwrap(), Some("again"), Source::Memory);

        must(&mut client, "FLUSHALL").await;
        for key in [&b"b"[..], b"early"] {
            assert_got(client.get(key).await.unwrap(), None, Source::Server);
        }
    });
    // It lets go of the memory and ends well.
    kv.signal("INT");
    let mut kv = kv;
    assert!(kv.child.wait().unwrap().success());
}

#[test]
fn a_value_that_fits_no_slot_is_asked_for() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("--published 64");
    runtime().block_on(async {
        let mut client = Client::connect(kv.address).await.unwrap();
        client.find_region().await.unwrap();
        let room = ROOM_BYTES - b"key".len();
        for (bytes, source) in [
            (room, Source::Memory),
            (room + 1, Source::Server),
            (300_000, Source::Server),
            (1, Source::Memory),
        ] {
            let value = "v".repeat(bytes);
            client.command(&[b"SET", b"key", value.as_bytes()]).await.unwrap();
            assert_got(client.get(b"key").await.unwrap(), Some(&value), source);
        }
    });
}

#[test]
fn a_server_that_stands_still_is_read_all_the_same() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("--published 1000");
    runtime().block_on(async {
        let mut client = Client::connect(kv.address).await.unwrap();
        client.find_region().await.unwrap();
        for key in 0..50 {
            must(&mut client, &format!("SET key{key} value{key}")).await;
        }
        kv.signal("STOP");
        let mut found = 0;
        for key in 0..50 {
            // It could not answer for one that was crowded out, which few are.
            let read = client.get_one_sided(format!("key{key}").as_bytes()).await.unwrap();
            if let Some(value) = read {
                assert_eq!(value, format!("value{key}").as_bytes());
                found += 1;
            }
        }
        kv.signal("CONT");
        assert!(found >= 45, "{found} of 50 were found");
        assert_eq!(must(&mut client, "DBSIZE").await, Reply::Integer(50));
    });
}

/// What the `n`th writing of a key is: of ever another length, and all of it says which one it is.
fn nth(n: u64) -> Vec<u8> {
    let fill = b'a' + (n % 26) as u8;
    let mut value = format!("{n:010}:").into_bytes();
    value.resize(value.len() + (n * 37 % 200) as usize, fill);
    value
}

#[test]
fn a_reader_beside_a_writer_sees_values_as_they_were_written_and_never_an_older_one_again() {
    // As many as it takes to have met the writer often; at most so many, however the two take turns.
    const BY_MEMORY: u32 = 4000;
    const CHANGES: u32 = 30;
    const MOST: u32 = 200_000;
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("--published 4");
    let address = kv.address;
    let done = Arc::new(AtomicBool::new(false));
    let ends = done.clone();
    let writer = std::thread::spawn(move || {
        runtime().block_on(async move {
            let mut client = Client::connect(address).await.unwrap();
            let mut n = 1;
            while !ends.load(Ordering::Relaxed) {
                // Many writings in one command, so that the server writes most of the time; others come and go in the same bucket.
                let values: Vec<Vec<u8>> = (n..n + 300).map(nth).collect();
                let mut words: Vec<&[u8]> = vec![b"MSET"];
                for (at, value) in values.iter().enumerate() {
                    words.extend([if at % 3 == 0 { &b"other"[..] } else { b"key" }, value]);
                }
                assert_eq!(client.command(&words).await.unwrap(), Reply::Simple("OK".to_owned()));
                must(&mut client, if n % 600 == 1 { "DEL other" } else { "DEL nobody" }).await;
                n += 300;
            }
        });
    });
    runtime().block_on(async {
        let mut client = Client::connect(address).await.unwrap();
        client.find_region().await.unwrap();
        let (mut reads, mut by_memory, mut changes, mut latest) = (0, 0, 0, 0);
        while (by_memory < BY_MEMORY || changes < CHANGES) && reads < MOST {
            reads += 1;
            let (value, source) = client.get(b"key").await.unwrap();
            // It is set first of all, and never deleted.
            let Some(value) = value else {
                assert_eq!((latest, source), (0, Source::Server), "the key was gone");
                continue;
            };
            let n: u64 = std::str::from_utf8(&value[..10]).unwrap().parse().unwrap();
            assert_eq!(value, nth(n), "a mixture of several writings");
            assert!(n >= latest, "{n} after {latest}");
            changes += u32::from(n > latest);
            latest = n;
            by_memory += u32::from(source == Source::Memory);
        }
        let seen = format!(
            "{reads} reads: {by_memory} one-sided, {changes} other than before, {} torn",
            client.torn()
        );
        println!("{seen}");
        assert!(by_memory >= BY_MEMORY && changes >= CHANGES, "{seen}");
    });
    done.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

fn kv_get(server: SocketAddr, args: &str) -> Output {
    example("kv_get", "rdma:rxe0", &format!("--addr {server} {args}")).output().unwrap()
}

#[test]
fn kv_get_prints_values_and_where_they_were() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("--published 1000");
    let large = "L".repeat(1000);
    runtime().block_on(async {
        let mut client = Client::connect(kv.address).await.unwrap();
        must(&mut client, &format!("MSET greeting hello name demi large {large}")).await;
    });
    let got = kv_get(kv.address, "--count 10 greeting large nobody name");
    let (out, err) = (String::from_utf8_lossy(&got.stdout), String::from_utf8_lossy(&got.stderr));
    assert!(got.status.success(), "{err}");
    assert_eq!(out, format!("hello\n{large}\n(nil)\ndemi\n"));
    assert!(err.contains("20 one-sided, 20 by the server"), "{err}");
}

#[test]
fn a_server_that_publishes_nothing_says_how_it_would() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("");
    let got = kv_get(kv.address, "key");
    let error = String::from_utf8_lossy(&got.stderr);
    assert!(!got.status.success() && error.contains("--published SLOTS"), "{error}");

    // And without a device that could: it does not start.
    let refused = example("kv", "posix", "--listen 127.0.0.1:0 --published 16").output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("no RDMA device"), "{error}");
}

#[test]
fn redis_benchmark_finds_no_error_through_a_relay() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("--published 1000");
    let relay = relay(kv.address);
    let port = relay.address.port();
    let redis = |program: &str, args: &str| {
        let args = format!("-h 127.0.0.1 -p {port} {args}");
        let ended = Command::new(program).args(args.split(' ')).output().unwrap();
        let out = String::from_utf8_lossy(&ended.stdout).into_owned();
        let report =
            format!("{program} {args}: {}\n{out}{}", ended.status, String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success() && !report.to_lowercase().contains("err"), "{report}");
        out
    };
    let report = redis("redis-benchmark", "-t set,get,incr,mset -c 20 -P 8 -n 4000 -r 100 -d 64 --csv");
    for test in ["\"SET\"", "\"GET\"", "\"INCR\"", "\"MSET (10 keys)\""] {
        assert!(report.contains(test), "no result of {test}\n{report}");
    }
    let info = redis("redis-cli", "info");
    let commands =
        info.lines().find_map(|line| line.trim().strip_prefix("total_commands_processed:")?.parse().ok());
    assert!(commands.is_some_and(|commands: u64| commands >= 16_000), "{info}");

    // And what came by TCP is there for who reads memory.
    redis("redis-cli", "set by tcp");
    let got = kv_get(kv.address, "by");
    assert_eq!(String::from_utf8_lossy(&got.stdout), "tcp\n");
}

#[test]
fn a_relay_passes_on_ends_and_breaks() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("");
    let (through, nowhere) = (relay(kv.address), relay(SocketAddr::new(kv.address.ip(), 1)));

    // The client's end reaches the server behind its commands, and the server's reaches the client behind its replies.
    let mut client = TcpStream::connect(through.address).unwrap();
    let value = "v".repeat(1 << 20);
    write!(client, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n{value}\r\nSTRLEN key\r\n", value.len()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    assert_eq!(replies, format!("+OK\r\n:{}\r\n", value.len()));

    // QUIT is the server's end first.
    let mut client = TcpStream::connect(through.address).unwrap();
    client.write_all(b"GET nobody\r\nQUIT\r\n").unwrap();
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    assert_eq!(replies, "$-1\r\n+OK\r\n");

    let mut client = TcpStream::connect(nowhere.address).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "nobody is there, and the client is told");
}

#[test]
fn a_server_on_two_cores_is_asked_for_what_the_other_core_has() {
    if !machine_has_rdma() {
        return;
    }
    let kv =
        Server::start("kv", "rdma:rxe1", "--listen 10.77.0.2:7410 --published 1000", &[("CORES", "0-1")]);
    runtime().block_on(async {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = Client::connect(kv.address).await.unwrap();
            client.find_region().await.unwrap();
            clients.push(client);
        }
        for key in 0..40 {
            must(&mut clients[key % 4], &format!("SET key{key} {key}")).await;
        }
        for client in &mut clients {
            let mut by_memory = 0;
            for key in 0..40 {
                let (value, source) = client.get(format!("key{key}").as_bytes()).await.unwrap();
                assert_eq!(value.as_deref(), Some(key.to_string().as_bytes()), "{source:?}");
                by_memory += usize::from(source == Source::Memory);
            }
            assert!((1..40).contains(&by_memory), "{by_memory} of 40 keys were this core's");
        }
    });
}
