//! Between C's structures and ours. Whatever comes in is checked for its length before it is read.

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::slice;

use demi_drivers::transport::TcpInfo;
use libc::{c_void, iovec, sockaddr, socklen_t};

use crate::host::{Errno, OptionValue, Result};

const EFAULT: Errno = Errno(libc::EFAULT);
const EINVAL: Errno = Errno(libc::EINVAL);

/// Reads `T` from `pointer`, which has `len` bytes.
///
/// # Safety
/// `pointer` is null or leads to `len` readable bytes, and any bytes are a `T`.
unsafe fn read<T: Copy>(pointer: *const c_void, len: usize) -> Result<T> {
    if pointer.is_null() {
        return Err(EFAULT);
    }
    if len < size_of::<T>() {
        return Err(EINVAL);
    }
    // SAFETY: not null, long enough, and any bytes are a `T`: the caller says so.
    Ok(unsafe { pointer.cast::<T>().read_unaligned() })
}

/// An address from C.
///
/// # Safety
/// `address` is null or leads to `len` readable bytes.
pub(super) unsafe fn address(address: *const sockaddr, len: socklen_t) -> Result<SocketAddr> {
    let len = len as usize;
    // SAFETY: as the caller promises; addresses are plain numbers.
    let family = unsafe { read::<libc::sa_family_t>(address.cast(), len)? };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: as above.
            let v4 = unsafe { read::<libc::sockaddr_in>(address.cast(), len)? };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { read::<libc::sockaddr_in6>(address.cast(), len)? };
            Ok(SocketAddr::new(Ipv6Addr::from(v6.sin6_addr.s6_addr).into(), u16::from_be(v6.sin6_port)))
        }
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Writes an address for C, cut off at the length given, and its true length.
///
/// # Safety
/// Both are null, or `len` leads to a length, and `to` to so many writable bytes.
pub(super) unsafe fn put_address(address: SocketAddr, to: *mut sockaddr, len: *mut socklen_t) {
    let bytes: Vec<u8> = match address {
        SocketAddr::V4(v4) => {
            let family = (libc::AF_INET as libc::sa_family_t).to_ne_bytes();
            [&family[..], &v4.port().to_be_bytes(), &v4.ip().octets(), &[0; 8]].concat()
        }
        SocketAddr::V6(v6) => {
            let family = (libc::AF_INET6 as libc::sa_family_t).to_ne_bytes();
            [&family[..], &v6.port().to_be_bytes(), &[0; 4], &v6.ip().octets(), &[0; 4]].concat()
        }
    };
    // SAFETY: as the caller promises.
    unsafe { put_bytes(&bytes, to.cast(), len) };
}

/// Writes bytes for C, cut off at the length given, and their true number.
///
/// # Safety
/// `to` or `len` is null, or `len` leads to a length, and `to` to so many writable bytes.
pub(super) unsafe fn put_bytes(bytes: &[u8], to: *mut c_void, len: *mut socklen_t) {
    if to.is_null() || len.is_null() {
        return;
    }
    // SAFETY: `len` leads to a length, and no more bytes are written than that.
    unsafe {
        let room = bytes.len().min(*len as usize);
        to.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), room);
        *len = bytes.len() as socklen_t;
    }
}

/// The buffers of an array of `iovec`s.
///
/// # Safety
/// `vectors` is null or leads to `count` of them.
pub(super) unsafe fn vectors<'a>(vectors: *const iovec, count: usize) -> Result<&'a [iovec]> {
    match (vectors.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(EFAULT),
        // SAFETY: not null, and as many as the caller says.
        (false, count) => Ok(unsafe { slice::from_raw_parts(vectors, count) }),
    }
}

/// The bytes of buffers, one after the other.
///
/// # Safety
/// Each leads to so many readable bytes as it says.
pub(super) unsafe fn gather(vectors: &[iovec]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for vector in vectors.iter().filter(|vector| !vector.iov_base.is_null()) {
        // SAFETY: as the caller promises.
        bytes.extend_from_slice(unsafe { slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len) });
    }
    bytes
}

/// Spreads bytes over buffers, as far as they go.
///
/// # Safety
/// Each leads to so many writable bytes as it says.
pub(super) unsafe fn scatter(mut bytes: &[u8], vectors: &[iovec]) {
    for vector in vectors.iter().filter(|vector| !vector.iov_base.is_null()) {
        let (now, rest) = bytes.split_at(bytes.len().min(vector.iov_len));
        // SAFETY: `now` is no longer than the buffer.
        unsafe { vector.iov_base.cast::<u8>().copy_from_nonoverlapping(now.as_ptr(), now.len()) };
        bytes = rest;
    }
}

/// The value of an option from C.
///
/// # Safety
/// `value` is null or leads to `len` readable bytes.
pub(super) unsafe fn option(
    level: i32,
    name: i32,
    value: *const c_void,
    len: socklen_t,
) -> Result<OptionValue> {
    let len = len as usize;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            // SAFETY: as the caller promises; plain numbers.
            let linger = unsafe { read::<libc::linger>(value, len)? };
            Ok(OptionValue::Linger { on: linger.l_onoff != 0, seconds: linger.l_linger })
        }
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
            // SAFETY: as above.
            let time = unsafe { read::<libc::timeval>(value, len)? };
            Ok(OptionValue::Time { seconds: time.tv_sec, micros: time.tv_usec })
        }
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
            if value.is_null() {
                return Err(EFAULT);
            }
            // SAFETY: not null, and so long.
            let bytes = unsafe { slice::from_raw_parts(value.cast::<u8>(), len) };
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(OptionValue::Text(String::from_utf8_lossy(text).into_owned()))
        }
        // SAFETY: as above.
        _ => Ok(OptionValue::Int(unsafe { read::<i32>(value, len)? })),
    }
}

/// The value of an option as C has it.
pub(super) fn option_bytes(value: &OptionValue) -> Vec<u8> {
    match value {
        OptionValue::Int(number) => number.to_ne_bytes().to_vec(),
        OptionValue::Text(text) => [text.as_bytes(), &[0]].concat(),
        OptionValue::Linger { on, seconds } => [i32::from(*on).to_ne_bytes(), seconds.to_ne_bytes()].concat(),
        OptionValue::Time { seconds, micros } => [seconds.to_ne_bytes(), micros.to_ne_bytes()].concat(),
    }
}

/// Bytes of Linux's `struct tcp_info` up to `tcpi_rcv_wnd`.
const TCP_INFO_BYTES: usize = 240;

/// Linux's `struct tcp_info`, whose layout is part of its interface.
pub(super) fn tcp_info(info: &TcpInfo) -> Vec<u8> {
    let mut bytes = vec![0; TCP_INFO_BYTES];
    let mss = u64::from(info.send_mss_bytes.max(1));
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &[info.state as u8, info.congestion_state]);
    put(2, &[info.timeouts as u8, 0, info.backoff as u8]);
    let scaled = info.send_window_scale > 0 || info.recv_window_scale > 0;
    let syn_data = u8::from(info.syn_data) << 5;
    put(5, &[u8::from(info.timestamps) | u8::from(info.sack) << 1 | u8::from(scaled) << 2 | syn_data]);
    put(7, &[(info.fast_open_failure as u8) << 1]);
    put(6, &[info.send_window_scale | info.recv_window_scale << 4]);
    // No threshold is Linux's largest.
    let threshold = if info.ssthresh_bytes >= 1 << 30 { 0x7fff_ffff } else { info.ssthresh_bytes / mss };
    for (at, value) in [
        (8, u64::from(info.rto_us)),
        (12, info.ack_timeout_us.into()),
        (16, info.send_mss_bytes.into()),
        (20, info.recv_mss_bytes.into()),
        (24, info.unacked_segments.into()),
        (28, info.sacked_segments.into()),
        (32, info.lost_segments.into()),
        (36, info.retransmissions_in_flight.into()),
        (60, info.path_mtu_bytes.into()),
        (68, info.rtt_us.into()),
        (72, info.rttvar_us.into()),
        (76, threshold),
        (80, info.cwnd_bytes / mss),
        (84, info.advertised_mss_bytes.into()),
        (88, info.reordering_segments.into()),
        (100, info.retransmitted_segments),
        (136, info.segments_out),
        (140, info.segments_in),
        (144, info.not_sent_bytes),
        (148, info.min_rtt_us.into()),
        (216, info.duplicate_segments.into()),
        (220, info.reordering_seen.into()),
        (224, info.out_of_order_segments.into()),
        (228, info.send_window_bytes),
        (232, info.recv_window_bytes),
    ] {
        put(at, &u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes());
    }
    put(7, &[u8::from(info.delivery_rate_app_limited)]);
    put(160, &info.delivery_rate.to_ne_bytes());
    put(120, &info.bytes_acked.to_ne_bytes());
    put(128, &info.bytes_received.to_ne_bytes());
    bytes
}
