//! NewReno's window (RFC 5681 with RFC 3465's byte counting): half at a loss, a segment more each round trip.

use super::{Acked, Algorithm, Cause, MAX_WINDOW_BYTES, Window};

/// What NewReno remembers between acknowledgements.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewReno {
    /// Bytes acknowledged in congestion avoidance that have not made a whole window yet.
    acked_bytes: u32,
}

impl Algorithm for NewReno {
    fn avoid(&mut self, window: &mut Window, ack: &Acked, bytes: u32) {
        // RFC 5681 §3.1, RFC 3465 §2.1: a segment for each window's worth of acknowledged bytes.
        self.acked_bytes = self.acked_bytes.saturating_add(bytes);
        if self.acked_bytes >= window.cwnd {
            self.acked_bytes -= window.cwnd;
            window.cwnd = (window.cwnd + ack.mss).min(MAX_WINDOW_BYTES);
        }
    }

    fn threshold(&mut self, window: &Window, _mss: u32, _cause: Cause) -> u32 {
        // RFC 5681 §3.1, equation 4; of the window, as Linux: what is not used of it is taken back in time.
        self.acked_bytes = 0;
        window.cwnd / 2
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{acked, congestion};
    use super::*;
    use demi_drivers::transport::CongestionControl;

    #[test]
    fn slow_start_doubles_and_avoidance_adds_a_segment_a_round() {
        let mut reno = congestion(CongestionControl::NewReno);
        let mut window = Window { cwnd: 10_000, ssthresh: 20_000 };
        for _ in 0..10 {
            reno.on_ack(&mut window, &acked(1000));
        }
        assert_eq!(window.cwnd, 20_000);
        for _ in 0..20 {
            reno.on_ack(&mut window, &acked(1000));
        }
        assert_eq!(window.cwnd, 21_000);
    }

    #[test]
    fn an_ack_across_the_threshold_counts_in_both() {
        let mut reno = congestion(CongestionControl::NewReno);
        let mut window = Window { cwnd: 19_000, ssthresh: 20_000 };
        reno.on_ack(&mut window, &acked(3000));
        assert_eq!(window.cwnd, 20_000);
        reno.on_ack(&mut window, &acked(18_000));
        assert_eq!(window.cwnd, 21_000, "two thousand had been counted");
    }

    #[test]
    fn a_loss_halves_the_window() {
        let mut reno = NewReno::default();
        let window = Window { cwnd: 30_000, ssthresh: 20_000 };
        assert_eq!(reno.threshold(&window, 1000, Cause::Loss), 15_000);
    }
}
