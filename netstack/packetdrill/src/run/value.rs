//! Arguments of calls as values: what a script writes for numbers, buffers, addresses and structures.

use std::net::{IpAddr, SocketAddr};

use super::symbols;
use crate::host::OptionValue;
use crate::script::{Expr, Field};

impl Expr {
    /// A short text for messages.
    pub(super) fn show(&self) -> String {
        let list = |list: &[Expr]| list.iter().map(Expr::show).collect::<Vec<_>>().join(", ");
        match self {
            Expr::Ellipsis => "...".to_owned(),
            Expr::Int(number) => number.to_string(),
            Expr::Word(word) => word.clone(),
            Expr::Str(text) => format!("{text:?}"),
            Expr::Or(left, right) => format!("{}|{}", left.show(), right.show()),
            Expr::List(values) => format!("[{}]", list(values)),
            Expr::Tuple(values) => format!("{{{}}}", list(values)),
            Expr::Apply(name, values) => format!("{name}({})", list(values)),
            Expr::Record(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|field| format!("{} = {}", field.name, field.value.show())).collect();
                format!("{{{}}}", fields.join(", "))
            }
        }
    }

    /// A number: written as one, as constants, or in brackets, as what a pointer leads to.
    pub(super) fn number(&self) -> Result<i64, String> {
        match self {
            Expr::Int(number) => Ok(*number),
            Expr::Word(word) => {
                symbols::value(word).ok_or_else(|| format!("the constant {word} is not known"))
            }
            Expr::Or(left, right) => Ok(left.number()? | right.number()?),
            Expr::List(values) => match values.as_slice() {
                [value] => value.number(),
                _ => Err(format!("expected one number, found {}", self.show())),
            },
            Expr::Apply(name, values) if name == "htons" || name == "htonl" => match values.as_slice() {
                [value] => value.number(),
                _ => Err(format!("{name} takes one number")),
            },
            _ => Err(format!("expected a number, found {}", self.show())),
        }
    }

    /// As [`number`](Self::number), of 32 bits.
    pub(super) fn int(&self) -> Result<i32, String> {
        let number = self.number()?;
        i32::try_from(number)
            .or_else(|_| u32::try_from(number).map(|number| number as i32))
            .map_err(|_| format!("{number} does not fit into 32 bits"))
    }

    pub(super) fn size(&self) -> Result<usize, String> {
        let number = self.number()?;
        usize::try_from(number).map_err(|_| format!("{number} is no size"))
    }

    pub(super) fn is_any(&self) -> bool {
        *self == Expr::Ellipsis
    }

    /// The value of an option for `setsockopt`.
    pub(super) fn option_value(&self) -> Result<OptionValue, String> {
        match self {
            Expr::Str(text) => Ok(OptionValue::Text(text.clone())),
            Expr::List(values) => match values.as_slice() {
                [value] => value.option_value(),
                _ => Err(format!("expected one value, found {}", self.show())),
            },
            Expr::Record(fields) => {
                let get = |name: &str| {
                    fields.iter().find(|field| field.name == name).map(|field| field.value.number())
                };
                match (get("onoff"), get("linger"), get("tv_sec"), get("tv_usec")) {
                    (Some(on), Some(seconds), ..) => {
                        Ok(OptionValue::Linger { on: on? != 0, seconds: seconds? as i32 })
                    }
                    (_, _, Some(seconds), Some(micros)) => {
                        Ok(OptionValue::Time { seconds: seconds?, micros: micros? })
                    }
                    _ => Err(format!("{} is no value of an option", self.show())),
                }
            }
            _ => self.int().map(OptionValue::Int),
        }
    }

    /// A member of a record.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        match self {
            Expr::Record(fields) => fields.iter().find(|field| field.name == name),
            _ => None,
        }
    }

    /// `{sa_family = AF_INET, sin_port = htons(80), sin_addr = inet_addr("10.0.0.1")}`
    pub(super) fn address(&self) -> Result<SocketAddr, String> {
        let expected = || format!("expected an address, found {}", self.show());
        let part = |name: &str| self.field(name).map(|field| &field.value).ok_or_else(expected);
        let port = part("sin_port")?.number()?;
        let ip: IpAddr = match part("sin_addr")? {
            Expr::Apply(_, values) => match values.as_slice() {
                [Expr::Str(text)] => text.parse().map_err(|_| format!("\"{text}\" is no IP address"))?,
                _ => return Err(expected()),
            },
            _ => return Err(expected()),
        };
        Ok(SocketAddr::new(ip, u16::try_from(port).map_err(|_| format!("{port} is no port"))?))
    }

    /// Lengths of the buffers in an array of `iovec`s, and their contents where the script writes them.
    pub(super) fn buffers(&self) -> Result<Vec<(Option<String>, usize)>, String> {
        let expected = || format!("expected an array of {{..., length}}, found {}", self.show());
        let Expr::List(values) = self else { return Err(expected()) };
        let buffer = |value: &Expr| match value {
            Expr::Tuple(pair) => match pair.as_slice() {
                [Expr::Str(text), len] => Ok((Some(text.clone()), len.size()?)),
                [Expr::Ellipsis, len] => Ok((None, len.size()?)),
                _ => Err(expected()),
            },
            _ => Err(expected()),
        };
        values.iter().map(buffer).collect()
    }
}
