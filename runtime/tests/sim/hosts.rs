//! A server and a client on one wire, and what their frames say: what the named scenarios are made of.

use std::io;

use demi::net::{TcpListener, TcpStream};
use demi::sim::Sim;

use crate::traffic::Flow;

/// The wire's end that the server is on: the host that is added first.
pub(crate) const SERVER: usize = 0;
/// The wire's end that the client is on.
pub(crate) const CLIENT: usize = 1;
/// Where the server listens.
pub(crate) const ADDRESS: &str = "10.0.0.1:7000";

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;

/// Adds a server that handles one connection and a client that makes it.
pub(crate) fn two<S, C>(
    sim: &mut Sim,
    server: impl FnOnce(TcpStream) -> S + 'static,
    client: impl FnOnce(TcpStream) -> C + 'static,
) where
    S: Future<Output = io::Result<()>> + 'static,
    C: Future<Output = io::Result<()>> + 'static,
{
    sim.host("server", "10.0.0.1/24", move || async move {
        let listener = TcpListener::bind(ADDRESS).await?;
        let (stream, _) = listener.accept().await?;
        server(stream).await
    });
    sim.host(
        "client",
        "10.0.0.2/24",
        move || async move { client(TcpStream::connect(ADDRESS).await?).await },
    );
}

/// The TCP flags of an IPv4 frame without options, if it is TCP's.
pub(crate) fn tcp_flags(frame: &[u8]) -> Option<u8> {
    let is_tcp = frame.get(12..15)? == [8, 0, 0x45] && frame.get(23)? == &6;
    frame.get(47).copied().filter(|_| is_tcp)
}

/// Payload bytes of such a frame.
pub(crate) fn tcp_payload(frame: &[u8]) -> usize {
    let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match tcp_flags(frame) {
        Some(_) => length(16).saturating_sub(20 + usize::from(frame[46] >> 4) * 4),
        None => 0,
    }
}

/// A flow of that many bytes, told from others by its size.
pub(crate) fn flow(bytes: u64) -> Flow {
    Flow::plain(bytes ^ 0xf10e, bytes)
}

/// Sends a flow, ends the direction, and receives the other one.
pub(crate) async fn ask(stream: &mut TcpStream, out: &Flow, back: &Flow) -> io::Result<()> {
    out.send(stream).await?;
    stream.shutdown().await?;
    back.receive(stream).await
}

/// Receives a flow to its end, and sends the other one.
pub(crate) async fn answer(stream: &mut TcpStream, back: &Flow, out: &Flow) -> io::Result<()> {
    back.receive(stream).await?;
    out.send(stream).await?;
    stream.shutdown().await
}
