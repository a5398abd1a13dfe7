//! SYN cookies (RFC 4987 §3.6): a sequence number from which the handshake's last acknowledgement brings back what a half-open
//! connection would have remembered.
//!
//! Of the 32 bits of the number eight are the minute and 24 a keyed hash of addresses, ports and that minute, to which the place of
//! the peer's MSS in a short table is added; a second keyed hash hides both, and the peer's own number makes the whole grow as it
//! should. What does not fit (window scale, SACK, ECN) goes into the low six bits of our timestamp, which the peer echoes: without
//! timestamps there are none of these. As Linux, to the bit. Nothing is kept; the listener alone knows whether it has handed
//! cookies out of late.

use demi_drivers::Instant;

use super::isn::Secret;
use super::output::Flow;
use super::seq::SeqNumber;
use crate::wire::tcp::Options;

/// Seconds of a period. A cookie is good in the one it was made in, and in the next.
const PERIOD_SECONDS: u64 = 60;
/// Periods after which a cookie is worth nothing.
const MAX_AGE_PERIODS: u32 = 2;
/// How long after the last cookie acknowledgements are taken for answers to one.
pub(crate) const VALID_NS: u64 = MAX_AGE_PERIODS as u64 * PERIOD_SECONDS * 1_000_000_000;

/// The values of MSS that a cookie can say; each peer gets the largest that is not above its own.
const MSS_V4: [u16; 4] = [536, 1300, 1440, 1460];
const MSS_V6: [u16; 4] = [1280 - 60, 1480 - 60, 1500 - 60, 9000 - 60];

/// Low bits of our timestamp that say what the SYN offered.
const TS_BITS: u32 = 6;
const TS_MASK: u32 = (1 << TS_BITS) - 1;
/// Window scale, or that there is none.
const TS_SCALE: u32 = 0xf;
const TS_SACK: u32 = 1 << 4;
const TS_ECN: u32 = 1 << 5;

fn table(flow: &Flow) -> &'static [u16; 4] {
    if flow.local.is_ipv6() { &MSS_V6 } else { &MSS_V4 }
}

fn period(now: Instant) -> u32 {
    (now.as_nanos() / (PERIOD_SECONDS * 1_000_000_000)) as u32
}

/// The sequence number that answers a SYN with number `irs` and the given MSS.
pub(crate) fn make(secret: &Secret, flow: &Flow, irs: SeqNumber, mss: u16, now: Instant) -> SeqNumber {
    let place = table(flow).iter().rposition(|&listed| listed <= mss).unwrap_or(0) as u32;
    let period = period(now);
    let low = secret.cookie(flow, Some(period)).wrapping_add(place) & 0x00ff_ffff;
    SeqNumber::new(
        secret.cookie(flow, None).wrapping_add(irs.get()).wrapping_add(period << 24).wrapping_add(low),
    )
}

/// The MSS that a cookie says; `None`: it is none of ours, or too old.
pub(crate) fn check(
    secret: &Secret,
    flow: &Flow,
    irs: SeqNumber,
    cookie: SeqNumber,
    now: Instant,
) -> Option<u16> {
    let bare = cookie.get().wrapping_sub(secret.cookie(flow, None)).wrapping_sub(irs.get());
    let period = period(now);
    let age = period.wrapping_sub(bare >> 24) & 0xff;
    if age >= MAX_AGE_PERIODS {
        return None;
    }
    let place = bare.wrapping_sub(secret.cookie(flow, Some(period.wrapping_sub(age)))) & 0x00ff_ffff;
    table(flow).get(place as usize).copied()
}

/// Our clock's timestamp, at or a little before `clock_ms`, whose low bits say what `syn` offers. `ecn`: it is granted.
pub(crate) fn timestamp(clock_ms: u32, syn: &Options, ecn: bool) -> u32 {
    let mut bits = syn.window_scale.map_or(TS_SCALE, u32::from);
    bits |= if syn.sack_permitted { TS_SACK } else { 0 };
    bits |= if ecn { TS_ECN } else { 0 };
    let value = (clock_ms & !TS_MASK) | bits;
    if value > clock_ms { value.wrapping_sub(1 << TS_BITS) } else { value }
}

/// What [`timestamp`] has kept of a SYN: its window scale, SACK, and whether ECN was granted.
pub(crate) fn offered(timestamp: u32) -> (Option<u8>, bool, bool) {
    let scale = Some((timestamp & TS_SCALE) as u8).filter(|&scale| u32::from(scale) != TS_SCALE);
    (scale, timestamp & TS_SACK != 0, timestamp & TS_ECN != 0)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn flow(v6: bool, port: u16) -> Flow {
        let (local, remote): (IpAddr, IpAddr) = match v6 {
            true => ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
            false => ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()),
        };
        Flow { local, remote, local_port: 80, remote_port: port }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_back_for_up_to_two_periods(
            key: [u8; 16], irs: u32, mss: u16, v6: bool, port: u16, at_s in 0u64..1 << 32, age_s in 0u64..300,
        ) {
            let (secret, irs) = (Secret::new(key), SeqNumber::new(irs));
            let flow = flow(v6, port);
            let then = Instant::from_nanos(at_s * 1_000_000_000);
            let now = then + Duration::from_secs(age_s);
            let cookie = make(&secret, &flow, irs, mss, then);
            let periods = (at_s + age_s) / 60 - at_s / 60;
            let found = check(&secret, &flow, irs, cookie, now);
            if periods >= 2 {
                prop_assert_eq!(found, None);
            } else {
                let expected = *table(&flow).iter().rfind(|&&listed| listed <= mss).unwrap_or(&table(&flow)[0]);
                prop_assert_eq!(found, Some(expected));
            }
        }

        #[test]
        fn the_low_bits_of_a_timestamp_keep_what_was_offered(
            clock: u32, scale in proptest::option::of(0u8..15), sack: bool, ecn: bool,
        ) {
            let syn = Options { window_scale: scale, sack_permitted: sack, ..Options::default() };
            let value = timestamp(clock, &syn, ecn);
            prop_assert_eq!(offered(value), (scale, sack, ecn));
            prop_assert!(clock.wrapping_sub(value) < 64, "never ahead of the clock, and not far behind");
        }
    }

    #[test]
    fn a_guess_is_right_once_in_millions() {
        let secret = Secret::new([9; 16]);
        let now = Instant::from_millis(5_000_000);
        let flow = flow(false, 5000);
        let guesses = (0..1u32 << 20).map(|guess| SeqNumber::new(guess.wrapping_mul(0x9e37_79b9)));
        let hits =
            guesses.filter(|&guess| check(&secret, &flow, SeqNumber::new(5), guess, now).is_some()).count();
        // Two periods of 256, four values of 2^24: one in 2^29 on average.
        assert!(hits <= 1, "{hits} hits");
    }

    #[test]
    fn a_cookie_is_worth_nothing_to_anybody_else() {
        let (secret, now) = (Secret::new([9; 16]), Instant::from_millis(5_000_000));
        let irs = SeqNumber::new(77);
        let cookie = make(&secret, &flow(false, 5000), irs, 1460, now);
        assert_eq!(check(&secret, &flow(false, 5000), irs, cookie, now), Some(1460));
        assert_eq!(check(&secret, &flow(false, 5001), irs, cookie, now), None);
        assert_eq!(check(&secret, &flow(false, 5000), irs + 5, cookie, now), None);
        assert_eq!(check(&Secret::new([8; 16]), &flow(false, 5000), irs, cookie, now), None);
    }
}
