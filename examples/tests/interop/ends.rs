//! The ways a connection ends: a client that dies, one that resets, and a server that is told to stop.

use std::time::Duration;

use crate::support::{Lab, Running, eventually, matrix};

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
    let before = server.descriptors();

    let mut dying: Vec<Running> = (0..10).map(|_| client(lab, "")).collect();
    dying.iter_mut().for_each(|client| echoes(client, "alive"));
    dying.iter_mut().for_each(Running::kill);

    // With a linger time of zero, closing sends a RST.
    let mut resetting: Vec<Running> = (0..10).map(|_| client(lab, ",linger=0")).collect();
    resetting.iter_mut().for_each(|client| echoes(client, "alive"));
    resetting.iter_mut().for_each(Running::hang_up);

    let after = || server.descriptors();
    assert!(eventually(|| after() <= before), "{} descriptors are open, {before} before", after());
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

fn a_port_that_nobody_listens_on_refuses(lab: &Lab) {
    let _server = lab.serve("echo", 7000, "");
    let line = format!("-v -w 10 -z {} 7999", lab.case.server_ip());
    let ended = lab.client("nc").args(&line).run();
    assert!(ended.report().contains("refused"), "{}", ended.report());
}

matrix!(closed_port, crate::ends::a_port_that_nobody_listens_on_refuses, lossless);
