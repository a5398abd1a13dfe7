//! A peer that is not this library: verbs and the connection manager as rdma-core has them, and the protocol's bytes written out as its
//! documentation says (`rdma::proto`), so that it can be right where the library is, and wrong where nobody of its users could be.
//!
//! What it holds is destroyed when it is dropped, whatever state the connection is in: as when its process ends.

use std::net::SocketAddr;
use std::ptr;
use std::task::Poll;

use rdma_sys as sys;
use sys::rdma_cm_event_type as cm;

use crate::support::Cable;

/// Receives that it posts, and bytes of each.
const RECEIVES: usize = 64;
const BYTES: usize = 2048;

/// What the other end has said, or done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The connection stands: what the other end said of itself.
    Established(Vec<u8>),
    /// It was refused: with what.
    Rejected(Vec<u8>),
    /// It has ended.
    Disconnected,
    /// Somebody wants one.
    Request(Vec<u8>),
    /// A step of the set-up is done.
    Resolved,
    /// Anything else, by its number.
    Other(u32),
}

/// One end of a connection.
pub(crate) struct RawPeer {
    channel: *mut sys::rdma_event_channel,
    /// The listener, of one that was connected to.
    listener: *mut sys::rdma_cm_id,
    id: *mut sys::rdma_cm_id,
    domain: *mut sys::ibv_pd,
    completions: *mut sys::ibv_cq,
    region: *mut sys::ibv_mr,
    /// Slots for what comes, then one for each message that is sent.
    memory: Box<[u8]>,
    sent: usize,
    sequence: u32,
    /// What it was told to send, by how it ended.
    pub(crate) failed: bool,
}

/// A hello as `proto::hello` draws it.
pub(crate) fn hello(credits: u16) -> Vec<u8> {
    let mut bytes = b"demi".to_vec();
    bytes.extend([1, 1]);
    for two in [1u16, credits, 16] {
        bytes.extend(two.to_be_bytes());
    }
    for four in [BYTES as u32, 1 << 20, 0, 0, 0] {
        bytes.extend(four.to_be_bytes());
    }
    assert_eq!(bytes.len(), 32);
    bytes
}

/// The credits of a hello.
pub(crate) fn credits_of(hello: &[u8]) -> u16 {
    u16::from_be_bytes([hello[8], hello[9]])
}

pub(crate) const DATA: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const CONTROL: u8 = 3;
pub(crate) const ANSWER: u8 = 4;
pub(crate) const FIN: u8 = 1;
pub(crate) const HEARD: u8 = 2;

/// A message's header as `proto::message` draws it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) credits: u16,
    pub(crate) done: u16,
    pub(crate) sequence: u32,
    pub(crate) length: u32,
}

impl Header {
    fn emit(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.flags];
        for two in [self.credits, self.done, 0] {
            bytes.extend(two.to_be_bytes());
        }
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.length.to_be_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Header {
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let four = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        Header {
            kind: bytes[0],
            flags: bytes[1],
            credits: two(2),
            done: two(4),
            sequence: four(8),
            length: four(12),
        }
    }
}

fn raw_address(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { panic!("IPv4 is enough here") };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

#[track_caller]
fn ok(result: libc::c_int, what: &str) {
    assert_eq!(result, 0, "{what}: {}", std::io::Error::last_os_error());
}

impl RawPeer {
    fn new() -> RawPeer {
        // SAFETY: nothing is passed.
        let channel = unsafe { sys::rdma_create_event_channel() };
        assert!(!channel.is_null(), "no connection manager: {}", std::io::Error::last_os_error());
        // SAFETY: the channel is open; no memory is passed.
        ok(unsafe { libc::fcntl((*channel).fd, libc::F_SETFL, libc::O_NONBLOCK) }, "not to block");
        let mut id = ptr::null_mut();
        // SAFETY: the channel lives, and the place is writable.
        let made = unsafe {
            sys::rdma_create_id(channel, &raw mut id, ptr::null_mut(), sys::rdma_port_space::RDMA_PS_TCP)
        };
        ok(made, "an identifier");
        RawPeer {
            channel,
            listener: ptr::null_mut(),
            id,
            domain: ptr::null_mut(),
            completions: ptr::null_mut(),
            region: ptr::null_mut(),
            memory: vec![0; 4 * RECEIVES * BYTES].into_boxed_slice(),
            sent: 0,
            sequence: 0,
            failed: false,
        }
    }

    /// Asks for a connection from `from` to `to`, saying `private`; answers what came of it.
    pub(crate) fn connect(
        cable: &mut Cable,
        (from, to): (SocketAddr, SocketAddr),
        private: &[u8],
    ) -> (RawPeer, Heard) {
        let mut this = RawPeer::new();
        let (mut from, mut to) = (raw_address(from), raw_address(to));
        // SAFETY: the identifier lives, and both addresses are readable during the call.
        ok(
            unsafe { sys::rdma_resolve_addr(this.id, (&raw mut from).cast(), (&raw mut to).cast(), 5000) },
            "find the address",
        );
        assert_eq!(this.heard(cable), Heard::Resolved);
        // SAFETY: the identifier lives.
        ok(unsafe { sys::rdma_resolve_route(this.id, 5000) }, "find a route");
        assert_eq!(this.heard(cable), Heard::Resolved);
        this.make_queues();
        let mut parameters = parameters(private);
        // SAFETY: the identifier lives, and the parameters and what they point to are readable during the call.
        ok(unsafe { sys::rdma_connect(this.id, &raw mut parameters) }, "connect");
        let heard = this.heard(cable);
        (this, heard)
    }

    /// Listens at `address`.
    pub(crate) fn listen(address: SocketAddr) -> RawPeer {
        let mut this = RawPeer::new();
        let mut raw = raw_address(address);
        // SAFETY: the identifier lives, and the address is readable during the call.
        ok(unsafe { sys::rdma_bind_addr(this.id, (&raw mut raw).cast()) }, "bind");
        // SAFETY: the identifier lives.
        ok(unsafe { sys::rdma_listen(this.id, 8) }, "listen");
        (this.listener, this.id) = (this.id, ptr::null_mut());
        this
    }

    /// Accepts what was asked for, saying `private`.
    pub(crate) fn accept(&mut self, private: &[u8]) {
        self.make_queues();
        let mut parameters = parameters(private);
        // SAFETY: as in `connect`.
        ok(unsafe { sys::rdma_accept(self.id, &raw mut parameters) }, "accept");
    }

    /// Refuses it, saying `private`.
    pub(crate) fn reject(&mut self, private: &[u8]) {
        // SAFETY: the identifier lives, and so many bytes are readable during the call.
        let result = unsafe { sys::rdma_reject(self.id, private.as_ptr().cast(), private.len() as u8) };
        ok(result, "reject");
    }

    fn make_queues(&mut self) {
        // SAFETY: the identifier is bound to a device; what is made here is destroyed in `drop`, in the other order. The memory that is
        // registered is on the heap and stays there until it is not registered any more.
        unsafe {
            let verbs = (*self.id).verbs;
            self.domain = sys::ibv_alloc_pd(verbs);
            assert!(!self.domain.is_null());
            self.completions = sys::ibv_create_cq(verbs, 512, ptr::null_mut(), ptr::null_mut(), 0);
            assert!(!self.completions.is_null());
            let flags = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
                | sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
            let (address, len) = (self.memory.as_mut_ptr().cast(), self.memory.len());
            self.region = sys::ibv_reg_mr(self.domain, address, len, flags as _);
            assert!(!self.region.is_null());
            let mut attr: sys::ibv_qp_init_attr = std::mem::zeroed();
            (attr.send_cq, attr.recv_cq) = (self.completions, self.completions);
            (attr.cap.max_send_wr, attr.cap.max_recv_wr) = (3 * RECEIVES as u32, RECEIVES as u32);
            (attr.cap.max_send_sge, attr.cap.max_recv_sge) = (1, 1);
            attr.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
            attr.sq_sig_all = 1;
            ok(sys::rdma_create_qp(self.id, self.domain, &raw mut attr), "a queue pair");
        }
        (0..RECEIVES).for_each(|slot| self.post_receive(slot));
    }

    fn piece(&mut self, at: usize, bytes: usize) -> sys::ibv_sge {
        // SAFETY: the region lives.
        let lkey = unsafe { (*self.region).lkey };
        sys::ibv_sge { addr: self.memory[at..at + bytes].as_ptr().addr() as u64, length: bytes as u32, lkey }
    }

    fn post_receive(&mut self, slot: usize) {
        let mut piece = self.piece(slot * BYTES, BYTES);
        // SAFETY: of integers and pointers, for which all zeroes is a value.
        let mut request: sys::ibv_recv_wr = unsafe { std::mem::zeroed() };
        (request.wr_id, request.sg_list, request.num_sge) = (slot as u64, &raw mut piece, 1);
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives, and the piece is memory of this one's, in its region, that is nobody else's until it completes.
        ok(unsafe { sys::ibv_post_recv((*self.id).qp, &raw mut request, &raw mut bad) }, "post a receive");
    }

    /// Where in the peer's terms `bytes` of its memory lie: address and key.
    pub(crate) fn exposed(&mut self, bytes: &[u8]) -> (u64, u32) {
        let at = self.memory.len() - bytes.len();
        self.memory[at..].copy_from_slice(bytes);
        // SAFETY: the region lives.
        (self.memory[at..].as_ptr().addr() as u64, unsafe { (*self.region).rkey })
    }

    /// Sends these bytes as a message, whatever they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let at = (RECEIVES + self.sent % (2 * RECEIVES)) * BYTES;
        self.sent += 1;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        let mut piece = self.piece(at, bytes.len());
        // SAFETY: of integers, pointers and unions of those, for which all zeroes is a value.
        let mut request: sys::ibv_send_wr = unsafe { std::mem::zeroed() };
        (request.wr_id, request.opcode) = (u64::MAX, sys::ibv_wr_opcode::IBV_WR_SEND);
        (request.sg_list, request.num_sge) = (&raw mut piece, libc::c_int::from(!bytes.is_empty()));
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives, and the piece is memory of this one's, in its region, not written again for many messages.
        let result = unsafe { sys::ibv_post_send((*self.id).qp, &raw mut request, &raw mut bad) };
        self.failed |= result != 0;
    }

    /// Sends a message with the next number and a length that is right.
    pub(crate) fn send(&mut self, header: Header, payload: &[u8]) {
        let (sequence, length) = (self.sequence, payload.len() as u32);
        self.send_numbered(Header { sequence, length, ..header }, payload);
    }

    /// Sends a message as it is.
    pub(crate) fn send_numbered(&mut self, header: Header, payload: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = header.emit();
        bytes.extend(payload);
        self.send_bytes(&bytes);
    }

    /// What the connection manager says next.
    pub(crate) fn heard(&mut self, cable: &mut Cable) -> Heard {
        cable.wait(|_, _| match self.next_heard() {
            Some(heard) => Poll::Ready(heard),
            None => Poll::Pending,
        })
    }

    fn next_heard(&mut self) -> Option<Heard> {
        let mut event = ptr::null_mut();
        // SAFETY: the channel lives and does not block; the place is writable.
        if unsafe { sys::rdma_get_cm_event(self.channel, &raw mut event) } != 0 {
            return None;
        }
        // SAFETY: the event lives until it is acknowledged, below, and so does what it points to.
        let heard = unsafe {
            let conn = &(*event).param.conn;
            let private = || match conn.private_data.is_null() {
                true => Vec::new(),
                false => {
                    let len = usize::from(conn.private_data_len);
                    std::slice::from_raw_parts(conn.private_data.cast::<u8>(), len).to_vec()
                }
            };
            match (*event).event {
                cm::RDMA_CM_EVENT_ADDR_RESOLVED | cm::RDMA_CM_EVENT_ROUTE_RESOLVED => Heard::Resolved,
                cm::RDMA_CM_EVENT_ESTABLISHED => Heard::Established(private()),
                cm::RDMA_CM_EVENT_REJECTED => Heard::Rejected(private()),
                cm::RDMA_CM_EVENT_DISCONNECTED => Heard::Disconnected,
                cm::RDMA_CM_EVENT_CONNECT_REQUEST => {
                    self.id = (*event).id;
                    Heard::Request(private())
                }
                other => Heard::Other(other),
            }
        };
        // SAFETY: the event was taken just now, and is acknowledged once.
        unsafe { sys::rdma_ack_cm_event(event) };
        Some(heard)
    }

    /// The next message, or `None` once the connection has ended.
    pub(crate) fn receive(&mut self, cable: &mut Cable) -> Option<Vec<u8>> {
        let mut over = false;
        cable.wait(|_, _| {
            while let Some((slot, status, bytes)) = self.completion() {
                match (slot, status) {
                    (_, status) if status != 0 => self.failed = true,
                    (u64::MAX, _) => {}
                    (slot, _) => {
                        let at = slot as usize * BYTES;
                        let message = self.memory[at..at + bytes].to_vec();
                        self.post_receive(slot as usize);
                        return Poll::Ready(Some(message));
                    }
                }
            }
            if over {
                return Poll::Ready(None);
            }
            // What came before is looked for once more.
            over = matches!(self.next_heard(), Some(Heard::Disconnected));
            Poll::Pending
        })
    }

    fn completion(&mut self) -> Option<(u64, u32, usize)> {
        // SAFETY: of integers and unions of those, for which all zeroes is a value.
        let mut completion: sys::ibv_wc = unsafe { std::mem::zeroed() };
        // SAFETY: the queue lives, and there is room for one.
        let count = unsafe { sys::ibv_poll_cq(self.completions, 1, &raw mut completion) };
        (count == 1).then_some((completion.wr_id, completion.status, completion.byte_len as usize))
    }

    /// Begins as whoever connects has to: by a control message, which is answered.
    pub(crate) fn introduce(&mut self, cable: &mut Cable) {
        self.send(Header { kind: CONTROL, ..Header::default() }, &[]);
        let answer = Header::parse(&self.receive(cable).expect("an answer"));
        assert_eq!((answer.kind, answer.flags, answer.sequence), (ANSWER, HEARD, 0));
    }

    /// Ends the connection.
    pub(crate) fn disconnect(&mut self) {
        // SAFETY: the identifier lives.
        ok(unsafe { sys::rdma_disconnect(self.id) }, "disconnect");
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        // SAFETY: each was made once and is destroyed once, what stands on another before that; null stands for what was not made. Events
        // were acknowledged as they were taken.
        unsafe {
            if !self.id.is_null() {
                if !(*self.id).qp.is_null() {
                    sys::rdma_destroy_qp(self.id);
                }
                sys::rdma_destroy_id(self.id);
            }
            if !self.region.is_null() {
                sys::ibv_dereg_mr(self.region);
            }
            if !self.completions.is_null() {
                sys::ibv_destroy_cq(self.completions);
            }
            if !self.domain.is_null() {
                sys::ibv_dealloc_pd(self.domain);
            }
            if !self.listener.is_null() {
                sys::rdma_destroy_id(self.listener);
            }
            sys::rdma_destroy_event_channel(self.channel);
        }
    }
}

fn parameters(private: &[u8]) -> sys::rdma_conn_param {
    sys::rdma_conn_param {
        private_data: if private.is_empty() { ptr::null() } else { private.as_ptr().cast() },
        private_data_len: private.len() as u8,
        responder_resources: 4,
        initiator_depth: 4,
        flow_control: 0,
        retry_count: 6,
        rnr_retry_count: 7,
        srq: 0,
        qp_num: 0,
    }
}
