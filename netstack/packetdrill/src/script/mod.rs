//! Scripts as data: what the parser makes of a text and the runner acts on.

mod lexer;
mod packet;
mod parser;

pub use lexer::{Place, SyntaxError};
pub(crate) use packet::{
    Direction, Ecn, IcmpSpec, IpSpec, PacketBody, PacketSpec, Quoted, TcpFlags, TcpOption, TcpSpec,
};

/// A script, read completely.
#[derive(Clone, Debug)]
pub struct Script {
    /// Flags it carries, in order: name and value.
    pub(crate) flags: Vec<(String, Option<String>)>,
    /// What happens, in order.
    pub(crate) events: Vec<Event>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first thing that is no part of the language, with its place and what was expected there.
    pub fn parse(text: &str) -> Result<Script, SyntaxError> {
        parser::parse(text, &[])
    }

    /// As [`parse`](Self::parse), with names that stand for values, as `--define=NAME=VALUE` has them.
    ///
    /// # Errors
    /// As there.
    pub fn parse_with(text: &str, defines: &[(String, String)]) -> Result<Script, SyntaxError> {
        parser::parse(text, defines)
    }
}

/// When an event happens, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// At once: commands before the first and after the last event carry no time.
    Untimed,
    /// So long after the script began.
    Absolute(i64),
    /// So long after the event before.
    Relative(i64),
    /// Whenever it happens.
    Any,
    /// Between two times after the script began.
    AbsoluteRange(i64, i64),
    /// Between two times after the event before.
    RelativeRange(i64, i64),
}

/// One line of a script.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) place: Place,
    pub(crate) time: Time,
    pub(crate) action: Action,
}

/// What a line does or expects.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Packet(PacketSpec),
    Call(CallSpec),
    /// A shell command.
    Command(String),
    /// Assertions.
    Code(String),
}

/// A call of the socket interface and what it answers.
#[derive(Clone, Debug)]
pub(crate) struct CallSpec {
    pub(crate) name: String,
    pub(crate) arguments: Vec<Expr>,
    /// When it returns, on the time base of its event; `None`: at once.
    pub(crate) end_us: Option<i64>,
    pub(crate) result: Expr,
    /// The error's name.
    pub(crate) errno: Option<String>,
}

/// An argument or result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    /// `...`: whatever suits.
    Ellipsis,
    Int(i64),
    Word(String),
    Str(String),
    /// `a | b`
    Or(Box<Expr>, Box<Expr>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `{a, b}`
    Tuple(Vec<Expr>),
    /// `{name = value, name(n) = value}`
    Record(Vec<Field>),
    /// `f(a, b)`
    Apply(String, Vec<Expr>),
}

/// A member of a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// What stands in parentheses behind the name.
    pub(crate) argument: Option<Expr>,
    pub(crate) value: Expr,
}
