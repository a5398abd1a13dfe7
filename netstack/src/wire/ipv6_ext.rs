//! IPv6 extension headers (RFC 8200 §4): the walk from the fixed header to the upper layer, bounded in headers and in bytes.
//!
//! Options are skipped as their type's top bits say; routing headers are obeyed only when they have nothing left to route.

use super::protocol;

/// Headers walked before the packet is given up: more than any honest sender uses.
const MAX_HEADERS: usize = 8;
/// Bytes of extension headers walked before the packet is given up.
const MAX_BYTES: usize = 512;

/// Where the upper layer's header begins, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// Protocol of the upper layer.
    pub protocol: u8,
    /// Bytes of extension headers before it.
    pub offset: usize,
    /// Where the field that names the protocol lies, from the start of the IPv6 header: what a "parameter problem" points at.
    pub named_at: u32,
    /// The part of a larger packet this is; `None` when it is whole.
    pub fragment: Option<Fragment>,
}

/// What a Fragment header says (RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification of the packet the fragment belongs to.
    pub ident: u32,
    /// Where the fragment goes, in bytes.
    pub offset: u16,
    /// Another fragment follows.
    pub more: bool,
    /// Bytes of extension headers before the Fragment header: they are part of every fragment.
    pub at: usize,
    /// Where the field that names the Fragment header lies, from the start of the IPv6 header.
    pub named_at: u32,
    /// What follows the Fragment header.
    pub next_header: u8,
}

/// Why the upper layer is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The packet is broken, or longer than anyone honest makes it: drop it silently.
    Drop,
    /// Drop it and tell the sender: an ICMPv6 "parameter problem" of this code, pointing at this byte of the packet.
    Problem {
        /// Code of the message (RFC 4443 §3.4).
        code: u8,
        /// Byte of the packet, from the start of the IPv6 header.
        pointer: u32,
        /// Tell so even when the packet went to a multicast group.
        even_multicast: bool,
    },
}

/// Walks from `next_header` through the extension headers at the start of `payload`.
///
/// # Errors
/// [`Stop`], when the packet must not reach its upper layer.
pub fn upper_layer(next_header: u8, payload: &[u8]) -> Result<UpperLayer, Stop> {
    let fixed = super::ipv6::HEADER_LEN as u32;
    let mut at = UpperLayer { protocol: next_header, offset: 0, named_at: 6, fragment: None };
    for header in 0..=MAX_HEADERS {
        let is_extension = matches!(
            at.protocol,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
        );
        if !is_extension {
            return Ok(at);
        }
        // What follows in a fragment other than the first is not a header.
        if at.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return Ok(at);
        }
        // RFC 8200 §4.1: Hop-by-Hop Options come first or not at all.
        if at.protocol == protocol::HOP_BY_HOP && header != 0 {
            return Err(Stop::Problem { code: 1, pointer: at.named_at, even_multicast: false });
        }
        // RFC 7112 §5: all headers are in the first fragment, or the packet is refused.
        let cut_off = match at.fragment {
            Some(_) => Stop::Problem { code: 3, pointer: 0, even_multicast: false },
            None => Stop::Drop,
        };
        let rest = payload.get(at.offset..).ok_or(cut_off)?;
        let fixed_part: &[u8; 8] = rest.first_chunk().ok_or(cut_off)?;
        let here = fixed + at.offset as u32;
        let len = if at.protocol == protocol::FRAGMENT { 8 } else { 8 + usize::from(fixed_part[1]) * 8 };
        if at.offset + len > MAX_BYTES {
            return Err(Stop::Drop);
        }
        let body = rest.get(2..len).ok_or(cut_off)?;
        match at.protocol {
            protocol::FRAGMENT => {
                let [_, _, a, b, c, d, e, f] = *fixed_part;
                let field = u16::from_be_bytes([a, b]);
                let fragment = Fragment {
                    ident: u32::from_be_bytes([c, d, e, f]),
                    offset: field & 0xfff8,
                    more: field & 1 != 0,
                    at: at.offset,
                    named_at: at.named_at,
                    next_header: fixed_part[0],
                };
                // RFC 6946 §4: a "fragment" that is the whole packet is just a packet.
                if fragment.offset != 0 || fragment.more {
                    at.fragment = Some(fragment);
                }
            }
            // RFC 8200 §4.4, RFC 5095 §3: an unknown (or abolished) type is skipped only with no segments left.
            protocol::ROUTING => {
                if fixed_part[3] != 0 {
                    return Err(Stop::Problem { code: 0, pointer: here + 2, even_multicast: false });
                }
            }
            _ => skip_options(body, here + 2)?,
        }
        at.protocol = fixed_part[0];
        at.named_at = here;
        at.offset += len;
    }
    Err(Stop::Drop)
}

/// Goes over the options of one header; `start` is where they lie in the packet.
fn skip_options(mut options: &[u8], start: u32) -> Result<(), Stop> {
    let mut pointer = start;
    while let [kind, rest @ ..] = options {
        // Pad1 is a lone byte, PadN an option like others (RFC 8200 §4.2).
        if *kind == 0 {
            options = rest;
            pointer += 1;
            continue;
        }
        let [len, rest @ ..] = rest else { return Err(Stop::Drop) };
        let after = rest.get(usize::from(*len)..).ok_or(Stop::Drop)?;
        if *kind != 1 {
            // RFC 8200 §4.2: the two top bits say what to do about an option that is not known.
            match kind >> 6 {
                0 => {}
                1 => return Err(Stop::Drop),
                action => return Err(Stop::Problem { code: 2, pointer, even_multicast: action == 2 }),
            }
        }
        pointer += 2 + u32::from(*len);
        options = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_skipped_to_the_upper_layer() {
        let packet = [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 1, 2, 0, 0];
        assert_eq!(
            upper_layer(protocol::HOP_BY_HOP, &packet),
            Ok(UpperLayer { protocol: 17, offset: 16, named_at: 48, fragment: None })
        );
    }

    #[test]
    fn an_unknown_option_does_what_its_top_bits_say() {
        let option = |kind: u8| upper_layer(60, &[17, 0, kind, 4, 0, 0, 0, 0]);
        assert!(option(0x1e).is_ok());
        assert_eq!(option(0x5e), Err(Stop::Drop));
        let problem = |even_multicast| Err(Stop::Problem { code: 2, pointer: 42, even_multicast });
        assert_eq!(option(0x9e), problem(true));
        assert_eq!(option(0xde), problem(false));
        assert_eq!(
            upper_layer(60, &[17, 0, 0x1e, 5, 0, 0, 0, 0]),
            Err(Stop::Drop),
            "an option beyond its header"
        );
    }

    #[test]
    fn routing_headers_with_segments_left_are_refused() {
        let problem = Err(Stop::Problem { code: 0, pointer: 42, even_multicast: false });
        assert_eq!(upper_layer(43, &[17, 0, 0, 1, 0, 0, 0, 0]), problem);
        assert!(upper_layer(43, &[17, 0, 0, 0, 0, 0, 0, 0]).is_ok());
    }

    #[test]
    fn a_whole_packet_in_a_fragment_header_is_no_fragment() {
        assert_eq!(upper_layer(44, &[17, 0, 0, 0, 0, 0, 0, 7]).unwrap().fragment, None);
        let first = upper_layer(44, &[17, 0, 0, 1, 0, 0, 0, 7]).unwrap().fragment.unwrap();
        let expected =
            Fragment { ident: 7, offset: 0, more: true, at: 0, named_at: 6, next_header: protocol::UDP };
        assert_eq!(first, expected);
    }

    #[test]
    fn a_first_fragment_that_lacks_headers_is_refused() {
        let lacking = [60, 0, 0, 1, 0, 0, 0, 7, 17, 1, 1, 4, 0, 0, 0, 0];
        let problem = Stop::Problem { code: 3, pointer: 0, even_multicast: false };
        assert_eq!(upper_layer(protocol::FRAGMENT, &lacking), Err(problem));
        let later = [60, 0, 0, 9, 0, 0, 0, 7, 17, 1, 1, 4, 0, 0, 0, 0];
        assert!(upper_layer(protocol::FRAGMENT, &later).is_ok(), "what it carries is no header");
    }

    #[test]
    fn chains_are_cut_off() {
        let chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(32);
        assert_eq!(upper_layer(60, &chain), Err(Stop::Drop), "too many headers");
        let mut long = vec![0; 8 * 256];
        (long[0], long[1]) = (17, 255);
        assert_eq!(upper_layer(60, &long), Err(Stop::Drop), "too many bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_end_within_themselves(next in prop::sample::select(vec![0u8, 43, 44, 60, 6]), bytes: Vec<u8>) {
            if let Ok(upper) = upper_layer(next, &bytes) {
                prop_assert!(upper.offset <= bytes.len());
            }
        }
    }
}
