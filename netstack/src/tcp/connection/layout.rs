//! What lies where in a connection, settled when this is compiled: the cache lines that a segment touches are as many as were meant,
//! and a field that is added moves none of them unnoticed.

use core::mem::offset_of;

use super::{Cold, Connection};
use crate::path::Path;

type Whole = Connection<Path>;

/// Bytes of a cache line on the processors we know.
const LINE_BYTES: usize = 64;

/// Asserts that fields lie within one line, the first one's place of it known.
macro_rules! line {
    ($line:literal: $($field:ident),+) => {
        $(const _: () = assert!(
            offset_of!(Whole, $field) / LINE_BYTES == $line,
            concat!("`", stringify!($field), "` has left its cache line"),
        );)+
    };
}

// What a received segment is compared with, and what one to be sent begins with.
line!(0: v4, state, slow, ts_ok, wired, snd_mss, rcv_nxt, rcv_adv, rcv_acked, ts_recent, snd_una, snd_nxt, snd_max, snd_wnd, snd_wl2);
// Windows and flags.
line!(1: window, sack_due, nodelay, cork, ack_due, fin_queued, flush_due, flush_queued, snd_small, timed_at, recv_cap, send_cap);
// Who waits, and what they read.
line!(2: read_waker, write_waker, rx);
// What is sent.
line!(3: tx, last_recv_at, last_send_at);
// The timeout.
line!(4: rtt, retransmit_at, ack_at);
// Deadlines and counters; the way to all that is rare.
line!(5: rare_at, armed_at, bytes_acked, bytes_received, segments_in, segments_out, cold, hash);
// The path, which is a line.
line!(6: path);
// IPv6 alone.
line!(7: flow);

const _: () = assert!(size_of::<Whole>() == 8 * LINE_BYTES && align_of::<Whole>() == LINE_BYTES);
/// An empty place of the table costs no more than the connection it waits for.
const _: () = assert!(size_of::<Option<Whole>>() == size_of::<Whole>());
/// Beside the lines above, a connection holds this much, whatever it does.
const _: () = assert!(size_of::<Cold>() <= 424);
