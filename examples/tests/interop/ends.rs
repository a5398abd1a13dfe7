//! The ways a connection ends: a client that dies, one that resets, and a server that is told to stop.

use std::fs;
use std::time::Duration;

use crate::support::{Lab, Running, eventually, files, matrix};

const SOON: Duration = Duration::from_secs(20);

/// A client that is talked to line by line; `options` are socat's for its socket.
fn client(lab: &Lab, options: &str) -> Running {
    let target = format!("{}:{}", lab.case.socat("TCP"), lab.case.server(7000));
    lab.start_foreign("socat", &format!("-d - {target}{options}"))
}

/// Says something and waits until it comes back.
fn echoes(client: &mut Running, text: &str) {
    client.say(text);
    assert!(client.wait_for(text, SOON).is_some(), "`{text}` did not come back\n{}", client.report());
}

fn a_server_outlives_its_clients(lab: &Lab) {
    let mut server = lab.serve("echo", 7000, "");
    let mut witness = client(lab, "");
    echoes(&mut witness, "before");
    let (before, buffers) = (server.descriptors(), server.held("buffers"));
    assert_eq!(server.held("streams"), Some(1), "{}", server.report());

    let mut dying: Vec<Running> = (0..10).map(|_| client(lab, "")).collect();
    dying.iter_mut().for_each(|client| echoes(client, "alive"));
    dying.iter_mut().for_each(Running::kill);

    // With a linger time of zero, closing sends a RST.
    let mut resetting: Vec<Running> = (0..10).map(|_| client(lab, ",linger=0")).collect();
    resetting.iter_mut().for_each(|client| echoes(client, "alive"));
    resetting.iter_mut().for_each(Running::hang_up);

    let after = || server.descriptors();
    assert!(eventually(|| after() <= before), "{} descriptors are open, {before} before", after());
    for (what, held) in [("streams", Some(1)), ("closing", Some(0)), ("buffers", buffers)] {
        assert!(
            eventually(|| server.held(what).is_some_and(|count| Some(count) <= held)),
            "more than {held:?} {what}\n{}",
            server.report()
        );
    }
    echoes(&mut witness, "after");
    assert!(server.wait(Duration::ZERO).is_none(), "the server ended\n{}", server.report());
}

matrix!(clients_die, crate::ends::a_server_outlives_its_clients);

fn ctrl_c_lets_connections_finish(lab: &Lab) {
    let mut server = lab.serve("echo", 7000, "--grace 60");
    let mut open = client(lab, "");
    echoes(&mut open, "before");
    server.interrupt();
    assert!(server.wait_for("draining 1 connections", SOON).is_some(), "{}", server.report());

    let mut late = client(lab, "");
    assert!(late.wait(SOON).is_some_and(|status| !status.success()), "a new connection was taken");
    echoes(&mut open, "still");
    open.hang_up();
    let status = server.wait(SOON);
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", server.report());
}

matrix!(ctrl_c, crate::ends::ctrl_c_lets_connections_finish);

/// What the client has asked for before ctrl-C arrives whole, and then the server ends.
fn ctrl_c_lets_a_transfer_finish(lab: &Lab) {
    const BYTES: usize = 32 << 20;
    let large = files::eighth();
    let mut server = lab.serve("http", 8080, &format!("--grace 60 --folder {}", large.folder.display()));
    let part = large.folder.join(format!("part-of-{}", server.pid()));
    // Slow enough that much of it is still to be sent when the server is told to stop.
    let line = format!(
        "-v --fail --limit-rate 16M --range 0-{} --output {} http://{}/{}",
        BYTES - 1,
        part.display(),
        lab.case.server(8080),
        large.name
    );
    let mut curl = lab.start_foreign("curl", &line);
    assert!(curl.wait_for("206 Partial Content", SOON).is_some(), "{}", curl.report());
    server.interrupt();
    let (curl_ended, server_ended) = (curl.wait(SOON), server.wait(SOON));
    let received = fs::read(&part).unwrap_or_default();
    let _ = fs::remove_file(&part);
    assert!(curl_ended.is_some_and(|status| status.success()), "{curl_ended:?}\n{}", curl.report());
    assert!(server_ended.is_some_and(|status| status.success()), "{server_ended:?}\n{}", server.report());
    assert!(received == large.start(BYTES), "{} bytes came of {BYTES}, or others", received.len());
}

matrix!(ctrl_c_transfer, crate::ends::ctrl_c_lets_a_transfer_finish, lossless);

fn a_port_that_nobody_listens_on_refuses(lab: &Lab) {
    let _server = lab.serve("echo", 7000, "");
    let line = format!("-v -w 10 -z {} 7999", lab.case.server_ip());
    let ended = lab.client("nc").args(&line).run();
    assert!(ended.report().contains("refused"), "{}", ended.report());
}

matrix!(closed_port, crate::ends::a_port_that_nobody_listens_on_refuses, lossless);
