//! What a host says, as far as it is compared; and the differences that are known and wanted.

use crate::story::{ACK, SYN, Step, Story};

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

/// Why a story may be answered differently; `None` if it may not.
pub(crate) fn known_difference(
    story: &Story,
    ours: &[Vec<Answer>],
    theirs: &[Vec<Answer>],
) -> Option<&'static str> {
    let at = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs)?;
    let (step, ours, theirs) = (&story.steps[at], &ours[at], &theirs[at]);
    let _ = (step, ours, theirs, ACK, Step::Accept);
    None
}
