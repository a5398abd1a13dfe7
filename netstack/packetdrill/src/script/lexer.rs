//! From the text of a script to tokens with their places. It knows how things are spelt, not what they mean.

use std::collections::HashMap;
use std::fmt;

/// Where something stands in a script; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// Why a text is no script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where it was noticed.
    pub place: Place,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

impl std::error::Error for SyntaxError {}

/// A word, number or sign.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name: letters, digits and underscores, not all of them digits.
    Word(String),
    /// A decimal or hexadecimal integer.
    Int(i64),
    /// A decimal fraction, as it is written.
    Float(String),
    /// The text between double quotes, escapes taken out.
    Str(String),
    /// The text between backticks.
    Command(String),
    /// The text between `%{` and `}%`.
    Code(String),
    /// `--name` or `--name=value`.
    Flag(String, Option<String>),
    /// `...`
    Ellipsis,
    /// Any other character.
    Sign(char),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "'{word}'"),
            Token::Int(number) => write!(f, "'{number}'"),
            Token::Float(text) => write!(f, "'{text}'"),
            Token::Str(text) => write!(f, "\"{text}\""),
            Token::Command(_) => f.write_str("a command in backticks"),
            Token::Code(_) => f.write_str("code in %{ }%"),
            Token::Flag(name, _) => write!(f, "'--{name}'"),
            Token::Ellipsis => f.write_str("'...'"),
            Token::Sign(sign) => write!(f, "'{sign}'"),
            Token::End => f.write_str("the end of the script"),
        }
    }
}

/// All tokens of `text`, the last of them [`Token::End`].
///
/// `defines`: names and what stands for them, as after `--define=`.
pub(crate) fn tokens(text: &str, defines: &[(String, String)]) -> Result<Vec<(Place, Token)>, SyntaxError> {
    let mut lexer = Lexer { rest: text, place: Place { line: 1, column: 1 }, defines: HashMap::new() };
    for (name, value) in defines {
        lexer.defines.insert(name.clone(), defined(value));
    }
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank()?;
        let place = lexer.place;
        let token = lexer.token()?;
        let end = token == Token::End;
        tokens.push((place, token));
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    place: Place,
    /// What `--define=NAME=VALUE` has defined.
    defines: HashMap<String, Token>,
}

/// What stands for a defined name: text in quotes, a command in backticks, a number or a word.
fn defined(value: &str) -> Token {
    let inside =
        |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).map(str::to_owned);
    if let Some(text) = inside('"') {
        return Token::Str(text);
    }
    if let Some(command) = inside('`') {
        return Token::Command(command);
    }
    value.parse().map_or_else(|_| Token::Word(value.to_owned()), Token::Int)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'a> Lexer<'a> {
    fn error<T>(&self, place: Place, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { place, message: message.into() })
    }

    /// Takes `bytes` bytes, which end at a character's end.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        for c in taken.chars() {
            if c == '\n' {
                self.place = Place { line: self.place.line + 1, column: 1 };
            } else {
                self.place.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let len = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.take(len)
    }

    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest.starts_with("//") || self.rest.starts_with("#!") {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let place = self.place;
                match self.rest.find("*/") {
                    Some(end) => self.take(end + 2),
                    None => return self.error(place, "a comment that begins here never ends: expected '*/'"),
                };
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token, SyntaxError> {
        let place = self.place;
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        if self.rest.starts_with("...") {
            self.take(3);
            return Ok(Token::Ellipsis);
        }
        if self.rest.starts_with("--") && self.rest[2..].starts_with(is_word) {
            return self.flag();
        }
        if self.rest.starts_with("%{") {
            let Some(end) = self.rest.find("}%") else {
                return self.error(place, "code that begins here never ends: expected '}%'");
            };
            return Ok(Token::Code(self.take(end + 2)[2..end].trim().to_owned()));
        }
        match first {
            '"' => self.quoted('"').map(Token::Str),
            '`' => self.quoted('`').map(Token::Command),
            _ if first.is_ascii_digit() || self.starts_number() => self.number(),
            _ if is_word(first) => {
                let word = self.take_while(is_word);
                Ok(self.defines.get(word).cloned().unwrap_or_else(|| Token::Word(word.to_owned())))
            }
            _ => {
                self.take(first.len_utf8());
                Ok(Token::Sign(first))
            }
        }
    }

    /// Whether a sign or a point begins a number: `-1`, `.5`, `-.5`.
    fn starts_number(&self) -> bool {
        let rest = self.rest.strip_prefix('-').unwrap_or(self.rest);
        let digits = rest.strip_prefix('.').unwrap_or(rest);
        (rest.len() < self.rest.len() || digits.len() < rest.len())
            && digits.starts_with(|c: char| c.is_ascii_digit())
    }

    fn number(&mut self) -> Result<Token, SyntaxError> {
        let place = self.place;
        if self.rest.starts_with("0x") {
            let text = self.take_while(is_word);
            return match i64::from_str_radix(&text[2..], 16) {
                Ok(number) => Ok(Token::Int(number)),
                Err(_) => self.error(place, format!("'{text}' is no hexadecimal number")),
            };
        }
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut len = usize::from(bytes[0] == b'-');
        len += digits(len);
        // A point belongs to the number when digits follow; in `0...1` it does not.
        if bytes.get(len) == Some(&b'.') && digits(len + 1) > 0 {
            len += 1 + digits(len + 1);
            return Ok(Token::Float(self.take(len).to_owned()));
        }
        if self.rest[len..].starts_with(is_word) {
            if bytes[0] == b'-' {
                let end = len + self.rest[len..].find(|c| !is_word(c)).unwrap_or(self.rest.len() - len);
                return self.error(place, format!("'{}' is no number", &self.rest[..end]));
            }
            // `5a0f` and the like: a word that begins with digits, such as a cookie.
            return Ok(Token::Word(self.take_while(is_word).to_owned()));
        }
        let text = self.take(len);
        // A cookie may consist of decimal digits alone.
        let cookie = text.len() >= 4 && text.starts_with('0') || text.len() > 18;
        let number = text.parse().map(Token::Int);
        if cookie {
            Ok(Token::Word(text.to_owned()))
        } else {
            number.or_else(|_| self.error(place, format!("'{text}' is no number")))
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, SyntaxError> {
        let place = self.place;
        self.take(1);
        let mut text = String::new();
        loop {
            let Some(c) = self.rest.chars().next() else {
                return self
                    .error(place, format!("what begins here with {quote} never ends: expected {quote}"));
            };
            self.take(c.len_utf8());
            match c {
                c if c == quote => return Ok(text),
                // The shell has escapes of its own.
                '\\' if quote == '"' => {
                    let escaped = self.rest.chars().next().unwrap_or('\\');
                    self.take(escaped.len_utf8());
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        '0' => text.push('\0'),
                        'x' => {
                            let hex: String = self.rest.chars().take(2).collect();
                            match u8::from_str_radix(&hex, 16) {
                                Ok(byte) if hex.len() == 2 => text.push(char::from(byte)),
                                _ => {
                                    return self
                                        .error(self.place, "expected two hexadecimal digits after \\x");
                                }
                            }
                            self.take(2);
                        }
                        other => text.push(other),
                    }
                }
                c => text.push(c),
            }
        }
    }

    /// `--name`, `--name=value`; the value ends at a blank unless it is quoted.
    fn flag(&mut self) -> Result<Token, SyntaxError> {
        self.take(2);
        let name = self.take_while(|c| is_word(c) || c == '-').to_owned();
        if !self.rest.starts_with('=') {
            return Ok(Token::Flag(name, None));
        }
        self.take(1);
        if name == "define" {
            let place = self.place;
            let symbol = self.take_while(is_word).to_owned();
            if symbol.is_empty() || !self.rest.starts_with('=') {
                return self.error(place, "expected NAME=VALUE after --define=");
            }
            self.take(1);
            let value = match self.rest.chars().next() {
                Some('"') => Token::Str(self.quoted('"')?),
                Some('`') => Token::Command(self.quoted('`')?),
                _ => defined(self.take_while(|c| !c.is_whitespace())),
            };
            self.defines.insert(symbol.clone(), value);
            return Ok(Token::Flag(name, Some(symbol)));
        }
        let value = match self.rest.chars().next() {
            Some(quote @ ('"' | '`')) => self.quoted(quote)?,
            _ => self.take_while(|c| !c.is_whitespace()).to_owned(),
        };
        Ok(Token::Flag(name, Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> Vec<Token> {
        tokens(text, &[]).unwrap().into_iter().map(|(_, token)| token).collect()
    }

    fn word(text: &str) -> Token {
        Token::Word(text.to_owned())
    }

    #[test]
    fn a_number_below_zero_with_letters_behind_it_is_an_error() {
        for text in ["-0EAGAIN", "+0 read(4, ..., 1) = -1EAGAIN (x)", "-1_"] {
            let error = tokens(text, &[]).unwrap_err().to_string();
            assert!(error.contains("is no number"), "{text}: {error}");
        }
    }

    #[test]
    fn times_and_ranges_are_told_apart_from_points() {
        let float = |text: &str| Token::Float(text.to_owned());
        assert_eq!(lex("0...0.1"), [Token::Int(0), Token::Ellipsis, float("0.1"), Token::End]);
        assert_eq!(
            lex("+.25~+1 -1"),
            [
                Token::Sign('+'),
                float(".25"),
                Token::Sign('~'),
                Token::Sign('+'),
                Token::Int(1),
                Token::Int(-1),
                Token::End
            ]
        );
        assert_eq!(
            lex("P. 1:0x10"),
            [word("P"), Token::Sign('.'), Token::Int(1), Token::Sign(':'), Token::Int(16), Token::End]
        );
    }

    #[test]
    fn comments_are_blank_and_defines_stand_for_their_value() {
        let text =
            "// a\n/* b\n */ --define=CC=\"reno\" --tolerance_usecs=500 CC `sysctl -q x=1`%{ assert 1 }%";
        assert_eq!(
            lex(text),
            [
                Token::Flag("define".into(), Some("CC".into())),
                Token::Flag("tolerance_usecs".into(), Some("500".into())),
                Token::Str("reno".into()),
                Token::Command("sysctl -q x=1".into()),
                Token::Code("assert 1".into()),
                Token::End
            ]
        );
    }

    #[test]
    fn errors_name_the_place_where_the_thing_began() {
        let error = tokens("ok\n  \"never", &[]).unwrap_err();
        assert_eq!(error.place, Place { line: 2, column: 3 });
        assert!(error.to_string().starts_with("2:3: "), "{error}");
        assert_eq!(tokens("%{ x", &[]).unwrap_err().place, Place { line: 1, column: 1 });
        assert_eq!(tokens("/* x", &[]).unwrap_err().place, Place { line: 1, column: 1 });
    }
}
