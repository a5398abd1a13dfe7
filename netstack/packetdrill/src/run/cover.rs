//! Which events of RFC 9293 a script has led to which state: noted while it runs, from what the stack says its state is.

use std::collections::BTreeSet;
use std::fmt;

use demi_drivers::transport::TcpState;

/// A state of RFC 9293 §3.3.2, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// No connection, and nobody listens.
    Closed,
    /// Somebody listens.
    Listen,
    /// SYN sent.
    SynSent,
    /// SYN received and answered.
    SynReceived,
    /// Open.
    Established,
    /// FIN sent, not acknowledged.
    FinWait1,
    /// FIN sent and acknowledged.
    FinWait2,
    /// FIN received.
    CloseWait,
    /// FINs crossed.
    Closing,
    /// FIN sent after one was received.
    LastAck,
    /// Both FINs are through.
    TimeWait,
}

impl State {
    /// All states.
    pub const ALL: [State; 11] = [
        State::Closed,
        State::Listen,
        State::SynSent,
        State::SynReceived,
        State::Established,
        State::FinWait1,
        State::FinWait2,
        State::CloseWait,
        State::Closing,
        State::LastAck,
        State::TimeWait,
    ];
}

impl From<TcpState> for State {
    fn from(state: TcpState) -> State {
        match state {
            TcpState::Closed => State::Closed,
            TcpState::Listen => State::Listen,
            TcpState::SynSent => State::SynSent,
            TcpState::SynReceived => State::SynReceived,
            TcpState::Established => State::Established,
            TcpState::FinWait1 => State::FinWait1,
            TcpState::FinWait2 => State::FinWait2,
            TcpState::CloseWait => State::CloseWait,
            TcpState::Closing => State::Closing,
            TcpState::LastAck => State::LastAck,
            TcpState::TimeWait => State::TimeWait,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Closed => "CLOSED",
            State::Listen => "LISTEN",
            State::SynSent => "SYN-SENT",
            State::SynReceived => "SYN-RECEIVED",
            State::Established => "ESTABLISHED",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
        })
    }
}

/// An event of RFC 9293 §3.10: a call, a segment by what decides its fate, a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stimulus {
    /// Active OPEN.
    Connect,
    /// Passive OPEN.
    Listen,
    /// SEND.
    Send,
    /// RECEIVE.
    Receive,
    /// CLOSE that keeps receiving.
    Shutdown,
    /// CLOSE.
    Close,
    /// ABORT.
    Abort,
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// An acknowledgement within what was sent.
    Ack,
    /// An acknowledgement of what was never sent, or is long past.
    BadAck,
    /// Data or an empty segment within the window.
    Data,
    /// Data that begins behind a gap.
    Gap,
    /// A segment outside of the window.
    OutOfWindow,
    /// FIN within the window.
    Fin,
    /// RST at exactly the number expected.
    Reset,
    /// RST at any other.
    OtherReset,
    /// Neither ACK nor SYN nor RST.
    NoAck,
    /// A timer.
    Timeout,
}

impl Stimulus {
    /// All events.
    pub const ALL: [Stimulus; 19] = [
        Stimulus::Connect,
        Stimulus::Listen,
        Stimulus::Send,
        Stimulus::Receive,
        Stimulus::Shutdown,
        Stimulus::Close,
        Stimulus::Abort,
        Stimulus::Syn,
        Stimulus::SynAck,
        Stimulus::Ack,
        Stimulus::BadAck,
        Stimulus::Data,
        Stimulus::Gap,
        Stimulus::OutOfWindow,
        Stimulus::Fin,
        Stimulus::Reset,
        Stimulus::OtherReset,
        Stimulus::NoAck,
        Stimulus::Timeout,
    ];
}

impl fmt::Display for Stimulus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stimulus::Connect => "connect",
            Stimulus::Listen => "listen",
            Stimulus::Send => "send",
            Stimulus::Receive => "receive",
            Stimulus::Shutdown => "shutdown",
            Stimulus::Close => "close",
            Stimulus::Abort => "abort",
            Stimulus::Syn => "SYN",
            Stimulus::SynAck => "SYN, ACK",
            Stimulus::Ack => "ACK",
            Stimulus::BadAck => "bad ACK",
            Stimulus::Data => "data",
            Stimulus::Gap => "gap",
            Stimulus::OutOfWindow => "out of window",
            Stimulus::Fin => "FIN",
            Stimulus::Reset => "RST",
            Stimulus::OtherReset => "other RST",
            Stimulus::NoAck => "no ACK bit",
            Stimulus::Timeout => "timeout",
        })
    }
}

/// Cells of the table of states and events.
pub type Cells = BTreeSet<(State, Stimulus)>;
