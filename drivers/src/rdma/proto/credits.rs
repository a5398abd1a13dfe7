//! Credits of both directions, and the turn to send a control message.
//!
//! Of the credits that this side has granted, each is in one of three places: the peer has it (`granted`), a message that the reader
//! has not consumed has it, or it is owed. Only what is owed can be sent, and `granted` counts what may still arrive, so a
//! peer that sends more is found out by its first message.

use super::ended::Violation;
use super::hello::LEAST_CREDITS;

/// Credits of one connection.
#[derive(Clone, Debug)]
pub(super) struct Credits {
    /// Data messages that this side may send.
    mine: u32,
    /// Data messages that the peer may send.
    granted: u32,
    /// What the peer is to have in all.
    target: u32,
    /// Consumed, and not yet told.
    owed: u32,
    /// To be kept instead of owed, since the target shrank.
    withheld: u32,
    /// This side's last control message has been answered.
    turn: bool,
    /// The peer's last control message waits for its answer.
    unanswered: bool,
}

impl Credits {
    /// `granted` to the peer, `mine` granted by it.
    pub(super) fn new(granted: u16, mine: u16) -> Credits {
        let granted = u32::from(granted.max(LEAST_CREDITS));
        Credits {
            mine: mine.into(),
            granted,
            target: granted,
            owed: 0,
            withheld: 0,
            turn: true,
            unanswered: false,
        }
    }

    /// Whether a data message may be sent.
    #[inline]
    pub(super) fn has(&self) -> bool {
        self.mine > 0
    }

    /// Pays for a data message.
    #[inline]
    pub(super) fn spend(&mut self) {
        debug_assert!(self.mine > 0, "a message without a credit");
        self.mine = self.mine.saturating_sub(1);
    }

    /// A data message arrived, and holds its receive until it is [consumed](Self::consumed).
    #[inline]
    pub(super) fn arrived(&mut self) -> Result<(), Violation> {
        self.granted = self.granted.checked_sub(1).ok_or(Violation::CreditOverflow)?;
        Ok(())
    }

    /// The reader is through with a data message.
    #[inline]
    pub(super) fn consumed(&mut self) {
        if self.withheld > 0 {
            self.withheld -= 1;
        } else {
            self.owed += 1;
        }
    }

    /// A control message arrived.
    pub(super) fn asked(&mut self) -> Result<(), Violation> {
        // One at a time: the last one's answer has not even been sent.
        if self.unanswered {
            return Err(Violation::Control);
        }
        self.unanswered = true;
        Ok(())
    }

    /// What a message's header tells of credits.
    #[inline]
    pub(super) fn told(&mut self, credits: u16, heard: bool) -> Result<(), Violation> {
        if heard {
            if self.turn {
                return Err(Violation::Control);
            }
            self.turn = true;
        }
        let mine = self.mine + u32::from(credits);
        if mine > u32::from(u16::MAX) {
            return Err(Violation::CreditFlood);
        }
        self.mine = mine;
        Ok(())
    }

    /// What the next message's header is to tell: credits, and whether the peer's control message is answered.
    #[inline]
    pub(super) fn tell(&mut self) -> (u16, bool) {
        let credits = self.owed.min(u32::from(u16::MAX)) as u16;
        self.owed -= u32::from(credits);
        self.granted += u32::from(credits);
        (credits, core::mem::take(&mut self.unanswered))
    }

    /// Whether so much is owed that it is worth a message of its own. Half: then a peer that has none left is sure to be told as
    /// soon as everything is consumed, and one that has some is told once for many.
    #[inline]
    pub(super) fn due(&self) -> bool {
        self.owed >= (self.target / 2).max(1)
    }

    /// Whether the peer has none left.
    #[inline]
    pub(super) fn is_exhausted(&self) -> bool {
        self.granted == 0
    }

    /// All that there are: with the peer, with messages that were not consumed, and owed.
    #[inline]
    pub(super) fn held(&self) -> u32 {
        self.target + self.withheld
    }

    /// Whether a control message may be sent.
    #[inline]
    pub(super) fn may_ask(&self) -> bool {
        self.turn
    }

    /// A control message is sent.
    pub(super) fn ask(&mut self) {
        debug_assert!(self.turn, "a control message out of turn");
        self.turn = false;
    }

    /// Whether the peer's control message waits for its answer.
    #[inline]
    pub(super) fn unanswered(&self) -> bool {
        self.unanswered
    }

    /// From now on the peer is to have `credits` in all: more are told to it, fewer are kept as they come back. Whether that is another number.
    pub(super) fn set_target(&mut self, credits: u16) -> bool {
        let target = u32::from(credits.max(LEAST_CREDITS));
        if target >= self.target {
            let more = target - self.target;
            let kept = more.min(self.withheld);
            self.withheld -= kept;
            self.owed += more - kept;
        } else {
            let fewer = self.target - target;
            let kept = fewer.min(self.owed);
            self.owed -= kept;
            self.withheld += fewer - kept;
        }
        core::mem::replace(&mut self.target, target) != target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_is_told_at_once_and_less_waits_for_company() {
        let mut credits = Credits::new(8, 8);
        for count in 0..4 {
            assert!(!credits.due(), "{count}");
            credits.arrived().unwrap();
            credits.consumed();
        }
        assert!(credits.due());
        assert_eq!(credits.tell(), (4, false));
        assert!(!credits.due());
    }

    #[test]
    fn a_message_beyond_the_credits_is_told() {
        let mut credits = Credits::new(2, 2);
        assert_eq!(credits.arrived(), Ok(()));
        assert_eq!(credits.arrived(), Ok(()));
        assert_eq!(credits.arrived(), Err(Violation::CreditOverflow));
        credits.consumed();
        assert_eq!(credits.arrived(), Err(Violation::CreditOverflow), "owed is not granted");
        credits.tell();
        assert_eq!(credits.arrived(), Ok(()));
    }

    #[test]
    fn control_messages_take_turns() {
        let mut credits = Credits::new(4, 4);
        assert_eq!(credits.told(0, true), Err(Violation::Control), "an answer to nothing");
        credits.ask();
        assert!(!credits.may_ask());
        credits.told(0, true).unwrap();
        assert!(credits.may_ask());
        credits.asked().unwrap();
        assert_eq!(credits.asked(), Err(Violation::Control), "a second one before the answer");
        assert_eq!(credits.tell(), (0, true));
        credits.asked().unwrap();
    }

    #[test]
    fn more_credits_than_can_be_counted_are_refused() {
        let mut credits = Credits::new(4, 4);
        credits.told(u16::MAX - 4, false).unwrap();
        assert_eq!(credits.told(1, false), Err(Violation::CreditFlood));
    }

    proptest! {
        #[test]
        fn credits_are_conserved_whatever_the_target_does(
            script in proptest::collection::vec((0..4u8, any::<u8>()), 0..200),
        ) {
            let mut credits = Credits::new(8, 8);
            let mut held = 0;
            for (step, value) in script {
                match step {
                    0 if credits.arrived().is_ok() => held += 1,
                    1 if held > 0 => {
                        held -= 1;
                        credits.consumed();
                    }
                    2 => {
                        credits.tell();
                    }
                    3 => {
                        credits.set_target(value.into());
                    }
                    _ => {}
                }
                prop_assert_eq!(credits.granted + held + credits.owed, credits.held());
            }
        }
    }
}
