//! Frames of a burst that are looked at before their turn comes: of many connections hardly any lies in a cache, and what one
//! segment waits for is fetched while those before it are dealt with.
//!
//! In two steps, since the second depends on the first: the place in the flow table, then the connection. Nothing is decided here,
//! and nothing remembered.

use demi_drivers::RxFrame;

use super::expected::{V4_BYTES, V6_BYTES, matches, octet, raw, word};
use crate::stack::Stack;
use crate::tcp::{FlowTable, FlowV4};
use crate::wire::protocol;

/// How many frames ahead the flow table is asked for, and how many the connection.
const FLOW_AHEAD: usize = 8;
const CONNECTION_AHEAD: usize = 4;
/// Bytes of both ports.
const PORTS_BYTES: usize = 4;

impl Stack {
    /// Looks at the frames that the first look [`ahead`](Self::look_ahead) does not reach. The next frame is the last of `rx`.
    #[inline(never)]
    pub(crate) fn look_ahead_at_first(&mut self) {
        for ahead in 1..=FLOW_AHEAD {
            self.fetch_flow(ahead);
        }
        for ahead in 1..=CONNECTION_AHEAD {
            self.fetch_connection(ahead);
        }
    }

    /// Looks ahead from the frame that has just been taken.
    #[inline(never)]
    pub(crate) fn look_ahead(&mut self) {
        self.fetch_flow(FLOW_AHEAD);
        self.fetch_connection(CONNECTION_AHEAD);
    }

    #[inline]
    fn fetch_flow(&self, ahead: usize) {
        if let Some(hash) = self.hash_ahead(ahead) {
            self.tcp.flows().prefetch(hash);
        }
    }

    #[inline]
    fn fetch_connection(&self, ahead: usize) {
        if let Some(hash) = self.hash_ahead(ahead) {
            self.tcp.prefetch_connection(hash);
        }
    }

    #[inline]
    fn hash_ahead(&self, ahead: usize) -> Option<u32> {
        let frame: &RxFrame = self.rx.get(self.rx.len().checked_sub(ahead)?)?;
        hash_of(self.tcp.flows(), &frame.buf)
    }
}

/// The hash of a frame's flow, if it is a plain TCP segment.
#[inline]
fn hash_of(flows: &FlowTable, frame: &[u8]) -> Option<u32> {
    if let Some(bytes) = frame.first_chunk::<{ V4_BYTES + PORTS_BYTES }>()
        && matches(raw(bytes, 12), [0xff, 0xff, 0xff, 0, 0, 0, 0, 0], [8, 0, 0x45, 0, 0, 0, 0, 0])
    {
        let is_tcp = bytes[23] == protocol::TCP;
        return is_tcp.then(|| flows.hash_v4(FlowV4::new(octet(bytes, 26), word(bytes, 34))));
    }
    let bytes = frame.first_chunk::<{ V6_BYTES + PORTS_BYTES }>()?;
    if !matches(raw(bytes, 12), [0xff, 0xff, 0xf0, 0, 0, 0, 0, 0], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 0])
        || bytes[20] != protocol::TCP
    {
        return None;
    }
    let address = |at: usize| u128::from(octet(bytes, at)) << 64 | u128::from(octet(bytes, at + 8));
    Some(flows.hash_v6(address(22), address(38), word(bytes, 54)))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::tcp::output::Flow;

    /// A segment of `flow` as its peer sends it.
    fn segment(flow: &Flow) -> Vec<u8> {
        let mut frame = vec![2; 12];
        match (flow.remote, flow.local) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
                frame.extend([from.octets(), to.octets()].as_flattened());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol::TCP, 64]);
                frame.extend([from.octets(), to.octets()].as_flattened());
            }
            _ => unreachable!("one version"),
        }
        frame.extend(flow.remote_port.to_be_bytes());
        frame.extend(flow.local_port.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn a_segment_ahead_is_looked_for_where_it_will_be_found() {
        let flows = FlowTable::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
        for [local, remote] in [["10.0.0.2", "10.1.2.3"], ["fd00::2", "fd00::1:3"]] {
            let [local, remote] = [local, remote].map(|address| address.parse().unwrap());
            let flow = Flow { local, remote, local_port: 80, remote_port: 40_000 };
            let frame = segment(&flow);
            assert_eq!(hash_of(&flows, &frame), Some(flows.hash(&flow)));
            let mut datagram = frame.clone();
            datagram[if local.is_ipv4() { 23 } else { 20 }] = protocol::UDP;
            assert_eq!(hash_of(&flows, &datagram), None);
            let mut other = frame.clone();
            other[13] ^= 6;
            assert_eq!(hash_of(&flows, &other), None);
            let ports_end = if local.is_ipv4() { 38 } else { 58 };
            assert!((0..ports_end).all(|end| hash_of(&flows, &frame[..end]).is_none()));
        }
    }
}
