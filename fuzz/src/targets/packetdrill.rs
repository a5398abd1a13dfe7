//! The parser of packetdrill's language: any text, and with the names that a command line defines.

use demi_packetdrill::Script;

use crate::input::Input;

/// A script.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let lines = text.lines().count();
    if let Err(error) = Script::parse(&text) {
        // It points into the text: that is all a writer of scripts has.
        let place = error.to_string();
        let line: usize = place.split(':').next().and_then(|line| line.parse().ok()).expect("a line");
        assert!(line <= lines.max(1) + 1, "an error in line {line} of {lines}: {error}");
    }
    let defines = [("NAME".to_owned(), text)];
    let _ = Script::parse_with("0 socket(..., NAME, IPPROTO_TCP) = 3", &defines);
}
