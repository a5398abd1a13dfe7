//! The methods that a stream and its halves share, written once.
//!
//! Each type that reads has `fn reading(&self) -> (&Connection, &Held)`, each that writes `fn writing(&self) ->
//! &Connection`; the macros give it the rest.

/// Methods of what reads.
macro_rules! reading_methods {
    () => {
        /// Takes what was received, without copying it: one view into the memory it was received in. `None` is the end: the
        /// peer will send no more.
        ///
        /// # Errors
        /// `ConnectionReset`, `TimedOut` and what else ended the connection.
        ///
        /// # Cancel safety
        /// Cancel safe: a future that is dropped before it is ready has taken nothing.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"hello").await?;
        /// let buf = server.pop().await?.expect("bytes, not the end");
        /// assert_eq!(&*buf, b"hello");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn pop(&mut self) -> impl Future<Output = std::io::Result<Option<$crate::Buf>>> {
            std::future::poll_fn(move |cx| self.poll_pop(cx, usize::MAX))
        }

        /// As [`pop`](Self::pop), at most `max` bytes; of a `max` of zero, one.
        ///
        /// # Errors
        /// As [`pop`](Self::pop).
        ///
        /// # Cancel safety
        /// As [`pop`](Self::pop).
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"hello").await?;
        /// let first = server.pop_max(1).await?.expect("bytes, not the end");
        /// assert_eq!(&*first, b"h");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn pop_max(&mut self, max: usize) -> impl Future<Output = std::io::Result<Option<$crate::Buf>>> {
            std::future::poll_fn(move |cx| self.poll_pop(cx, max))
        }

        /// [`pop_max`](Self::pop_max), polled.
        ///
        /// # Errors
        /// As [`pop`](Self::pop).
        #[inline]
        pub fn poll_pop(
            &mut self,
            cx: &mut std::task::Context<'_>,
            max: usize,
        ) -> std::task::Poll<std::io::Result<Option<$crate::Buf>>> {
            let (connection, held) = self.reading();
            connection.poll_pop(cx, held, max)
        }

        /// [`pop`](Self::pop), without waiting.
        ///
        /// # Errors
        /// As [`pop`](Self::pop), and `WouldBlock` when nothing has come.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// let nothing = server.try_pop().unwrap_err();
        /// assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn try_pop(&self) -> std::io::Result<Option<$crate::Buf>> {
            let (connection, held) = self.reading();
            connection.try_reading(|cx| connection.poll_pop(cx, held, usize::MAX))
        }

        /// Copies what was received to the front of `dst` and answers how much: all there is, or all that fits. Zero is the
        /// end, unless `dst` is empty.
        ///
        /// # Errors
        /// As [`pop`](Self::pop).
        ///
        /// # Cancel safety
        /// Cancel safe: a future that is dropped before it is ready has taken nothing.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"hello").await?;
        /// client.shutdown().await?;
        /// let (mut room, mut said) = ([0; 3], Vec::new());
        /// loop {
        ///     match server.read(&mut room).await? {
        ///         0 => break,
        ///         count => said.extend_from_slice(&room[..count]),
        ///     }
        /// }
        /// assert_eq!(said, b"hello");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn read(&mut self, dst: &mut [u8]) -> impl Future<Output = std::io::Result<usize>> {
            std::future::poll_fn(move |cx| {
                let (connection, held) = self.reading();
                let mut cursor = demi_drivers::transport::ReadCursor::new(dst);
                connection.poll_read(cx, held, &mut cursor).map_ok(|()| cursor.filled())
            })
        }

        /// Fills all of `dst`.
        ///
        /// # Errors
        /// As [`pop`](Self::pop), and `UnexpectedEof` when the peer ended before.
        ///
        /// # Cancel safety
        /// Not cancel safe: a future that is dropped leaves what it read in `dst`, and how much that is is lost with it. In a
        /// `select!`, use [`read`](Self::read) or [`pop_max`](Self::pop_max).
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"headerbody").await?;
        /// let mut header = [0; 6];
        /// server.read_exact(&mut header).await?;
        /// assert_eq!(&header, b"header");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub async fn read_exact(&mut self, dst: &mut [u8]) -> std::io::Result<()> {
            let mut filled = 0;
            while let Some(rest) = dst.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match self.read(rest).await? {
                    0 => {
                        return Err(std::io::Error::new(
                            std::io::ErrorKind::UnexpectedEof,
                            "the peer ended before all bytes that were asked for had come",
                        ));
                    }
                    count => filled += count,
                }
            }
            Ok(())
        }

        /// [`read`](Self::read), without waiting.
        ///
        /// # Errors
        /// As [`pop`](Self::pop), and `WouldBlock` when nothing has come.
        pub fn try_read(&self, dst: &mut [u8]) -> std::io::Result<usize> {
            let (connection, held) = self.reading();
            let mut cursor = demi_drivers::transport::ReadCursor::new(dst);
            connection.try_reading(|cx| connection.poll_read(cx, held, &mut cursor))?;
            Ok(cursor.filled())
        }

        /// [`try_read`](Self::try_read) into several slices, in order.
        ///
        /// # Errors
        /// As [`try_read`](Self::try_read).
        pub fn try_read_vectored(&self, slices: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
            let (connection, held) = self.reading();
            connection.try_reading(|cx| connection.poll_read_vectored(cx, held, slices))
        }

        /// Copies what was received to the front of `dst` and leaves it to be read; answers how much was copied.
        ///
        /// # Errors
        /// As [`pop`](Self::pop).
        ///
        /// # Cancel safety
        /// Cancel safe: nothing is taken at all.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"GET /").await?;
        /// let mut room = [0; 3];
        /// let count = server.peek(&mut room).await?;
        /// // The bytes are still there to be read.
        /// assert!(server.pop().await?.is_some_and(|buf| buf.starts_with(&room[..count])));
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn peek(&self, dst: &mut [u8]) -> impl Future<Output = std::io::Result<usize>> {
            std::future::poll_fn(move |cx| self.poll_peek(cx, dst))
        }

        /// [`peek`](Self::peek), polled.
        ///
        /// # Errors
        /// As [`pop`](Self::pop).
        pub fn poll_peek(
            &self,
            cx: &mut std::task::Context<'_>,
            dst: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            let (connection, held) = self.reading();
            let mut cursor = demi_drivers::transport::ReadCursor::new(dst);
            connection.poll_peek(cx, held, &mut cursor).map_ok(|()| cursor.filled())
        }

        /// Waits until a read would not wait: bytes, the end or an error are there. Several tasks may wait.
        ///
        /// # Errors
        /// `NotConnected`; errors of the connection show when it is read.
        ///
        /// # Cancel safety
        /// Cancel safe: it only looks.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"hello").await?;
        /// server.readable().await?;
        /// assert_eq!(server.try_read(&mut [0; 10])?, 5);
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn readable(&self) -> impl Future<Output = std::io::Result<()>> {
            std::future::poll_fn(move |cx| self.poll_read_ready(cx))
        }

        /// [`readable`](Self::readable), polled.
        ///
        /// # Errors
        /// As [`readable`](Self::readable).
        pub fn poll_read_ready(
            &self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let (connection, held) = self.reading();
            connection.poll_readable(cx, held)
        }
    };
}

/// Methods of what writes.
macro_rules! writing_methods {
    () => {
        /// Sends `buf` without copying it: it goes out as it lies, behind all that was written before. The transport keeps it
        /// until the peer has acknowledged it; clones of it may be kept, and are free. Waits while the send buffer is full.
        ///
        /// # Errors
        /// `BrokenPipe` after a shutdown; `ConnectionReset`, `TimedOut` and what else ended the connection.
        ///
        /// # Cancel safety
        /// A future that is dropped before it is ready has sent nothing of `buf`, and drops it. To have it back, push a clone,
        /// or use [`push_from`](Self::push_from).
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// let mut buf = client.alloc(100).await?;
        /// buf.put_slice(b"hello");
        /// let buf = buf.freeze();
        /// client.push(buf.clone()).await?; // a clone costs nothing, and so does what stays
        /// client.push(buf).await?;
        /// let mut said = [0; 10];
        /// server.read_exact(&mut said).await?;
        /// assert_eq!(&said, b"hellohello");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn push(&mut self, buf: $crate::Buf) -> impl Future<Output = std::io::Result<()>> {
            let mut buf = Some(buf);
            std::future::poll_fn(move |cx| self.poll_push(cx, &mut buf))
        }

        /// As [`push`](Self::push), out of an `Option` that keeps the buffer until it is sent, as a whole. Nothing to send is
        /// sent at once.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        ///
        /// # Cancel safety
        /// Cancel safe: a future that is dropped before it is ready has left `buf` where it was.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// let mut buf = client.alloc(5).await?;
        /// buf.put_slice(b"hello");
        /// let mut buf = Some(buf.freeze());
        /// // Should the time run out, `buf` still has what was not sent.
        /// let _ = demi::time::timeout(std::time::Duration::from_secs(1), client.push_from(&mut buf)).await;
        /// assert!(buf.is_none(), "sent");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn push_from(
            &mut self,
            buf: &mut Option<$crate::Buf>,
        ) -> impl Future<Output = std::io::Result<()>> {
            std::future::poll_fn(move |cx| self.poll_push(cx, buf))
        }

        /// [`push_from`](Self::push_from), polled.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        #[inline]
        pub fn poll_push(
            &mut self,
            cx: &mut std::task::Context<'_>,
            buf: &mut Option<$crate::Buf>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if buf.as_ref().is_none_or(|buf| buf.is_empty()) {
                *buf = None;
                return std::task::Poll::Ready(Ok(()));
            }
            self.writing().poll_push(cx, buf)
        }

        /// [`push_from`](Self::push_from), without waiting.
        ///
        /// # Errors
        /// As [`push`](Self::push), and `WouldBlock`, with `buf` where it was, when the send buffer is full.
        #[inline]
        pub fn try_push(&self, buf: &mut Option<$crate::Buf>) -> std::io::Result<()> {
            if buf.as_ref().is_none_or(|buf| buf.is_empty()) {
                *buf = None;
                return Ok(());
            }
            let connection = self.writing();
            connection.try_writing(|cx| connection.poll_push(cx, buf))
        }

        /// Copies bytes of `src` into the send buffer; answers how many, at least one unless `src` is empty.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        ///
        /// # Cancel safety
        /// Cancel safe: a future that is dropped before it is ready has sent nothing.
        #[inline]
        pub fn write(&mut self, src: &[u8]) -> impl Future<Output = std::io::Result<usize>> {
            std::future::poll_fn(move |cx| self.writing().poll_write(cx, &[std::io::IoSlice::new(src)]))
        }

        /// [`write`](Self::write) of several slices, in order.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        ///
        /// # Cancel safety
        /// As [`write`](Self::write).
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// use std::io::IoSlice;
        /// let count = client.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(b"body")]).await?;
        /// assert_eq!(count, 8);
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn write_vectored(
            &mut self,
            src: &[std::io::IoSlice<'_>],
        ) -> impl Future<Output = std::io::Result<usize>> {
            std::future::poll_fn(move |cx| self.writing().poll_write(cx, src))
        }

        /// Copies all of `src` into the send buffer.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        ///
        /// # Cancel safety
        /// Not cancel safe: what a future had written when it was dropped is sent, and how much that is is lost with it. In a
        /// `select!`, use [`write_from`](Self::write_from) or [`push_from`](Self::push_from).
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"hello").await?;
        /// assert_eq!(&*server.pop().await?.expect("bytes"), b"hello");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[inline]
        pub fn write_all(&mut self, src: &[u8]) -> impl Future<Output = std::io::Result<()>> {
            let mut src = src;
            std::future::poll_fn(move |cx| self.poll_write_from(cx, &mut src))
        }

        /// Copies all of `src` into the send buffer, and leaves in it what is not written yet.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        ///
        /// # Cancel safety
        /// Cancel safe: when a future is dropped, `src` is what is still to be written; call again with it.
        pub fn write_from(&mut self, src: &mut &[u8]) -> impl Future<Output = std::io::Result<()>> {
            std::future::poll_fn(move |cx| self.poll_write_from(cx, src))
        }

        /// [`write_from`](Self::write_from), polled.
        ///
        /// # Errors
        /// As [`push`](Self::push).
        #[inline]
        pub fn poll_write_from(
            &mut self,
            cx: &mut std::task::Context<'_>,
            src: &mut &[u8],
        ) -> std::task::Poll<std::io::Result<()>> {
            while !src.is_empty() {
                let count = std::task::ready!(self.writing().poll_write(cx, &[std::io::IoSlice::new(src)]))?;
                *src = src.get(count..).unwrap_or_default();
            }
            std::task::Poll::Ready(Ok(()))
        }

        /// [`write`](Self::write), without waiting.
        ///
        /// # Errors
        /// As [`push`](Self::push), and `WouldBlock` when the send buffer is full.
        pub fn try_write(&self, src: &[u8]) -> std::io::Result<usize> {
            self.try_write_vectored(&[std::io::IoSlice::new(src)])
        }

        /// [`try_write`](Self::try_write) of several slices, in order.
        ///
        /// # Errors
        /// As [`try_write`](Self::try_write).
        pub fn try_write_vectored(&self, src: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
            let connection = self.writing();
            connection.try_writing(|cx| connection.poll_write(cx, src))
        }

        /// Waits until a write would not wait: there is room, or the connection is over. Several tasks may wait.
        ///
        /// # Errors
        /// `NotConnected`; errors of the connection show when it is written.
        ///
        /// # Cancel safety
        /// Cancel safe: it only looks.
        pub fn writable(&self) -> impl Future<Output = std::io::Result<()>> {
            std::future::poll_fn(move |cx| self.poll_write_ready(cx))
        }

        /// [`writable`](Self::writable), polled.
        ///
        /// # Errors
        /// As [`writable`](Self::writable).
        pub fn poll_write_ready(
            &self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            self.writing().poll_writable(cx)
        }

        /// Waits until the peer has acknowledged every byte written, and the FIN after a shutdown. On the kernel's sockets,
        /// until the kernel has taken every byte.
        ///
        /// # Errors
        /// What ended the connection before.
        ///
        /// # Cancel safety
        /// Cancel safe: it only looks.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.write_all(b"last words").await?;
        /// client.shutdown().await?;
        /// let reader = demi::spawn(async move { while let Ok(Some(_)) = server.pop().await {} });
        /// client.drained().await?; // our part is delivered
        /// reader.await.expect("it does not panic");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn drained(&self) -> impl Future<Output = std::io::Result<()>> {
            std::future::poll_fn(move |cx| self.writing().poll_drained(cx))
        }

        /// Ends this direction: the peer reads the end behind all that was written. Reading goes on.
        ///
        /// # Errors
        /// What ended the connection before; a peer that is gone is no error.
        ///
        /// # Cancel safety
        /// Cancel safe: it does not wait.
        ///
        /// ```
        /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
        /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
        /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
        /// # let (mut server, _) = listener.accept().await?;
        /// client.shutdown().await?;
        /// assert!(server.pop().await?.is_none(), "the end");
        /// server.write_all(b"still here").await?;
        /// assert_eq!(&*client.pop().await?.expect("bytes"), b"still here");
        /// # Ok::<(), std::io::Error>(())
        /// # })?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub async fn shutdown(&mut self) -> std::io::Result<()> {
            self.writing().shutdown(std::net::Shutdown::Write)
        }
    };
}

/// Methods of everything that is, or is half of, a connection.
macro_rules! connection_methods {
    ($connection:ident) => {
        /// This end's address.
        ///
        /// # Errors
        /// `NotConnected` when the connection is gone.
        pub fn local_addr(&self) -> std::io::Result<std::net::SocketAddr> {
            self.$connection().local_addr()
        }

        /// The peer's address.
        ///
        /// # Errors
        /// `NotConnected` when the connection is gone.
        pub fn peer_addr(&self) -> std::io::Result<std::net::SocketAddr> {
            self.$connection().peer_addr()
        }

        /// The device string of the transport that carries the connection.
        pub fn device(&self) -> String {
            self.$connection().cell().name().to_owned()
        }
    };
}

pub(super) use {connection_methods, reading_methods, writing_methods};
