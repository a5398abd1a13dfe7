//! Streams of bytes that tell where they belong: made and checked while they pass, in every way the API has.

use std::io::{self, IoSlice};
use std::time::Duration;

use demi::net::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, TcpStream, WriteHalf};
use demi::sim::Rng;
use demi::time::{sleep, timeout};
use demi::{Buf, BufMut};

use crate::support::{pick, scaled};

/// How bytes are sent, at most so many in a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sending {
    Write(usize),
    Vectored(usize),
    Push(usize),
}

/// How bytes are received, at most so many in a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Receiving {
    Read(usize),
    Pop,
    PopMax(usize),
    Peek(usize),
}

/// One direction of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// What tells its bytes from others'.
    pub(crate) key: u64,
    pub(crate) bytes: u64,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
    /// Rests of the sender: after so many bytes, so long.
    pub(crate) send_rest: Option<(u64, Duration)>,
    /// Rests of the receiver.
    pub(crate) receive_rest: Option<(u64, Duration)>,
    /// Both sides drop futures before they are ready, and call again.
    pub(crate) impatient: bool,
}

impl Flow {
    /// A flow of so many bytes in the plainest way.
    pub(crate) fn plain(key: u64, bytes: u64) -> Flow {
        Flow {
            key,
            bytes,
            sending: Sending::Write(16 << 10),
            receiving: Receiving::Read(16 << 10),
            send_rest: None,
            receive_rest: None,
            impatient: false,
        }
    }

    /// A flow of up to so many bytes, in any way.
    pub(crate) fn any(rng: &mut Rng, most: u64) -> Flow {
        let bytes = if rng.chance(0.1) { 0 } else { scaled(rng, 1, most) };
        let size = (scaled(rng, 1, 64 << 10) as usize).max(bytes as usize / 400);
        let rest = |rng: &mut Rng| {
            let every = scaled(rng, 1 + bytes / 20, bytes.max(1) + 1);
            let pause = Duration::from_micros(scaled(rng, 1, 2_000_000));
            rng.chance(0.3).then_some((every, pause))
        };
        Flow {
            key: rng.next_u64(),
            bytes,
            sending: pick(rng, &[Sending::Write(size), Sending::Vectored(size), Sending::Push(size)]),
            receiving: pick(
                rng,
                &[Receiving::Read(size), Receiving::Pop, Receiving::PopMax(size), Receiving::Peek(size)],
            ),
            send_rest: rest(rng),
            receive_rest: rest(rng),
            impatient: false,
        }
    }

    /// Fills `into` with the flow's bytes from `offset` on.
    pub(crate) fn fill(&self, offset: u64, into: &mut [u8]) {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let word = Rng::new(self.key ^ (at / 8)).next_u64().to_le_bytes();
            let word = &word[(at % 8) as usize..];
            let count = word.len().min(rest.len());
            rest[..count].copy_from_slice(&word[..count]);
            rest = &mut rest[count..];
            at += count as u64;
        }
    }

    /// Fails unless `bytes` are the flow's from `offset` on.
    pub(crate) fn check(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut expected = vec![0; bytes.len()];
        self.fill(offset, &mut expected);
        match expected.iter().zip(bytes).position(|(expected, seen)| expected != seen) {
            None if offset + bytes.len() as u64 <= self.bytes => Ok(()),
            None => Err(io::Error::other(format!("more than the {} bytes that were sent", self.bytes))),
            Some(at) => {
                Err(io::Error::other(format!("byte {} of {} is wrong", offset + at as u64, self.bytes)))
            }
        }
    }

    /// Sends all of the flow, in its way.
    pub(crate) async fn send(&self, to: &mut impl Writer) -> io::Result<()> {
        let mut rng = Rng::new(self.key ^ 1);
        let mut rested = 0;
        let mut offset = 0;
        while offset < self.bytes {
            let size = match self.sending {
                Sending::Write(size) | Sending::Vectored(size) => size,
                Sending::Push(size) => size.min(to.largest()),
            };
            let size = (self.bytes - offset).min(1 + rng.below(size as u64)) as usize;
            let mut bytes = vec![0; size];
            self.fill(offset, &mut bytes);
            match self.sending {
                Sending::Write(_) => {
                    let count = self.insist(&mut rng, async || to.write(&bytes).await).await?;
                    offset += count as u64;
                }
                Sending::Vectored(_) => {
                    let (a, b) = bytes.split_at(rng.below(size as u64 + 1) as usize);
                    let slices = [IoSlice::new(a), IoSlice::new(&[]), IoSlice::new(b)];
                    let count = self.insist(&mut rng, async || to.write_vectored(&slices).await).await?;
                    offset += count as u64;
                }
                Sending::Push(_) => {
                    let mut buf = self.insist(&mut rng, async || demi::alloc(size).await).await?;
                    buf.put_slice(&bytes);
                    let mut buf = Some(buf.freeze());
                    self.insist(&mut rng, async || to.push_from(&mut buf).await).await?;
                    offset += size as u64;
                }
            }
            rest(&mut rested, offset, self.send_rest).await;
        }
        Ok(())
    }

    /// Receives up to the peer's end, and fails unless that is all of the flow.
    pub(crate) async fn receive(&self, from: &mut impl Reader) -> io::Result<()> {
        let mut rng = Rng::new(self.key ^ 2);
        let mut rested = 0;
        let mut offset = 0;
        let size = match self.receiving {
            Receiving::Read(size) | Receiving::PopMax(size) | Receiving::Peek(size) => size,
            Receiving::Pop => 0,
        };
        let mut bytes = vec![0; size];
        loop {
            let before = offset;
            match self.receiving {
                Receiving::Read(_) => {
                    let count = self.insist(&mut rng, async || from.read(&mut bytes).await).await?;
                    self.check(offset, &bytes[..count])?;
                    offset += count as u64;
                }
                Receiving::Peek(_) => {
                    let count = self.insist(&mut rng, async || from.peek(&mut bytes).await).await?;
                    self.check(offset, &bytes[..count])?;
                    let count = from.read(&mut bytes[..count.max(1)]).await?;
                    self.check(offset, &bytes[..count])?;
                    offset += count as u64;
                }
                Receiving::Pop | Receiving::PopMax(_) => {
                    let max = if size == 0 { usize::MAX } else { size };
                    let buf = self.insist(&mut rng, async || from.pop_max(max).await).await?;
                    if let Some(buf) = buf {
                        self.check(offset, &buf)?;
                        if buf.is_empty() || buf.len() > max {
                            return Err(io::Error::other(format!("{} bytes of at most {max}", buf.len())));
                        }
                        offset += buf.len() as u64;
                    }
                }
            }
            if offset == before {
                break;
            }
            rest(&mut rested, offset, self.receive_rest).await;
        }
        if offset != self.bytes {
            let message = format!("the end came after {offset} of {} bytes", self.bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(())
    }

    /// Calls until a call is ready; an impatient flow drops those that are not, after a while or at once.
    async fn insist<T>(&self, rng: &mut Rng, mut call: impl AsyncFnMut() -> T) -> T {
        if self.impatient { insist(rng, call).await } else { call().await }
    }
}

/// Calls until a call is ready in time, with ever more patience; the futures of the others are dropped where they wait.
pub(crate) async fn insist<T>(rng: &mut Rng, mut call: impl AsyncFnMut() -> T) -> T {
    let mut patience_ns = 1;
    loop {
        let limit = Duration::from_nanos(rng.below(patience_ns));
        if let Ok(output) = timeout(limit, call()).await {
            return output;
        }
        patience_ns = (patience_ns * 8).min(20_000_000_000);
    }
}

async fn rest(rested: &mut u64, offset: u64, every: Option<(u64, Duration)>) {
    if let Some((every, pause)) = every
        && offset - *rested >= every
    {
        *rested = offset;
        sleep(pause).await;
    }
}

/// What reads: a stream or one of its halves.
pub(crate) trait Reader {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
    async fn peek(&mut self, into: &mut [u8]) -> io::Result<usize>;
    async fn pop_max(&mut self, max: usize) -> io::Result<Option<Buf>>;
}

/// What writes: a stream or one of its halves.
pub(crate) trait Writer {
    /// Bytes of the largest buffer that may be pushed.
    fn largest(&self) -> usize;
    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    async fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;
    async fn push_from(&mut self, buf: &mut Option<Buf>) -> io::Result<()>;
    async fn end(&mut self) -> io::Result<()>;
    async fn drained(&self) -> io::Result<()>;
}

macro_rules! reader {
    ($($kind:ty),*) => {$(
        impl Reader for $kind {
            async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                <$kind>::read(self, into).await
            }
            async fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
                <$kind>::peek(self, into).await
            }
            async fn pop_max(&mut self, max: usize) -> io::Result<Option<Buf>> {
                <$kind>::pop_max(self, max).await
            }
        }
    )*};
}
reader!(TcpStream, ReadHalf<'_>, OwnedReadHalf);

macro_rules! writer {
    ($($kind:ty),*) => {$(
        impl Writer for $kind {
            fn largest(&self) -> usize {
                largest_buffer()
            }
            async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                <$kind>::write(self, bytes).await
            }
            async fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
                <$kind>::write_vectored(self, bytes).await
            }
            async fn push_from(&mut self, buf: &mut Option<Buf>) -> io::Result<()> {
                <$kind>::push_from(self, buf).await
            }
            async fn end(&mut self) -> io::Result<()> {
                self.shutdown().await
            }
            async fn drained(&self) -> io::Result<()> {
                <$kind>::drained(self).await
            }
        }
    )*};
}
writer!(TcpStream, WriteHalf<'_>, OwnedWriteHalf);

/// The largest of the sizes here that the running host's pool has a buffer for.
fn largest_buffer() -> usize {
    let fits = |size: &&usize| {
        let buf: io::Result<BufMut> = demi::buf(**size);
        buf.is_ok_and(|_| true)
    };
    [60_000, 15_000, 7_000, 1_800, 1_400].iter().find(fits).copied().unwrap_or(400)
}
