//! `echo` and the kernel's sockets, each as the other's client: what comes back is what was sent, over TCP and UDP; and TCP through
//! `relay`.

use crate::support::running::example;
use crate::support::{Lab, files, matrix};

/// Bytes that go there and back over one connection: enough that both directions meet a full window.
const BYTES: usize = 16 << 20;

/// The client closes its half once all is sent, and reads on.
fn kernel_client_gets_its_stream_back(lab: &Lab) {
    let _server = lab.serve("echo", 7000, "");
    let sent = files::eighth().start(BYTES);
    let line = format!("-N {} 7000", lab.case.server_ip());
    let reply = lab.client("nc").args(&line).input(sent.clone()).limit_s(120).run();
    assert!(reply.status.is_some_and(|status| status.success()), "nc: {:?} {}", reply.status, reply.stderr);
    assert!(reply.stdout == sent, "{} bytes came back of {BYTES}, or others", reply.stdout.len());
}

matrix!(kernel_client, crate::echo::kernel_client_gets_its_stream_back);

/// From the kernel's client through us to a kernel's server, and back; the client's end passes through, and the server's.
fn relay_passes_streams_on(lab: &Lab) {
    let listen = lab.case.socat("TCP");
    let _server = lab
        .start_foreign("socat", &format!("-d -d -t 60 {listen}-LISTEN:7000,fork,reuseaddr EXEC:cat"))
        .ready_when("listening on");
    let _relay = lab.serve("relay", 7001, &format!("--tcp --to {}", lab.case.foreign(7000)));
    let sent = files::eighth().start(BYTES);
    let line = format!("-N {} 7001", lab.case.server_ip());
    let reply = lab.client("nc").args(&line).input(sent.clone()).limit_s(180).run();
    assert!(reply.status.is_some_and(|status| status.success()), "nc: {:?} {}", reply.status, reply.stderr);
    assert!(reply.stdout == sent, "{} bytes came back of {BYTES}, or others", reply.stdout.len());
}

matrix!(relay, crate::echo::relay_passes_streams_on);

fn kernel_client_gets_its_datagrams_back(lab: &Lab) {
    let _server = lab.serve("echo", 7000, "");
    let target = format!("{}:{}", lab.case.socat("UDP"), lab.case.server(7000));
    // One byte, a packet's worth, and one that IP has no need to fragment.
    for bytes in [1, 512, 1400] {
        let sent = vec![b'd'; bytes];
        let reply = lab.client("socat").args(&format!("-t 2 - {target}")).input(sent.clone()).run();
        assert_eq!(reply.stdout.len(), sent.len(), "{}", reply.stderr);
        assert!(reply.stdout == sent);
    }
}

matrix!(kernel_datagrams, crate::echo::kernel_client_gets_its_datagrams_back, lossless);

fn kernel_server_answers_our_client(lab: &Lab) {
    let listen = lab.case.socat("TCP");
    let _server = lab
        .start_foreign("socat", &format!("-d -d {listen}-LISTEN:7000,fork,reuseaddr EXEC:cat"))
        .ready_when("listening on");
    let count = 500;
    let line =
        format!("--to {} --count {count} --interval-us 0 --timeout-ms 20000 --quiet", lab.case.foreign(7000));
    let report = lab.program(&example("ping")).args(&line).must();
    assert!(report.contains(&format!("{count} sent, {count} answered, 0.0 % loss")), "{report}");
}

matrix!(kernel_server, crate::echo::kernel_server_answers_our_client);
