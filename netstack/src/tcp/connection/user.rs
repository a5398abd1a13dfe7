//! The application's calls: read, write, shut down, close.
//!
//! Nothing is sent from here but resets: the calls leave a note, and the next flush acts on all of them together.

use core::task::{Context, Poll, Waker};
use std::io::{self, IoSlice};
use std::net::Shutdown;

use demi_drivers::transport::{ReadCursor, TcpState};
use demi_drivers::{Buf, Pool};

use super::super::output::Output;
use super::buffers::UNSHARED_BYTES;
use super::{Connection, Env, broken_pipe, slow};

/// Written bytes are kept in slots of at least so many, however small the peer wants its segments.
const CHUNK_MIN_BYTES: usize = 512;

/// Room for one more waker of the same task costs nothing; another task's takes its place.
#[inline]
fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

impl<P> Connection<P> {
    /// Whether the handshake is done.
    pub(crate) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.state {
            TcpState::SynSent if self.is_deferred() => Poll::Ready(Ok(())),
            TcpState::SynSent | TcpState::SynReceived => {
                remember(&mut self.write_waker, cx);
                Poll::Pending
            }
            TcpState::Closed => Poll::Ready(self.take_failure().map_or(Ok(()), Err)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// What a read finds when nothing is queued: the end, an error, or a reason to wait.
    #[inline]
    fn poll_no_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An established connection has not failed, and what lies in the cold part need not be asked.
        if self.state == TcpState::Established && !self.fin_received && self.slow & slow::UNREAD == 0 {
            remember(&mut self.read_waker, cx);
            return Poll::Pending;
        }
        self.poll_no_data_any(cx)
    }

    #[inline(never)]
    fn poll_no_data_any(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fin_received {
            // The end is the end, whatever befell our side after it: that is for the writer to hear, as on Linux.
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.take_failure() {
            return Poll::Ready(Err(error));
        }
        let over = self.cold.read_shut || matches!(self.state, TcpState::Closed | TcpState::TimeWait);
        if over {
            return Poll::Ready(Ok(()));
        }
        if self.state == TcpState::SynSent {
            // Nothing will be written first: the peer has to be asked all the same.
            self.start_deferred();
        }
        remember(&mut self.read_waker, cx);
        Poll::Pending
    }

    #[inline]
    pub(crate) fn poll_pop(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Buf>>> {
        if let Some(buf) = self.rx.pop(max.max(1)) {
            self.after_read();
            return Poll::Ready(Ok(Some(buf)));
        }
        self.poll_no_data(cx).map_ok(|()| None)
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        dst: &mut ReadCursor<'_>,
        keep: bool,
    ) -> Poll<io::Result<()>> {
        if self.rx.is_empty() {
            return self.poll_no_data(cx);
        }
        self.rx.copy(keep, |bytes| dst.put(bytes));
        if !keep {
            self.after_read();
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.rx.is_empty() || self.cold.failure.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.poll_no_data(cx)
    }

    /// A slow reader has drained its queue: tell a sender that may have been waiting for it (RFC 9293 §3.8.6.2.2).
    #[inline]
    fn after_read(&mut self) {
        let offered = self.offered_window();
        if offered < self.recv_cap / 2 {
            // More than the field can say, at the scale agreed on, is no news.
            let free = self.recv_cap.saturating_sub(self.rx.bytes()).min(65_535 << self.rcv_scale);
            let step = u32::from(self.rcv_mss).min(self.recv_cap / 2);
            // As Linux: not until the window has doubled, so that a reader of small pieces does not send a stream of updates.
            let worthwhile = free >= offered.saturating_mul(2) && free >= offered + step;
            if worthwhile && !self.fin_received && self.is_synchronized() {
                self.ack_now();
            }
        }
    }

    /// Whether `more` bytes may be queued, or some of them: `Ready(Ok)` with room, an error when there is no sending any more.
    #[inline(never)]
    fn poll_room(&mut self, cx: &mut Context<'_>, pool: &Pool, more: usize) -> Poll<io::Result<u32>> {
        match self.state {
            TcpState::Established | TcpState::CloseWait if !self.fin_queued => {
                let queued = self.tx.len();
                let mut room = self.send_cap.saturating_sub(queued);
                if queued as usize + more > UNSHARED_BYTES as usize {
                    room = room.min(self.share(pool).saturating_sub(queued));
                }
                if room > 0 {
                    return Poll::Ready(Ok(room));
                }
            }
            TcpState::SynReceived if !self.fin_queued && self.is_embryo() => {
                let room = self.send_cap.saturating_sub(self.tx.len());
                if room > 0 {
                    return Poll::Ready(Ok(room));
                }
            }
            TcpState::SynSent | TcpState::SynReceived if !self.fin_queued => {
                if let Some(room) = self.deferred_room() {
                    return Poll::Ready(Ok(room));
                }
            }
            _ => return Poll::Ready(Err(self.take_failure().unwrap_or_else(broken_pipe))),
        }
        remember(&mut self.write_waker, cx);
        Poll::Pending
    }

    #[inline]
    pub(crate) fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Pool,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        let more = buf.as_ref().map_or(0, |buf| buf.len());
        if self.has_room_for(more) {
            if let Some(buf) = buf.take() {
                self.tx.push(buf, self.snd_max);
                self.flush_due = true;
            }
            return Poll::Ready(Ok(()));
        }
        match self.poll_room(cx, pool, more) {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        if let Some(buf) = buf.take() {
            self.tx.push(buf, self.snd_max);
            self.flush_due = true;
            if self.state == TcpState::SynSent {
                self.start_deferred();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether so little is queued on an open connection that `more` bytes have room whatever the pool is like: the short way of
    /// [`poll_room`](Self::poll_room).
    #[inline(always)]
    fn has_room_for(&self, more: usize) -> bool {
        let open = matches!(self.state, TcpState::Established | TcpState::CloseWait) && !self.fin_queued;
        open && self.tx.len() as usize + more <= self.send_cap.min(UNSHARED_BYTES) as usize
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Pool,
        chunk_bytes: usize,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let more = src.iter().fold(0, |bytes: usize, part| bytes.saturating_add(part.len()));
        let room = match self.poll_room(cx, pool, more) {
            Poll::Ready(Ok(room)) => room as usize,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        // A slot a segment; but not for segments so small that slots would hold next to nothing.
        let chunk_bytes = chunk_bytes.max(usize::from(self.snd_mss)).max(CHUNK_MIN_BYTES);
        let mut written = 0;
        for bytes in src {
            let part = &bytes[..bytes.len().min(room - written)];
            let taken = self.tx.write(part, pool, self.snd_max, chunk_bytes);
            written += taken;
            if taken < bytes.len() {
                break;
            }
        }
        if written == 0 && src.iter().any(|bytes| !bytes.is_empty()) {
            // The pool is exhausted: whoever gives a slot back wakes the writer.
            return match pool.poll_alloc_spare(cx, usize::from(self.snd_mss)) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(_) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            };
        }
        self.flush_due |= written > 0;
        if written > 0 && self.state == TcpState::SynSent {
            self.start_deferred();
        }
        Poll::Ready(Ok(written))
    }

    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>, pool: &Pool) -> Poll<io::Result<()>> {
        let open = matches!(
            self.state,
            TcpState::Established | TcpState::CloseWait | TcpState::SynSent | TcpState::SynReceived
        );
        if !open || self.fin_queued {
            // A write would not wait: it would fail, and tell why.
            return Poll::Ready(Ok(()));
        }
        self.poll_room(cx, pool, 1).map_ok(|_| ())
    }

    pub(crate) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.take_failure() {
            return Poll::Ready(Err(error));
        }
        let drained = match self.state {
            TcpState::Closed | TcpState::TimeWait => true,
            TcpState::SynSent | TcpState::SynReceived => false,
            _ => self.tx.len() == 0 && (!self.fin_queued || self.fin_acked()),
        };
        if drained {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.write_waker, cx);
        Poll::Pending
    }

    pub(crate) fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        // In TIME-WAIT both directions have ended, and Linux keeps no connection any more either.
        if matches!(self.state, TcpState::Closed | TcpState::SynSent | TcpState::TimeWait) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection is not established"));
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.cold.read_shut = true;
            self.slow |= slow::UNREAD;
            if !self.rx.is_empty() {
                self.rx.clear();
                // The space of what was dropped may be used again.
                self.after_read();
            }
            self.wake_reader();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.queue_fin();
        }
        Ok(())
    }

    fn queue_fin(&mut self) {
        if !self.fin_queued && self.state != TcpState::TimeWait {
            self.fin_queued = true;
            self.flush_due = true;
            self.wake_writer();
        }
    }

    /// The application gives the handle up. What it wrote is still delivered, unless bytes it never read make that a lie.
    pub(crate) fn close<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, too_many: bool) {
        self.orphan = true;
        self.read_waker = None;
        self.write_waker = None;
        match self.state {
            TcpState::Closed | TcpState::TimeWait | TcpState::Listen => return,
            TcpState::SynSent => return self.finish(),
            _ => {}
        }
        let no_linger = self.cold.options.linger.is_some_and(|linger| linger.is_zero());
        let counter = if !self.rx.is_empty() {
            // RFC 2525 §2.17: a FIN would say that all has been read.
            &mut env.common.stats.abort_on_close
        } else if no_linger || (self.state == TcpState::FinWait2 && self.waits_for_no_fin()) {
            &mut env.common.stats.abort_on_linger
        } else if too_many {
            &mut env.common.stats.abort_on_memory
        } else {
            self.rx.clear();
            self.queue_fin();
            if self.state == TcpState::FinWait2 {
                self.start_fin_wait_2(env);
            }
            self.update_rare_timer();
            return;
        };
        *counter += 1;
        let unread = !self.rx.is_empty();
        self.rx.clear();
        if unread || self.abort_wants_reset() {
            self.send_reset(env);
        }
        self.finish();
    }

    /// Whether the peer has to be told of an abort (RFC 9293 §3.10.5): not when both sides have closed, unless, as Linux has
    /// it, not all has been sent.
    fn abort_wants_reset(&self) -> bool {
        match self.state {
            TcpState::Closing | TcpState::LastAck => self.has_unsent(),
            TcpState::SynReceived => true,
            _ => self.is_synchronized(),
        }
    }

    /// Resets the connection and gives it up.
    pub(crate) fn abort<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        self.orphan = true;
        self.read_waker = None;
        self.write_waker = None;
        self.rx.clear();
        if self.abort_wants_reset() {
            self.send_reset(env);
        }
        if self.state != TcpState::TimeWait {
            self.finish();
        }
    }
}
