//! What a transport counts, under the names that it is listed by.

/// Since the device was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Messages received, and bytes of their payload.
    pub(super) in_messages: u64,
    pub(super) in_octets: u64,
    /// Messages handed to the adapter, and bytes of their payload.
    pub(super) out_messages: u64,
    pub(super) out_octets: u64,
    /// READs of what peers have offered, and their bytes.
    pub(super) reads: u64,
    pub(super) read_octets: u64,
    /// Buffers that were opened to a peer instead of being sent.
    pub(super) offers: u64,
    /// Operations on peers' memory.
    pub(super) one_sided: u64,
    /// Connections that were asked for, that were accepted, and set-ups of either kind that failed.
    pub(super) active_opens: u64,
    pub(super) passive_opens: u64,
    pub(super) attempt_fails: u64,
    /// Requests of strangers, or that there was no room for.
    pub(super) refused: u64,
    /// Connections that ended otherwise than by both ends' closing them.
    pub(super) resets: u64,
    /// Connections that could not send for want of a credit: their peers do not read as fast.
    pub(super) credit_stalls: u64,
    /// Flushes of a connection that found no slot for what it had to send or to read.
    pub(super) mem_stalls: u64,
    /// Flushes of a connection that found all requests of the device with the adapter.
    pub(super) request_stalls: u64,
}

impl Counts {
    /// Each with its name.
    pub(super) fn list(&self) -> impl Iterator<Item = (String, u64)> + use<> {
        [
            ("RdmaInMessages", self.in_messages),
            ("RdmaInOctets", self.in_octets),
            ("RdmaOutMessages", self.out_messages),
            ("RdmaOutOctets", self.out_octets),
            ("RdmaReads", self.reads),
            ("RdmaReadOctets", self.read_octets),
            ("RdmaOffers", self.offers),
            ("RdmaOneSided", self.one_sided),
            ("RdmaActiveOpens", self.active_opens),
            ("RdmaPassiveOpens", self.passive_opens),
            ("RdmaAttemptFails", self.attempt_fails),
            ("RdmaRefused", self.refused),
            ("RdmaResets", self.resets),
            ("RdmaCreditStalls", self.credit_stalls),
            ("RdmaMemStalls", self.mem_stalls),
            ("RdmaRequestStalls", self.request_stalls),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
    }
}
