//! The runner: goes through a script line by line, on virtual time, and says at the first line that does not hold what was expected
//! and what was there instead.

mod call;
mod cover;
mod flow;
mod inbound;
mod info;
mod outbound;
mod symbols;
mod value;

use std::collections::HashMap;
use std::time::Duration;

use demi_drivers::transport::TcpState;
use demi_drivers::{Instant, Transport};

use crate::command::Settings;
use crate::eval;
use crate::flags::{Flags, IpVersion};
use crate::host::{Host, START, Waiting};
use crate::script::{Action, CallSpec, Direction, Event, Place, Script, Time};

pub use cover::{Cells, State, Stimulus};
use flow::Flow;

/// How long a packet expected at any time (`*`) is waited for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every line held.
    Passed,
    /// A line did not.
    Failed {
        /// The line.
        place: Place,
        /// What was expected and what was there.
        message: String,
    },
}

/// What is known after a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Which events of RFC 9293 have met which state.
    pub cells: Cells,
}

/// A line does not hold.
#[derive(Debug)]
struct Failure {
    place: Place,
    message: String,
}

/// Runs a script. Its own flags go before `flags`.
pub fn run(script: &Script, flags: &Flags, version: IpVersion) -> Report {
    let mut cells = Cells::new();
    let outcome = match Runner::prepare(script, flags, version).and_then(|mut runner| {
        let result = runner.run(script);
        cells = core::mem::take(&mut runner.cells);
        result
    }) {
        Ok(()) => Outcome::Passed,
        Err(Failure { place, message }) => Outcome::Failed { place, message },
    };
    Report { outcome, cells }
}

/// The IP versions to run a script with: the one it names, or IPv4 and IPv6.
pub(crate) fn versions(script: &Script, flags: &Flags) -> Vec<IpVersion> {
    let mut flags = flags.clone();
    for (name, value) in &script.flags {
        if name == "ip_version" {
            let _ = flags.set(name, value.as_deref());
        }
    }
    flags.ip_version.map_or(vec![IpVersion::V4, IpVersion::V6], |version| vec![version])
}

/// A call that has not returned yet.
struct Pending {
    place: Place,
    call: CallSpec,
    waiting: Waiting,
    /// When it is to return.
    end_us: i64,
}

struct Runner {
    host: Host,
    flags: Flags,
    version: IpVersion,
    settings: Settings,
    /// Time of the event before, in microseconds of the script.
    last_us: i64,
    pending: Option<Pending>,
    flows: Vec<Flow>,
    /// The conversation that packets without ports belong to.
    current: Option<usize>,
    /// Real descriptors by the script's.
    fds: HashMap<i64, i32>,
    /// The connection that assertions are about.
    subject: Option<i32>,
    /// Port of the socket that was bound last.
    local_port: u16,
    next_remote_port: u16,
    cells: Cells,
}

impl Runner {
    fn prepare(script: &Script, flags: &Flags, version: IpVersion) -> Result<Runner, Failure> {
        let start = script.events.first().map_or(Place::default(), |event| event.place);
        let fail = |place, message| Err(Failure { place, message });
        let mut flags = flags.clone();
        for (name, value) in &script.flags {
            flags
                .set(name, value.as_deref())
                .or_else(|message| fail(Place { line: 1, column: 1 }, message))?;
        }
        let mut settings = Settings::default();
        for event in script.events.iter().take_while(|event| matches!(event.action, Action::Command(_))) {
            if let Action::Command(text) = &event.action {
                settings.apply(text, false).or_else(|message| fail(event.place, message))?;
            }
        }
        let host = Host::new(&flags, version, &settings)
            .map_err(|error| Failure { place: start, message: error.to_string() })?;
        let local_port = flags.bind_port;
        Ok(Runner {
            host,
            flags,
            version,
            settings,
            last_us: 0,
            pending: None,
            flows: Vec::new(),
            current: None,
            fds: HashMap::new(),
            subject: None,
            local_port,
            next_remote_port: 36_000,
            cells: Cells::new(),
        })
    }

    fn run(&mut self, script: &Script) -> Result<(), Failure> {
        let mut last = Place::default();
        let mut begun = false;
        for event in &script.events {
            last = event.place;
            begun |= !matches!(event.action, Action::Command(_));
            if begun {
                self.event(event).map_err(|message| Failure { place: event.place, message })?;
            }
        }
        self.finish_pending()?;
        if self.flags.strict_end
            && let Some((when, bytes)) = self.host.link.peek()
        {
            let message = format!(
                "the script is over, but the stack sent at {}:\n    {}",
                seconds(self.micros(when)),
                self.show(&bytes)
            );
            return Err(Failure { place: last, message });
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let last = self.last_us;
        let (from, to) = match event.time {
            Time::Untimed => (last, last),
            Time::Absolute(at) => (at, at),
            Time::Relative(after) => (last + after, last + after),
            Time::Any => (0, self.micros(self.host.now + PATIENCE)),
            Time::AbsoluteRange(from, to) => (from, to),
            Time::RelativeRange(from, to) => (last + from, last + to),
        };
        self.last_us = to;
        match &event.action {
            Action::Packet(spec) if spec.direction == Direction::Out => {
                let sent_us = self.expect(spec, from, to)?;
                if !matches!(event.time, Time::Absolute(_) | Time::Relative(_)) {
                    self.last_us = sent_us;
                }
                Ok(())
            }
            Action::Packet(spec) => {
                self.advance(from)?;
                self.inject(spec)?;
                self.settle()
            }
            Action::Call(call) => {
                // One call at a time: the one before has to return first.
                self.finish_pending()
                    .map_err(|failure| format!("line {}: {}", failure.place.line, failure.message))?;
                self.advance(from)?;
                // The end is on the time base of the beginning.
                let base = if matches!(event.time, Time::Relative(_)) { last } else { 0 };
                self.call(event.place, call, base)
            }
            Action::Command(text) => {
                self.advance(from)?;
                self.settings.apply(text, true)
            }
            Action::Code(code) => {
                self.advance(from)?;
                self.assert(code)
            }
        }
    }

    // ---- time ----

    /// Microseconds of the script.
    fn micros(&self, at: Instant) -> i64 {
        (at.as_nanos().saturating_sub(START.as_nanos()) / 1000) as i64
    }

    fn instant(&self, micros: i64) -> Instant {
        START.plus_nanos(u64::try_from(micros).unwrap_or(0).saturating_mul(1000))
    }

    fn settle(&mut self) -> Result<(), String> {
        let pending = &mut self.pending;
        self.host
            .settle(|host| pending.as_mut().is_some_and(|pending| pending.waiting.step(host)))
            .map_err(|error| error.to_string())
    }

    /// Lets time pass until `micros`.
    fn advance(&mut self, micros: i64) -> Result<(), String> {
        let until = self.instant(micros).max(self.host.now);
        self.settle()?;
        while self.host.now < until {
            self.tick(until)?;
        }
        Ok(())
    }

    /// Goes to the next time at which something happens, at most to `limit`.
    fn tick(&mut self, limit: Instant) -> Result<(), String> {
        // The end of a call's patience is an event, too.
        let patience = self.pending.as_ref().filter(|pending| pending.waiting.answer.is_none());
        let patience = patience.map(|pending| pending.waiting.until).filter(|until| *until > self.host.now);
        let limit = patience.map_or(limit, |until| until.min(limit));
        let at = self.host.next_event(limit);
        let before: Vec<(usize, State)> =
            (0..self.flows.len()).filter_map(|flow| Some((flow, self.state_of(flow)?))).collect();
        let quiet = self.host.link.peek().is_none();
        // A timer's tick may lie a little ahead of the time that was asked for.
        self.host.now = if at == self.host.now { (at + Duration::from_micros(50)).min(limit) } else { at };
        self.settle()?;
        if quiet && let Some((_, bytes)) = self.host.link.peek() {
            let sender = self.flow_of_packet(&bytes);
            self.cells.extend(
                before
                    .iter()
                    .filter(|(flow, _)| Some(*flow) == sender)
                    .map(|(_, state)| (*state, Stimulus::Timeout)),
            );
        }
        // A connection may end by a timer without a word.
        for (flow, state) in before {
            let after = self.state_of(flow);
            if after.is_some_and(|after| after != state) && !matches!(state, State::Closed | State::Listen) {
                self.cells.insert((state, Stimulus::Timeout));
            }
        }
        Ok(())
    }

    // ---- calls under way ----

    /// Waits for the call under way and checks what it returns.
    fn finish_pending(&mut self) -> Result<(), Failure> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let (place, end_us) = (pending.place, pending.end_us);
        let fail = |message| Failure { place, message };
        let limit = self.instant(end_us + self.flags.tolerance_us);
        loop {
            let done = self.pending.as_ref().is_none_or(|pending| pending.waiting.answer.is_some());
            if done || self.host.now >= limit {
                break;
            }
            self.tick(limit).map_err(fail)?;
        }
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let Some((when, result)) = pending.waiting.answer else {
            let message = format!("{} was to return at {} and did not", pending.call.name, seconds(end_us));
            return Err(fail(message));
        };
        let returned_us = self.micros(when);
        if (returned_us - end_us).abs() > self.flags.tolerance_us {
            let (name, was, expected) = (&pending.call.name, seconds(returned_us), seconds(end_us));
            return Err(fail(format!("{name} was to return at {expected} and did at {was}")));
        }
        self.finish(&pending.call, result).map_err(fail)
    }

    // ---- assertions ----

    fn assert(&mut self, code: &str) -> Result<(), String> {
        let fd = self.subject.ok_or("there is no connection that an assertion could be about")?;
        let info = self.host.info(fd).map_err(|errno| format!("TCP_INFO: {}", errno.name()))?;
        let mut names = info::names(&info);
        names.extend(info::counters(self.host.stack.tcp_stats()));
        eval::run(code, &mut names)
    }

    // ---- states ----

    /// The state of a conversation's connection; `None`: nobody can tell, because the application has not got it or has given
    /// it up.
    fn state_of(&self, flow: usize) -> Option<State> {
        let flow = self.flows.get(flow)?;
        for (_, stream) in self.host.streams() {
            let Ok(info) = self.host.stack.tcp_info(stream) else { continue };
            let peer = self.host.stack.peer_addr(stream);
            // A connection that is over does not say whose it was.
            let same = peer.map_or(info.state == TcpState::Closed, |peer| peer == flow.remote);
            if same && self.host.stack.local_addr(stream).is_ok_and(|local| local == flow.local) {
                return Some(info.state.into());
            }
        }
        if flow.given_up || flow.active || flow.handshake_done {
            return None;
        }
        if flow.acked.is_some() {
            return Some(State::SynReceived);
        }
        Some(if self.host.listens_on(flow.local.port()) { State::Listen } else { State::Closed })
    }

    fn note(&mut self, state: Option<State>, stimulus: Stimulus) {
        self.cells.extend(state.map(|state| (state, stimulus)));
    }
}

/// Microseconds as the seconds that scripts count in.
fn seconds(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, (micros % 1_000_000).abs())
}

#[cfg(test)]
mod tests;
