//! The table, called as packetdrill calls it.

use std::mem::MaybeUninit;

use super::*;
use crate::packet::{self, Body, IpFields, Packet, TcpFields, TcpSegment, protocol};

struct Table(PacketdrillInterface);

// SAFETY: packetdrill calls the table from two threads; the host behind it has a lock.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: once, and nothing uses it afterwards.
        unsafe { (self.0.free)(self.0.userdata) };
    }
}

fn table(flags: &CStr) -> Table {
    let mut table = MaybeUninit::uninit();
    // SAFETY: a string, and memory for a table, which is written.
    unsafe {
        packetdrill_interface_init(flags.as_ptr(), table.as_mut_ptr());
        Table(table.assume_init())
    }
}

const SYN: u16 = 2;
const ACK: u16 = 16;

impl Table {
    fn now_us(&self) -> i64 {
        let mut time = timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: a time that may be written.
        assert_eq!(unsafe { (self.0.gettimeofday)(self.0.userdata, &mut time, std::ptr::null_mut()) }, 0);
        time.tv_sec * 1_000_000 + time.tv_usec
    }

    fn inject(&self, seq: u32, ack: u32, flags: u16, payload: &[u8]) {
        let ip = IpFields {
            source: [192, 0, 2, 1].into(),
            destination: [192, 168, 0, 1].into(),
            tos: 0,
            ttl: 64,
            flow_label: 0,
        };
        let fields = TcpFields {
            source_port: 5000,
            destination_port: 8080,
            seq,
            ack,
            flags,
            window: 65535,
            urgent: 0,
        };
        let bytes = packet::ip(&ip, protocol::TCP, &packet::tcp(&ip, &fields, &[], payload));
        // SAFETY: so many bytes.
        assert_eq!(unsafe { (self.0.netdev_send)(self.0.userdata, bytes.as_ptr().cast(), bytes.len()) }, 0);
    }

    fn sniff(&self) -> Option<(i64, TcpSegment)> {
        let (mut bytes, mut at_us) = ([0u8; 2000], 0);
        let mut len = bytes.len();
        // SAFETY: so many bytes, and numbers that may be written.
        let result = unsafe {
            (self.0.netdev_receive)(self.0.userdata, bytes.as_mut_ptr().cast(), &mut len, &mut at_us)
        };
        assert_eq!(result, 0, "a failure would be tried again for ever");
        match Packet::read(bytes.get(..len)?).ok()?.body {
            Body::Tcp(segment) => Some((at_us, segment)),
            other => panic!("{other:?}"),
        }
    }

    /// A listener on port 8080 and a connection to it, which waits to be accepted.
    fn listener(&self) -> (c_int, u32) {
        let (data, table) = (self.0.userdata, &self.0);
        // SAFETY: the calls' own rules.
        let listener = unsafe {
            let fd = (table.socket)(data, libc::AF_INET, libc::SOCK_STREAM, 0);
            let mut any: libc::sockaddr_in = std::mem::zeroed();
            any.sin_family = libc::AF_INET as _;
            any.sin_port = 8080u16.to_be();
            let len = size_of::<libc::sockaddr_in>() as socklen_t;
            assert_eq!((table.bind)(data, fd, (&raw const any).cast(), len), 0);
            assert_eq!((table.listen)(data, fd, 5), 0);
            fd
        };
        self.inject(0, 0, SYN, b"");
        let (_, syn_ack) = self.sniff().unwrap();
        assert_eq!(syn_ack.fields.flags, SYN | ACK);
        self.inject(1, syn_ack.fields.seq.wrapping_add(1), ACK, b"");
        (listener, syn_ack.fields.seq.wrapping_add(1))
    }
}

#[test]
fn the_table_carries_a_connection_and_its_descriptors_are_real() {
    let table = table(c"--mtu=1500 net.ipv4.tcp_timestamps=0");
    let (listener, _) = table.listener();
    let (data, calls) = (table.0.userdata, &table.0);
    // SAFETY: the calls' own rules.
    unsafe {
        let mut peer: libc::sockaddr_in = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_in>() as socklen_t;
        let fd = (calls.accept)(data, listener, (&raw mut peer).cast(), &mut len);
        assert_eq!((u16::from_be(peer.sin_port), len), (5000, 16));
        assert_ne!(libc::fcntl(fd, libc::F_GETFD), -1, "a descriptor of this process");
        assert_eq!((calls.write)(data, fd, b"hello".as_ptr().cast(), 5), 5);
        assert_eq!(table.sniff().unwrap().1.payload, b"hello");
        let mut info = [0u8; 300];
        let mut len = info.len() as socklen_t;
        let buffer = info.as_mut_ptr().cast();
        assert_eq!((calls.getsockopt)(data, fd, libc::IPPROTO_TCP, libc::TCP_INFO, buffer, &mut len), 0);
        assert_eq!((info[0], len), (1, 240));
        assert_eq!((calls.close)(data, fd), 0);
        assert_eq!((calls.read)(data, fd, buffer, 10), -1);
        assert_eq!(*libc::__errno_location(), libc::EBADF);
    }
}

#[test]
fn time_moves_only_when_asked_and_timers_keep_it() {
    let table = table(c"");
    let first = table.now_us();
    assert_eq!(table.now_us(), first + 1, "whoever spins on the clock sees it move");
    // SAFETY: plain numbers.
    assert_eq!(unsafe { (table.0.usleep)(table.0.userdata, 250_000) }, 0);
    assert_eq!(table.now_us(), first + 250_002);
    let (_, _) = table.listener();
    table.inject(100, 0, SYN, b"");
    // What comes next is the stack's own time's: a SYN-ACK that nobody acknowledges.
    let (at_us, challenge) = table.sniff().unwrap();
    assert!(at_us <= table.now_us());
    assert_eq!(challenge.fields.flags, ACK);
    assert_eq!(table.sniff(), None, "and nothing more for a long time");
}

#[test]
fn a_blocking_call_returns_at_the_virtual_time_that_ends_it() {
    let table = table(c"");
    let (listener, seq) = table.listener();
    let (data, calls) = (table.0.userdata, &table.0);
    // SAFETY: null addresses are not written.
    let fd = unsafe { (calls.accept)(data, listener, std::ptr::null_mut(), std::ptr::null_mut()) };
    std::thread::scope(|scope| {
        let table = &table;
        let reader = scope.spawn(move || {
            let mut buffer = [0u8; 10];
            // SAFETY: so many bytes.
            let len =
                unsafe { (table.0.read)(table.0.userdata, fd, buffer.as_mut_ptr().cast(), buffer.len()) };
            (len, buffer, table.now_us())
        });
        // Real time for the other thread to begin its call; how long it takes decides nothing.
        std::thread::sleep(Duration::from_millis(20));
        // SAFETY: plain numbers.
        unsafe { (table.0.usleep)(table.0.userdata, 1_000_000) };
        let sent_us = table.now_us();
        table.inject(1, seq, ACK, b"late");
        let (len, buffer, returned_us) = reader.join().unwrap();
        assert_eq!((len, &buffer[..4]), (4, &b"late"[..]));
        assert!((sent_us..sent_us + 10).contains(&returned_us), "{sent_us} {returned_us}");
    });
}

#[test]
fn flags_that_make_no_sense_leave_a_table_whose_calls_fail() {
    let table = table(c"--nonsense");
    assert!(table.0.userdata.is_null());
    // SAFETY: plain numbers.
    assert_eq!(unsafe { (table.0.socket)(table.0.userdata, libc::AF_INET, libc::SOCK_STREAM, 0) }, -1);
}
