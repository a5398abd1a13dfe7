//! What TCP needs from the layers below it: a route, a packet size, and a way out.
//!
//! The stack implements it over its routes, neighbours and transmit queue; TCP's own tests implement it over a list.

use std::net::IpAddr;

use demi_drivers::{Buf, Pool};

use crate::wire::tcp::{OptionBytes, Plain, flags};

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
    pub flags: u8,
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

/// Where a segment with a plain header comes from and goes to, and what its IP header says.
#[derive(Clone, Copy, Debug)]
pub struct PlainOut<'a> {
    /// The two ends.
    pub flow: &'a Flow,
    /// The TCP header.
    pub header: Plain,
    /// Type of service or traffic class, ECN bits included.
    pub tos: u8,
    /// Time To Live or Hop Limit.
    pub ttl: u8,
}

impl PlainOut<'_> {
    /// The segment's options, encoded.
    pub fn options(&self) -> OptionBytes {
        OptionBytes::for_segment(Some(self.header.timestamps), &[])
    }

    /// The segment as [`Output::send`] takes it, `options` being its [`options`](Self::options).
    pub fn to_general<'o>(&self, options: &'o OptionBytes) -> SegmentOut<'o> {
        let header = &self.header;
        SegmentOut {
            seq: header.seq,
            ack: header.ack,
            flags: flags::ACK | if header.push { flags::PSH } else { 0 },
            window: header.window,
            urgent: 0,
            options: options.as_slice(),
            tos: self.tos,
            ttl: self.ttl,
            gso_bytes: 0,
        }
    }
}

/// The way out for segments.
pub trait Output {
    /// What the layers below remember of the way to one peer (link address, header template, route), kept in the connection
    /// so that a segment costs no lookup. Starts as its default; the implementation notices by itself when it is stale.
    type Path: Default;

    /// Segments that can be handed down before [`Refused::Full`]. Stop there; the stack calls again when there is room.
    fn room(&self) -> usize;

    /// Memory for payload that is copied in.
    fn pool(&self) -> &Pool;

    /// Our address to use towards `remote`; `None`: no route.
    fn source_for(&self, remote: IpAddr) -> Option<IpAddr>;

    /// Whether `addr` is one of ours.
    fn is_local(&self, addr: IpAddr) -> bool;

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

    /// As [`send`](Self::send), of what nearly all segments are: one buffer behind a plain header. An implementation can do it
    /// at a stroke.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    fn send_plain(
        &mut self,
        path: &mut Self::Path,
        segment: &PlainOut<'_>,
        payload: &mut Buf,
    ) -> Result<(), Refused> {
        let options = segment.options();
        let general = segment.to_general(&options);
        self.send(segment.flow, path, &general, core::slice::from_mut(payload))
    }
}
