//! A value of a configuration key before it is checked, and the parsers that check it.
//!
//! Code, file and environment all hand over a [`Setting`]; each key has one parser from `Setting` to its type, so a value
//! means the same wherever it is written. Parsers answer what is wrong; [`Config`](super::Config) adds where it was written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kinds::{Address, Cidr, CoreSet, Idle, Log};
use demi_drivers::transport::CongestionControl;

/// A value as it was written: what the builder's methods take, and what a file or the environment yields.
///
/// ```
/// use demi::config::Setting;
/// assert_eq!(Setting::from(1500), Setting::Int(1500));
/// assert_eq!(Setting::from("park"), Setting::Text("park".into()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A word, a path, an address, or anything else in its written form.
    Text(String),
    /// A whole number.
    Int(i128),
    /// A switch.
    Bool(bool),
    /// Several values.
    List(Vec<Setting>),
}

impl Setting {
    /// The value as one would write it in the environment.
    pub(super) fn text(&self) -> String {
        match self {
            Setting::Text(text) => text.trim().to_owned(),
            Setting::Int(number) => number.to_string(),
            Setting::Bool(switch) => switch.to_string(),
            Setting::List(items) => items.iter().map(Setting::text).collect::<Vec<_>>().join(","),
        }
    }

    /// The items of a list; of a text, what its commas separate.
    fn items(&self) -> Vec<String> {
        match self {
            Setting::List(items) => items.iter().map(Setting::text).collect(),
            other => other.text().split(',').map(|item| item.trim().to_owned()).collect(),
        }
    }
}

impl From<&str> for Setting {
    fn from(text: &str) -> Self {
        Setting::Text(text.to_owned())
    }
}

impl From<String> for Setting {
    fn from(text: String) -> Self {
        Setting::Text(text)
    }
}

impl From<bool> for Setting {
    fn from(switch: bool) -> Self {
        Setting::Bool(switch)
    }
}

impl From<Duration> for Setting {
    /// Written with its unit, so that keys in milliseconds and in microseconds both read it right.
    fn from(time: Duration) -> Self {
        Setting::Text(format!("{}ns", time.as_nanos()))
    }
}

impl From<&Path> for Setting {
    fn from(path: &Path) -> Self {
        Setting::Text(path.to_string_lossy().into_owned())
    }
}

impl From<PathBuf> for Setting {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

impl<T: Into<Setting>> From<Vec<T>> for Setting {
    fn from(items: Vec<T>) -> Self {
        Setting::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Setting>, const N: usize> From<[T; N]> for Setting {
    fn from(items: [T; N]) -> Self {
        Setting::List(items.into_iter().map(Into::into).collect())
    }
}

macro_rules! from_number {
    ($($number:ty),*) => {$(
        impl From<$number> for Setting {
            fn from(number: $number) -> Self {
                // No number of a configuration reaches i128's end; a u128 or usize beyond it is refused as out of range.
                Setting::Int(i128::try_from(number).unwrap_or(i128::MAX))
            }
        }
    )*};
}
from_number!(i32, i64, u8, u16, u32, u64, usize);

macro_rules! from_written {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Setting {
            fn from(value: $kind) -> Self {
                Setting::Text(value.to_string())
            }
        }
    )*};
}
from_written!(IpAddr, Ipv4Addr, Ipv6Addr, Address, Cidr, CoreSet, Idle, Log);

/// What a parser answers: the value, or what is wrong with it (without the value itself).
pub(super) type Parsed<T> = Result<T, String>;

/// `true` and `false`, and how people write them in an environment.
pub(super) fn switch(value: &Setting) -> Parsed<bool> {
    match value.text().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("not a switch: write true or false".into()),
    }
}

/// A whole number from `MIN` to `MAX`.
pub(super) fn number<T: TryFrom<i128>, const MIN: i128, const MAX: i128>(value: &Setting) -> Parsed<T> {
    let number = match value {
        Setting::Int(number) => Ok(*number),
        other => other.text().replace('_', "").parse::<i128>(),
    };
    let number = number.map_err(|_| format!("not a whole number: write one from {MIN} to {MAX}"))?;
    let out_of_range = || format!("out of range: write a number from {MIN} to {MAX}");
    if !(MIN..=MAX).contains(&number) {
        return Err(out_of_range());
    }
    T::try_from(number).map_err(|_| out_of_range())
}

/// [`switch`], for a key that has no default value.
pub(super) fn some_switch(value: &Setting) -> Parsed<Option<bool>> {
    switch(value).map(Some)
}

/// [`number`], for a key that has no default value.
pub(super) fn some_number<T: TryFrom<i128>, const MIN: i128, const MAX: i128>(
    value: &Setting,
) -> Parsed<Option<T>> {
    number::<T, MIN, MAX>(value).map(Some)
}

/// A seed: any 64-bit number, decimal or `0x…`.
pub(super) fn seed(value: &Setting) -> Parsed<Option<u64>> {
    let text = value.text().replace('_', "");
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map(Some).map_err(|_| "not a seed: write a number below 2^64, decimal or 0x…".into())
}

/// Bytes: a number, or a number with `k`, `m` or `g` (powers of 1,024; `KiB`, `kb` and the like are read as such, too).
pub(super) fn bytes<const MIN: i128, const MAX: i128>(value: &Setting) -> Parsed<usize> {
    let text = value.text().to_ascii_lowercase().replace('_', "");
    let digits = text.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match digits.as_bytes().last() {
        Some(b'k') => (&digits[..digits.len() - 1], 10),
        Some(b'm') => (&digits[..digits.len() - 1], 20),
        Some(b'g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let count = digits.trim().parse::<u64>();
    let count = count.map_err(|_| "not a size: write bytes, or 64k, 4m, 1g".to_owned())?;
    number::<usize, MIN, MAX>(&Setting::Int(i128::from(count) << shift))
}

/// [`bytes`], for a key that has no default value.
pub(super) fn some_bytes<const MIN: i128, const MAX: i128>(value: &Setting) -> Parsed<Option<usize>> {
    bytes::<MIN, MAX>(value).map(Some)
}

/// A time in units of `UNIT_NS` nanoseconds when it is a bare number; or with its own unit: `50us`, `3ms`, `2s`.
pub(super) fn time<const UNIT_NS: u64>(value: &Setting) -> Parsed<Duration> {
    let text = value.text();
    let units = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("", UNIT_NS)];
    for (suffix, unit_ns) in units {
        if let Some(digits) = text.strip_suffix(suffix)
            && let Ok(count) = digits.trim().replace('_', "").parse::<u64>()
        {
            return Ok(Duration::from_nanos(count.saturating_mul(unit_ns)));
        }
    }
    Err("not a time: write a whole number, alone or with ns, us, ms or s".into())
}

/// [`time`], from `MIN_NS` to `MAX_NS` nanoseconds.
pub(super) fn time_within<const UNIT_NS: u64, const MIN_NS: u64, const MAX_NS: u64>(
    value: &Setting,
) -> Parsed<Duration> {
    let (least, most) = (Duration::from_nanos(MIN_NS), Duration::from_nanos(MAX_NS));
    let time = time::<UNIT_NS>(value)?;
    if !(least..=most).contains(&time) {
        return Err(format!("out of range: write a time from {least:?} to {most:?}"));
    }
    Ok(time)
}

/// Interface addresses: each with its prefix length, or how to come by one.
pub(super) fn interface(value: &Setting) -> Parsed<Vec<Address>> {
    value.items().iter().map(|item| item.parse()).collect()
}

/// Addresses.
pub(super) fn addresses(value: &Setting) -> Parsed<Vec<IpAddr>> {
    let one = |item: &String| item.parse().map_err(|_| format!("`{item}` is no IP address"));
    value.items().iter().map(one).collect()
}

/// Domains that names can be looked up in, without dots at their ends.
pub(super) fn domains(value: &Setting) -> Parsed<Vec<String>> {
    let one = |item: &String| {
        let bare = item.strip_suffix('.').unwrap_or(item);
        // RFC 1035 §2.3.4: what a name's labels can be, and how long they are together.
        let labels = bare.split('.').all(|label| (1..=63).contains(&label.len()));
        let fits =
            labels && bare.len() <= 253 && !bare.contains(|c: char| c.is_whitespace() || c.is_control());
        if fits {
            Ok(bare.to_ascii_lowercase())
        } else {
            Err(format!("`{item}` is no domain: write one as example.com"))
        }
    };
    value.items().iter().filter(|item| !item.is_empty()).map(one).collect()
}

/// An Ethernet address, `02:00:00:00:00:01`, that one station may have.
pub(super) fn mac(value: &Setting) -> Parsed<Option<[u8; 6]>> {
    let text = value.text();
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part =
            parts.next().filter(|part| part.len() == 2).and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = part.ok_or("not an Ethernet address: write one as 02:00:00:00:00:01")?;
    }
    if parts.next().is_some() {
        return Err("not an Ethernet address: write six bytes, as 02:00:00:00:00:01".into());
    }
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err("a group's address, or none: the first byte must be even, as in 02:00:00:00:00:01".into());
    }
    Ok(Some(mac))
}

/// A path; empty is none.
pub(super) fn path(value: &Setting) -> Parsed<Option<PathBuf>> {
    let text = value.text();
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

/// A congestion control's name.
pub(super) fn congestion(value: &Setting) -> Parsed<CongestionControl> {
    CongestionControl::from_name(&value.text().to_ascii_lowercase())
        .ok_or_else(|| "no such congestion control: write cubic, newreno, dctcp, bbr or none".into())
}

/// One of the words of an enumeration.
pub(super) fn word<T: std::str::FromStr<Err = String>>(value: &Setting) -> Parsed<T> {
    value.text().parse()
}

/// [`word`], for a key that has no default value.
pub(super) fn some_word<T: std::str::FromStr<Err = String>>(value: &Setting) -> Parsed<Option<T>> {
    word(value).map(Some)
}

/// Device strings. A list holds one device an item; a text names one device, or several with `;` between them, since
/// `dpdk:` takes arguments that contain commas.
pub(super) fn devices(value: &Setting) -> Parsed<Vec<super::DeviceSpec>> {
    let items = match value {
        Setting::List(items) => items.iter().map(Setting::text).collect::<Vec<_>>(),
        other => other.text().split(';').map(|item| item.trim().to_owned()).collect(),
    };
    if items.is_empty() {
        return Err("no device: write auto, or leave the key out".into());
    }
    items.iter().map(|item| item.parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_take_their_units() {
        assert_eq!(bytes::<1, { 1 << 40 }>(&"64k".into()), Ok(65_536));
        assert_eq!(bytes::<1, { 1 << 40 }>(&"4 MiB".into()), Ok(4 << 20));
        assert_eq!(bytes::<1, { 1 << 40 }>(&4096.into()), Ok(4096));
        assert!(bytes::<1, 10>(&"1k".into()).is_err());
        assert!(bytes::<1, { 1 << 40 }>(&"999999999999999999g".into()).is_err());
        assert_eq!(time::<1_000>(&20.into()), Ok(Duration::from_micros(20)));
        assert_eq!(time::<1_000>(&"3ms".into()), Ok(Duration::from_millis(3)));
        assert_eq!(time::<1_000_000>(&Duration::from_micros(7).into()), Ok(Duration::from_micros(7)));
        assert!(time::<1>(&"-1".into()).is_err());
    }

    #[test]
    fn domains_are_held_to_what_a_name_can_be() {
        let read = domains(&"Example.com., lan".into());
        assert_eq!(read, Ok(vec!["example.com".to_owned(), "lan".to_owned()]));
        assert_eq!(domains(&"".into()), Ok(Vec::new()));
        for wrong in [".", "a..b", "a b", &"x".repeat(64)] {
            assert!(domains(&wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_ethernet_address_is_one_stations() {
        assert_eq!(mac(&"02:00:00:00:00:0a".into()), Ok(Some([2, 0, 0, 0, 0, 10])));
        for wrong in ["01:00:00:00:00:01", "02:00:00:00:00", "02:00:00:00:00:01:02", "0:0:0:0:0:0", "x", ""] {
            assert!(mac(&wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        assert_eq!(number::<u16, 68, 65535>(&"1_500".into()), Ok(1500));
        assert!(number::<u16, 68, 65535>(&67.into()).unwrap_err().contains("68 to 65535"));
        assert!(number::<u16, 68, 65535>(&"many".into()).unwrap_err().contains("whole number"));
    }
}
