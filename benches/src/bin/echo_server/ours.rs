//! The server on demi, whichever kernel transport it is told: the loop of its README, buffers owned from end to end.

use std::io;
use std::net::{SocketAddr, TcpListener};

use demi::{Config, Runtime};

pub(crate) fn posix(listener: TcpListener) -> io::Result<()> {
    serve(Config::default().device("posix"), listener)
}

pub(crate) fn uring(listener: TcpListener) -> io::Result<()> {
    serve(Config::default().device("uring"), listener)
}

/// As the peers, which all block as soon as they are idle; by default we poll for a moment first.
pub(crate) fn uring_park(listener: TcpListener) -> io::Result<()> {
    serve(Config::default().device("uring").idle("park"), listener)
}

fn serve(config: Config, listener: TcpListener) -> io::Result<()> {
    // It opens its own: the one given only names the address.
    let address: SocketAddr = listener.local_addr()?;
    drop(listener);
    Runtime::new(config)?.block_on(async move {
        let listener = demi::net::TcpListener::bind(address).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            demi::spawn(async move {
                while let Ok(Some(buf)) = stream.pop().await {
                    if stream.push(buf).await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}
