//! What a host says, as far as it is compared; and the differences that are known and wanted.

use crate::story::{ACK, PSH, RST, SYN, Step, Story};

/// A segment of a host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) flags: u8,
    /// From the host's initial sequence number, if there is one.
    pub(crate) seq: i64,
    /// From the peer's.
    pub(crate) ack: i64,
    pub(crate) len: usize,
    /// The window is open.
    pub(crate) window: bool,
    /// Kinds of the options, in order.
    pub(crate) options: Vec<u8>,
}

/// What a host says, without what is known to differ and told nowhere else.
pub(crate) fn without_known_differences(story: &Story, step: &Step, mut answers: Vec<Answer>) -> Vec<Answer> {
    if story.state == "SYN-SENT" {
        // The kernel answers a SYN that crosses its own with all options of its own; we with those that both know, as RFC 7323 §2.2 asks.
        for answer in &mut answers {
            if answer.flags == SYN | ACK {
                answer.options.clear();
            }
        }
        // After an acknowledgement that cannot be, the kernel sends its SYN again at once; we, when its timer is due.
        if !matches!(step, Step::Connect) {
            answers.retain(|answer| answer.flags != SYN);
        }
    }
    answers
}

/// Why a story may be answered differently, by the first step at which it is; `None` if it may not.
pub(crate) fn known_difference(
    story: &Story,
    ours: &[Vec<Answer>],
    theirs: &[Vec<Answer>],
) -> Option<&'static str> {
    let at = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs)?;
    let (step, ours, theirs) = (&story.steps[at], &ours[at], &theirs[at]);
    let Step::Segment(spoken) = step else { return None };
    let bare = |answers: &[Answer]| answers.len() == 1 && answers[0].flags == ACK && answers[0].len == 0;
    let reset = theirs.iter().any(|answer| answer.flags & RST != 0);
    // In SYN-SENT: both ends have opened at once.
    let half_open = matches!(story.state, "LISTEN" | "SYN-SENT" | "SYN-RECEIVED");
    if half_open && reset && (bare(ours) || ours.is_empty()) {
        // A half-open connection of the kernel's is no socket yet, and has an order of its own: first the acknowledgement, then a SYN, which
        // ends it. Ours keeps to RFC 9293 §3.10.7.4 (first the number) and to RFC 5961 §4 (a SYN is challenged).
        return Some("half-open: resets");
    }
    if half_open && !reset && (ours.is_empty() || bare(theirs)) {
        // Nor does it count its answers; ours are a challenge each. A SYN that comes again has an acknowledgement for its answer.
        return Some("half-open: acknowledgements");
    }
    if half_open && theirs.is_empty() && ours.iter().all(|answer| answer.flags == RST) {
        // RFC 9293 §3.10.7.4, fifth: a RST for what acknowledges something else; the kernel's, here, is silent about it.
        return Some("half-open: silence");
    }
    if spoken.seq == 0 && spoken.len > 0 && spoken.ack < 0 && spoken.flags & !PSH == ACK {
        // The kernel's short path does not ask how old an acknowledgement is (RFC 5961 §5.2); ours does.
        return Some("old acknowledgements on the short path");
    }
    let answered_before =
        story.steps[..at].iter().any(|step| matches!(step, Step::Segment(spoken) if !spoken.counts));
    if theirs.is_empty() && bare(ours) && answered_before {
        // One limit of the kernel's holds for a probe of a silent peer, too. Ours answers probes always: they are asked for by somebody
        // who waits, and a connection that does not answer them is given up.
        if spoken.len == 0 && spoken.seq == -1 {
            return Some("probes are answered");
        }
        // Having answered a probe, the kernel says nothing more for half a second.
        if story.steps[..at]
            .iter()
            .any(|step| matches!(step, Step::Segment(spoken) if spoken.seq == -1 && spoken.len == 0))
        {
            return Some("probes do not count");
        }
    }
    if spoken.len > 0 && spoken.seq + spoken.len as i64 == 0 {
        // Old data that ends where the next is expected is acceptable to the kernel, so that its acknowledgement is looked at first.
        return Some("old data up to the edge");
    }
    None
}
