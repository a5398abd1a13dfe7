//! From tokens to events, by recursive descent. An error names what was found, where, and what was expected instead.

use super::lexer::{self, Place, SyntaxError, Token};
use super::packet::{
    Direction, Ecn, IcmpSpec, IpSpec, PacketBody, PacketSpec, Quoted, TcpFlags, TcpOption, TcpSpec,
};
use super::{Action, CallSpec, Event, Expr, Field, Script, Time};

type Result<T> = core::result::Result<T, SyntaxError>;

/// Bytes of the longest options of a TCP header.
const MAX_OPTION_BYTES: usize = 40;

pub(super) fn parse(text: &str, defines: &[(String, String)]) -> Result<Script> {
    let tokens = lexer::tokens(text, defines)?;
    let mut parser = Parser { tokens, at: 0 };
    let mut script = Script { flags: Vec::new(), events: Vec::new() };
    loop {
        match parser.peek().clone() {
            Token::End => return Ok(script),
            Token::Flag(name, value) => {
                let place = parser.place();
                if script.events.iter().any(|event| event.time != Time::Untimed) {
                    return parser.error(place, "flags come before the first event");
                }
                parser.at += 1;
                if name != "define" {
                    script.flags.push((name, value));
                }
            }
            _ => script.events.push(parser.event()?),
        }
    }
}

struct Parser {
    tokens: Vec<(Place, Token)>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        self.tokens.get(self.at + ahead).map_or(&Token::End, |(_, token)| token)
    }

    fn place(&self) -> Place {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(Place::default(), |(place, _)| *place)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn error<T>(&self, place: Place, message: impl Into<String>) -> Result<T> {
        Err(SyntaxError { place, message: message.into() })
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        self.error(self.place(), format!("expected {what}, found {}", self.peek()))
    }

    fn takes(&mut self, sign: char) -> bool {
        let found = *self.peek() == Token::Sign(sign);
        self.at += usize::from(found);
        found
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(found) if found == word);
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: char) -> Result<()> {
        if self.takes(sign) { Ok(()) } else { self.expected(&format!("'{sign}'")) }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn int(&mut self, what: &str) -> Result<i64> {
        match *self.peek() {
            Token::Int(number) => {
                self.at += 1;
                Ok(number)
            }
            _ => self.expected(what),
        }
    }

    /// An integer that fits into `T`.
    fn number<T: TryFrom<i64>>(&mut self, what: &str) -> Result<T> {
        let place = self.place();
        let number = self.int(what)?;
        T::try_from(number).or_else(|_| self.error(place, format!("{number} is out of range for {what}")))
    }

    // ---- events ----

    fn event(&mut self) -> Result<Event> {
        let place = self.place();
        let time = self.time()?;
        let outbound = *self.peek() == Token::Sign('>');
        let action = match self.peek().clone() {
            Token::Sign('<' | '>') => Action::Packet(self.packet()?),
            Token::Command(command) => {
                self.at += 1;
                Action::Command(command)
            }
            Token::Code(code) => {
                self.at += 1;
                Action::Code(code)
            }
            Token::Word(_) | Token::Ellipsis => Action::Call(self.call()?),
            _ => {
                return self
                    .expected("a packet ('<' or '>'), a call, a command in backticks or code in %{ }%");
            }
        };
        match time {
            Time::Untimed if !matches!(action, Action::Command(_)) => {
                self.error(place, "expected a time before this: only commands go without")
            }
            Time::Any | Time::AbsoluteRange(..) | Time::RelativeRange(..) if !outbound => {
                self.error(place, "'*' and ranges of time are for outbound packets only")
            }
            Time::AbsoluteRange(from, to) | Time::RelativeRange(from, to) if to < from => {
                self.error(place, "this range of time ends before it begins")
            }
            _ => Ok(Event { place, time, action }),
        }
    }

    fn time(&mut self) -> Result<Time> {
        if matches!(self.peek(), Token::Command(_)) {
            return Ok(Time::Untimed);
        }
        if self.takes('*') {
            return Ok(Time::Any);
        }
        if self.takes('+') {
            let from = self.seconds()?;
            if self.takes('~') {
                self.sign('+')?;
                return Ok(Time::RelativeRange(from, self.seconds()?));
            }
            return Ok(Time::Relative(from));
        }
        let from = self.seconds()?;
        if self.takes('~') {
            Ok(Time::AbsoluteRange(from, self.seconds()?))
        } else {
            Ok(Time::Absolute(from))
        }
    }

    /// Seconds, as microseconds.
    fn seconds(&mut self) -> Result<i64> {
        let place = self.place();
        let micros = match self.next() {
            Token::Int(seconds) => seconds.checked_mul(1_000_000),
            Token::Float(text) => text.parse::<f64>().ok().map(|seconds| (seconds * 1e6).round() as i64),
            _ => {
                self.at -= 1;
                return self.expected("a time in seconds");
            }
        };
        match micros {
            Some(micros) if (0..1 << 50).contains(&micros) => Ok(micros),
            _ => self.error(place, "this time is negative or too far away"),
        }
    }

    // ---- packets ----

    fn packet(&mut self) -> Result<PacketSpec> {
        let direction = if self.next() == Token::Sign('<') { Direction::In } else { Direction::Out };
        let place = self.place();
        let mut ip = self.ip_spec()?;
        for tunnel in ["ipv4", "ipv6", "gre", "GREv0", "mpls"] {
            if self.takes_word(tunnel) {
                return self.error(place, format!("packets within packets ({tunnel}) are not supported"));
            }
        }
        let is_udp = self.takes_word("udp");
        let ports = match (self.peek(), self.peek_at(1), self.peek_at(2)) {
            (Token::Int(_), Token::Sign('>'), Token::Int(_)) => {
                let source = self.number("a source port")?;
                self.at += 1;
                Some((source, self.number("a destination port")?))
            }
            _ => None,
        };
        let body = if is_udp {
            if ip == IpSpec::default() {
                ip = self.ip_spec()?;
            }
            PacketBody::Udp(self.parenthesised_len()?)
        } else if ports.is_none() && self.takes_word("icmp") {
            PacketBody::Icmp(self.icmp()?)
        } else {
            PacketBody::Tcp(self.tcp(direction)?)
        };
        if direction == Direction::In && ip.ecn == Some(Ecn::Ect01) {
            return self.error(place, "[ect01] is for outbound packets only");
        }
        Ok(PacketSpec { direction, ip, ports, body })
    }

    fn parenthesised_len(&mut self) -> Result<usize> {
        self.sign('(')?;
        let len: u16 = self.number("a payload length")?;
        self.sign(')')?;
        Ok(usize::from(len))
    }

    /// `[ect0]`, `(tos 0x10)`, `[ttl 1]`, `[noecn, flowlabel 0x1]` or nothing.
    fn ip_spec(&mut self) -> Result<IpSpec> {
        let mut spec = IpSpec::default();
        let close = match (self.peek(), self.peek_at(1)) {
            (Token::Sign('['), Token::Word(_)) => ']',
            (Token::Sign('('), Token::Word(_)) => ')',
            _ => return Ok(spec),
        };
        self.at += 1;
        loop {
            let place = self.place();
            match self.word("ect0, ect1, ect01, ce, noecn, tos, ttl or flowlabel")?.as_str() {
                "noecn" => spec.ecn = Some(Ecn::None),
                "ect0" => spec.ecn = Some(Ecn::Ect0),
                "ect1" => spec.ecn = Some(Ecn::Ect1),
                "ect01" => spec.ecn = Some(Ecn::Ect01),
                "ce" => spec.ecn = Some(Ecn::Ce),
                "tos" => spec.tos = Some(self.number("a type of service")?),
                "ttl" => spec.ttl = Some(self.number("a time to live")?),
                "flowlabel" => {
                    let label: u32 = self.number("a flow label")?;
                    if label >> 20 != 0 {
                        return self.error(place, "a flow label has 20 bits");
                    }
                    spec.flow_label = Some(label);
                }
                other => {
                    let message =
                        format!("'{other}': expected ect0, ect1, ect01, ce, noecn, tos, ttl or flowlabel");
                    return self.error(place, message);
                }
            }
            if !self.takes(',') {
                self.sign(close)?;
                return Ok(spec);
            }
        }
    }

    fn tcp(&mut self, direction: Direction) -> Result<TcpSpec> {
        let flags = self.tcp_flags()?;
        let (seq, len) = self.sequence_range()?;
        let ack = if self.takes_word("ack") { Some(self.sequence_number()?) } else { None };
        let window = if self.takes_word("win") { Some(self.number("a window of 16 bits")?) } else { None };
        let urgent =
            if self.takes_word("urg") { Some(self.number("an urgent pointer of 16 bits")?) } else { None };
        let options = self.tcp_options(direction)?;
        Ok(TcpSpec { flags, seq, len, ack, window, urgent, options })
    }

    fn tcp_flags(&mut self) -> Result<TcpFlags> {
        let place = self.place();
        let mut text = match self.next() {
            Token::Word(word) => word,
            Token::Sign('.') => ".".to_owned(),
            Token::Sign('-') => String::new(),
            // `.5`: the point is ACK, the digit what AccECN counts.
            Token::Float(text) => text,
            _ => {
                self.at -= 1;
                return self.expected("TCP flags, 'udp' or 'icmp'");
            }
        };
        match self.peek().clone() {
            Token::Sign('.') if !text.contains('.') => {
                self.at += 1;
                text.push('.');
            }
            Token::Float(ace) if ace.starts_with('.') && ace.len() == 2 => {
                self.at += 1;
                text.push_str(&ace);
            }
            _ => {}
        }
        TcpFlags::parse(&text).or_else(|message| self.error(place, message))
    }

    fn sequence_number(&mut self) -> Result<u32> {
        self.number("a sequence number of 32 bits")
    }

    /// `start:end(length)`
    fn sequence_range(&mut self) -> Result<(u32, usize)> {
        let place = self.place();
        let start = self.sequence_number()?;
        self.sign(':')?;
        let end = self.sequence_number()?;
        let len = self.parenthesised_len()?;
        if start.wrapping_add(len as u32) != end {
            return self.error(place, format!("{start}:{end} is not {len} bytes long"));
        }
        Ok((start, len))
    }

    fn tcp_options(&mut self, direction: Direction) -> Result<Option<Vec<TcpOption>>> {
        let place = self.place();
        if !self.takes('<') {
            return Ok(Some(Vec::new()));
        }
        if *self.peek() == Token::Ellipsis {
            if direction == Direction::In {
                return self.error(place, "<...> is for outbound packets only");
            }
            self.at += 1;
            self.sign('>')?;
            return Ok(None);
        }
        let mut options = Vec::new();
        loop {
            options.push(self.tcp_option()?);
            if !self.takes(',') {
                self.sign('>')?;
                break;
            }
        }
        let bytes = crate::packet::option_bytes(&options).len();
        if !bytes.is_multiple_of(4) {
            let message = format!("these options have {bytes} bytes: pad them with nop to a multiple of 4");
            return self.error(place, message);
        }
        if bytes > MAX_OPTION_BYTES {
            return self.error(place, format!("these options have {bytes} bytes: a header holds 40"));
        }
        Ok(Some(options))
    }

    fn tcp_option(&mut self) -> Result<TcpOption> {
        let place = self.place();
        Ok(match self.word("a TCP option")?.as_str() {
            "nop" => TcpOption::Nop,
            "eol" => TcpOption::Eol,
            "mss" => TcpOption::Mss(self.number("an MSS of 16 bits")?),
            "wscale" => TcpOption::WindowScale(self.number("a window scale of 8 bits")?),
            "sackOK" => TcpOption::SackPermitted,
            "sack" => {
                let mut blocks = Vec::new();
                loop {
                    let start = self.sequence_number()?;
                    self.sign(':')?;
                    blocks.push((start, self.sequence_number()?));
                    if !matches!(self.peek(), Token::Int(_)) {
                        break TcpOption::Sack(blocks);
                    }
                }
            }
            "TS" => {
                if !self.takes_word("val") {
                    return self.expected("'val'");
                }
                let value = self.number("a timestamp of 32 bits")?;
                if !self.takes_word("ecr") {
                    return self.expected("'ecr'");
                }
                TcpOption::Timestamps { value, echo: self.number("a timestamp of 32 bits")? }
            }
            "md5" => TcpOption::Md5(self.hex_bytes()?),
            "ECN" => self.ecn_counts()?,
            "FO" => TcpOption::FastOpen(self.hex_bytes()?),
            "FOEXP" => TcpOption::FastOpenExperimental(self.hex_bytes()?),
            other => {
                let message = format!(
                    "'{other}': expected nop, eol, mss, wscale, sackOK, sack, TS, md5, ECN, FO or FOEXP"
                );
                return self.error(place, message);
            }
        })
    }

    /// `e1b 1 ceb 0 e0b 1`, `e0b 1 ceb 0 e1b 1`, or the beginning of either; the first name tells which option it is.
    fn ecn_counts(&mut self) -> Result<TcpOption> {
        let ect1_first = !self.takes_word("e0b");
        let mut counts = Vec::new();
        for (at, name) in TcpOption::ecn_names(ect1_first).into_iter().enumerate() {
            if (at == 0 && !ect1_first) || self.takes_word(name) {
                counts.push(self.number::<u32>("a count of 24 bits")? & 0x00ff_ffff);
            } else {
                break;
            }
        }
        Ok(TcpOption::EcnCounts { ect1_first, counts })
    }

    /// Pairs of hexadecimal digits, or nothing.
    fn hex_bytes(&mut self) -> Result<Vec<u8>> {
        let place = self.place();
        let text = match self.peek().clone() {
            Token::Word(word) => word,
            Token::Int(number) => number.to_string(),
            _ => return Ok(Vec::new()),
        };
        self.at += 1;
        let pairs = text.as_bytes().chunks(2).map(|pair| {
            let pair = core::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        match pairs.collect() {
            Some(bytes) => Ok(bytes),
            None => self.error(place, format!("'{text}': expected pairs of hexadecimal digits")),
        }
    }

    fn icmp(&mut self) -> Result<IcmpSpec> {
        let kind = self.word("a type of ICMP message")?;
        let mut spec = IcmpSpec { kind, code: None, mtu: None, echo_id: None, quoted: None };
        if matches!(self.peek(), Token::Word(word) if !matches!(word.as_str(), "mtu" | "id")) {
            spec.code = Some(self.word("a code")?);
        }
        if self.takes_word("mtu") {
            spec.mtu = Some(self.number("an MTU")?);
        }
        if self.takes_word("id") {
            spec.echo_id = Some(self.number("an identifier of 16 bits")?);
        }
        if self.takes('[') {
            spec.quoted = Some(if self.takes_word("udp") {
                Quoted::Udp { len: self.parenthesised_len()? }
            } else if self.takes_word("raw") {
                Quoted::Raw { len: self.parenthesised_len()? }
            } else {
                let (seq, len) = self.sequence_range()?;
                Quoted::Tcp { seq, len }
            });
            self.sign(']')?;
        }
        Ok(spec)
    }

    // ---- calls ----

    fn call(&mut self) -> Result<CallSpec> {
        let end_us = if *self.peek() == Token::Ellipsis {
            self.at += 1;
            Some(self.seconds()?)
        } else {
            None
        };
        let name = self.word("the name of a call")?;
        self.sign('(')?;
        let arguments = self.expressions(')')?;
        self.sign('=')?;
        let result = self.expression()?;
        let mut errno = None;
        if let Token::Word(word) = self.peek().clone() {
            self.at += 1;
            errno = Some(word);
        }
        self.note()?;
        Ok(CallSpec { name, arguments, end_us, result, errno })
    }

    /// A remark in parentheses behind a result.
    fn note(&mut self) -> Result<()> {
        let place = self.place();
        if self.takes('(') {
            while !self.takes(')') {
                if *self.peek() == Token::End {
                    return self.error(place, "a remark that begins here never ends: expected ')'");
                }
                self.at += 1;
            }
        }
        Ok(())
    }

    /// Expressions up to `close`, which is taken, too.
    fn expressions(&mut self, close: char) -> Result<Vec<Expr>> {
        let mut list = Vec::new();
        if self.takes(close) {
            return Ok(list);
        }
        loop {
            list.push(self.expression()?);
            if !self.takes(',') {
                self.sign(close)?;
                return Ok(list);
            }
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        let mut left = self.term()?;
        while self.takes('|') {
            left = Expr::Or(Box::new(left), Box::new(self.term()?));
        }
        Ok(left)
    }

    fn term(&mut self) -> Result<Expr> {
        Ok(match self.peek().clone() {
            Token::Ellipsis => {
                self.at += 1;
                Expr::Ellipsis
            }
            Token::Int(number) => {
                self.at += 1;
                Expr::Int(number)
            }
            Token::Str(mut text) => {
                self.at += 1;
                while let Token::Str(more) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Expr::Str(text)
            }
            Token::Word(word) => {
                self.at += 1;
                if self.takes('(') { Expr::Apply(word, self.expressions(')')?) } else { Expr::Word(word) }
            }
            Token::Sign('[') => {
                self.at += 1;
                Expr::List(self.expressions(']')?)
            }
            Token::Sign('{') => {
                self.at += 1;
                self.braced()?
            }
            _ => return self.expected("a value"),
        })
    }

    /// `{a, b}` or `{name = value, …}`, behind the brace.
    fn braced(&mut self) -> Result<Expr> {
        let named = match (self.peek(), self.peek_at(1)) {
            (Token::Word(_), Token::Sign('=')) => true,
            (Token::Word(name), Token::Sign('(')) => name.starts_with("msg_"),
            _ => false,
        };
        if !named {
            return self.expressions('}').map(Expr::Tuple);
        }
        let mut fields = Vec::new();
        loop {
            let name = self.word("the name of a member")?;
            let mut argument = None;
            if self.takes('(') {
                argument = Some(self.expression()?);
                self.sign(')')?;
            }
            self.sign('=')?;
            fields.push(Field { name, argument, value: self.expression()? });
            if !self.takes(',') {
                self.sign('}')?;
                return Ok(Expr::Record(fields));
            }
        }
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
