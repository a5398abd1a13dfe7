//! A UDP socket, and what it is believed to be ready for.

use core::task::{Context, Poll, Waker};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::epoll::Ready;
use crate::mem::{Buf, Pool};
use crate::sockets::{calls, remember, would_block};
use crate::transport::DatagramOptions;

#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) socket: OwnedFd,
    pub(super) ready: Ready,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) v6: bool,
    pub(super) options: DatagramOptions,
}

impl Datagram {
    pub(super) fn poll_send_to(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        let Some(view) = buf.as_ref() else { return Poll::Ready(Ok(())) };
        if self.ready.write {
            match calls::send_to(self.socket.as_fd(), view, remote.as_ref()) {
                Ok(()) => {
                    *buf = None;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if would_block(&error) => self.ready.write = false,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    /// Receives (or only shows) the next datagram. It goes straight into a small slot; what is longer goes on into `spill`,
    /// and from both into a large slot.
    pub(super) fn poll_recv_from(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Pool,
        spill: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        while self.ready.read {
            let small = pool.small_capacity();
            let mut buf = match pool.poll_alloc(cx, small) {
                Poll::Ready(Some(buf)) => buf,
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                Poll::Pending => return Poll::Pending,
            };
            match calls::recv_from(self.socket.as_fd(), &mut buf, spill, peek) {
                Ok((count, Some(sender))) if count == buf.len() => {
                    return Poll::Ready(Ok((buf.freeze(), sender)));
                }
                Ok((count, Some(sender))) => {
                    // No large slot: the datagram is lost, as any datagram may be. A shown one stays.
                    let Some(mut large) = pool.alloc(count.min(pool.max_capacity())) else {
                        if peek {
                            return pool
                                .poll_alloc(cx, count)
                                .map(|_| Err(io::ErrorKind::OutOfMemory.into()));
                        }
                        continue;
                    };
                    let spilled = count - buf.len();
                    large.put_slice(&buf);
                    large.put_slice(&spill[..spilled]);
                    return Poll::Ready(Ok((large.freeze(), sender)));
                }
                // No Internet address, no datagram of ours.
                Ok((_, None)) => {}
                Err(error) if would_block(&error) => self.ready.read_blocked(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    /// Asks the kernel, since the caller will rely on the answer.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ready.read {
            match calls::probe_readable(self.socket.as_fd()) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if would_block(&error) => self.ready.read_blocked(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ready.write {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }
}
