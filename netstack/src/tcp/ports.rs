//! Which local port a connect without one gets (RFC 6056): a random one whose four-tuple is free.

/// The ports of a range (both ends included), each once, in an order that a random number decides. The same port may serve
/// connections to different peers.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    count: u32,
    at: u32,
    step: u32,
    left: u32,
}

impl Ports {
    /// RFC 6056 §3.3.1: a random start. The step, coprime to the count by being odd against a count made a power of two, makes
    /// neighbours of a taken port no likelier than others.
    pub(crate) fn new(range: (u16, u16), random: u64) -> Ports {
        let (first, last) = (range.0.min(range.1).max(1), range.0.max(range.1).max(1));
        let count = u32::from(last - first) + 1;
        let space = count.next_power_of_two();
        Ports { first, count, at: (random as u32) % space, step: ((random >> 32) as u32) | 1, left: space }
    }
}

impl Iterator for Ports {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        while self.left > 0 {
            self.left -= 1;
            let at = self.at;
            self.at = at.wrapping_add(self.step) & (self.count.next_power_of_two() - 1);
            if at < self.count {
                return Some(self.first + at as u16);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_port_is_drawn_once_and_none_outside() {
        for random in [0, 1, 0xdead_beef_1234_5678, u64::MAX] {
            let drawn: Vec<u16> = Ports::new((32768, 60999), random).collect();
            let set: HashSet<u16> = drawn.iter().copied().collect();
            assert_eq!((drawn.len(), set.len()), (28_232, 28_232));
            assert!(set.iter().all(|port| (32768..=60999).contains(port)));
        }
        assert_eq!(Ports::new((5, 5), 9).collect::<Vec<_>>(), [5]);
        let all = Ports::new((0, 65535), 3).collect::<HashSet<_>>();
        assert!(all.len() == 65535 && !all.contains(&0));
    }

    #[test]
    fn the_start_follows_the_random_number() {
        let drawn: HashSet<_> = (0..100u64)
            .map(|at| Ports::new((1000, 60000), at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next())
            .collect();
        assert!(drawn.len() > 95, "{}", drawn.len());
    }
}
