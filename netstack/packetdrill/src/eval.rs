//! The assertions between `%{` and `}%`: Python's expressions, assignments and `assert`, over the connection's `tcp_info`.
//!
//! Scripts written for packetdrill are Python there; what suites use of it are comparisons and arithmetic. Anything else is an
//! error that names it.

use std::collections::HashMap;
use std::fmt;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Tuple(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Str(value) => write!(f, "{value}"),
            Value::Tuple(values) => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                write!(f, "({})", values.join(", "))
            }
        }
    }
}

impl Value {
    fn is_true(&self) -> bool {
        match self {
            Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(value) => !value.is_empty(),
            Value::Tuple(values) => !values.is_empty(),
        }
    }

    fn number(&self) -> Result<Number, String> {
        match self {
            Value::Bool(value) => Ok(Number::Int(i128::from(*value))),
            Value::Int(value) => Ok(Number::Int(*value)),
            Value::Float(value) => Ok(Number::Float(*value)),
            other => Err(format!("{other} is no number")),
        }
    }
}

#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}

/// Runs `code`. Assignments change `names`; an assertion that does not hold is an error that shows it, with the values of the
/// names in it.
pub(crate) fn run(code: &str, names: &mut HashMap<String, Value>) -> Result<(), String> {
    for statement in statements(code) {
        statement_of(statement, names).map_err(|error| format!("{error}, in `{statement}`"))?;
    }
    Ok(())
}

/// The statements of a piece of code: lines, and what semicolons part, outside of quotes and parentheses.
fn statements(code: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut depth, mut quote, mut comment) = (0, 0usize, None, false);
    for (at, c) in code.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\n') if depth == 0 || comment => {
                if !comment {
                    statements.push(&code[start..at]);
                }
                start = at + 1;
                comment = false;
            }
            _ if comment => {}
            (None, '#') => {
                statements.push(&code[start..at]);
                comment = true;
            }
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, ';') if depth == 0 => {
                statements.push(&code[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !comment {
        statements.push(&code[start..]);
    }
    statements.iter().map(|statement| statement.trim()).filter(|statement| !statement.is_empty()).collect()
}

fn statement_of(text: &str, names: &mut HashMap<String, Value>) -> Result<(), String> {
    let tokens = lex(text)?;
    match tokens.as_slice() {
        [Token::Name(word), rest @ ..] if word == "assert" => {
            let mut parser = Parser { tokens: rest, at: 0, names };
            let holds = parser.ternary()?;
            let mut message = None;
            if parser.takes(",") {
                message = Some(parser.ternary()?);
            }
            parser.end()?;
            if holds.is_true() {
                return Ok(());
            }
            let mut seen: Vec<String> = Vec::new();
            for token in rest {
                if let Token::Name(name) = token
                    && let Some(value) = names.get(name)
                {
                    let shown = format!("{name} = {value}");
                    if !seen.contains(&shown) {
                        seen.push(shown);
                    }
                }
            }
            let message = message.map(|message| format!(" ({message})")).unwrap_or_default();
            Err(format!("the assertion does not hold{message}: {}", seen.join(", ")))
        }
        [Token::Name(word), ..]
            if matches!(word.as_str(), "import" | "from" | "def" | "for" | "while" | "if") =>
        {
            Err(format!("'{word}' statements are not supported: assert, assignments and expressions are"))
        }
        [Token::Name(name), Token::Sign("="), rest @ ..] => {
            let mut parser = Parser { tokens: rest, at: 0, names };
            let value = parser.ternary()?;
            parser.end()?;
            names.insert(name.clone(), value);
            Ok(())
        }
        tokens => {
            let mut parser = Parser { tokens, at: 0, names };
            parser.ternary()?;
            parser.end()
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Value(Value),
    Sign(&'static str),
}

const SIGNS: [&str; 25] = [
    "==", "!=", "<=", ">=", "<<", ">>", "//", "**", "<", ">", "=", "+", "-", "*", "/", "%", "(", ")", "[",
    "]", ",", "&", "|", "^", "~",
];

fn lex(mut text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    loop {
        text = text.trim_start();
        let Some(first) = text.chars().next() else { return Ok(tokens) };
        let len = |wanted: fn(char) -> bool| text.find(|c| !wanted(c)).unwrap_or(text.len());
        let taken = if first == '\\' {
            1
        } else if first.is_ascii_digit() {
            let len = len(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_');
            let digits = text[..len].replace('_', "");
            let value = match digits.strip_prefix("0x") {
                Some(hex) => i128::from_str_radix(hex, 16).ok().map(Value::Int),
                None => digits.parse().map(Value::Int).or_else(|_| digits.parse().map(Value::Float)).ok(),
            };
            tokens.push(Token::Value(value.ok_or_else(|| format!("'{digits}' is no number"))?));
            len
        } else if first.is_alphabetic() || first == '_' {
            let len = len(|c| c.is_alphanumeric() || c == '_');
            tokens.push(match &text[..len] {
                "True" => Token::Value(Value::Bool(true)),
                "False" => Token::Value(Value::Bool(false)),
                "None" => Token::Value(Value::None),
                name => Token::Name(name.to_owned()),
            });
            len
        } else if matches!(first, '"' | '\'') {
            let end = text[1..].find(first).ok_or("a string that never ends")?;
            tokens.push(Token::Value(Value::Str(text[1..=end].to_owned())));
            end + 2
        } else {
            let sign = SIGNS.iter().find(|sign| text.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("'{first}' is not supported here"))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        text = &text[taken..];
    }
}

/// A recursive descent that computes as it goes.
struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    names: &'a HashMap<String, Value>,
}

/// Binary operators of one strength, loosest first.
const LEVELS: [&[&str]; 6] = [&["|"], &["^"], &["&"], &["<<", ">>"], &["+", "-"], &["*", "/", "//", "%"]];

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(found);
        found
    }

    fn takes_name(&mut self, name: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Name(found)) if found == name);
        self.at += usize::from(found);
        found
    }

    fn end(&self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(Token::Name(name)) => Err(format!("'{name}' is not expected here")),
            Some(Token::Value(value)) => Err(format!("'{value}' is not expected here")),
            Some(Token::Sign(sign)) => Err(format!("'{sign}' is not expected here")),
        }
    }

    fn ternary(&mut self) -> Result<Value, String> {
        let value = self.or()?;
        if !self.takes_name("if") {
            return Ok(value);
        }
        let condition = self.or()?;
        if !self.takes_name("else") {
            return Err("'else' is missing".to_owned());
        }
        let other = self.ternary()?;
        Ok(if condition.is_true() { value } else { other })
    }

    fn or(&mut self) -> Result<Value, String> {
        let mut value = self.and()?;
        while self.takes_name("or") {
            let other = self.and()?;
            value = if value.is_true() { value } else { other };
        }
        Ok(value)
    }

    fn and(&mut self) -> Result<Value, String> {
        let mut value = self.not()?;
        while self.takes_name("and") {
            let other = self.not()?;
            value = if value.is_true() { other } else { value };
        }
        Ok(value)
    }

    fn not(&mut self) -> Result<Value, String> {
        if self.takes_name("not") { Ok(Value::Bool(!self.not()?.is_true())) } else { self.comparison() }
    }

    /// Comparisons, which may be chained: `1 < a <= 3`.
    fn comparison(&mut self) -> Result<Value, String> {
        let mut left = self.binary(0)?;
        let mut holds = None;
        loop {
            let sign = match self.peek() {
                Some(Token::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => *sign,
                Some(Token::Name(name)) if name == "in" => "in",
                Some(Token::Name(name)) if name == "not" => "not in",
                _ => return Ok(holds.map_or(left, Value::Bool)),
            };
            self.at += 1;
            if sign == "not in" && !self.takes_name("in") {
                return Err("'in' is missing behind 'not'".to_owned());
            }
            let right = self.binary(0)?;
            holds = Some(holds.unwrap_or(true) && compare(sign, &left, &right)?);
            left = right;
        }
    }

    fn binary(&mut self, level: usize) -> Result<Value, String> {
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let sign = match self.peek() {
                Some(Token::Sign(sign)) if signs.contains(sign) => *sign,
                _ => return Ok(left),
            };
            self.at += 1;
            left = arithmetic(sign, &left, &self.binary(level + 1)?)?;
        }
    }

    fn unary(&mut self) -> Result<Value, String> {
        if self.takes("-") {
            return arithmetic("-", &Value::Int(0), &self.unary()?);
        }
        if self.takes("+") {
            return self.unary();
        }
        if self.takes("~") {
            return match self.unary()?.number()? {
                Number::Int(value) => Ok(Value::Int(!value)),
                Number::Float(value) => Err(format!("~{value} is not supported")),
            };
        }
        let base = self.primary()?;
        if self.takes("**") { arithmetic("**", &base, &self.unary()?) } else { Ok(base) }
    }

    fn primary(&mut self) -> Result<Value, String> {
        let token = self.peek().cloned().ok_or("the expression ends too early")?;
        self.at += 1;
        match token {
            Token::Value(value) => Ok(value),
            Token::Sign("(") => {
                let (mut values, tuple) = self.list(")")?;
                match values.pop() {
                    Some(value) if !tuple && values.is_empty() => Ok(value),
                    last => {
                        values.extend(last);
                        Ok(Value::Tuple(values))
                    }
                }
            }
            Token::Sign("[") => Ok(Value::Tuple(self.list("]")?.0)),
            Token::Sign(sign) => Err(format!("'{sign}' is not expected here")),
            Token::Name(name) if self.takes("(") => {
                let arguments = self.list(")")?.0;
                call(&name, &arguments)
            }
            Token::Name(name) => {
                let value = self.names.get(&name).cloned().or_else(|| constant(&name));
                value.ok_or_else(|| format!("'{name}' is not known"))
            }
        }
    }

    /// Values up to `close`, and whether a comma made them a tuple.
    fn list(&mut self, close: &str) -> Result<(Vec<Value>, bool), String> {
        let (mut values, mut tuple) = (Vec::new(), false);
        while !self.takes(close) {
            values.push(self.ternary()?);
            if self.takes(",") {
                tuple = true;
            } else if !matches!(self.peek(), Some(Token::Sign(sign)) if *sign == close) {
                return Err(format!("'{close}' is missing"));
            }
        }
        Ok((values, tuple))
    }
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    match (name, arguments) {
        ("print", _) => Ok(Value::None),
        ("abs", [value]) => match value.number()? {
            Number::Int(value) => Ok(Value::Int(value.abs())),
            Number::Float(value) => Ok(Value::Float(value.abs())),
        },
        ("int", [value]) => match value.number()? {
            Number::Int(value) => Ok(Value::Int(value)),
            Number::Float(value) => Ok(Value::Int(value as i128)),
        },
        ("float", [value]) => Ok(Value::Float(value.number()?.float())),
        ("round", [value]) => Ok(Value::Int(value.number()?.float().round() as i128)),
        ("str" | "repr", [value]) => Ok(Value::Str(value.to_string())),
        ("min" | "max", values) => {
            let values = if let [Value::Tuple(values)] = values { values } else { values };
            let mut best = values.first().cloned().ok_or("no value to choose from")?;
            for value in values {
                if compare(if name == "min" { "<" } else { ">" }, value, &best)? {
                    best = value.clone();
                }
            }
            Ok(best)
        }
        _ => Err(format!("{name}() with {} arguments is not supported", arguments.len())),
    }
}

fn constant(name: &str) -> Option<Value> {
    let value = match name {
        "TCP_CA_Open" => 0,
        "TCP_CA_Disorder" => 1,
        "TCP_CA_CWR" => 2,
        "TCP_CA_Recovery" => 3,
        "TCP_CA_Loss" => 4,
        "TCP_ESTABLISHED" => 1,
        "TCP_SYN_SENT" => 2,
        "TCP_SYN_RECV" => 3,
        "TCP_FIN_WAIT1" => 4,
        "TCP_FIN_WAIT2" => 5,
        "TCP_TIME_WAIT" => 6,
        "TCP_CLOSE" => 7,
        "TCP_CLOSE_WAIT" => 8,
        "TCP_LAST_ACK" => 9,
        "TCP_LISTEN" => 10,
        "TCP_CLOSING" => 11,
        "TCPI_OPT_TIMESTAMPS" => 1,
        "TCPI_OPT_SACK" => 2,
        "TCPI_OPT_WSCALE" => 4,
        "TCPI_OPT_ECN" => 8,
        "TCPI_OPT_ECN_SEEN" => 16,
        "TCPI_OPT_SYN_DATA" => 32,
        "TCP_INFINITE_SSTHRESH" => 0x7fff_ffff,
        _ => return None,
    };
    Some(Value::Int(value))
}

fn compare(sign: &str, left: &Value, right: &Value) -> Result<bool, String> {
    if let "in" | "not in" = sign {
        let found = match (left, right) {
            (_, Value::Tuple(values)) => values.iter().any(|value| value == left),
            (Value::Str(part), Value::Str(whole)) => whole.contains(part.as_str()),
            _ => return Err(format!("nothing is in {right}")),
        };
        return Ok(found == (sign == "in"));
    }
    let order = match (left, right) {
        (Value::Str(left), Value::Str(right)) => left.partial_cmp(right),
        _ => match (left.number(), right.number()) {
            (Ok(Number::Int(left)), Ok(Number::Int(right))) => left.partial_cmp(&right),
            (Ok(left), Ok(right)) => left.float().partial_cmp(&right.float()),
            _ if matches!(sign, "==" | "!=") => return Ok((left == right) == (sign == "==")),
            _ => return Err(format!("{left} and {right} have no order")),
        },
    };
    Ok(match sign {
        "==" => order.is_some_and(|order| order.is_eq()),
        "!=" => order.is_none_or(|order| order.is_ne()),
        "<" => order.is_some_and(|order| order.is_lt()),
        "<=" => order.is_some_and(|order| order.is_le()),
        ">" => order.is_some_and(|order| order.is_gt()),
        _ => order.is_some_and(|order| order.is_ge()),
    })
}

fn arithmetic(sign: &str, left: &Value, right: &Value) -> Result<Value, String> {
    if let (Value::Str(left), "+", Value::Str(right)) = (left, sign, right) {
        return Ok(Value::Str(format!("{left}{right}")));
    }
    if let (Value::Str(_), "%") = (left, sign) {
        // A message being formatted: the values are shown as they are.
        return Ok(Value::Str(format!("{left} % {right}")));
    }
    let overflow = || format!("{left} {sign} {right} is too large, or divides by zero");
    match (left.number()?, right.number()?) {
        (Number::Int(left), Number::Int(right)) => {
            let shift = u32::try_from(right).ok();
            let result = match sign {
                "+" => left.checked_add(right),
                "-" => left.checked_sub(right),
                "*" => left.checked_mul(right),
                "/" if right != 0 => return Ok(Value::Float(left as f64 / right as f64)),
                "//" => left.checked_div_euclid(right),
                "%" => left.checked_rem_euclid(right),
                "**" => shift.and_then(|power| left.checked_pow(power)),
                "<<" => shift.filter(|shift| *shift < 64).and_then(|shift| left.checked_shl(shift)),
                ">>" => shift.and_then(|shift| left.checked_shr(shift)),
                "&" => Some(left & right),
                "|" => Some(left | right),
                "^" => Some(left ^ right),
                _ => None,
            };
            result.map(Value::Int).ok_or_else(overflow)
        }
        (left, right) => {
            let (left, right) = (left.float(), right.float());
            Ok(Value::Float(match sign {
                "+" => left + right,
                "-" => left - right,
                "*" => left * right,
                "/" => left / right,
                "//" => (left / right).floor(),
                "%" => left.rem_euclid(right),
                "**" => left.powf(right),
                other => return Err(format!("'{other}' is not for fractions")),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str) -> Result<(), String> {
        let mut names = HashMap::new();
        names.insert("tcpi_snd_cwnd".to_owned(), Value::Int(10));
        names.insert("tcpi_rtt".to_owned(), Value::Int(100_000));
        run(code, &mut names)
    }

    #[test]
    fn comparisons_and_arithmetic_are_pythons() {
        for code in [
            "assert tcpi_snd_cwnd == 10",
            "assert 9 < tcpi_snd_cwnd <= 10 and not tcpi_rtt < 5, 'message'",
            "assert tcpi_snd_cwnd in (9, 10)\nassert tcpi_snd_cwnd not in [1]",
            "x = tcpi_rtt / 1000.0; assert abs(x - 100) < 0.5 # remark; assert 0",
            "assert 7 // 2 == 3 and -7 % 4 == 1 and 2 ** 10 == 1024 and 1 << 4 | 1 == 17",
            "assert (tcpi_snd_cwnd ==\n 10), tcpi_snd_cwnd",
            "assert (1 if tcpi_rtt else 2) == 1",
            "assert tcpi_snd_cwnd == 10 or unknown == 1 if False else True",
            "print(tcpi_rtt)",
            "assert TCP_CA_Open == 0x0",
        ] {
            if code.contains("unknown") {
                assert!(check(code).is_err(), "names are looked up: {code}");
            } else {
                assert_eq!(check(code), Ok(()), "{code}");
            }
        }
    }

    #[test]
    fn a_failed_assertion_shows_the_values_in_it() {
        assert_eq!(
            check("assert tcpi_snd_cwnd == 11, 'the window'").unwrap_err(),
            "the assertion does not hold (the window): tcpi_snd_cwnd = 10, in `assert tcpi_snd_cwnd == 11, 'the window'`"
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (code, word) in [
            ("import os", "import"),
            ("assert tcpi_nothing == 1", "tcpi_nothing"),
            ("assert f(1)", "f()"),
            ("assert 1 +", "early"),
            ("assert 1 1", "'1'"),
            ("assert 1 // 0", "zero"),
            ("assert ?", "'?'"),
        ] {
            let error = check(code).unwrap_err();
            assert!(error.contains(word), "{code}: {error}");
        }
    }
}
