//! A web server for a folder: hyper speaks HTTP/1.1 over our streams.
//!
//! ```text
//! cargo run --release --example http -- --listen 127.0.0.1:8080 --folder .
//! curl -O http://127.0.0.1:8080/README.md
//! ```
//!
//! GET and HEAD, ranges, and `If-Modified-Since`. Files are read on a thread of the blocking pool and reach the stream in
//! 64 KiB pieces; the server's core never waits for a disk.

mod files;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Parser;
use demi::net::{TcpListener, TcpStream};
use demi::task::JoinSet;
use demi::time::{sleep, timeout};
use futures::channel::oneshot;
use futures::future::{Either, FutureExt, Shared, select};
use hyper::server::conn::http1;
use hyper::service::service_fn;

/// Web server for a folder.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The folder to serve.
    #[arg(long, value_name = "PATH", default_value = ".")]
    folder: PathBuf,
    /// Connections at most; more are closed as they come.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
    /// Seconds that requests under way get to finish after ctrl-C.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    grace: u64,
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = args.folder.canonicalize();
    let folder = Rc::new(folder.map_err(|error| anyhow!("folder {}: {error}", args.folder.display()))?);
    let listener = TcpListener::bind(args.listen).await?;
    println!("listening on {} ({})", listener.local_addr()?, listener.device());

    let (stop, stopped) = oneshot::channel::<Infallible>();
    let stopped = stopped.map(drop).shared();
    let mut connections = JoinSet::new();
    let mut ctrl_c = pin!(demi::signal::ctrl_c());
    loop {
        match select(ctrl_c.as_mut(), pin!(listener.accept())).await {
            Either::Left((signal, _)) => break signal?,
            Either::Right((Ok((stream, _peer)), _)) => {
                while connections.try_join_next().is_some() {}
                if connections.len() < args.clients {
                    connections.spawn(serve(stream, folder.clone(), stopped.clone()));
                }
            }
            Either::Right((Err(error), _)) => {
                eprintln!("accept: {error}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    // Dropping the sender tells every connection to finish the request it is at, and no more.
    drop((stop, listener));
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(args.grace), drained).await.is_err() {
        eprintln!("{} connections did not finish", connections.len());
    }
    Ok(())
}

/// Serves one client; an error on its connection is its own.
async fn serve(stream: TcpStream, folder: Rc<PathBuf>, stopped: Shared<impl Future<Output = ()>>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let folder = folder.clone();
        async move { Ok::<_, Infallible>(files::answer(&folder, &request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(demi::compat::hyper::Timer::new())
            .header_read_timeout(Duration::from_secs(30))
            .serve_connection(stream, service)
    );
    if let Either::Right(_) = select(connection.as_mut(), stopped).await {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
