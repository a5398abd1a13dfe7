//! `kv` and the Redis project's own tools: no error in hundreds of thousands of pipelined requests, and nothing kept of
//! thousands of connections.

use crate::support::{Lab, Running, eventually, matrix};

const PORT: u16 = 6379;

fn benchmark(lab: &Lab, args: &str) -> String {
    let host = lab.case.server_ip();
    let ended =
        lab.client("redis-benchmark").args(&format!("-h {host} -p {PORT} {args} --csv")).limit_s(300).run();
    let report = ended.report();
    assert!(ended.status.is_some_and(|status| status.success()), "{report}");
    assert!(!report.to_lowercase().contains("err"), "{report}");
    report
}

/// The value of `key` in the server's `INFO`.
fn info(lab: &Lab, key: &str) -> Option<u64> {
    let line = format!("-h {} -p {PORT} info", lab.case.server_ip());
    let report = lab.client("redis-cli").args(&line).must();
    let value = report.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'))?;
    value.parse().ok()
}

fn redis_benchmark_finds_no_error(lab: &Lab) {
    let _server = lab.serve("kv", PORT, "");
    let report = benchmark(lab, "-t set,get,incr,mset -c 50 -P 16 -n 200000");
    for test in ["\"SET\"", "\"GET\"", "\"INCR\"", "\"MSET (10 keys)\""] {
        assert!(report.contains(test), "no result of {test}\n{report}");
    }
    let commands = info(lab, "total_commands_processed");
    assert!(commands.is_some_and(|commands| commands >= 800_000), "{commands:?} commands counted");
}

matrix!(redis_benchmark, crate::kv::redis_benchmark_finds_no_error);

/// Connections that are open at once.
const CROWD: u64 = 2000;

fn nothing_is_left_of_a_crowd(lab: &Lab) {
    let mut server: Running = lab.serve("kv", PORT, "");
    // The asking connection itself: whatever a first one makes the server set up is not a leak.
    assert_eq!(info(lab, "connected_clients"), Some(1));
    let (before, buffers) = (server.descriptors(), info(lab, "buffers"));
    benchmark(lab, &format!("-t set -c {CROWD} -n {}", CROWD * 10));
    let received = info(lab, "total_connections_received");
    // The benchmark ends with its last command: where frames are lost, a few handshakes that wait for a retransmission are
    // not through by then.
    let expected = if lab.case.loss_permille == 0 { CROWD } else { CROWD * 95 / 100 };
    assert!(received.is_some_and(|received| received >= expected), "{received:?} connections counted");
    assert!(
        eventually(|| info(lab, "connected_clients") == Some(1)),
        "clients are left\n{}",
        server.report()
    );
    let after = || server.descriptors();
    assert!(eventually(|| after() <= before), "{} descriptors are open, {before} before", after());
    // One connection asks.
    for (what, held) in [("streams", Some(1)), ("closing", Some(0)), ("buffers", buffers)] {
        assert!(
            eventually(|| info(lab, what).is_some_and(|count| Some(count) <= held)),
            "{:?} {what}, not {held:?}",
            info(lab, what)
        );
    }
}

matrix!(crowd, crate::kv::nothing_is_left_of_a_crowd);
