//! Just enough JSON: flat objects of strings and numbers, written one a line and read back.

use std::fmt::Write;

/// Writes one flat object, field by field.
#[derive(Debug)]
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Self {
        Object { text: "{".into() }
    }
}

impl Object {
    fn key(&mut self, key: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        quote(&mut self.text, key);
        self.text.push(':');
    }

    /// Adds a string.
    pub fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        quote(&mut self.text, value);
        self
    }

    /// Adds a number, with up to three decimals.
    pub fn number(mut self, key: &str, value: f64) -> Self {
        self.key(key);
        let text = format!("{value:.3}");
        self.text.push_str(text.trim_end_matches('0').trim_end_matches('.'));
        self
    }

    /// The object.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

fn quote(into: &mut String, text: &str) {
    into.push('"');
    for character in text.chars() {
        match character {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            control if control < ' ' => {
                // Writing to a string cannot fail.
                let _ = write!(into, "\\u{:04x}", u32::from(control));
            }
            other => into.push(other),
        }
    }
    into.push('"');
}

/// Reads one flat object of strings and numbers; each value comes as its text.
///
/// # Errors
/// Where the text stops being such an object.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut rest = text.trim().strip_prefix('{').ok_or("no opening brace")?.trim_start();
    let mut fields = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return if after.trim().is_empty() {
                Ok(fields)
            } else {
                Err(format!("text after the object: {after}"))
            };
        }
        let (key, after) = string(rest)?;
        rest =
            after.trim_start().strip_prefix(':').ok_or_else(|| format!("no colon after {key}"))?.trim_start();
        let value;
        if rest.starts_with('"') {
            (value, rest) = string(rest)?;
        } else {
            let end = rest.find([',', '}']).ok_or_else(|| format!("no end of {key}"))?;
            let number = rest[..end].trim();
            number.parse::<f64>().map_err(|_| format!("{key} is neither a string nor a number"))?;
            value = number.to_string();
            rest = &rest[end..];
        }
        fields.push((key, value));
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
}

/// Takes a string without escapes from the front.
fn string(text: &str) -> Result<(String, &str), String> {
    let inside = text.strip_prefix('"').ok_or_else(|| format!("no string at {text:.20}"))?;
    let end = inside.find('"').ok_or("string without an end")?;
    Ok((inside[..end].to_string(), &inside[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let line =
            Object::default().text("bench", "echo").number("median", 12.5).number("samples", 40.0).finish();
        assert_eq!(line, r#"{"bench":"echo","median":12.5,"samples":40}"#);
        let fields = parse(&line).unwrap();
        assert_eq!(fields[1], ("median".to_string(), "12.5".to_string()));
        assert_eq!(fields.len(), 3);
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(Object::default().text("a\"", "b\\\n").finish(), "{\"a\\\"\":\"b\\\\\\u000a\"}");
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in ["", "{", "{\"a\"}", "{\"a\":x}", "{\"a\":1} 2", "{\"a\":\"b}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
