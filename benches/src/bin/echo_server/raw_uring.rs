//! The server on io_uring and nothing else, tuned as far as the kernel lets it be.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN; multishot accept into fixed files, multishot receive into a ring of provided buffers;
//! each buffer is sent from where it lies and goes back to the ring when its send is complete. One system call a turn.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

const CLIENTS: u32 = 4096;
const BUFFERS: u16 = 4096;
const BUFFER_BYTES: usize = 4096;
const GROUP: u16 = 1;

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
const CLOSE: u64 = 4 << 32;
const KIND: u64 = 0xff << 32;

/// One client, by its number in the table of fixed files.
#[derive(Default)]
struct Client {
    /// Buffers to be sent, the first of them under way: (buffer, sent already, length).
    out: VecDeque<(u16, u32, u32)>,
    receiving: bool,
    gone: bool,
}

/// Receive buffers, and the ring that offers them to the kernel.
struct Buffers {
    memory: *mut u8,
    ring: *mut BufRingEntry,
    tail: u16,
}

impl Buffers {
    fn new(uring: &IoUring) -> io::Result<Buffers> {
        let map = |bytes| {
            // SAFETY: a new anonymous mapping touches nothing of ours.
            let memory = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                    -1,
                    0,
                )
            };
            if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(memory) }
        };
        let memory = map(usize::from(BUFFERS) * BUFFER_BYTES)?.cast();
        let ring = map(usize::from(BUFFERS) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        // SAFETY: the ring is mapped for `BUFFERS` entries and stays so until the process ends.
        unsafe { uring.submitter().register_buf_ring_with_flags(ring as u64, BUFFERS, GROUP, 0) }?;
        let mut buffers = Buffers { memory, ring, tail: 0 };
        for buffer in 0..BUFFERS {
            buffers.give(buffer);
        }
        Ok(buffers)
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        // SAFETY: the kernel only names buffers it was given, all below `BUFFERS`.
        unsafe { self.memory.add(usize::from(buffer) * BUFFER_BYTES) }
    }

    /// Offers a buffer to the kernel.
    fn give(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        // SAFETY: the slot lies within the ring, and the kernel reads it only once the tail below has passed it.
        let entry = unsafe { &mut *self.ring.add(usize::from(self.tail & (BUFFERS - 1))) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the ring's first entry, is aligned, and only ever written here.
        let tail = unsafe { &*BufRingEntry::tail(self.ring).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

pub(crate) fn serve(listener: TcpListener) -> io::Result<()> {
    let mut uring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(4 * CLIENTS)
        .build(CLIENTS)
        .map_err(|error| io::Error::new(error.kind(), format!("io_uring is not to be had: {error}")))?;
    uring.submitter().register_files_sparse(CLIENTS)?;
    uring.submitter().register_ring_fd()?;
    let mut server = Server {
        buffers: Buffers::new(&uring)?,
        clients: (0..CLIENTS).map(|_| Client::default()).collect(),
        starved: Vec::new(),
        queue: Vec::with_capacity(2 * CLIENTS as usize),
    };
    let listener_fd = Fd(listener.as_raw_fd());
    // An accepted socket inherits it.
    nodelay(&listener)?;
    server.accept(listener_fd);
    let mut completions: Vec<(u64, i32, u32)> = Vec::with_capacity(4 * CLIENTS as usize);
    loop {
        submit(&mut uring, &mut server.queue)?;
        match uring.submit_and_wait(1) {
            // A signal (the comparison stops servers whose turn it is not) ends the wait early and no more.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        completions
            .extend(uring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        for (data, result, flags) in completions.drain(..) {
            let client = data as u32;
            match data & KIND {
                ACCEPT => {
                    if result >= 0 {
                        server.receive(result as u32);
                    }
                    if !cqueue::more(flags) {
                        server.accept(listener_fd);
                    }
                }
                RECEIVE => server.received(client, result, flags),
                SEND => server.sent(client, result),
                _ => {}
            }
        }
    }
}

fn nodelay(listener: &TcpListener) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn submit(uring: &mut IoUring, queue: &mut Vec<squeue::Entry>) -> io::Result<()> {
    let mut rest = queue.as_slice();
    while !rest.is_empty() {
        let room = {
            let ring = uring.submission();
            ring.capacity() - ring.len()
        };
        let now = room.min(rest.len());
        // SAFETY: what entries point to, the provided buffers and the listener's descriptor, lives until the process ends,
        // and a buffer that is being sent is given back only after its completion.
        unsafe { uring.submission().push_multiple(&rest[..now]) }.map_err(io::Error::other)?;
        rest = &rest[now..];
        if !rest.is_empty() {
            uring.submit()?;
        }
    }
    queue.clear();
    Ok(())
}

struct Server {
    buffers: Buffers,
    clients: Vec<Client>,
    /// Clients whose receive ended because no buffer was free.
    starved: Vec<u32>,
    queue: Vec<squeue::Entry>,
}

impl Server {
    fn accept(&mut self, listener: Fd) {
        let entry = opcode::AcceptMulti::new(listener).allocate_file_index(true).build();
        self.queue.push(entry.user_data(ACCEPT));
    }

    fn receive(&mut self, client: u32) {
        self.clients[client as usize].receiving = true;
        let entry = opcode::RecvMulti::new(Fixed(client), GROUP).build();
        self.queue.push(entry.user_data(RECEIVE | u64::from(client)));
    }

    fn received(&mut self, client: u32, result: i32, flags: u32) {
        let state = &mut self.clients[client as usize];
        if !cqueue::more(flags) {
            state.receiving = false;
        }
        match cqueue::buffer_select(flags) {
            Some(buffer) if result > 0 => {
                state.out.push_back((buffer, 0, result as u32));
                if state.out.len() == 1 {
                    self.send(client);
                }
            }
            Some(buffer) => self.buffers.give(buffer),
            None => {}
        }
        let state = &mut self.clients[client as usize];
        if result == -libc::ENOBUFS {
            self.starved.push(client);
        } else if result <= 0 {
            state.gone = true;
            self.close_if_done(client);
        } else if !state.receiving {
            self.receive(client);
        }
    }

    fn send(&mut self, client: u32) {
        let Some(&(buffer, sent, length)) = self.clients[client as usize].out.front() else { return };
        // SAFETY: `sent` is less than `length`, which is at most the buffer's size.
        let from = unsafe { self.buffers.address(buffer).add(sent as usize) };
        let entry = opcode::Send::new(Fixed(client), from, length - sent)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.queue.push(entry.build().user_data(SEND | u64::from(client)));
    }

    fn sent(&mut self, client: u32, result: i32) {
        let state = &mut self.clients[client as usize];
        if let Some(first) = state.out.front_mut() {
            first.1 += u32::try_from(result).unwrap_or(0);
            if first.1 >= first.2 || result < 0 {
                let buffer = first.0;
                state.out.pop_front();
                self.buffers.give(buffer);
                if let Some(starved) = self.starved.pop() {
                    self.receive(starved);
                }
            }
        }
        let state = &mut self.clients[client as usize];
        if result < 0 {
            state.gone = true;
            while let Some((buffer, ..)) = state.out.pop_front() {
                self.buffers.give(buffer);
            }
        }
        if state.out.is_empty() {
            self.close_if_done(client);
        } else {
            self.send(client);
        }
    }

    fn close_if_done(&mut self, client: u32) {
        let state = &mut self.clients[client as usize];
        if state.gone && state.out.is_empty() && !state.receiving {
            *state = Client::default();
            self.queue.push(opcode::Close::new(Fixed(client)).build().user_data(CLOSE | u64::from(client)));
        }
    }
}
