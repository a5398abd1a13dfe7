//! Congestion control in a closed loop: flows through one bottleneck with a queue that drops or marks, packet by packet on virtual
//! time. What is asked is what congestion control is for: whether the link is used, how long its queue is, and who gets how much.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use demi_drivers::Instant;
use demi_drivers::transport::CongestionControl;

use super::super::seq::SeqNumber;
use super::{Acked, Cause, Congestion, Delivered, Repair, Window};

const MSS: u32 = 1000;

/// The bottleneck.
#[derive(Clone, Copy)]
struct Path {
    /// Packets a second.
    rate: u64,
    /// Round trip without a queue.
    rtt_ns: u64,
    /// Packets that the queue holds, and from how many on it marks.
    queue: usize,
    mark_from: usize,
}

/// A packet under way, with what a rate sample has to know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    flow: usize,
    number: u64,
    sent_at: u64,
    delivered: u64,
    delivered_at: u64,
    first_sent_at: u64,
    marked: bool,
}

struct Flow {
    congestion: Congestion,
    window: Window,
    sent: u64,
    /// Packets under way that were not dropped, and those dropped of which the sender has not heard.
    in_flight: u64,
    delivered: u64,
    delivered_at: u64,
    first_sent_at: u64,
    /// The next number expected; below this a gap is a loss that is known already.
    expected: u64,
    reduced_until: u64,
    next_at: u64,
    srtt_ns: u64,
    min_rtt_ns: u64,
    losses: u64,
    /// When something was last sent with nothing under way, or acknowledged.
    heard_at: u64,
}

impl Flow {
    fn new(kind: CongestionControl, hystart: bool) -> Self {
        let congestion = Congestion::new(kind, hystart);
        let window = congestion.initial(10, MSS);
        Flow {
            congestion,
            window,
            sent: 0,
            in_flight: 0,
            delivered: 0,
            delivered_at: 0,
            first_sent_at: 0,
            expected: 0,
            reduced_until: 0,
            next_at: 0,
            srtt_ns: 0,
            min_rtt_ns: u64::MAX,
            losses: 0,
            heard_at: 0,
        }
    }

    /// Everything under way was dropped, and nothing is left to tell of it.
    fn check_timeout(&mut self, now: u64) {
        if self.in_flight > 0 && now >= self.heard_at + 1_000_000_000 {
            self.losses += self.in_flight;
            (self.in_flight, self.expected, self.heard_at) = (0, self.sent, now);
            self.congestion.on_timeout(&mut self.window, 0, MSS, true);
        }
    }

    fn may_send(&self, now: u64) -> bool {
        (self.in_flight + 1) * u64::from(MSS) <= u64::from(self.window.cwnd) && now >= self.next_at
    }

    /// The acknowledgement of `packet` arrives; the path keeps order, so a gap is a loss.
    fn on_ack(&mut self, now: u64, packet: &Packet) {
        let lost = packet.number - self.expected;
        self.expected = packet.number + 1;
        self.losses += lost;
        self.heard_at = now;
        self.in_flight -= lost + 1;
        self.delivered += 1;
        let rtt_ns = now - packet.sent_at;
        self.min_rtt_ns = self.min_rtt_ns.min(rtt_ns);
        self.srtt_ns = if self.srtt_ns == 0 { rtt_ns } else { self.srtt_ns - self.srtt_ns / 8 + rtt_ns / 8 };
        let seq = |number: u64| SeqNumber::new((number * u64::from(MSS)) as u32);
        let (una, nxt) = (seq(self.expected), seq(self.sent));
        self.congestion.on_marked(if packet.marked { MSS } else { 0 }, una, nxt);
        let recovering = packet.number < self.reduced_until;
        let model = self.congestion.is_model();
        if (lost > 0 || packet.marked && !model) && !recovering {
            self.reduced_until = self.sent;
            let cause = if lost > 0 { Cause::Loss } else { Cause::Mark };
            self.congestion.lower_threshold(&mut self.window, MSS, cause);
            if self.congestion.reduces() {
                self.window.cwnd = self.window.ssthresh;
            }
        } else if !recovering {
            let ack = Acked {
                bytes: MSS,
                mss: MSS,
                now: Instant::from_nanos(now),
                srtt_ns: self.srtt_ns,
                rtt_ns: Some(rtt_ns),
                una,
                nxt,
            };
            self.congestion.on_ack(&mut self.window, &ack);
        }
        let send_ns = packet.sent_at - packet.first_sent_at;
        let interval_ns = send_ns.max(now - packet.delivered_at);
        (self.first_sent_at, self.delivered_at) = (packet.sent_at, now);
        let bytes = |packets: u64| packets * u64::from(MSS);
        let delivered = Delivered {
            now: Instant::from_nanos(now),
            mss: MSS,
            total: bytes(self.delivered),
            lost: bytes(lost) as u32,
            rate: (interval_ns >= self.min_rtt_ns).then_some((
                bytes(self.delivered - packet.delivered),
                interval_ns,
                bytes(packet.delivered),
            )),
            app_limited: false,
            rtt_ns: Some(rtt_ns),
            srtt_ns: self.srtt_ns,
            in_flight: bytes(self.in_flight) as u32,
            repair: if recovering { Repair::Recovery } else { Repair::None },
        };
        self.congestion.on_delivered(&mut self.window, &delivered);
    }
}

/// What came of a run, from the time on when it is measured.
struct Outcome {
    /// Packets each flow got delivered.
    delivered: Vec<u64>,
    /// Packets dropped, from the start.
    losses: u64,
    /// Packets that could have been delivered.
    possible: u64,
    /// Mean length of the queue.
    queue: f64,
}

impl Outcome {
    fn used(&self) -> f64 {
        self.delivered.iter().sum::<u64>() as f64 / self.possible as f64
    }

    /// Jain's index: 1 when all get the same.
    fn fairness(&self) -> f64 {
        let (sum, squares) = self
            .delivered
            .iter()
            .fold((0.0, 0.0), |(sum, squares), &got| (sum + got as f64, squares + (got as f64).powi(2)));
        sum * sum / (self.delivered.len() as f64 * squares)
    }
}

/// Runs flows that begin half a second after one another and measures what they get after `settle_s` seconds, for as long again.
fn run(path: Path, kinds: &[CongestionControl], settle_s: u64) -> Outcome {
    run_flows(path, kinds.iter().map(|&kind| Flow::new(kind, true)).collect(), settle_s)
}

fn run_flows(path: Path, mut flows: Vec<Flow>, settle_s: u64) -> Outcome {
    let (mut queue, mut served_at) = (VecDeque::new(), 0u64);
    let mut acks: BinaryHeap<Reverse<(u64, Packet)>> = BinaryHeap::new();
    let service_ns = 1_000_000_000 / path.rate;
    let (from, until) = (settle_s * 1_000_000_000, 2 * settle_s * 1_000_000_000);
    let (mut now, mut before) = (0u64, None);
    let (mut queued, mut services) = (0u64, 0u64);
    while now < until {
        if now >= from && before.is_none() {
            before = Some(flows.iter().map(|flow| flow.delivered).collect::<Vec<_>>());
        }
        // Half of the propagation lies before the bottleneck, which changes nothing: all of it is put behind.
        for (index, flow) in flows.iter_mut().enumerate() {
            if now < index as u64 * 500_000_000 {
                continue;
            }
            flow.check_timeout(now);
            while flow.may_send(now) {
                if flow.in_flight == 0 {
                    (flow.first_sent_at, flow.delivered_at, flow.heard_at) = (now, now, now);
                }
                let mut packet = Packet {
                    flow: index,
                    number: flow.sent,
                    sent_at: now,
                    delivered: flow.delivered,
                    delivered_at: flow.delivered_at,
                    first_sent_at: flow.first_sent_at,
                    marked: false,
                };
                flow.sent += 1;
                flow.in_flight += 1;
                if let Some(rate) = flow.congestion.pacing_rate(&flow.window, flow.srtt_ns) {
                    flow.next_at = flow.next_at.max(now) + u64::from(MSS) * 1_000_000_000 / rate.max(1);
                }
                if queue.len() < path.queue {
                    packet.marked = queue.len() >= path.mark_from;
                    queue.push_back(packet);
                }
            }
        }
        if served_at <= now
            && let Some(packet) = queue.pop_front()
        {
            served_at = served_at.max(now) + service_ns;
            acks.push(Reverse((served_at + path.rtt_ns, packet)));
            if now >= from {
                queued += queue.len() as u64;
                services += 1;
            }
        }
        // To the next event.
        let ack = acks.peek().map(|Reverse((at, _))| *at);
        let service = (!queue.is_empty()).then_some(served_at);
        let paced = flows.iter().map(|flow| flow.next_at).filter(|&at| at > now).min();
        now = [ack, service, paced, Some(now + 100_000_000)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + 1_000_000)
            .max(now + 1);
        while let Some(Reverse((at, packet))) = acks.peek().copied()
            && at <= now
        {
            acks.pop();
            flows[packet.flow].on_ack(now, &packet);
        }
    }
    let before = before.unwrap_or_default();
    Outcome {
        delivered: flows.iter().zip(before).map(|(flow, before)| flow.delivered - before).collect(),
        losses: flows.iter().map(|flow| flow.losses).sum(),
        possible: path.rate * settle_s,
        queue: queued as f64 / services.max(1) as f64,
    }
}

/// 8 Mbit/s and 50 ms, a queue of twice what the path holds.
const DEEP: Path = Path { rate: 1000, rtt_ns: 50_000_000, queue: 100, mark_from: usize::MAX };

#[test]
fn one_flow_uses_the_link_and_several_share_it() {
    for kind in [CongestionControl::Cubic, CongestionControl::NewReno, CongestionControl::Bbr] {
        let alone = run(DEEP, &[kind], 10);
        assert!(alone.used() > 0.93, "{kind:?} alone: {:.3}", alone.used());
        let three = run(DEEP, &[kind; 3], 25);
        assert!(three.used() > 0.95, "{kind:?}: {:.3}", three.used());
        assert!(three.fairness() > 0.85, "{kind:?}: {:.3} of {:?}", three.fairness(), three.delivered);
    }
}

#[test]
fn slow_start_ends_before_a_deep_queue_overflows() {
    let losses = |queue: usize, hystart: bool| {
        let path = Path { rate: 10_000, rtt_ns: 100_000_000, queue, mark_from: usize::MAX };
        let outcome = run_flows(path, vec![Flow::new(CongestionControl::Cubic, hystart)], 3);
        assert!(outcome.used() > 0.9, "{:.3}", outcome.used());
        outcome.losses
    };
    assert_eq!(losses(6500, true), 0);
    assert!(losses(6500, false) > 6500, "a window's worth is lost when nobody listens");
    assert!(losses(4000, true) * 4 < losses(4000, false));
}

#[test]
fn bbr_keeps_the_queue_short_where_cubic_fills_it() {
    let cubic = run(DEEP, &[CongestionControl::Cubic], 10);
    let bbr = run(DEEP, &[CongestionControl::Bbr], 10);
    assert!(bbr.used() > 0.93, "{:.3}", bbr.used());
    assert!(bbr.queue < 0.5 * cubic.queue, "{:.1} packets queued, CUBIC {:.1}", bbr.queue, cubic.queue);
}

#[test]
fn bbr_holds_the_rate_where_random_losses_would_halve_it() {
    // A queue much shorter than the path: each overflow is a loss that says little.
    let shallow = Path { rate: 5000, rtt_ns: 100_000_000, queue: 50, mark_from: usize::MAX };
    let reno = run(shallow, &[CongestionControl::NewReno], 10);
    let bbr = run(shallow, &[CongestionControl::Bbr], 10);
    assert!(bbr.used() > 0.9 && bbr.used() > reno.used(), "{:.3}, NewReno {:.3}", bbr.used(), reno.used());
}

#[test]
fn dctcp_keeps_the_queue_at_the_mark() {
    let path = Path { rate: 100_000, rtt_ns: 500_000, queue: 500, mark_from: 20 };
    let outcome = run(path, &[CongestionControl::Dctcp; 2], 2);
    assert!(outcome.used() > 0.95, "{:.3}", outcome.used());
    assert!((3.0..40.0).contains(&outcome.queue), "{:.1} packets queued", outcome.queue);
    assert_eq!(outcome.losses, 0);
    assert!(outcome.fairness() > 0.9, "{:?}", outcome.delivered);
}
