//! tokio's traits. Nothing of tokio runs: its extension traits, codecs and adapters work on demi's streams.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use demi_drivers::transport::ReadCursor;

macro_rules! reads {
    ([$($life:lifetime)?] $kind:ty) => {
        impl$(<$life>)? AsyncRead for $kind {
            #[inline]
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                dst: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let (connection, held) = self.reading();
                // SAFETY: only the cursor writes to the memory, and it writes initialised bytes: nothing becomes
                // uninitialised.
                let mut cursor = unsafe { ReadCursor::from_uninit(dst.unfilled_mut()) };
                ready!(connection.poll_read(cx, held, &mut cursor))?;
                let count = cursor.filled();
                // SAFETY: the cursor has initialised the first `count` bytes of what was not filled.
                unsafe { dst.assume_init(count) };
                dst.advance(count);
                Poll::Ready(Ok(()))
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

            fn is_write_vectored(&self) -> bool {
                true
            }

            /// Ready at once: what was written goes out at the end of the loop's turn, whoever asks.
            #[inline]
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            /// Ends the direction: the peer reads the end behind all that was written.
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.writing().shutdown(Shutdown::Write))
            }
        }
    };
}

super::for_each_half!(reads, writes);
