//! What packet memory costs: a `Pool`'s buffers beside `bytes` and `Vec`, which ask the global allocator.

use std::hint::black_box;

use bytes::{BufMut as _, Bytes, BytesMut};
use demi_benches::kit::sample::timed;
use demi_benches::kit::{Args, Group, Run, Unit, measure};
use demi_drivers::{Pool, PoolConfig};

/// Payload of a full segment.
const PAYLOAD: usize = 1460;
/// Ethernet, IPv4 and TCP headers without options.
const HEADERS: usize = 54;
/// What a frame's buffer must hold.
const FRAME: usize = 1514;
/// Buffers out at a time in the case of many.
const MANY: usize = 1000;

fn main() {
    let args =
        Args::parse("Packet memory: a pool's buffers beside bytes and Vec, nanoseconds an operation.", &[]);
    let groups = vec![
        Group::new("alloc + free", Unit::Nanos)
            .peer("demi", || {
                let pool = pool();
                each(move || drop(black_box(pool.alloc(FRAME))))
            })
            .peer("bytes", || each(|| drop(black_box(BytesMut::with_capacity(FRAME)))))
            .peer("Vec", || each(|| drop(black_box(Vec::<u8>::with_capacity(FRAME))))),
        Group::new("alloc 1000, free 1000", Unit::Nanos)
            .peer("demi", || {
                let pool = pool();
                many(move || pool.alloc(FRAME))
            })
            .peer("bytes", || many(|| BytesMut::with_capacity(FRAME)))
            .peer("Vec", || many(|| Vec::<u8>::with_capacity(FRAME))),
        Group::new("copy in 1460 B + free", Unit::Nanos)
            .peer("demi", || {
                let pool = pool();
                let payload = vec![7u8; PAYLOAD];
                each(move || drop(black_box(pool.copy_from_slice(black_box(&payload)))))
            })
            .peer("bytes", || {
                let payload = vec![7u8; PAYLOAD];
                each(move || drop(black_box(Bytes::copy_from_slice(black_box(&payload)))))
            })
            .peer("Vec", || {
                let payload = vec![7u8; PAYLOAD];
                each(move || drop(black_box(black_box(&payload).to_vec())))
            }),
        Group::new("clone + drop", Unit::Nanos)
            .peer("demi", || {
                let buf = pool().copy_from_slice(&[7; PAYLOAD]).expect("a free slot");
                each(move || drop(black_box(black_box(&buf).clone())))
            })
            .peer("bytes", || {
                let buf = Bytes::copy_from_slice(&[7; PAYLOAD]);
                each(move || drop(black_box(black_box(&buf).clone())))
            }),
        Group::new("clone + split + drop both", Unit::Nanos)
            .peer("demi", || {
                let buf = pool().copy_from_slice(&[7; PAYLOAD]).expect("a free slot");
                each(move || {
                    let mut rest = black_box(&buf).clone();
                    drop(black_box((rest.split_to(PAYLOAD / 2), rest)));
                })
            })
            .peer("bytes", || {
                let buf = Bytes::copy_from_slice(&[7; PAYLOAD]);
                each(move || {
                    let mut rest = black_box(&buf).clone();
                    drop(black_box((rest.split_to(PAYLOAD / 2), rest)));
                })
            }),
        // A 64-byte payload that exists already gets its headers: in place, or in a new buffer and a copy.
        Group::new("put headers before 64 B", Unit::Nanos)
            .peer("demi", || {
                let mut payload = pool().copy_from_slice(&[7; 64]).expect("a free slot");
                each(move || {
                    drop(black_box(payload.with_header(HEADERS, |front, _| front.fill(black_box(1)))));
                })
            })
            .peer("bytes", || {
                let payload = Bytes::copy_from_slice(&[7; 64]);
                each(move || {
                    let mut frame = BytesMut::with_capacity(HEADERS + payload.len());
                    frame.put_bytes(black_box(1), HEADERS);
                    frame.put_slice(black_box(&payload));
                    drop(black_box(frame.freeze()));
                })
            }),
    ];
    measure("buf", &args, groups);
}

fn pool() -> Pool {
    Pool::new(&PoolConfig::small(2048)).expect("memory for a pool of 4 MiB")
}

fn each(mut operation: impl FnMut() + 'static) -> Run {
    Box::new(move |operations| {
        timed(|| {
            for _ in 0..operations {
                operation();
            }
        })
    })
}

fn many<T: 'static>(mut alloc: impl FnMut() -> T + 'static) -> Run {
    let mut held = Vec::with_capacity(MANY);
    Box::new(move |operations| {
        timed(|| {
            let mut left = operations;
            while left > 0 {
                let now = left.min(MANY as u64);
                held.extend((0..now).map(|_| black_box(alloc())));
                held.clear();
                left -= now;
            }
        })
    })
}
