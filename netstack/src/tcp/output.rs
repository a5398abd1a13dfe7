//! What TCP needs from the layers below it: a route, a packet size, and a way out.
//!
//! The stack implements it over its routes, neighbours and transmit queue; TCP's own tests implement it over a list.

use std::net::IpAddr;

use demi_drivers::{Buf, Pool};

use crate::wire::tcp::Plain;

/// The two ends of a connection, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Our address.
    pub local: IpAddr,
    /// The peer's address; of the same version as `local`.
    pub remote: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
}

/// A segment to be sent, its payload apart. Numbers are in host order.
#[derive(Clone, Copy, Debug)]
pub struct SegmentOut<'a> {
    /// Sequence number of the first payload byte, or of the SYN or FIN.
    pub seq: u32,
    /// Acknowledgement number; sent as 0 when `flags` lacks ACK.
    pub ack: u32,
    /// Flag bits of the header's 14th byte: `FIN SYN RST PSH ACK URG ECE CWR` from bit 0.
    pub flags: u16,
    /// Window field, already scaled.
    pub window: u16,
    /// Urgent pointer; 0 without URG.
    pub urgent: u16,
    /// Encoded options, padded to a multiple of four, at most 40 bytes.
    pub options: &'a [u8],
    /// Type of service or traffic class, ECN bits included.
    pub tos: u8,
    /// Time To Live or Hop Limit.
    pub ttl: u8,
    /// Payload bytes a segment on the wire, when the payload is more than one and the device cuts it; else 0.
    pub gso_bytes: u16,
}

/// Why a segment could not be handed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The transmit queue is full, or no header slot is free: try again at the next turn.
    Full,
    /// There is no route to the peer, or its link address stayed unresolved.
    Unreachable,
}

/// A segment with a plain header.
#[derive(Clone, Copy, Debug)]
pub struct PlainOut {
    /// The TCP header.
    pub header: Plain,
    /// Type of service or traffic class, ECN bits included.
    pub tos: u8,
    /// Time To Live or Hop Limit.
    pub ttl: u8,
}

/// The way out for segments.
pub trait Output {
    /// What the layers below remember of the way to one peer (link address, header template, route), kept in the connection
    /// so that a segment costs no lookup. Starts as its default; the implementation notices by itself when it is stale.
    type Path: Default;

    /// Segments that can be handed down before [`Refused::Full`]. Stop there; the stack calls again when there is room.
    fn room(&self) -> usize;

    /// Whether what was handed down in an earlier turn still waits here, because the device had no room: what has not gone out is
    /// not lost.
    fn is_backlogged(&self) -> bool {
        false
    }

    /// Memory for payload that is copied in.
    fn pool(&self) -> &Pool;

    /// Our address to use towards `remote`; `None`: no route.
    fn source_for(&self, remote: IpAddr) -> Option<IpAddr>;

    /// Whether `addr` is one of ours.
    fn is_local(&self, addr: IpAddr) -> bool;

    /// Whether what the peer of `flow` sends arrives at this stack: with several queues, each of which another stack has, that
    /// depends on the ports.
    fn arrives_here(&self, flow: &Flow) -> bool {
        let _ = flow;
        true
    }

    /// Largest IP packet, in bytes, on the way to `remote`.
    fn mtu(&self, remote: IpAddr) -> u16;

    /// Largest payload, in bytes, that may be handed down at once with `gso_bytes` set; 0: never more than one segment.
    fn tso_max_bytes(&self) -> u32;

    /// Sends one segment whose payload is the bytes of `payload`, in order (empty: none). The parts stay the caller's: a view
    /// of each goes out, and a part that is alone and unique gets its headers written in front, in place.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent then.
    fn send(
        &mut self,
        flow: &Flow,
        path: &mut Self::Path,
        segment: &SegmentOut<'_>,
        payload: &mut [Buf],
    ) -> Result<(), Refused>;

    /// As [`send`](Self::send), at a stroke, of what nearly all segments are: one buffer behind a plain header. `false`: this cannot
    /// be done so, nothing has been done, and [`send`](Self::send) decides.
    fn send_plain(&mut self, path: &mut Self::Path, segment: &PlainOut, payload: &mut Buf) -> bool {
        let _ = (path, segment, payload);
        false
    }

    /// As [`send_plain`](Self::send_plain), of what nearly all segments of a long transfer are: a part of a buffer, which stays
    /// where it is behind a plain header elsewhere. Gives `payload` back when this cannot be done.
    ///
    /// # Errors
    /// `payload`; nothing has been done.
    fn send_plain_apart(
        &mut self,
        path: &mut Self::Path,
        segment: &PlainOut,
        payload: Buf,
    ) -> Result<(), Buf> {
        let _ = (path, segment);
        Err(payload)
    }
}
