//! What a running program says of itself when it is asked by a signal: sockets as `ss -ti` lists them, counters as `nstat` prints them,
//! and the runtime's own metrics, on standard error.
//!
//! Off unless the configuration names the signal (`report_signal`), since listening to one takes it from the program.

use std::fmt::Write;

use crate::config::ReportSignal;
use crate::context;
use crate::metrics::{Metrics, Usage};
use crate::net::{Counters, Sockets};
use crate::runtime::Inner;
use crate::signal::{SignalKind, signal};

/// The kind of signal that is meant; `None`: none.
fn kind(of: ReportSignal) -> Option<SignalKind> {
    match of {
        ReportSignal::Off => None,
        ReportSignal::Usr1 => Some(SignalKind::user_defined1()),
        ReportSignal::Usr2 => Some(SignalKind::user_defined2()),
    }
}

/// Prints a report each time the signal comes, for ever. Does nothing where there is none to listen to.
pub(crate) async fn on_signal(of: ReportSignal) {
    let Some(kind) = kind(of) else { return };
    let mut signals = match signal(kind) {
        Ok(signals) => signals,
        Err(error) => return eprintln!("demi: no reports at a signal (report_signal = {of}): {error}"),
    };
    while signals.recv().await.is_some() {
        eprint!("{}", context::with(|runtime| text(runtime)));
    }
}

/// The report, of transports that are open.
fn text(runtime: &Inner) -> String {
    let mut text = String::new();
    if let Some(set) = runtime.opened_transports() {
        let _ = write!(text, "{}{}", Sockets::of(set), Counters::of(set));
        let _ = writeln!(text, "# held\n{}", Usage::of(runtime));
    }
    let Metrics { turns, idle_turns, parks, parked, tasks_alive, task_polls, timers_alive, .. } =
        Metrics::of(runtime);
    let _ = writeln!(
        text,
        "# runtime\nturns={turns} idle_turns={idle_turns} parks={parks} parked_ms={} tasks={tasks_alive} \
         polls={task_polls} timers={timers_alive}",
        parked.as_millis()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lists_sockets_counters_and_the_runtime() {
        let mut sim = crate::sim::Sim::new(1);
        sim.host("server", "10.0.0.1/24", || async {
            let listener = crate::net::TcpListener::bind("10.0.0.1:7000").await?;
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 5];
            stream.read_exact(&mut request).await?;
            let report = context::with(|runtime| text(runtime));
            for part in [
                "Netid State      Recv-Q Send-Q",
                "tcp   LISTEN     0      1024               10.0.0.1:7000                 0.0.0.0:* ",
                "tcp   ESTAB      0      0                  10.0.0.1:7000            10.0.0.2:",
                " ts sack cubic wscale:",
                " bytes_received:5 ",
                "TcpPassiveOpens                 1",
                "# held\nstreams=1 listeners=1",
                "# runtime\nturns=",
            ] {
                assert!(report.contains(part), "{part:?} is not in\n{report}");
            }
            stream.write_all(b"done!").await
        });
        sim.host("client", "10.0.0.2/24", || async {
            let mut stream = crate::net::TcpStream::connect("10.0.0.1:7000").await?;
            stream.write_all(b"hello").await?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.map(|_| ())
        });
        sim.run().unwrap();
    }
}
