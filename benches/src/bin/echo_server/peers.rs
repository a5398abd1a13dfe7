//! The server on each peer runtime, as its users write one.

use std::io;
use std::net::TcpListener;

use super::READ_BYTES;

/// tokio, one thread, tasks that need not be `Send`.
pub(crate) fn tokio(listener: TcpListener) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let mut buffer = vec![0; READ_BYTES];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}

/// monoio on io_uring: a buffer goes down with each operation and comes back with its result.
pub(crate) fn monoio(listener: TcpListener) -> io::Result<()> {
    use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build()?;
    runtime.block_on(async move {
        let listener = monoio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            monoio::spawn(async move {
                let mut buffer = Vec::with_capacity(READ_BYTES);
                loop {
                    let (count, read) = stream.read(buffer).await;
                    if !matches!(count, Ok(1..)) {
                        break;
                    }
                    let (written, mut back) = stream.write_all(read).await;
                    if written.is_err() {
                        break;
                    }
                    back.clear();
                    buffer = back;
                }
            });
        }
    })
}

/// compio on io_uring with cooperative task work.
pub(crate) fn compio(listener: TcpListener) -> io::Result<()> {
    use compio::io::{AsyncRead, AsyncWriteExt};
    let mut proactor = compio::driver::ProactorBuilder::new();
    proactor.capacity(4096).coop_taskrun(true).taskrun_flag(true);
    let runtime = compio::runtime::RuntimeBuilder::new().with_proactor(proactor).build()?;
    runtime.block_on(async move {
        let listener = compio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let task = compio::runtime::spawn(async move {
                let mut buffer = Vec::with_capacity(READ_BYTES);
                loop {
                    let compio::BufResult(count, read) = stream.read(buffer).await;
                    if !matches!(count, Ok(1..)) {
                        break;
                    }
                    let compio::BufResult(written, mut back) = stream.write_all(read).await;
                    if written.is_err() {
                        break;
                    }
                    back.clear();
                    buffer = back;
                }
            });
            task.detach();
        }
    })
}

/// glommio, which opens its own listener: the one given only names the address.
pub(crate) fn glommio(listener: TcpListener) -> io::Result<()> {
    use futures::io::{AsyncReadExt, AsyncWriteExt};
    let address = listener.local_addr()?;
    drop(listener);
    let executor = glommio::LocalExecutorBuilder::default().make().map_err(refused)?;
    executor.run(async move {
        let listener = glommio::net::TcpListener::bind(address).map_err(refused)?;
        loop {
            let mut stream = listener.accept().await.map_err(refused)?;
            stream.set_nodelay(true).map_err(refused)?;
            glommio::spawn_local(async move {
                let mut buffer = vec![0; READ_BYTES];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
            })
            .detach();
        }
    })
}

/// Its errors cannot cross threads, which `io::Error` asks for: keep their text.
fn refused(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
