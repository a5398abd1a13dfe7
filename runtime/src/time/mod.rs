//! Time: sleep, time out, tick. Nanosecond deadlines, and a clock that tests can stop.

mod clock;

pub(crate) use clock::Clock;
