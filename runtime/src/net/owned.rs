//! Halves that own their stream together.

use std::error::Error;
use std::fmt;
use std::net::Shutdown;
use std::rc::Rc;

use super::TcpStream;
use super::connection::{Connection, Held};
use super::methods::{connection_methods, reading_methods, writing_methods};

/// The half of a [`TcpStream`] that reads. The connection is closed when both halves are dropped.
///
/// ```
/// # use demi::net::{TcpListener, TcpStream};
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// # let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let client = TcpStream::connect(listener.local_addr()?).await?;
/// # let (mut server, _) = listener.accept().await?;
/// let (mut read, mut write) = client.into_split();
/// let sender = demi::spawn(async move { write.write_all(b"to the end").await });
/// let mut received = Vec::new();
/// while let Some(buf) = server.pop().await? {
///     received.extend_from_slice(&buf); // ends when `write`, dropped with its task, has ended its direction
/// }
/// assert_eq!(received, b"to the end");
/// drop(server);
/// assert!(read.pop().await?.is_none());
/// # drop(sender);
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct OwnedReadHalf {
    connection: Rc<Connection>,
    held: Held,
}

/// The half of a [`TcpStream`] that writes. Dropping it ends that direction; [`forget`](Self::forget) does not.
pub struct OwnedWriteHalf {
    connection: Rc<Connection>,
    ends: bool,
}

/// Two halves that are not of one stream, given back.
#[derive(Debug)]
pub struct ReuniteError(
    /// The half that reads.
    pub OwnedReadHalf,
    /// The half that writes.
    pub OwnedWriteHalf,
);

pub(super) fn split(connection: Connection, held: Held) -> (OwnedReadHalf, OwnedWriteHalf) {
    let connection = Rc::new(connection);
    (OwnedReadHalf { connection: connection.clone(), held }, OwnedWriteHalf { connection, ends: true })
}

fn reunite(read: OwnedReadHalf, mut write: OwnedWriteHalf) -> Result<TcpStream, ReuniteError> {
    if !Rc::ptr_eq(&read.connection, &write.connection) {
        return Err(ReuniteError(read, write));
    }
    write.ends = false;
    drop(write);
    let OwnedReadHalf { connection, held } = read;
    match Rc::try_unwrap(connection) {
        Ok(connection) => Ok(TcpStream::from_parts(connection, held)),
        // A stream has two halves, and the other one is gone; were it not, what is left would still be whole.
        Err(connection) => {
            let write = OwnedWriteHalf { connection: connection.clone(), ends: false };
            Err(ReuniteError(OwnedReadHalf { connection, held }, write))
        }
    }
}

impl OwnedReadHalf {
    #[inline]
    pub(crate) fn reading(&self) -> (&Connection, &Held) {
        (&self.connection, &self.held)
    }

    #[inline]
    pub(crate) fn buffered(&mut self) -> (&Connection, &mut Held) {
        (&self.connection, &mut self.held)
    }

    fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    /// Both halves, when they are not of one stream.
    pub fn reunite(self, other: OwnedWriteHalf) -> Result<TcpStream, ReuniteError> {
        reunite(self, other)
    }

    reading_methods!();
    connection_methods!(connection);
}

impl OwnedWriteHalf {
    #[inline]
    pub(crate) fn writing(&self) -> &Connection {
        &self.connection
    }

    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    /// Both halves, when they are not of one stream.
    pub fn reunite(self, other: OwnedReadHalf) -> Result<TcpStream, ReuniteError> {
        reunite(other, self)
    }

    /// Drops the half without ending its direction.
    pub fn forget(mut self) {
        self.ends = false;
    }

    writing_methods!();
    connection_methods!(writing);
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if self.ends {
            // The peer may be gone: then there is nothing to end.
            let _ = self.connection.shutdown(Shutdown::Write);
        }
    }
}

impl fmt::Display for ReuniteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tried to reunite halves that are not of one stream")
    }
}

impl Error for ReuniteError {}

impl fmt::Debug for OwnedReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::debug_connection(f, "OwnedReadHalf", &self.connection)
    }
}

impl fmt::Debug for OwnedWriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::debug_connection(f, "OwnedWriteHalf", &self.connection)
    }
}
