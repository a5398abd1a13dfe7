//! Servers and clients that know nothing of RDMA: `echo`, `ping`, `send`, `http`, `relay`.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Server, example, machine_has_rdma, relay};

/// What `ping` says of `count` round trips to `server`.
fn ping(server: &Server, count: u32, args: &str) -> String {
    let args =
        format!("--to {} --count {count} --interval-us 0 --timeout-ms 60000 --quiet {args}", server.address);
    let ended = example("ping", "rdma:rxe0", &args).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{}\n{said}{}", ended.status, String::from_utf8_lossy(&ended.stderr));
    assert!(said.contains(&format!("{count} sent, {count} answered, 0.0 % loss")), "{said}");
    said
}

#[test]
fn echo_answers_over_streams_and_datagrams() {
    if !machine_has_rdma() {
        return;
    }
    let echo = Server::start("echo", "rdma:rxe1", "--listen 10.77.0.2:0", &[]);
    for size in [8, 1500, 60_000] {
        ping(&echo, 30, &format!("--size {size}"));
    }
    for size in [8, 1000] {
        ping(&echo, 30, &format!("--udp --size {size}"));
    }
}

#[test]
fn echo_on_two_cores_answers_as_well() {
    if !machine_has_rdma() {
        return;
    }
    let echo = Server::start("echo", "rdma:rxe1", "--listen 10.77.0.2:7411", &[("CORES", "0-1")]);
    for _ in 0..4 {
        ping(&echo, 20, "--size 3000");
        ping(&echo, 20, "--udp --size 500");
    }
}

#[test]
fn send_is_done_when_the_peer_has_everything() {
    if !machine_has_rdma() {
        return;
    }
    let kv = Server::kv("");
    // A command whose last byte is the last one that is sent: what the server has then, it answers with.
    let value = "v".repeat(3_000_000);
    let file = std::env::temp_dir().join(format!("demi-send-{}", std::process::id()));
    let command = format!("*3\r\n$3\r\nSET\r\n$4\r\nsent\r\n${}\r\n{value}\r\n", value.len());
    std::fs::write(&file, &command).unwrap();
    let args = format!("--to {} {}", kv.address, file.display());
    let ended = example("send", "rdma:rxe0", &args).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && said.contains(&format!("sent {} bytes", command.len())), "{said}");
    let through = relay(kv.address);
    let mut client = TcpStream::connect(through.address).unwrap();
    client.write_all(b"STRLEN sent\r\nQUIT\r\n").unwrap();
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    assert_eq!(replies, ":3000000\r\n+OK\r\n");
}

#[test]
fn http_serves_files_through_a_relay() {
    if !machine_has_rdma() {
        return;
    }
    let http = Server::start("http", "rdma:rxe1", "--listen 10.77.0.2:0 --folder .", &[]);
    let through = relay(http.address);
    let mut client = TcpStream::connect(through.address).unwrap();
    client.write_all(b"GET /Cargo.toml HTTP/1.1\r\nHost: demi\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(include_str!("../../Cargo.toml")), "{answer}");
}
