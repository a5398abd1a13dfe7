//! The traits of the `futures` crate.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use demi_drivers::transport::ReadCursor;
use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};

macro_rules! reads {
    ([$($life:lifetime)?] $kind:ty) => {
        impl$(<$life>)? AsyncRead for $kind {
            #[inline]
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                dst: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let (connection, held) = self.reading();
                let mut cursor = ReadCursor::new(dst);
                connection.poll_read(cx, held, &mut cursor).map_ok(|()| cursor.filled())
            }

            fn poll_read_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &mut [IoSliceMut<'_>],
            ) -> Poll<io::Result<usize>> {
                let (connection, held) = self.reading();
                connection.poll_read_vectored(cx, held, slices)
            }
        }

        impl$(<$life>)? AsyncBufRead for $kind {
            #[inline]
            fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
                let (connection, held) = self.get_mut().buffered();
                ready!(connection.poll_hold(cx, held))?;
                Poll::Ready(Ok(held.get_mut().as_deref().unwrap_or_default()))
            }

            #[inline]
            fn consume(self: Pin<&mut Self>, count: usize) {
                crate::net::Connection::consume(self.get_mut().buffered().1, count);
            }
        }
    };
}

macro_rules! writes {
    ([$($life:lifetime)?] $kind:ty) => {
        impl$(<$life>)? AsyncWrite for $kind {
            #[inline]
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                src: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.writing().poll_write(cx, &[IoSlice::new(src)])
            }

            #[inline]
            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                src: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.writing().poll_write(cx, src)
            }

            /// Ready at once: what was written goes out at the end of the loop's turn, whoever asks.
            #[inline]
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            /// Ends the direction: the peer reads the end behind all that was written.
            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.writing().shutdown(Shutdown::Write))
            }
        }
    };
}

super::for_each_half!(reads, writes);
