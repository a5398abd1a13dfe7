//! Which local port a connect without one gets (RFC 6056): a random one whose four-tuple is free.

/// Draws ports from `range` (both ends included), from a random one on, until `is_free` takes one; `None` when it takes
/// none. The same port may serve connections to different peers.
pub(crate) fn pick(range: (u16, u16), random: u64, mut is_free: impl FnMut(u16) -> bool) -> Option<u16> {
    let (first, last) = (range.0.min(range.1).max(1), range.0.max(range.1).max(1));
    let count = u32::from(last - first) + 1;
    // RFC 6056 §3.3.1: a random start. The step, coprime to the count by being odd against a count made a power of two, makes
    // neighbours of a taken port no likelier than others.
    let space = count.next_power_of_two();
    let start = (random as u32) % space;
    let step = ((random >> 32) as u32) | 1;
    let mut at = start;
    for _ in 0..space {
        if at < count {
            let port = first + at as u16;
            if is_free(port) {
                return Some(port);
            }
        }
        at = at.wrapping_add(step) % space;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_port_is_tried_once_and_none_outside() {
        for random in [0, 1, 0xdead_beef_1234_5678, u64::MAX] {
            let mut tried = Vec::new();
            assert_eq!(
                pick((32768, 60999), random, |port| {
                    tried.push(port);
                    false
                }),
                None
            );
            let set: HashSet<u16> = tried.iter().copied().collect();
            assert_eq!((tried.len(), set.len()), (28_232, 28_232));
            assert!(set.iter().all(|port| (32768..=60999).contains(port)));
        }
        assert_eq!(pick((5, 5), 9, |_| true), Some(5));
        let mut all = 0;
        assert_eq!(
            pick((0, 65535), 3, |_| {
                all += 1;
                false
            }),
            None
        );
        assert_eq!(all, 65535);
    }

    #[test]
    fn the_start_follows_the_random_number() {
        let picked: HashSet<_> = (0..100u64)
            .map(|at| pick((1000, 60000), at.wrapping_mul(0x9e37_79b9_7f4a_7c15), |_| true))
            .collect();
        assert!(picked.len() > 95, "{}", picked.len());
    }
}
