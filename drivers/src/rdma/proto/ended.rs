//! Why a connection ended: what peers do wrong, what adapters report, and the `io::Error` that either becomes.

use std::fmt;
use std::io;

/// What a peer sent that this protocol forbids. Each one ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A message shorter than its header.
    Short,
    /// A message whose header tells of another length than the one that arrived, or longer than agreed.
    Length,
    /// A kind of message that does not exist.
    Kind,
    /// Flags that do not exist, or that this kind of message cannot have.
    Flags,
    /// A message out of turn.
    Sequence,
    /// More messages than there were credits for.
    CreditOverflow,
    /// More credits than can be counted.
    CreditFlood,
    /// A control message before the last one was answered, or an answer to none.
    Control,
    /// A message that says nothing.
    Empty,
    /// Bytes behind the end of the stream.
    AfterEnd,
    /// More offers open than agreed, or one where none may be made.
    OfferOverflow,
    /// An offer of no bytes, of more than agreed, or beyond the end of the address space.
    OfferLength,
    /// More offers done than are open.
    Done,
}

impl Violation {
    /// All of them, for counters.
    pub const ALL: [Violation; 13] = [
        Violation::Short,
        Violation::Length,
        Violation::Kind,
        Violation::Flags,
        Violation::Sequence,
        Violation::CreditOverflow,
        Violation::CreditFlood,
        Violation::Control,
        Violation::Empty,
        Violation::AfterEnd,
        Violation::OfferOverflow,
        Violation::OfferLength,
        Violation::Done,
    ];
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::Short => "a message shorter than its header",
            Violation::Length => "a message that lies about its length",
            Violation::Kind => "a message of an unknown kind",
            Violation::Flags => "a message with flags it cannot have",
            Violation::Sequence => "a message out of turn",
            Violation::CreditOverflow => "more messages than it had credits for",
            Violation::CreditFlood => "more credits than can be counted",
            Violation::Control => "a control message or an answer out of turn",
            Violation::Empty => "a message that says nothing",
            Violation::AfterEnd => "bytes behind the end of its stream",
            Violation::OfferOverflow => "more offers than agreed",
            Violation::OfferLength => "an offer of an impossible length",
            Violation::Done => "an end of an offer that is not open",
        })
    }
}

/// What an adapter, or rdma_cm, reports of a connection that is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The peer disconnected, or its process is gone (`RDMA_CM_EVENT_DISCONNECTED`).
    Disconnected,
    /// The peer's adapter does not answer (`IBV_WC_RETRY_EXC_ERR`), or kept saying that it has no receive
    /// (`IBV_WC_RNR_RETRY_EXC_ERR`).
    Unanswered,
    /// The peer's adapter refused what was asked of it (`IBV_WC_REM_ACCESS_ERR`, `IBV_WC_REM_INV_REQ_ERR`, `IBV_WC_REM_OP_ERR`): an
    /// offer named memory that it does not give.
    Refused,
    /// The queue pair broke for a reason of this side (`IBV_WC_LOC_*`, `IBV_WC_FATAL_ERR`).
    Broken,
    /// The device is gone (`IBV_EVENT_DEVICE_FATAL`, `RDMA_CM_EVENT_DEVICE_REMOVAL`).
    DeviceGone,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Both ends have sent everything and said so.
    Closed,
    /// The peer left without an end to its stream, or before it had everything of ours.
    Reset,
    /// This side reset it.
    Aborted,
    /// The peer does not answer.
    TimedOut,
    /// The peer broke the protocol.
    Violated(Violation),
    /// The adapter reported a failure of this side.
    Failed(Failure),
}

impl Ended {
    /// The error that an application sees, of the kind that TCP would give; none for an orderly end.
    pub fn error(self) -> Option<io::Error> {
        let (kind, text) = match self {
            Ended::Closed => return None,
            Ended::Reset => (io::ErrorKind::ConnectionReset, "connection reset by peer".to_owned()),
            Ended::Aborted => {
                (io::ErrorKind::ConnectionAborted, "the connection was reset by this side".to_owned())
            }
            Ended::TimedOut => (
                io::ErrorKind::TimedOut,
                "the peer does not answer: its machine or the path is down".to_owned(),
            ),
            Ended::Violated(what) => (
                io::ErrorKind::ConnectionAborted,
                format!("the connection was dropped: the peer sent {what}"),
            ),
            Ended::Failed(Failure::DeviceGone) => {
                (io::ErrorKind::NetworkDown, "the RDMA device is gone".to_owned())
            }
            Ended::Failed(Failure::Refused) => (
                io::ErrorKind::ConnectionReset,
                "the peer's adapter refused a request: its memory is gone, or never was".to_owned(),
            ),
            Ended::Failed(_) => {
                (io::ErrorKind::ConnectionAborted, "the RDMA queue pair broke on this side".to_owned())
            }
        };
        Some(io::Error::new(kind, text))
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        match failure {
            Failure::Disconnected => Ended::Reset,
            Failure::Unanswered => Ended::TimedOut,
            Failure::Refused | Failure::Broken | Failure::DeviceGone => Ended::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_kinds_of_tcp_and_fit_a_line() {
        let all = Violation::ALL.map(Ended::Violated);
        let failures = [Failure::Refused, Failure::Broken, Failure::DeviceGone].map(Ended::Failed);
        for ended in all.iter().chain(&failures).chain(&[Ended::Reset, Ended::Aborted, Ended::TimedOut]) {
            let error = ended.error().expect("no orderly end");
            let text = error.to_string();
            assert!(!text.contains('\n') && text.len() > 10, "{text}");
        }
        assert!(Ended::Closed.error().is_none());
        let kind = |failure| Ended::from(failure).error().map(|error| error.kind());
        assert_eq!(kind(Failure::Disconnected), Some(io::ErrorKind::ConnectionReset));
        assert_eq!(kind(Failure::Unanswered), Some(io::ErrorKind::TimedOut));
    }
}
