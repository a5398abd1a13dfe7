//! TCP options: read from hostile bytes, and written in Linux's layout.
//!
//! What they say, not what it means for a connection. Unknown ones are skipped; what is written always fits, and ends at a whole word.

use super::{MAX_OPTION_BYTES, MAX_SACK_BLOCKS, MAX_WINDOW_SCALE};

/// Option kinds (IANA's registry).
pub(super) mod kind {
    pub(in crate::wire::tcp) const END: u8 = 0;
    pub(in crate::wire::tcp) const NOP: u8 = 1;
    pub(in crate::wire::tcp) const MSS: u8 = 2;
    pub(in crate::wire::tcp) const WINDOW_SCALE: u8 = 3;
    pub(in crate::wire::tcp) const SACK_PERMITTED: u8 = 4;
    pub(in crate::wire::tcp) const SACK: u8 = 5;
    pub(in crate::wire::tcp) const TIMESTAMPS: u8 = 8;
    pub(in crate::wire::tcp) const FAST_OPEN: u8 = 34;
    /// Accurate ECN, the count of ECT(0) first or that of ECT(1).
    pub(in crate::wire::tcp) const ACCURATE_ECN_0: u8 = 172;
    pub(in crate::wire::tcp) const ACCURATE_ECN_1: u8 = 174;
    /// Shared by experiments, each with a number of its own (RFC 6994).
    pub(in crate::wire::tcp) const EXPERIMENT: u8 = 254;
}

/// The number of Fast Open among experiments, from before it had an option of its own.
const FAST_OPEN_EXPERIMENT: [u8; 2] = [0xf9, 0x89];
/// Bytes of the shortest and the longest Fast Open cookie (RFC 7413 §4.1.1).
const COOKIE_BYTES: core::ops::RangeInclusive<usize> = 4..=16;

/// A Fast Open option (RFC 7413 §4.1.1): a cookie, or the request for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastOpen {
    cookie: [u8; 16],
    /// Bytes of the cookie; 0: one is asked for.
    len: u8,
    /// It comes, or goes, as an experiment's option (254).
    pub experimental: bool,
}

impl FastOpen {
    /// Asks for a cookie.
    pub const REQUEST: FastOpen = FastOpen { cookie: [0; 16], len: 0, experimental: false };

    /// The option that carries `cookie`, or, if that is empty, asks for one. `None`: no cookie is of that length.
    pub fn new(cookie: &[u8]) -> Option<FastOpen> {
        let fits = cookie.len().is_multiple_of(2) && COOKIE_BYTES.contains(&cookie.len());
        let mut option = FastOpen { len: cookie.len() as u8, ..FastOpen::REQUEST };
        if !cookie.is_empty() {
            option.cookie.get_mut(..cookie.len()).filter(|_| fits)?.copy_from_slice(cookie);
        }
        Some(option)
    }

    /// This option, as an experiment's or as itself.
    #[must_use]
    pub fn as_experiment(self, experimental: bool) -> FastOpen {
        FastOpen { experimental, ..self }
    }

    /// The cookie; empty: one is asked for.
    pub fn cookie(&self) -> &[u8] {
        self.cookie.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Counts that an Accurate ECN option has room for.
const ECN_COUNTS: usize = 3;

/// An Accurate ECN option (RFC 9768 §3.2.3): payload bytes that its sender has received, by the ECN code point of their packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnCounts {
    counts: [u32; ECN_COUNTS],
    /// How many there are.
    len: u8,
    /// ECT(1) comes first, not ECT(0).
    ect1_first: bool,
}

impl EcnCounts {
    /// The option that we send, of which the front part goes out if there is no room: ECT(1), CE, ECT(0), as Linux.
    pub fn new(ect1: u32, ce: u32, ect0: u32) -> EcnCounts {
        EcnCounts { counts: [ect1, ce, ect0], len: ECN_COUNTS as u8, ect1_first: true }
    }

    /// Reads what follows the option's kind and length. Whatever is no whole count is left out.
    fn parse(body: &[u8], ect1_first: bool) -> EcnCounts {
        let mut option = EcnCounts { ect1_first, ..EcnCounts::default() };
        let (counts, _) = body.as_chunks::<3>();
        for (place, &[a, b, c]) in option.counts.iter_mut().zip(counts) {
            *place = u32::from_be_bytes([0, a, b, c]);
            option.len += 1;
        }
        option
    }

    /// Each count with the code point it is of (1: ECT(1), 2: ECT(0), 3: CE), modulo 2^24, in the order they come in.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u32)> {
        let order = if self.ect1_first { [1, 3, 2] } else { [2, 3, 1] };
        order.into_iter().zip(self.counts).take(usize::from(self.len))
    }

    /// Bytes of the option with its first `counts` counts.
    const fn bytes(counts: usize) -> usize {
        2 + 3 * counts
    }
}

/// A timestamps option (RFC 7323 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The clock value it echoes.
    pub echo: u32,
}

/// A block of bytes that a receiver holds: from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlock {
    /// First sequence number held.
    pub start: u32,
    /// The one after the last.
    pub end: u32,
}

/// The SACK blocks of one header, at most four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [SackBlock; MAX_SACK_BLOCKS],
    len: u8,
}

impl SackBlocks {
    /// Adds a block; a fifth is dropped.
    #[inline]
    pub fn push(&mut self, block: SackBlock) {
        if let Some(place) = self.blocks.get_mut(usize::from(self.len)) {
            *place = block;
            self.len += 1;
        }
    }

    /// The blocks, in order.
    #[inline]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a segment's options say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Largest segment the sender takes, on SYNs.
    pub mss: Option<u16>,
    /// Shift of the sender's windows, on SYNs; at most 14.
    pub window_scale: Option<u8>,
    /// The sender understands SACK, on SYNs.
    pub sack_permitted: bool,
    /// The timestamps option.
    pub timestamps: Option<Timestamps>,
    /// What the sender holds out of order.
    pub sack: SackBlocks,
    /// The Fast Open option, on SYNs.
    pub fast_open: Option<FastOpen>,
    /// The Accurate ECN option.
    pub ecn_counts: Option<EcnCounts>,
}

impl Options {
    /// Reads options. Unknown ones are skipped by their length (RFC 9293 §3.2, MUST-6); reading stops at one whose length is
    /// impossible, and known ones of a wrong length are skipped, as Linux does. Of several of a kind the last counts.
    pub fn parse(bytes: &[u8]) -> Options {
        let mut options = Options { timestamps: Options::timestamps_only(bytes), ..Options::default() };
        if options.timestamps.is_some() || options.take_usual_syn(bytes) {
            return options;
        }
        Options::parse_any(bytes)
    }

    /// As [`parse`](Self::parse), one option after the other.
    fn parse_any(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        while let [kind, rest @ ..] = bytes {
            match *kind {
                kind::END => break,
                kind::NOP => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = rest.first() else { break };
            // The length covers the kind and itself: 0 and 1 would never end.
            let len = usize::from(len);
            if len < 2 || len > bytes.len() {
                break;
            }
            let (option, rest) = bytes.split_at(len);
            options.take(*kind, &option[2..]);
            bytes = rest;
        }
        options
    }

    /// Takes the options of a SYN in the layout that most of them have, ours among them. `false`: it is another.
    fn take_usual_syn(&mut self, bytes: &[u8]) -> bool {
        let Ok(
            &[
                kind0,
                len0,
                high,
                low,
                kind1,
                len1,
                kind2,
                len2,
                a,
                b,
                c,
                d,
                e,
                f,
                g,
                h,
                nop,
                kind3,
                len3,
                shift,
            ],
        ) = <&[u8; 20]>::try_from(bytes)
        else {
            return false;
        };
        let usual = [kind0, len0, kind1, len1, kind2, len2, nop, kind3]
            == [kind::MSS, 4, kind::SACK_PERMITTED, 2, kind::TIMESTAMPS, 10, kind::NOP, kind::WINDOW_SCALE]
            && len3 == 3;
        if usual {
            self.mss = Some(u16::from_be_bytes([high, low]));
            self.sack_permitted = true;
            let (value, echo) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            self.timestamps = Some(Timestamps { value, echo });
            self.window_scale = Some(shift.min(MAX_WINDOW_SCALE));
        }
        usual
    }

    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (kind::MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (kind::WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(MAX_WINDOW_SCALE)),
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::TIMESTAMPS, body) => {
                let Some((value, echo)) = body.split_first_chunk::<4>() else { return };
                let Ok(echo) = <[u8; 4]>::try_from(echo) else { return };
                self.timestamps =
                    Some(Timestamps { value: u32::from_be_bytes(*value), echo: u32::from_be_bytes(echo) });
            }
            (kind::SACK, body) => {
                let (blocks, rest) = body.as_chunks::<8>();
                if !rest.is_empty() {
                    return;
                }
                self.sack = SackBlocks::default();
                for &[a, b, c, d, e, f, g, h] in blocks {
                    let start = u32::from_be_bytes([a, b, c, d]);
                    self.sack.push(SackBlock { start, end: u32::from_be_bytes([e, f, g, h]) });
                }
            }
            (kind::ACCURATE_ECN_0, body) => self.ecn_counts = Some(EcnCounts::parse(body, false)),
            (kind::ACCURATE_ECN_1, body) => self.ecn_counts = Some(EcnCounts::parse(body, true)),
            (kind::FAST_OPEN, cookie) => self.fast_open = FastOpen::new(cookie),
            (kind::EXPERIMENT, body) => {
                if let Some(cookie) = body.strip_prefix(&FAST_OPEN_EXPERIMENT) {
                    let option = FastOpen::new(cookie);
                    self.fast_open = option.map(|option| FastOpen { experimental: true, ..option });
                }
            }
            _ => {}
        }
    }

    /// Reads options that are nothing but timestamps in the usual layout (`nop nop TS`, RFC 7323 appendix A): what all but a
    /// few segments carry. `None` says nothing: use [`parse`](Self::parse).
    #[inline]
    pub fn timestamps_only(bytes: &[u8]) -> Option<Timestamps> {
        let bytes: &[u8; 12] = bytes.try_into().ok()?;
        let &[kind0, kind1, kind2, len, a, b, c, d, e, f, g, h] = bytes;
        if [kind0, kind1, kind2, len] != [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10] {
            return None;
        }
        Some(Timestamps { value: u32::from_be_bytes([a, b, c, d]), echo: u32::from_be_bytes([e, f, g, h]) })
    }
}

/// Options as they go on the wire, padded to a multiple of four.
#[derive(Clone, Copy, Debug)]
pub struct OptionBytes {
    bytes: [u8; MAX_OPTION_BYTES],
    len: u8,
}

impl Default for OptionBytes {
    fn default() -> Self {
        OptionBytes { bytes: [0; MAX_OPTION_BYTES], len: 0 }
    }
}

impl OptionBytes {
    /// The options of a SYN, in Linux's order: `mss, sackOK, TS, nop, wscale`; without timestamps `mss, nop, nop, sackOK, nop,
    /// wscale`.
    pub fn for_syn(
        mss: u16,
        sack_permitted: bool,
        timestamps: Option<Timestamps>,
        window_scale: Option<u8>,
    ) -> Self {
        OptionBytes::for_syn_with(mss, sack_permitted, timestamps, window_scale, None)
    }

    /// As [`for_syn`](Self::for_syn), with an Accurate ECN option of so many counts behind the timestamps, as Linux. It takes the
    /// place of padding where it can.
    fn for_syn_with(
        mss: u16,
        sack_permitted: bool,
        timestamps: Option<Timestamps>,
        window_scale: Option<u8>,
        ecn: Option<(&EcnCounts, usize)>,
    ) -> Self {
        let mut options = OptionBytes::default();
        let [high, low] = mss.to_be_bytes();
        options.put(&[kind::MSS, 4, high, low]);
        match (timestamps, sack_permitted) {
            (Some(timestamps), true) => {
                options.put(&[kind::SACK_PERMITTED, 2]);
                options.put_timestamps(timestamps);
            }
            (Some(timestamps), false) => {
                options.put(&[kind::NOP, kind::NOP]);
                options.put_timestamps(timestamps);
            }
            (None, _) => {}
        }
        if let Some((counts, len)) = ecn {
            options.put_counts(counts, len);
        }
        if sack_permitted && timestamps.is_none() {
            options.pad_before(2);
            options.put(&[kind::SACK_PERMITTED, 2]);
        }
        if let Some(shift) = window_scale {
            options.pad_before(3);
            options.put(&[kind::WINDOW_SCALE, 3, shift]);
        }
        options.pad_before(0);
        options
    }

    /// The options of a SYN-ACK of a connection with Accurate ECN: those of [`for_syn`](Self::for_syn), `fast_open` behind them, and
    /// as many of `counts` as there is room for.
    pub fn for_syn_ack(
        mss: u16,
        sack_permitted: bool,
        timestamps: Option<Timestamps>,
        window_scale: Option<u8>,
        fast_open: Option<&FastOpen>,
        counts: &EcnCounts,
    ) -> Self {
        let layout = |ecn| {
            let options = OptionBytes::for_syn_with(mss, sack_permitted, timestamps, window_scale, ecn);
            match fast_open {
                Some(fast_open) => options.with_fast_open(fast_open),
                None => options,
            }
        };
        let without = layout(None);
        let room = MAX_OPTION_BYTES - usize::from(without.len);
        match (0..=ECN_COUNTS).rev().find(|&len| EcnCounts::bytes(len).next_multiple_of(4) <= room) {
            Some(len) => layout(Some((counts, len))),
            None => without,
        }
    }

    /// These options and, behind them, a Fast Open option, as Linux has it: padded behind itself. Nothing when it does not fit.
    #[must_use]
    pub fn with_fast_open(mut self, option: &FastOpen) -> Self {
        let cookie = option.cookie();
        let head: &[u8] = match option.experimental {
            true => {
                &[kind::EXPERIMENT, 4 + cookie.len() as u8, FAST_OPEN_EXPERIMENT[0], FAST_OPEN_EXPERIMENT[1]]
            }
            false => &[kind::FAST_OPEN, 2 + cookie.len() as u8],
        };
        let len = head.len() + cookie.len();
        let padding = len.next_multiple_of(4) - len;
        if usize::from(self.len) + len + padding <= MAX_OPTION_BYTES {
            self.put(head);
            self.put(cookie);
            self.put(&[kind::NOP; 4][..padding.min(4)]);
        }
        self
    }

    /// The options of any other segment: `nop nop TS`, then `nop nop SACK` with as many of `blocks` as fit.
    #[inline]
    pub fn for_segment(timestamps: Option<Timestamps>, blocks: &[SackBlock]) -> Self {
        let mut options = OptionBytes::default();
        if let Some(Timestamps { value, echo }) = timestamps {
            let ([a, b, c, d], [e, f, g, h]) = (value.to_be_bytes(), echo.to_be_bytes());
            let bytes = [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, a, b, c, d, e, f, g, h];
            options.bytes[..12].copy_from_slice(&bytes);
            options.len = 12;
        }
        if !blocks.is_empty() {
            options.put_sack(blocks);
        }
        options
    }

    /// As [`for_segment`](Self::for_segment), with an Accurate ECN option between the two, if it fits, and whether it does. It is
    /// shortened down to its first `least` counts for that, and SACK blocks are left out down to two if any count has to be told
    /// (as Linux).
    pub fn for_counting_segment(
        timestamps: Option<Timestamps>,
        counts: &EcnCounts,
        least: usize,
        blocks: &[SackBlock],
    ) -> (Self, bool) {
        let mut options = OptionBytes::for_segment(timestamps, &[]);
        let start = usize::from(options.len);
        let most = blocks.len().min((MAX_OPTION_BYTES - start).saturating_sub(4) / 8);
        let (mut len, mut kept) = (ECN_COUNTS, most);
        loop {
            if counting_bytes(start, len, kept) <= MAX_OPTION_BYTES {
                options.put_counts(counts, len);
                break;
            } else if len > least {
                len -= 1;
            } else if kept > 2 && least > 0 {
                (len, kept) = (ECN_COUNTS, kept - 1);
            } else {
                return (OptionBytes::for_segment(timestamps, blocks), false);
            }
        }
        if kept > 0 {
            options.put_sack(&blocks[..kept]);
        }
        options.pad_before(0);
        (options, true)
    }

    fn put_counts(&mut self, option: &EcnCounts, len: usize) {
        let kind = if option.ect1_first { kind::ACCURATE_ECN_1 } else { kind::ACCURATE_ECN_0 };
        self.put(&[kind, EcnCounts::bytes(len) as u8]);
        for count in option.counts.iter().take(len) {
            self.put(&count.to_be_bytes()[1..]);
        }
    }

    /// Pads so that `bytes` more end at a multiple of four.
    fn pad_before(&mut self, bytes: usize) {
        let end = usize::from(self.len) + bytes;
        self.put(&[kind::NOP; 4][..end.next_multiple_of(4) - end]);
    }

    fn put_sack(&mut self, blocks: &[SackBlock]) {
        let head_end = (usize::from(self.len) + 2).next_multiple_of(4);
        let fit = MAX_OPTION_BYTES.saturating_sub(head_end) / 8;
        let blocks = &blocks[..blocks.len().min(fit)];
        self.pad_before(2);
        self.put(&[kind::SACK, 2 + 8 * blocks.len() as u8]);
        for block in blocks {
            self.put(&block.start.to_be_bytes());
            self.put(&block.end.to_be_bytes());
        }
    }

    fn put_timestamps(&mut self, timestamps: Timestamps) {
        self.put(&[kind::TIMESTAMPS, 10]);
        self.put(&timestamps.value.to_be_bytes());
        self.put(&timestamps.echo.to_be_bytes());
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        if let Some(place) = self.bytes.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len() as u8;
        }
    }

    /// The bytes; a multiple of four.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Bytes of the options of a segment that has `start` bytes of others, so many counts of ECN, and so many SACK blocks.
const fn counting_bytes(start: usize, counts: usize, blocks: usize) -> usize {
    let end = start + EcnCounts::bytes(counts);
    let sack = if blocks == 0 { 0 } else { 2 + 8 * blocks };
    // Blocks are whole words: what stands before them is padded to what the head of their option lacks.
    (end + sack).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TS: Timestamps = Timestamps { value: 0x0102_0304, echo: 0x0506_0708 };

    #[test]
    fn syn_options_are_laid_out_as_linux_does() {
        let full = OptionBytes::for_syn(1460, true, Some(TS), Some(7));
        let expected = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7];
        assert_eq!(full.as_slice(), expected);
        let bare = OptionBytes::for_syn(1460, true, None, Some(7));
        assert_eq!(bare.as_slice(), [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7]);
        let no_sack = OptionBytes::for_syn(1460, false, Some(TS), None);
        assert_eq!(no_sack.as_slice(), [2, 4, 5, 180, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn usual_layouts_are_read_as_any_other() {
        let syn = OptionBytes::for_syn(1460, true, Some(TS), Some(7));
        let segment = OptionBytes::for_segment(Some(TS), &[]);
        for usual in [syn.as_slice(), segment.as_slice()] {
            assert_eq!(Options::parse(usual), Options::parse_any(usual));
            for at in 0..usual.len() {
                for byte in 0..=255 {
                    let mut other = usual.to_vec();
                    other[at] = byte;
                    assert_eq!(Options::parse(&other), Options::parse_any(&other), "{other:?}");
                }
            }
        }
    }

    #[test]
    fn fast_open_options_are_laid_out_as_linux_does_and_read_back() {
        let syn = OptionBytes::for_syn(1460, true, Some(TS), Some(7));
        let request = syn.with_fast_open(&FastOpen::REQUEST);
        assert_eq!(request.as_slice()[20..], [34, 2, 1, 1]);
        assert_eq!(Options::parse(request.as_slice()).fast_open, Some(FastOpen::REQUEST));
        let cookie = FastOpen::new(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let bytes = syn.with_fast_open(&cookie);
        assert_eq!(bytes.as_slice()[20..], [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]);
        let old = FastOpen { experimental: true, ..cookie };
        let bytes = syn.with_fast_open(&old);
        assert_eq!(bytes.as_slice()[20..], [254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Options::parse(bytes.as_slice()).fast_open, Some(old));
        let longest = FastOpen { experimental: true, ..FastOpen::new(&[9; 16]).unwrap() };
        assert_eq!(syn.with_fast_open(&longest).as_slice().len(), 40);
        for wrong in [&[1, 2, 3][..], &[1, 2], &[0; 18], &[0; 5]] {
            assert_eq!(FastOpen::new(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn three_sack_blocks_fit_beside_timestamps_and_four_without() {
        let blocks = [SackBlock { start: 1, end: 2 }; 4];
        assert_eq!(OptionBytes::for_segment(Some(TS), &blocks).as_slice().len(), 12 + 4 + 24);
        assert_eq!(OptionBytes::for_segment(None, &blocks).as_slice().len(), 4 + 32);
        assert_eq!(OptionBytes::for_segment(None, &[]).as_slice(), []);
    }

    #[test]
    fn counts_of_ecn_stand_where_linux_has_them_and_are_read_back() {
        let counts = EcnCounts::new(1, 0x01_0203, 0x0aff_fffe);
        let option = [174, 11, 0, 0, 1, 1, 2, 3, 0xff, 0xff, 0xfe];
        let syn_ack = OptionBytes::for_syn_ack(1460, true, None, Some(7), None, &counts);
        assert_eq!(syn_ack.as_slice()[4..15], option);
        assert_eq!(syn_ack.as_slice()[15..], [1, 1, 1, 4, 2, 1, 3, 3, 7]);
        let stamped = OptionBytes::for_syn_ack(1460, true, Some(TS), Some(7), None, &counts);
        assert_eq!(stamped.as_slice()[16..27], option);
        assert_eq!(stamped.as_slice()[27..], [1, 1, 3, 3, 7]);
        let read = Options::parse(stamped.as_slice()).ecn_counts.unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), [(1, 1), (3, 0x01_0203), (2, 0xff_fffe)]);
        let other = Options::parse(&[172, 8, 0, 0, 7, 0, 0, 8]).ecn_counts.unwrap();
        assert_eq!(other.iter().collect::<Vec<_>>(), [(2, 7), (3, 8)]);
    }

    #[test]
    fn a_cookie_leaves_less_room_for_counts() {
        let counts = EcnCounts::new(1, 0, 1);
        let with = |cookie: &[u8]| {
            let fast_open = FastOpen::new(cookie).unwrap();
            let bytes = OptionBytes::for_syn_ack(1460, true, Some(TS), Some(7), Some(&fast_open), &counts);
            let options = Options::parse(bytes.as_slice());
            assert_eq!(options.fast_open, Some(fast_open), "{bytes:?}");
            options.ecn_counts.map(|counts| counts.iter().count())
        };
        assert_eq!(
            [with(&[9; 4]), with(&[9; 8]), with(&[9; 14]), with(&[9; 16])],
            [Some(3), Some(2), Some(0), None]
        );
    }

    #[test]
    fn counts_of_ecn_give_way_to_blocks_down_to_those_that_have_to_be_told() {
        let counts = EcnCounts::new(1, 0, 1);
        let blocks: Vec<_> = (1..5).map(|at| SackBlock { start: at, end: at + 1 }).collect();
        let laid = |timestamps, least, blocks: &[SackBlock]| {
            let (bytes, fits) = OptionBytes::for_counting_segment(timestamps, &counts, least, blocks);
            assert!(bytes.as_slice().len() <= MAX_OPTION_BYTES);
            assert!(bytes.as_slice().len().is_multiple_of(4), "{bytes:?}");
            let options = Options::parse(bytes.as_slice());
            assert_eq!(options.ecn_counts.is_some(), fits);
            assert_eq!(options.timestamps, timestamps);
            let blocks = options.sack.as_slice();
            assert!(blocks.iter().zip(1..).all(|(block, at)| block.start == at), "{blocks:?}");
            (options.ecn_counts.map(|counts| counts.iter().count()), blocks.len())
        };
        assert_eq!(laid(None, 0, &[]), (Some(3), 0));
        assert_eq!(laid(Some(TS), 0, &blocks[..1]), (Some(3), 1));
        assert_eq!(laid(Some(TS), 0, &blocks[..2]), (Some(2), 2), "what has not changed is left out first");
        assert_eq!(laid(Some(TS), 0, &blocks), (Some(0), 3));
        assert_eq!(laid(Some(TS), 1, &blocks), (Some(2), 2), "then a block");
        assert_eq!(laid(Some(TS), 3, &blocks), (None, 3), "but two stay");
        assert_eq!(laid(None, 3, &blocks), (Some(3), 3));
        assert_eq!(laid(None, 0, &blocks), (Some(1), 4));
    }

    #[test]
    fn the_short_test_for_timestamps_takes_only_the_usual_layout() {
        let bytes = OptionBytes::for_segment(Some(TS), &[]);
        assert_eq!(Options::timestamps_only(bytes.as_slice()), Some(TS));
        for at in 0..4 {
            let mut other: [u8; 12] = bytes.as_slice().try_into().unwrap();
            other[at] ^= 1;
            assert_eq!(Options::timestamps_only(&other), None);
        }
        assert_eq!(Options::timestamps_only(&[]), None);
    }

    #[test]
    fn options_of_impossible_length_end_the_reading() {
        for bad in [&[2u8, 0, 1, 1][..], &[2, 1, 1, 1], &[2, 5, 1, 1], &[2], &[254, 200], &[0, 2, 4, 5]] {
            assert_eq!(Options::parse(bad), Options::default(), "{bad:?}");
        }
        let after_good = [2, 4, 5, 180, 3, 0];
        assert_eq!(Options::parse(&after_good).mss, Some(1460));
    }

    #[test]
    fn known_options_of_wrong_length_and_unknown_ones_are_skipped() {
        let bytes = [2, 3, 9, 3, 4, 7, 7, 4, 3, 0, 8, 3, 0, 5, 5, 0, 0, 0, 30, 2, 2, 4, 2, 24];
        let expected = Options { mss: Some(536), ..Options::default() };
        assert_eq!(Options::parse(&bytes), expected);
    }

    #[test]
    fn a_shift_beyond_fourteen_is_fourteen() {
        assert_eq!(Options::parse(&[3, 3, 255, 0]).window_scale, Some(14));
    }
}
