//! What happens to the hosts of a simulation while it runs: power cuts, machines that stand still, clocks that jump.
//!
//! This file is the calendar and the calls that fill it; carrying an entry out is the running simulation's.

use std::io;
use std::time::Duration;

use super::{Main, Sim, boxed};

/// Something that happens to a host.
pub(super) struct Event {
    pub(super) at: Duration,
    pub(super) host: String,
    pub(super) kind: EventKind,
}

pub(super) enum EventKind {
    /// Its power is cut: what it held is gone, and nobody is told.
    Crash,
    /// It starts again, with this main.
    Boot(Main),
    /// It stands still.
    Freeze,
    /// It goes on.
    Thaw,
    /// Its clock moves on by so much.
    Leap(Duration),
}

impl Sim {
    /// Cuts the power of a host when `at` has passed, and starts it again `down` later, with `main`. Its connections, its
    /// secrets, its neighbours are gone, and nobody is told: not a frame leaves. It has the addresses it had. Whether the
    /// simulation waits for its main stays as it was.
    ///
    /// The host must be one with a stack of its own; if it has ended by then, nothing happens.
    ///
    /// ```
    /// use std::time::Duration;
    /// use demi::{net::{TcpListener, TcpStream}, sim::Sim, time::sleep};
    ///
    /// async fn serve() -> std::io::Result<()> {
    ///     let listener = TcpListener::bind("10.0.0.1:7").await?;
    ///     loop {
    ///         let (mut stream, _) = listener.accept().await?;
    ///         demi::spawn(async move { while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {} });
    ///     }
    /// }
    ///
    /// let mut sim = Sim::new(1);
    /// sim.server("server", "10.0.0.1/24", serve);
    /// sim.reboot("server", Duration::from_secs(1), Duration::from_secs(5), serve);
    /// sim.host("client", "10.0.0.2/24", || async {
    ///     let mut stream = TcpStream::connect("10.0.0.1:7").await?;
    ///     sleep(Duration::from_secs(10)).await;
    ///     // The new server knows nothing of the old one's connection.
    ///     stream.write_all(b"still there?").await?;
    ///     let error = stream.read(&mut [0; 1]).await.unwrap_err();
    ///     assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    ///     Ok(())
    /// });
    /// let report = sim.run()?;
    /// # assert!(report.elapsed >= Duration::from_secs(10));
    /// # Ok::<(), demi::sim::SimError>(())
    /// ```
    pub fn reboot<F, R>(&mut self, host: &str, at: Duration, down: Duration, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.event(host, at, EventKind::Crash);
        self.event(host, at + down, EventKind::Boot(boxed(main)))
    }

    /// Lets a host stand still for a while, as a machine that is suspended or moved: no turn of its loop runs. Frames wait
    /// in its ring, and are lost when that is full. When it goes on, its clock has jumped, and all that was due is due at once.
    pub fn freeze(&mut self, host: &str, at: Duration, duration: Duration) -> &mut Self {
        self.event(host, at, EventKind::Freeze);
        self.event(host, at + duration, EventKind::Thaw)
    }

    /// Moves a host's clock on by so much when `at` has passed, those of the others not. Its timers and timestamps jump; what
    /// is on the wire arrives when it would have.
    pub fn leap(&mut self, host: &str, at: Duration, by: Duration) -> &mut Self {
        self.event(host, at, EventKind::Leap(by))
    }

    fn event(&mut self, host: &str, at: Duration, kind: EventKind) -> &mut Self {
        self.events.push(Event { at, host: host.to_owned(), kind });
        self
    }
}
