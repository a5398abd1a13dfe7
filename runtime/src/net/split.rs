//! Halves of a borrowed stream.

use std::fmt;

use super::connection::{Connection, Held};
use super::methods::{connection_methods, reading_methods, writing_methods};

/// The half of a borrowed [`TcpStream`](super::TcpStream) that reads.
///
/// ```
/// # use demi::net::{TcpListener, TcpStream};
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// # let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let mut client = TcpStream::connect(listener.local_addr()?).await?;
/// # let (mut server, _) = listener.accept().await?;
/// let (mut read, mut write) = client.split();
/// let (mut echo, mut back) = server.split();
/// write.write_all(b"ping").await?;
/// back.push(echo.pop().await?.unwrap()).await?;
/// assert_eq!(&read.pop().await?.unwrap()[..], b"ping");
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReadHalf<'a> {
    connection: &'a Connection,
    held: &'a mut Held,
}

/// The half of a borrowed [`TcpStream`](super::TcpStream) that writes. Dropping it ends nothing.
pub struct WriteHalf<'a> {
    connection: &'a Connection,
}

impl<'a> ReadHalf<'a> {
    pub(super) fn new(connection: &'a Connection, held: &'a mut Held) -> Self {
        ReadHalf { connection, held }
    }

    #[inline]
    pub(crate) fn reading(&self) -> (&Connection, &Held) {
        (self.connection, self.held)
    }

    #[inline]
    pub(crate) fn buffered(&mut self) -> (&Connection, &mut Held) {
        (self.connection, self.held)
    }

    fn connection(&self) -> &Connection {
        self.connection
    }

    reading_methods!();
    connection_methods!(connection);
}

impl<'a> WriteHalf<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        WriteHalf { connection }
    }

    #[inline]
    pub(crate) fn writing(&self) -> &Connection {
        self.connection
    }

    writing_methods!();
    connection_methods!(writing);
}

impl fmt::Debug for ReadHalf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::debug_connection(f, "ReadHalf", self.connection)
    }
}

impl fmt::Debug for WriteHalf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::debug_connection(f, "WriteHalf", self.connection)
    }
}
