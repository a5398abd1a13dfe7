//! Driving the rings: what each completion means to whom, buffers for the next ones, and the end of everything.

use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use io_uring::{opcode, types::Fd};

use super::ring::{BATCH, Completion, Op};
use super::stream::Phase;
use super::{LARGE_GROUP, Uring, datagram, listener};
use crate::transport::Handle;

/// Batches of completions looked at in a turn; the rest waits for the next one, so that tasks have theirs.
const BATCHES: usize = 16;

/// As many streams with something to send are sent to by a call each: below that an operation, its completion and the turn
/// that looks at it cost more than the calls saved.
const INLINE_SENDS: usize = 1;

impl Uring {
    /// Looks at what has completed, and wakes whom it concerns. Answers how many completions it saw.
    pub(super) fn drive(&mut self) -> io::Result<usize> {
        if self.closing.next().is_some_and(|deadline| deadline <= self.now) {
            self.give_up_due();
        }
        self.ring.collect()?;
        let mut seen = self.wakes.len();
        let mut batch = std::mem::take(&mut self.batch);
        for _ in 0..BATCHES {
            let count = self.ring.completions(&mut batch);
            for &completion in &batch {
                seen += usize::from(!matches!(completion.op, Op::Cancel | Op::Watch));
                self.on_completion(completion);
            }
            if count < BATCH {
                break;
            }
        }
        self.batch = batch;
        let streams = &self.streams;
        self.closing.settle(|handle| streams.get(handle).is_some());
        self.refill();
        self.wake();
        Ok(seen)
    }

    fn on_completion(&mut self, completion: Completion) {
        let handle = completion.handle;
        match completion.op {
            Op::Recv => self.on_recv(completion),
            Op::Send => {
                let Some(stream) = self.streams.get_mut(handle) else { return };
                stream.on_sent(completion, handle, &mut self.ring, &mut self.messages);
                self.wakes.extend(stream.writer.take());
                if !stream.is_held() {
                    self.remove_if_over(handle);
                }
            }
            Op::Accept => match self.listeners.get_mut(handle) {
                Some(listener) => {
                    listener.on_accept(completion, handle, &mut self.ring);
                    self.wakes.extend(listener.waiter.take());
                    if listener.is_over() {
                        self.listeners.remove(handle);
                    }
                }
                None => drop(listener::accepted(completion)),
            },
            Op::Connect => {
                let Some(stream) = self.streams.get_mut(handle) else { return };
                stream.on_connect(completion, handle, &mut self.ring);
                self.wakes.extend(stream.reader.take());
                self.wakes.extend(stream.writer.take());
                self.remove_if_over(handle);
            }
            Op::RecvMessage => self.on_recv_message(completion),
            Op::Writable => {
                let Some(socket) = self.datagrams.get_mut(handle) else { return };
                socket.on_writable();
                self.wakes.extend(socket.writer.take());
                if socket.is_over() {
                    self.datagrams.remove(handle);
                }
            }
            Op::Watch => {
                if let Some((_, armed)) = self.watched.get_mut(handle.index as usize) {
                    *armed = false;
                }
            }
            Op::Cancel => {}
        }
    }

    #[inline]
    fn on_recv(&mut self, completion: Completion) {
        let handle = completion.handle;
        let Some(stream) = self.streams.get_mut(handle) else { return };
        let len = usize::try_from(completion.result).unwrap_or(0);
        let small = self.full_small;
        let buf = match completion.buffer {
            None => None,
            Some(number) if stream.receives_large() => {
                // SAFETY: the completion names the buffer.
                let buf = unsafe { self.large_buffers.take(number, len) };
                buf.map(|buf| {
                    // What fits moves to a small slot: the large ones are few.
                    let copy = if len <= small { self.pool.copy_from_slice(&buf) } else { None };
                    match copy {
                        Some(copy) => {
                            self.large_buffers.give_back(buf);
                            copy
                        }
                        None => buf.freeze(),
                    }
                })
            }
            // SAFETY: the completion names the buffer.
            Some(number) => unsafe { self.buffers.take(number, len) }.map(|buf| buf.freeze()),
        };
        if stream.on_recv(completion, buf, small, handle, &mut self.ring) {
            self.starved.push(handle);
            return;
        }
        if let Some(waker) = stream.reader.take() {
            self.wakes.push(waker);
        }
        if !stream.is_held() {
            self.remove_if_over(handle);
        }
    }

    fn on_recv_message(&mut self, completion: Completion) {
        let handle = completion.handle;
        let received = datagram::unpack(completion, &mut self.large_buffers, &self.pool, &self.template);
        let Some(socket) = self.datagrams.get_mut(handle) else { return };
        if socket.on_recv(completion, received, handle, &mut self.ring) {
            self.starved_datagrams.push(handle);
            return;
        }
        self.wakes.extend(socket.reader.take());
        if socket.is_over() {
            self.datagrams.remove(handle);
        } else {
            socket.receive(handle, &mut self.ring, LARGE_GROUP, &self.template);
        }
    }

    /// Gives the kernel slots for those it has filled, and lets those receive again that had none.
    #[inline]
    fn refill(&mut self) {
        if self.buffers.has_vacancies() {
            self.buffers.refill(&self.pool);
        }
        if self.large_buffers.has_vacancies() {
            self.large_buffers.refill(&self.pool);
        }
        if !self.starved.is_empty() && self.buffers.has_any() {
            let mut starved = std::mem::take(&mut self.starved);
            for handle in starved.drain(..) {
                if let Some(stream) = self.streams.get_mut(handle) {
                    stream.receive(handle, &mut self.ring);
                }
            }
            self.starved = starved;
        }
        if !self.starved_datagrams.is_empty() && self.large_buffers.has_any() {
            let mut starved = std::mem::take(&mut self.starved_datagrams);
            for handle in starved.drain(..) {
                if let Some(socket) = self.datagrams.get_mut(handle) {
                    socket.receive(handle, &mut self.ring, LARGE_GROUP, &self.template);
                }
            }
            self.starved_datagrams = starved;
        }
    }

    /// Sends, or queues a send, for every stream that was written to, and offers fresh buffers.
    pub(super) fn prepare(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let inline = dirty.len() <= INLINE_SENDS;
        for handle in dirty.drain(..) {
            if let Some(stream) = self.streams.get_mut(handle) {
                stream.dirty = false;
                if inline && stream.send_now() {
                    // Told by the next poll: whoever flushes may be about to wait.
                    self.wakes.extend(stream.writer.take());
                    self.remove_if_over(handle);
                } else {
                    stream.start_send(handle, &mut self.ring, &mut self.messages);
                }
            }
        }
        self.dirty = dirty;
        self.refill();
    }

    /// Polls every watched descriptor once more: what is readable still ends the wait again.
    pub(super) fn arm_watched(&mut self) {
        for (index, (fd, armed)) in self.watched.iter_mut().enumerate() {
            if !*armed && *fd >= 0 {
                *armed = true;
                let entry = opcode::PollAdd::new(Fd(*fd), libc::POLLIN as u32).build();
                let handle = Handle { index: index as u32, generation: 0 };
                // SAFETY: the entry names no memory.
                unsafe { self.ring.push(entry, Op::Watch, handle) };
            }
        }
    }

    /// Resets connections whose last bytes the peer has not taken in time.
    #[cold]
    fn give_up_due(&mut self) {
        while let Some(handle) = self.closing.due(self.now) {
            if let Some(stream) = self.streams.get_mut(handle)
                && stream.phase == Phase::Closing
            {
                stream.give_up(true, handle, &mut self.ring);
                self.remove_if_over(handle);
            }
        }
    }

    /// Closes the socket of a stream that was given up once nothing of it is under way.
    pub(super) fn remove_if_over(&mut self, handle: Handle) {
        if self.streams.get(handle).is_some_and(|stream| stream.is_over()) {
            self.streams.remove(handle);
            self.closing_streams -= 1;
        }
    }

    /// Wakes whoever a call has found ready, now that the state is settled.
    #[inline]
    pub(super) fn wake(&mut self) {
        if self.wakes.is_empty() {
            return;
        }
        let mut wakes = std::mem::take(&mut self.wakes);
        for waker in wakes.drain(..) {
            waker.wake();
        }
        self.wakes = wakes;
    }
}

/// How often the kernel is asked to give up everything, a tenth of a second each, before memory is leaked.
const LAST_CALLS: usize = 100;

impl Drop for Uring {
    fn drop(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        for _ in 0..LAST_CALLS {
            if self.ring.in_flight() == 0 {
                break;
            }
            self.ring.cancel_all();
            if self.ring.submit_and_wait(Some(Duration::from_millis(100))).is_err() {
                break;
            }
            while self.ring.completions(&mut batch) > 0 {
                for &completion in &batch {
                    drop(listener::accepted(completion));
                }
            }
        }
        if self.ring.in_flight() > 0 {
            // The kernel may still read and write what its operations name: none of it is freed.
            return;
        }
        // SAFETY: no operation is in flight, so the kernel reads and writes nothing of these any more, and each is dropped
        // here and nowhere else.
        unsafe {
            ManuallyDrop::drop(&mut self.streams);
            ManuallyDrop::drop(&mut self.listeners);
            ManuallyDrop::drop(&mut self.datagrams);
            ManuallyDrop::drop(&mut self.template);
            self.buffers.release(&self.ring);
            ManuallyDrop::drop(&mut self.buffers);
            self.large_buffers.release(&self.ring);
            ManuallyDrop::drop(&mut self.large_buffers);
        }
    }
}
