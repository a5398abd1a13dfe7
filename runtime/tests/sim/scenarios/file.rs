//! A scenario as its file says it: the network, the hosts, what they do, what happens meanwhile, and what must come of it.
//!
//! Owns the format and nothing of its meaning. A number in a file may be drawn: `5` is five, `[1, 300]` lies between the
//! two with any order of magnitude as likely as another, `{ of = [1, 4, 9] }` is one of three. Where a word is wanted, a list
//! of words is one of them; where a switch is wanted, a probability does.

use std::time::Duration;

use demi::sim::Rng;
use serde::Deserialize;
use toml::Value;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it shows, in one sentence.
    pub(crate) about: String,
    /// `v4` or `v6`; either, when left out.
    pub(crate) ip: Option<Word>,
    /// Virtual seconds in which the client must be done.
    pub(crate) within_s: f64,
    /// Packet buffers that each host may have out at once.
    #[serde(default)]
    pub(crate) memory_slots: Option<usize>,
    /// Whether it may be laid over others.
    #[serde(default = "yes")]
    pub(crate) combines: bool,
    /// It takes as long as so many others: it runs with so many times fewer seeds.
    #[serde(default = "one")]
    pub(crate) cost: u64,
    /// Nobody gives up: the network is so bad that the usual number of retries may not do.
    #[serde(default)]
    pub(crate) patient: bool,
    /// Both directions of the link.
    #[serde(default)]
    pub(crate) link: Link,
    /// From the client to the server, where it differs.
    #[serde(default)]
    pub(crate) up: Link,
    /// From the server to the client, where it differs.
    #[serde(default)]
    pub(crate) down: Link,
    /// Both hosts.
    #[serde(default)]
    pub(crate) hosts: Host,
    /// The server, where it differs.
    #[serde(default)]
    pub(crate) server: Host,
    /// The client, where it differs.
    #[serde(default)]
    pub(crate) client: Host,
    /// What the client wants of the server.
    #[serde(default)]
    pub(crate) load: Load,
    /// What happens meanwhile.
    #[serde(default)]
    pub(crate) event: Vec<Event>,
}

const fn one() -> u64 {
    1
}

const fn yes() -> bool {
    true
}

/// What a direction does to frames; see `demi::sim::wire::LinkConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub(crate) rate_mbit: Option<Number>,
    /// Bytes that wait for the link, in KiB; 0: no bound.
    pub(crate) queue_kib: Option<Number>,
    pub(crate) delay_ms: Option<Number>,
    pub(crate) jitter_ms: Option<Number>,
    pub(crate) keep_order: Option<Switch>,
    pub(crate) loss: Option<Number>,
    /// Loss of segments that carry nothing but an acknowledgement, on top.
    pub(crate) ack_loss: Option<Number>,
    pub(crate) burst: Option<Burst>,
    pub(crate) duplicate: Option<Number>,
    pub(crate) reorder: Option<Number>,
    pub(crate) reorder_ms: Option<Number>,
    pub(crate) corrupt: Option<Number>,
    pub(crate) truncate: Option<Number>,
    /// Packets longer than this vanish.
    pub(crate) mtu: Option<Number>,
}

/// Loss in bursts: how likely one begins and ends with a frame, and what it loses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Burst {
    pub(crate) begin: Number,
    pub(crate) end: Number,
    pub(crate) loss: Option<Number>,
}

/// What a host is told.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    pub(crate) congestion: Option<Word>,
    pub(crate) mtu: Option<Number>,
    pub(crate) send_kib: Option<Number>,
    pub(crate) recv_kib: Option<Number>,
    /// Packet buffers.
    pub(crate) slots: Option<Number>,
    pub(crate) timestamps: Option<Switch>,
    pub(crate) sack: Option<Switch>,
    pub(crate) window_scaling: Option<Switch>,
    /// Sequence numbers begin so many bytes before they wrap.
    pub(crate) isn_before_wrap: Option<Number>,
    /// Timestamps begin so many seconds before they wrap.
    pub(crate) timestamp_before_wrap_s: Option<Number>,
    /// Frames taken from the device in a turn.
    pub(crate) rx_burst: Option<Number>,
    /// Frames that may wait for the device.
    pub(crate) tx_queue: Option<Number>,
    /// How often the device has no room, or nothing to hand over yet.
    pub(crate) stall: Option<Number>,
}

/// What the client wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    /// `both`: both directions at once; `ask`: the client sends all, then the server; `echo`: rounds of a request and its
    /// answer.
    pub(crate) style: Option<Word>,
    pub(crate) connections: Option<Number>,
    /// Connections at a time.
    pub(crate) at_once: Option<Number>,
    /// Bytes to the server, in KiB: of a connection, or of a round.
    pub(crate) up_kib: Option<Number>,
    pub(crate) down_kib: Option<Number>,
    /// Rounds of a connection that echoes.
    pub(crate) rounds: Option<Number>,
    /// The server rests while it reads.
    pub(crate) server_rest: Option<Rest>,
    /// The client rests while it reads.
    pub(crate) client_rest: Option<Rest>,
    /// Errors after which the client connects anew and begins from the start, as `std::io::ErrorKind` has them.
    #[serde(default)]
    pub(crate) retry_on: Vec<String>,
    /// There must be one such error at least.
    #[serde(default)]
    pub(crate) must_fail: bool,
    /// Share of their segments that each end may send again at most.
    pub(crate) resent_most: Option<f64>,
    /// Every connection must end in such an error: nothing can be delivered.
    #[serde(default)]
    pub(crate) hopeless: bool,
}

/// Rests of a reader: after so many bytes, so long.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rest {
    pub(crate) every_kib: Number,
    pub(crate) for_s: Number,
}

/// What happens at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) at_s: Number,
    /// It happens so many times, once when left out,
    pub(crate) times: Option<Number>,
    /// and so often.
    pub(crate) every_s: Option<Number>,
    /// Nothing passes, in either direction.
    pub(crate) cut: Option<While>,
    /// A host stands still.
    pub(crate) freeze: Option<While>,
    /// A host loses its power.
    pub(crate) reboot: Option<While>,
    /// A host's clock leaps ahead.
    pub(crate) leap: Option<Leap>,
    /// Both directions are different from then on, in what is said.
    pub(crate) link: Option<Link>,
    /// The direction to the server is.
    pub(crate) up: Option<Link>,
    /// The direction to the client is.
    pub(crate) down: Option<Link>,
}

/// For how long something happens, and to which host: the client or the server, one of the two when left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct While {
    pub(crate) host: Option<Word>,
    pub(crate) for_s: Number,
}

/// How far a clock leaps, and whose.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leap {
    pub(crate) host: Option<Word>,
    pub(crate) by_s: Number,
}

/// A number, or what it is drawn from.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Is(f64),
    Between([f64; 2]),
    Of { of: Vec<f64> },
}

impl Number {
    pub(crate) fn draw(&self, rng: &mut Rng) -> f64 {
        match self {
            Number::Is(number) => *number,
            Number::Between([low, high]) => {
                let share = rng.below(1 << 20) as f64 / f64::from(1 << 20);
                // From nothing on, evenly: it has no order of magnitude.
                if *low > 0.0 { low * (high / low).powf(share) } else { low + (high - low) * share }
            }
            Number::Of { of } => of.get(rng.below(of.len() as u64) as usize).copied().unwrap_or_default(),
        }
    }

    /// A time, of a number of seconds.
    pub(crate) fn seconds(&self, rng: &mut Rng) -> Duration {
        Duration::from_secs_f64(self.draw(rng))
    }
}

/// On, off, or on with a probability.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Switch {
    Is(bool),
    Chance(f64),
}

impl Switch {
    pub(crate) fn draw(self, rng: &mut Rng) -> bool {
        match self {
            Switch::Is(on) => on,
            Switch::Chance(probability) => rng.chance(probability),
        }
    }
}

/// A word, or one of several.
#[derive(Clone, Debug)]
pub(crate) struct Word(pub(crate) Vec<String>);

impl Word {
    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<&str> {
        self.0.get(rng.below(self.0.len() as u64) as usize).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(String),
            Several(Vec<String>),
        }
        Ok(Word(match Written::deserialize(from)? {
            Written::One(word) => vec![word],
            Written::Several(words) => words,
        }))
    }
}

/// Takes from `$over` what it says, and the rest from `$under`.
macro_rules! laid_over {
    ($over:expr, $under:expr, $kind:ident { $($field:ident),* $(,)? }) => {
        $kind { $($field: $over.$field.clone().or_else(|| $under.$field.clone())),* }
    };
}

impl Link {
    /// This link, in what it says, and `under` in all else.
    pub(crate) fn over(&self, under: &Link) -> Link {
        laid_over!(
            self,
            under,
            Link {
                rate_mbit,
                queue_kib,
                delay_ms,
                jitter_ms,
                keep_order,
                loss,
                ack_loss,
                burst,
                duplicate,
                reorder,
                reorder_ms,
                corrupt,
                truncate,
                mtu,
            }
        )
    }
}

impl Host {
    /// This host, in what it says, and `under` in all else.
    pub(crate) fn over(&self, under: &Host) -> Host {
        laid_over!(
            self,
            under,
            Host {
                congestion,
                mtu,
                send_kib,
                recv_kib,
                slots,
                timestamps,
                sack,
                window_scaling,
                isn_before_wrap,
                timestamp_before_wrap_s,
                rx_burst,
                tx_queue,
                stall,
            }
        )
    }
}

impl Scenario {
    /// What `texts` say, each laid over those before: tables are merged, events happen all of them, times and memory are
    /// enough for each.
    pub(crate) fn of(texts: &[&str]) -> Result<Scenario, toml::de::Error> {
        let mut all = toml::Table::new();
        for text in texts {
            lay_over(&mut all, text.parse()?);
        }
        all.try_into()
    }
}

fn lay_over(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            // Of ranges and lists of words the later one counts; lists of tables are events.
            (Some(Value::Array(under)), Value::Array(over)) if under.iter().all(Value::is_table) => {
                under.extend(over);
            }
            (Some(under), value) if key == "within_s" || key == "memory_slots" => {
                let seconds = |value: &Value| value.as_float().or(value.as_integer().map(|n| n as f64));
                let sum = seconds(under).unwrap_or_default() + seconds(&value).unwrap_or_default();
                *under = if key == "within_s" { Value::Float(sum) } else { Value::Integer(sum as i64) };
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
