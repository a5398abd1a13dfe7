//! Everything the layer holds, as `ss` lists it: listeners, connections, half-open ones, TIME-WAIT records.

use core::time::Duration;
use std::net::SocketAddr;

use demi_drivers::Instant;
use demi_drivers::transport::{Protocol, SocketEntry, SocketTimer, TcpState, TimerKind};

use super::Tcp;
use super::output::Flow;

/// A socket of `flow`.
fn of_flow(flow: &Flow, state: TcpState) -> SocketEntry {
    let mut entry = SocketEntry::new(Protocol::Tcp, state, SocketAddr::new(flow.local, flow.local_port));
    entry.remote = Some(SocketAddr::new(flow.remote, flow.remote_port));
    entry
}

impl<P: Default> Tcp<P> {
    /// Every socket there is. Looks at each: not for the datapath.
    pub fn sockets(&self, now: Instant) -> Vec<SocketEntry> {
        let listeners = self.listeners.slots.iter().map(|listener| {
            let mut entry = SocketEntry::new(Protocol::Tcp, TcpState::Listen, listener.local);
            entry.recv_queue = listener.ready.len() as u64;
            entry.send_queue = u64::from(listener.options.backlog);
            entry
        });
        let half_open = (0..self.half_open.slots.positions()).filter_map(|index| {
            let record = self.half_open.slots.at(index)?;
            let mut entry = of_flow(&record.flow, TcpState::SynReceived);
            let at = self.half_open.wheel.due(index)?;
            entry.timer = Some(SocketTimer {
                kind: TimerKind::Retransmit,
                left: left(now, at),
                retries: u32::from(record.timeouts),
            });
            Some(entry)
        });
        let connections = self
            .connections
            .iter()
            .filter(|connection| !matches!(connection.state, TcpState::Closed | TcpState::TimeWait))
            .map(|connection| connection.entry(now, &self.common.config));
        let time_wait = self.time_wait.iter().map(|record| {
            let mut entry = of_flow(&record.flow, TcpState::TimeWait);
            let left = left(now, record.since + self.common.config.time_wait);
            entry.timer = Some(SocketTimer { kind: TimerKind::TimeWait, left, retries: 0 });
            entry
        });
        listeners.chain(connections).chain(half_open).chain(time_wait).collect()
    }
}

/// Time from `now` to `at`.
pub(super) fn left(now: Instant, at: Instant) -> Duration {
    Duration::from_nanos(at.as_nanos().saturating_sub(now.as_nanos()))
}
