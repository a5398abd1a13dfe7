//! A conversation as a script sees it: its own numbers for what the stack drew at random.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::script::TcpOption;

/// Both ends' numbers of one TCP conversation, and the bytes that go over it.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Source and destination port of inbound packets as the script writes them.
    pub(crate) script_ports: Option<(u16, u16)>,
    /// The stack opened it.
    pub(crate) active: bool,
    /// The stack's initial sequence number: the script's and the real one.
    local_isn: Option<(u32, u32)>,
    /// The peer's.
    pub(crate) remote_isn: Option<u32>,
    /// The application has closed it, or it is known to have ended before anybody got it.
    pub(crate) given_up: bool,
    /// The handshake's last acknowledgement has been given to the stack.
    pub(crate) handshake_done: bool,
    /// Real timestamps of the stack by the script's.
    timestamps: HashMap<u32, u32>,
    /// The first pair, and when it was sent, in microseconds.
    first_timestamp: Option<(u32, u32, i64)>,
    /// What the application has written.
    pub(crate) written: Vec<u8>,
    /// Bytes the application has read; `None`: no longer counted.
    pub(crate) read: Option<usize>,
    /// What the stack said last: its acknowledgement, and the edge of its window.
    pub(crate) acked: Option<u32>,
    pub(crate) window_end: Option<u32>,
    /// Shift of the stack's windows, as its SYN told it.
    pub(crate) local_scale: u8,
    /// End of what the stack has sent, in the script's numbers.
    pub(crate) sent_end: Option<u32>,
}

/// The byte at `offset` of every stream whose contents a script leaves open.
pub(crate) fn pattern(offset: usize) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8).wrapping_mul(113)).wrapping_add(7) as u8
}

/// `len` bytes of the pattern from `offset` on.
pub(crate) fn pattern_bytes(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(pattern).collect()
}

impl Flow {
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr, active: bool) -> Flow {
        Flow {
            local,
            remote,
            script_ports: None,
            active,
            local_isn: None,
            remote_isn: None,
            given_up: false,
            handshake_done: false,
            timestamps: HashMap::new(),
            first_timestamp: None,
            written: Vec::new(),
            read: Some(0),
            acked: None,
            window_end: None,
            local_scale: 0,
            sent_end: None,
        }
    }

    /// The stack has sent a SYN.
    pub(crate) fn learn_local_isn(&mut self, script: u32, live: u32) {
        self.local_isn = Some((script, live));
    }

    /// The script's number for one of the stack's.
    pub(crate) fn to_script(&self, live: u32) -> u32 {
        self.local_isn.map_or(live, |(script, isn)| live.wrapping_sub(isn).wrapping_add(script))
    }

    /// The stack's number for one of the script's.
    pub(crate) fn to_live(&self, script: u32) -> u32 {
        self.local_isn.map_or(script, |(isn, live)| script.wrapping_sub(isn).wrapping_add(live))
    }

    /// Where in the stack's stream a sequence number of its lies.
    pub(crate) fn written_offset(&self, live_seq: u32) -> Option<usize> {
        self.local_isn.map(|(_, isn)| live_seq.wrapping_sub(isn.wrapping_add(1)) as usize)
    }

    /// Where in the peer's stream a sequence number lies.
    pub(crate) fn peer_offset(&self, seq: u32) -> usize {
        seq.wrapping_sub(self.remote_isn.unwrap_or(0).wrapping_add(1)) as usize
    }

    /// Makes the options of an inbound segment fit what the stack has sent.
    pub(crate) fn inbound_options(&self, options: &[TcpOption]) -> Vec<TcpOption> {
        let fit = |option: &TcpOption| match option {
            TcpOption::Sack(blocks) => TcpOption::Sack(
                blocks.iter().map(|(start, end)| (self.to_live(*start), self.to_live(*end))).collect(),
            ),
            TcpOption::Timestamps { value, echo } => {
                TcpOption::Timestamps { value: *value, echo: self.live_timestamp(*echo) }
            }
            other => other.clone(),
        };
        options.iter().map(fit).collect()
    }

    fn live_timestamp(&self, script: u32) -> u32 {
        match (self.timestamps.get(&script), self.first_timestamp) {
            (Some(live), _) => *live,
            // No echo.
            (None, _) if script == 0 => 0,
            (None, Some((first_script, first_live, _))) => {
                first_live.wrapping_add(script.wrapping_sub(first_script))
            }
            (None, None) => script,
        }
    }

    /// Takes note of a timestamp that the stack sent where the script expects `script`. With a clock tick, the two must have
    /// gone on equally since the first.
    pub(crate) fn learn_timestamp(
        &mut self,
        script: u32,
        live: u32,
        at_us: i64,
        tick_us: i64,
        tolerance_us: i64,
    ) -> Result<(), String> {
        self.timestamps.insert(script, live);
        let (first_script, first_live, _) = *self.first_timestamp.get_or_insert((script, live, at_us));
        let expected = i64::from(script.wrapping_sub(first_script) as i32);
        let actual = i64::from(live.wrapping_sub(first_live) as i32);
        if tick_us > 0 && (expected - actual).abs() * tick_us > tolerance_us {
            let shown = first_script.wrapping_add(actual as u32);
            return Err(format!("TS val {shown} is not {script}"));
        }
        Ok(())
    }

    /// A timestamp of the stack's in the script's numbers, as far as they are known.
    pub(crate) fn script_timestamp(&self, live: u32) -> u32 {
        match self.first_timestamp {
            Some((script, first, _)) => live.wrapping_sub(first).wrapping_add(script),
            None => live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways_across_the_wrap() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let mut flow = Flow::new(address, address, false);
        assert_eq!(flow.to_script(7), 7, "nothing is known yet");
        flow.learn_local_isn(0, u32::MAX - 1);
        assert_eq!((flow.to_script(1), flow.to_live(3)), (3, 1));
        assert_eq!(flow.written_offset(u32::MAX), Some(0));
        flow.learn_timestamp(100, 5000, 0, 1000, 4000).unwrap();
        flow.learn_timestamp(200, 5102, 0, 1000, 4000).unwrap();
        assert_eq!(flow.learn_timestamp(300, 5210, 0, 1000, 4000), Err("TS val 310 is not 300".to_owned()));
        let options = flow
            .inbound_options(&[TcpOption::Timestamps { value: 1, echo: 200 }, TcpOption::Sack(vec![(3, 4)])]);
        assert_eq!(options, [TcpOption::Timestamps { value: 1, echo: 5102 }, TcpOption::Sack(vec![(1, 2)])]);
    }
}
