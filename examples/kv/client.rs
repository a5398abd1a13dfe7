//! A client of `kv` that reads small values out of the server's memory and asks for the others.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use demi::net::TcpStream;
use demi::net::rdma::{Peer, RegionKey, peer};

use super::layout::{self, Answer, BUCKET_BYTES, Layout};
use super::reply::{self, Reply};

/// READs of one bucket at most before the server is asked: whoever meets a writer so often is on a key that is written all the time.
const ATTEMPTS: u32 = 8;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The server's memory, read by this side.
    Memory,
    /// The server's answer.
    Server,
}

/// A connection to the server, and the key to its memory once that is [asked for](Client::find_region).
pub struct Client {
    stream: TcpStream,
    peer: Peer,
    region: Option<(RegionKey, Layout)>,
    input: BytesMut,
    torn: u64,
}

impl Client {
    /// Connects to `server` over RDMA.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; `Unsupported` when the connection is not carried by RDMA.
    pub async fn connect(server: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let peer = peer(&stream)?;
        Ok(Client { stream, peer, region: None, input: BytesMut::new(), torn: 0 })
    }

    /// Asks for the key to the server's memory, which [`get`](Self::get) reads from then on.
    ///
    /// # Errors
    /// `Unsupported`, with what the server says, when it publishes nothing; `InvalidData` for a table that this program cannot read.
    pub async fn find_region(&mut self) -> io::Result<()> {
        self.region = Some(match self.command(&[b"REGION"]).await? {
            Reply::Error(refused) => return Err(io::Error::new(io::ErrorKind::Unsupported, refused)),
            reply => region(&reply)?,
        });
        Ok(())
    }

    /// The value of `key`, and where it is from.
    ///
    /// # Errors
    /// What ended the connection; `InvalidData` for an answer that is no value.
    pub async fn get(&mut self, key: &[u8]) -> io::Result<(Option<Vec<u8>>, Source)> {
        if let Some(value) = self.get_one_sided(key).await? {
            return Ok((Some(value), Source::Memory));
        }
        match self.command(&[b"GET", key]).await? {
            Reply::Bulk(value) => Ok((value, Source::Server)),
            other => Err(invalid(format!("GET was answered with {other:?}"))),
        }
    }

    /// The value of `key` if the server's memory shows it: `None` says nothing about whether the server has it.
    ///
    /// # Errors
    /// What ended the connection.
    pub async fn get_one_sided(&mut self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some((region, layout)) = &self.region else { return Ok(None) };
        let bucket = layout.bucket(key) as u64;
        for _ in 0..ATTEMPTS {
            let read = self.peer.read(region, bucket, BUCKET_BYTES).await?;
            let read = read.first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
            match layout::find(read, key) {
                Answer::Value(value) => return Ok(Some(value.to_vec())),
                Answer::Unknown => return Ok(None),
                Answer::Torn => self.torn += 1,
            }
        }
        Ok(None)
    }

    /// READs that met the server writing, and were made again.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// What ended the connection; `InvalidData` for what is no reply.
    pub async fn command(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.stream.write_all(&reply::command(words)).await?;
        loop {
            if let Some((reply, bytes)) = reply::parse(&self.input).map_err(invalid)? {
                self.input.advance(bytes);
                return Ok(reply);
            }
            let received = self.stream.pop().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.input.extend_from_slice(&received);
        }
    }
}

/// The key and the layout that `REGION` was answered with.
fn region(reply: &Reply) -> io::Result<(RegionKey, Layout)> {
    let Reply::Array(elements) = reply else {
        return Err(invalid(format!("REGION was answered with {reply:?}")));
    };
    let [
        Reply::Bulk(Some(key)),
        Reply::Integer(version),
        Reply::Integer(slots),
        Reply::Integer(slot_bytes),
        Reply::Integer(bucket_slots),
    ] = &elements[..]
    else {
        return Err(invalid(format!("REGION was answered with {elements:?}")));
    };
    let layout = Layout::from_numbers([*version, *slots, *slot_bytes, *bucket_slots]).map_err(invalid)?;
    let key: &[u8; RegionKey::BYTES] =
        key.as_slice().try_into().map_err(|_| invalid("REGION: that is no key of a region".to_owned()))?;
    let key = RegionKey::from_bytes(key)?;
    if key.len() < layout.bytes() as u64 || !key.access().read {
        return Err(invalid(format!("REGION: {key:?} does not open a table of {} bytes", layout.bytes())));
    }
    Ok((key, layout))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use demi::net::rdma::Access;

    use super::*;

    #[test]
    fn a_region_is_read_only_if_it_opens_a_table_that_is_known() {
        let key = |bytes, access| RegionKey::new(4096, bytes, 7, access).to_bytes().to_vec();
        let answer = |key: Vec<u8>, numbers: [i64; 4]| {
            let mut elements = vec![Reply::Bulk(Some(key))];
            elements.extend(numbers.map(Reply::Integer));
            region(&Reply::Array(elements))
        };
        let (whole, layout) = answer(key(2048, Access::READ), [1, 8, 256, 4]).unwrap();
        assert_eq!((whole.len(), layout), (2048, Layout::of_slots(8)));
        for (key, numbers) in [
            (key(2047, Access::READ), [1, 8, 256, 4]),
            (key(2048, Access::default()), [1, 8, 256, 4]),
            (key(2048, Access::READ), [2, 8, 256, 4]),
            (vec![0; 23], [1, 8, 256, 4]),
        ] {
            let error = answer(key, numbers).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        assert!(region(&Reply::Simple("OK".to_owned())).is_err());
    }
}
