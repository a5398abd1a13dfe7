//! Simulation: whole hosts, executor and stack included, on one thread, one virtual clock and one seed.
//!
//! Each host is a [`Runtime`](crate::Runtime) of its own over an end of one [`wire`](mod@demi_drivers::wire), with its own
//! stack, memory and secrets. The simulation turns the hosts' loops in an order that is drawn for each round, and moves
//! the clock to the next deadline of any of them when all are idle: a frame's arrival, a retransmission, a program's timer.
//! Everything that chance decides comes from the seed, so one number repeats a run to the last frame;
//! [`Report::trace`] is a hash of all frames and turns to prove it by.
//!
//! ```
//! use std::time::Duration;
//! use demi::{net::UdpSocket, sim::Sim};
//!
//! let mut sim = Sim::new(42);
//! sim.link().delay = Duration::from_millis(10);
//! sim.server("echo", "10.0.0.1/24", || async {
//!     let socket = UdpSocket::bind("10.0.0.1:7").await?;
//!     let mut bytes = [0; 1500];
//!     loop {
//!         let (count, peer) = socket.recv_from(&mut bytes).await?;
//!         socket.send_to(&bytes[..count], peer).await?;
//!     }
//! });
//! sim.host("client", "10.0.0.2/24", || async {
//!     let socket = UdpSocket::bind("10.0.0.2:0").await?;
//!     socket.send_to(b"hello", "10.0.0.1:7").await?;
//!     let mut bytes = [0; 1500];
//!     let (count, _) = socket.recv_from(&mut bytes).await?;
//!     assert_eq!(&bytes[..count], b"hello");
//!     Ok(())
//! });
//! let report = sim.run()?;
//! // Two round trips: the first one asks for the Ethernet address.
//! assert_eq!(report.elapsed, Duration::from_millis(40));
//! # Ok::<(), demi::sim::SimError>(())
//! ```

mod error;
mod events;
mod host;
mod rng;
mod run;
mod skew;
#[cfg(all(test, not(loom)))]
mod tests;

use core::pin::Pin;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi_drivers::transport::TransportUsage;
use demi_drivers::wire::{LinkConfig, WireConfig, WireEnd, WireHandle};
use demi_drivers::{Device, Transport};
use demi_netstack::StackConfig;

pub use demi_drivers::wire;
pub use error::{Cause, SimError};
pub use rng::Rng;

use events::Event;

use crate::config::{Config, Setting};

/// What every host's clock shows when a simulation starts.
pub const START: demi_drivers::Instant = crate::time::VIRTUAL_START;

type Main = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = io::Result<()>>>>>;
type DeviceHook = Box<dyn FnMut(&str, WireEnd) -> Box<dyn Device>>;
type EndHook = Box<dyn FnOnce(WireEnd) -> Box<dyn Machine>>;
type StackHook = Box<dyn FnMut(&str, &mut StackConfig)>;

/// Something on an end of the wire that is no stack of ours. It must be driven by the time it is given alone, or a run cannot
/// be repeated.
pub trait Machine {
    /// Receives, sends, and does what is due; answers whether anything has happened.
    fn poll(&mut self, now: demi_drivers::Instant) -> bool;

    /// When it has to be polled even if nothing arrives; what its end of the wire says included.
    fn deadline(&self) -> Option<demi_drivers::Instant>;
}

/// Hosts to be run on one virtual clock; see the [module](self).
#[must_use = "a simulation does nothing until it is run"]
pub struct Sim {
    seed: u64,
    wire: WireConfig,
    hosts: Vec<Spec>,
    time_limit: Duration,
    drain: Duration,
    on_wire: Option<Box<dyn FnOnce(WireHandle)>>,
    devices: Option<DeviceHook>,
    stacks: Option<StackHook>,
    capture: Option<Box<dyn io::Write>>,
    events: Vec<Event>,
}

/// What a host's sockets are carried by.
enum Over {
    /// A stack over an end of the wire.
    Stack,
    /// None: something else is on the end of the wire.
    Machine(EndHook),
    /// What the caller has brought; no end of the wire.
    Given(Vec<Box<dyn Transport>>),
}

/// A host before it is started.
struct Spec {
    name: String,
    config: Config,
    over: Over,
    /// The simulation does not wait for its main.
    server: bool,
    main: Main,
    /// Those of its further cores.
    fellows: Vec<Main>,
}

/// How a simulation went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The simulation's seed.
    pub seed: u64,
    /// Virtual time from the start until the last main had ended.
    pub elapsed: Duration,
    /// A hash of each frame, where and when it was sent and what the wire did to it, and of each turn of each host.
    pub trace: u64,
    /// Turns of all hosts in which something happened.
    pub turns: u64,
    /// Connections that were still closing when the drain time was over, with their hosts.
    pub undrained: Vec<(String, usize)>,
    /// What the hosts had left at the end, in the order in which they were added.
    pub hosts: Vec<HostReport>,
}

/// What a host of a simulation had left when its tasks were dropped and its connections had the time to close: nothing,
/// unless something leaks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostReport {
    /// The host.
    pub name: String,
    /// What its transports still held.
    pub usage: TransportUsage,
    /// Buffers of its transports' pools that somebody still had, large ones included.
    pub slots_out: usize,
    /// As many of them as somebody had at the end of any turn.
    pub slots_out_peak: usize,
    /// Its loop's counters.
    pub metrics: crate::Metrics,
}

/// A main that can be kept.
fn boxed<F, R>(main: F) -> Main
where
    F: FnOnce() -> R + 'static,
    R: Future<Output = io::Result<()>> + 'static,
{
    Box::new(move || -> Pin<Box<dyn Future<Output = io::Result<()>>>> { Box::pin(main()) })
}

impl Sim {
    /// A simulation without hosts. `DEMI_SEED` in the environment overrides `seed`, so that a failure that was printed can
    /// be repeated without touching the program.
    pub fn new(seed: u64) -> Sim {
        let given = std::env::var("DEMI_SEED").ok().and_then(|seed| seed.trim().parse().ok());
        Sim {
            seed: given.unwrap_or(seed),
            wire: WireConfig::default(),
            hosts: Vec::new(),
            time_limit: Duration::from_secs(3600),
            drain: Duration::from_secs(300),
            on_wire: None,
            devices: None,
            stacks: None,
            capture: None,
            events: Vec::new(),
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What each direction between two hosts does to frames. Nothing, unless changed.
    pub fn link(&mut self) -> &mut LinkConfig {
        &mut self.wire.link
    }

    /// The wire's shape. The number of its ends is that of the hosts.
    pub fn wire(&mut self) -> &mut WireConfig {
        &mut self.wire
    }

    /// Calls `f` with the hand on the wire when the simulation starts: to cut links and change them while hosts talk, or to
    /// filter frames. Hosts are its ends, in the order in which they were added. The observer is the simulation's own.
    pub fn on_wire(&mut self, f: impl FnOnce(WireHandle) + 'static) -> &mut Self {
        self.on_wire = Some(Box::new(f));
        self
    }

    /// Puts each host's stack on what `f` makes of its end of the wire: a [wrapper](demi_drivers::wrap), or a device of
    /// other capabilities. It is called with the host's name.
    pub fn devices(&mut self, f: impl FnMut(&str, WireEnd) -> Box<dyn Device> + 'static) -> &mut Self {
        self.devices = Some(Box::new(f));
        self
    }

    /// Lets `f` change what each host's stack is told, where the host's configuration has no key for it: limits and times.
    /// It is called with the host's name.
    pub fn stacks(&mut self, f: impl FnMut(&str, &mut StackConfig) + 'static) -> &mut Self {
        self.stacks = Some(Box::new(f));
        self
    }

    /// Writes every frame to `writer` as pcapng, stamped with virtual time: once as its sender's when it is sent, and once as
    /// its receiver's when it arrives. An interface is a host's end of the wire.
    pub fn capture(&mut self, writer: impl io::Write + 'static) -> &mut Self {
        self.capture = Some(Box::new(writer));
        self
    }

    /// Lets at most this much virtual time pass until the last main has ended; an hour, unless changed.
    pub fn time_limit(&mut self, limit: Duration) -> &mut Self {
        self.time_limit = limit;
        self
    }

    /// Lets at most this much virtual time pass for connections to close after that, TIME-WAIT included; five minutes, unless
    /// changed.
    pub fn drain_limit(&mut self, limit: Duration) -> &mut Self {
        self.drain = limit;
        self
    }

    /// Adds a host with this address (or list of addresses), each with its prefix length. The simulation ends when the
    /// mains of all hosts have ended, and fails when one fails.
    pub fn host<F, R>(&mut self, name: &str, address: impl Into<Setting>, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.host_with(name, Config::new().address(address), main)
    }

    /// Adds a host with this configuration, of which the keys of a stack count: addresses, gateways, MTU, buffers,
    /// congestion control.
    pub fn host_with<F, R>(&mut self, name: &str, config: Config, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add(name, config, Over::Stack, false, main)
    }

    /// Adds a host whose main may run for ever: the simulation does not wait for it, and ends it with the others. It fails
    /// when that main fails before.
    pub fn server<F, R>(&mut self, name: &str, address: impl Into<Setting>, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.server_with(name, Config::new().address(address), main)
    }

    /// As [`server`](Self::server), with this configuration.
    pub fn server_with<F, R>(&mut self, name: &str, config: Config, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add(name, config, Over::Stack, true, main)
    }

    /// As [`server_with`](Self::server_with), on `cores` cores, each of which runs `main`, as [`run`](crate::run) has it: with a stack of its own
    /// on a queue of the host's end of the wire. Cores are turned in an order that is drawn, as hosts are; the further ones are called
    /// `NAME.1`, `NAME.2` and so on. Such a host can be frozen, core by core; it neither crashes nor does its clock leap, and
    /// [`devices`](Self::devices) has no say in its device.
    pub fn server_on<F, R>(&mut self, name: &str, cores: u16, config: Config, main: F) -> &mut Self
    where
        F: Fn() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add_on(name, cores, config, true, main)
    }

    /// As [`server_on`](Self::server_on), for mains that the simulation waits for.
    pub fn host_on<F, R>(&mut self, name: &str, cores: u16, config: Config, main: F) -> &mut Self
    where
        F: Fn() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add_on(name, cores, config, false, main)
    }

    fn add_on<F, R>(&mut self, name: &str, cores: u16, config: Config, server: bool, main: F) -> &mut Self
    where
        F: Fn() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        let main = Rc::new(main);
        let again = |main: &Rc<F>| {
            let main = Rc::clone(main);
            move || main()
        };
        self.add(name, config, Over::Stack, server, again(&main));
        if let Some(host) = self.hosts.last_mut() {
            host.fellows.extend((1..cores).map(|_| boxed(again(&main))));
        }
        self
    }

    /// Adds a host with transports of the caller's instead of an end of the wire. They must be driven by the time they are
    /// given alone, or a run cannot be repeated.
    pub fn host_over<F, R>(&mut self, name: &str, transports: Vec<Box<dyn Transport>>, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add(name, Config::new(), Over::Given(transports), false, main)
    }

    /// As [`host_over`](Self::host_over), for a host whose main may run for ever.
    pub fn server_over<F, R>(&mut self, name: &str, transports: Vec<Box<dyn Transport>>, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add(name, Config::new(), Over::Given(transports), true, main)
    }

    /// Adds a host whose end of the wire is something else's: of a stack that is not ours, which `make` puts on it. The
    /// host's main can talk to that alone, by whatever the two share; the machine is driven on until the simulation ends.
    pub fn machine<F, R>(
        &mut self,
        name: &str,
        make: impl FnOnce(WireEnd) -> Box<dyn Machine> + 'static,
        main: F,
    ) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        self.add(name, Config::new(), Over::Machine(Box::new(make)), false, main)
    }

    fn add<F, R>(&mut self, name: &str, config: Config, over: Over, server: bool, main: F) -> &mut Self
    where
        F: FnOnce() -> R + 'static,
        R: Future<Output = io::Result<()>> + 'static,
    {
        let main = boxed(main);
        // What the machine knows of names is not the hosts' to know, unless they name other files.
        let (mut config, machine) = (config, Config::default());
        config.hosts_file = config.hosts_file.filter(|file| Some(file) != machine.hosts_file.as_ref());
        config.resolv_conf = config.resolv_conf.filter(|file| Some(file) != machine.resolv_conf.as_ref());
        self.hosts.push(Spec { name: name.to_owned(), config, over, server, main, fellows: Vec::new() });
        self
    }

    /// Runs the simulation to its end.
    ///
    /// # Errors
    /// A host failed or panicked, hosts wait for each other for ever, or the time limit was reached: the text names the
    /// seed, the time and the hosts.
    pub fn run(self) -> Result<Report, SimError> {
        run::run(self)
    }
}
