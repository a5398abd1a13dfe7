//! The server on epoll and nothing else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use demi_benches::load::epoll::Epoll;

const LISTENER: u64 = u64::MAX;

struct Client {
    stream: TcpStream,
    /// What the kernel had no room for; nothing is read before it is gone.
    unsent: Vec<u8>,
}

pub(crate) fn serve(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut scratch = vec![0u8; super::READ_BYTES];
    loop {
        let count = epoll.wait(None)?;
        for event in 0..count {
            let token = epoll.token(event);
            if token == LISTENER {
                accept(&listener, &epoll, &mut clients)?;
            } else if let Some(slot) = clients.get_mut(token as usize)
                && let Some(client) = slot
                && !client.echo(&mut scratch)
            {
                *slot = None;
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, clients: &mut Vec<Option<Client>>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let free = clients.iter().position(Option::is_none).unwrap_or(clients.len());
                epoll.add(&stream, free as u64)?;
                let client = Some(Client { stream, unsent: Vec::new() });
                if free == clients.len() {
                    clients.push(client);
                } else {
                    clients[free] = client;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Client {
    /// Echoes what there is; answers whether the client is still there.
    fn echo(&mut self, scratch: &mut [u8]) -> bool {
        if !self.unsent.is_empty() && !self.flush() {
            return false;
        }
        if !self.unsent.is_empty() {
            // Level-triggered readiness brings us back here; the peer reads at some time or goes away.
            std::thread::yield_now();
            return true;
        }
        match self.stream.read(scratch) {
            Ok(0) => false,
            Ok(count) => match self.stream.write(&scratch[..count]) {
                Ok(written) => {
                    self.unsent.extend_from_slice(&scratch[written..count]);
                    true
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(&scratch[..count]);
                    true
                }
                Err(_) => false,
            },
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    fn flush(&mut self) -> bool {
        match self.stream.write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
