//! The stack as a [`Transport`]: every call goes to the layer that answers it.

use core::task::{Context, Poll};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use demi_drivers::transport::{
    DatagramId, DatagramOptions, Interface, ListenOptions, ListenerId, Membership, ReadCursor, SocketEntry,
    StreamId, StreamOptions, TcpInfo, TransportUsage,
};
use demi_drivers::{Buf, Instant, Pool, Transport};

use crate::addr::canonical;
use crate::stack::Stack;

impl Transport for Stack {
    fn name(&self) -> &str {
        &self.egress.name
    }

    fn pool(&self) -> &Pool {
        &self.egress.pool
    }

    fn reach(&self, remote: IpAddr) -> Option<u8> {
        self.egress.routes.reach(canonical(remote))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.egress.routes.addresses().collect()
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.egress.routes.is_own(address)
    }

    fn poll_configured(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.autoconf.poll_configured(cx)
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        self.autoconf.name_servers()
    }

    fn domain(&self) -> Option<String> {
        self.autoconf.domain().map(str::to_owned)
    }

    fn poll(&mut self, now: Instant) -> io::Result<usize> {
        self.poll_once(now)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.flush_once(now)
    }

    fn deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn park(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.park_on_device(timeout)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.live_fd()
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.parker.watch(fd);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.parker.unwatch(fd);
    }

    fn usage(&self) -> TransportUsage {
        let mut usage = self.tcp.usage();
        usage.datagrams = self.udp.len();
        usage
    }

    fn closing(&self) -> usize {
        self.tcp.closing()
    }

    fn sockets(&self) -> Vec<SocketEntry> {
        let mut all = self.tcp.sockets(self.egress.now);
        all.extend(self.udp.list());
        all
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let tcp = self.tcp_stats().iter().map(|(name, value)| (name.to_owned(), value));
        let mut counters: Vec<_> = self.stats().iter().chain(tcp).collect();
        // What never became a packet of the stack's, or never left: the reason for a peer's retransmissions is often here.
        let device = self.device.stats();
        counters.push(("DemiRxDropped".to_owned(), device.rx_dropped));
        counters.push(("DemiTxDropped".to_owned(), device.tx_dropped));
        counters.push(("DemiTxFull".to_owned(), device.tx_full));
        if self.egress.capabilities.spread.is_some() {
            counters.push(("DemiHandedOver".to_owned(), device.handed_over));
            counters.push(("DemiTakenOver".to_owned(), device.taken_over));
            counters.push(("DemiHandOverLost".to_owned(), device.hand_over_lost));
        }
        counters
    }

    // ---- streams ----

    fn listen(&mut self, local: SocketAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        self.check_alive()?;
        if local.port() == 0 && self.egress.capabilities.spread.is_some() {
            let message =
                "port 0 on one of several cores: its connections would arrive at all of them: name a port";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.tcp.listen(&self.egress, local, options)
    }

    #[inline]
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        self.tcp.poll_accept(cx, listener)
    }

    fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr> {
        self.tcp.listener_addr(listener)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.tcp.close_listener(self.egress.now, &mut self.egress, listener);
    }

    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<StreamId> {
        self.check_alive()?;
        self.tcp.connect(self.egress.now, &mut self.egress, remote, local, options)
    }

    #[inline]
    fn poll_connect(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.tcp.poll_connect(cx, stream)
    }

    #[inline]
    fn poll_pop(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>> {
        self.tcp.poll_pop(cx, stream, max)
    }

    #[inline]
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp.poll_read(cx, stream, dst)
    }

    #[inline]
    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp.poll_peek(cx, stream, dst)
    }

    #[inline]
    fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        self.tcp.poll_push(cx, &self.egress, stream, buf)
    }

    #[inline]
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp.poll_write(cx, &self.egress, stream, src)
    }

    #[inline]
    fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.tcp.poll_readable(cx, stream)
    }

    #[inline]
    fn poll_writable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.tcp.poll_writable(cx, &self.egress, stream)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.tcp.poll_drained(cx, stream)
    }

    fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()> {
        self.tcp.shutdown(stream, how)
    }

    fn close(&mut self, stream: StreamId) {
        self.tcp.close(self.egress.now, &mut self.egress, stream);
    }

    fn abort(&mut self, stream: StreamId) {
        self.tcp.abort(self.egress.now, &mut self.egress, stream);
    }

    fn local_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        self.tcp.local_addr(stream)
    }

    fn peer_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        self.tcp.peer_addr(stream)
    }

    fn take_error(&mut self, stream: StreamId) -> io::Result<Option<io::Error>> {
        self.tcp.take_error(stream)
    }

    fn stream_options(&self, stream: StreamId) -> io::Result<StreamOptions> {
        self.tcp.stream_options(stream)
    }

    fn set_stream_options(&mut self, stream: StreamId, options: &StreamOptions) -> io::Result<()> {
        self.tcp.set_stream_options(self.egress.now, stream, options)
    }

    fn tcp_info(&self, stream: StreamId) -> io::Result<TcpInfo> {
        self.tcp.tcp_info(stream)
    }

    fn quickack(&self, stream: StreamId) -> io::Result<bool> {
        self.tcp.quickack(stream)
    }

    fn set_quickack(&mut self, stream: StreamId, quickack: bool) -> io::Result<()> {
        self.tcp.set_quickack(stream, quickack)
    }

    // ---- datagrams ----

    fn bind_datagram(&mut self, local: SocketAddr, options: &DatagramOptions) -> io::Result<DatagramId> {
        self.check_alive()?;
        self.udp.bind(&self.egress, local, options)
    }

    fn connect_datagram(&mut self, socket: DatagramId, remote: Option<SocketAddr>) -> io::Result<()> {
        self.check_alive()?;
        self.udp.connect(&self.egress, socket, remote)
    }

    #[inline]
    fn poll_send_to(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        self.udp.poll_send(cx, &mut self.egress, &self.groups, socket, buf, remote)
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        from: &mut SocketAddr,
    ) -> Poll<io::Result<Buf>> {
        self.udp.poll_recv(cx, socket, from)
    }

    fn poll_peek_from(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        self.udp.poll_peek(cx, socket)
    }

    fn poll_datagram_readable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>> {
        self.udp.poll_readable(cx, socket)
    }

    fn poll_datagram_writable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>> {
        self.udp.poll_writable(cx, &self.egress, socket)
    }

    fn datagram_addr(&self, socket: DatagramId) -> io::Result<SocketAddr> {
        self.udp.local_addr(socket)
    }

    fn datagram_peer(&self, socket: DatagramId) -> io::Result<SocketAddr> {
        self.udp.peer_addr(socket)
    }

    fn datagram_options(&self, socket: DatagramId) -> io::Result<DatagramOptions> {
        self.udp.options(socket)
    }

    fn set_datagram_options(&mut self, socket: DatagramId, options: &DatagramOptions) -> io::Result<()> {
        self.udp.set_options(socket, options)
    }

    fn join_group(&mut self, socket: DatagramId, membership: &Membership) -> io::Result<()> {
        let number = self.udp.number(socket)?;
        self.check_interface(membership)?;
        let Membership { group, source, .. } = *membership;
        self.groups.join(&mut self.egress, number, canonical(group), source.map(canonical))?;
        self.set_alarm();
        Ok(())
    }

    fn leave_group(&mut self, socket: DatagramId, membership: &Membership) -> io::Result<()> {
        let number = self.udp.number(socket)?;
        let Membership { group, source, .. } = *membership;
        self.groups.leave(&mut self.egress, number, canonical(group), source.map(canonical))?;
        self.set_alarm();
        Ok(())
    }

    fn close_datagram(&mut self, socket: DatagramId) {
        if let Ok(number) = self.udp.number(socket) {
            self.groups.leave_all(&mut self.egress, number);
            self.set_alarm();
        }
        self.udp.close(socket);
    }
}

impl Stack {
    /// There is one interface; who names one by an address must mean it.
    fn check_interface(&self, membership: &Membership) -> io::Result<()> {
        match membership.interface {
            Interface::Address(own) if !self.egress.routes.is_own(IpAddr::V4(own)) => {
                let message = format!("{own} is not an address of {}", self.egress.name);
                Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message))
            }
            _ => Ok(()),
        }
    }
}
