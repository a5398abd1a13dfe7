//! Names: messages of servers, against the question that was asked; `resolv.conf`, `hosts`, and names themselves.

use crate::input::Input;

/// The first byte says what the rest is.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    match how & 7 {
        0 => demi::fuzzing::resolv_conf(&String::from_utf8_lossy(input.rest())),
        1 => demi::fuzzing::hosts(&String::from_utf8_lossy(input.rest())),
        2 => demi::fuzzing::name(&String::from_utf8_lossy(input.rest())),
        // A message as it is.
        3 => demi::fuzzing::answer("www.example.com", how & 8 != 0, how & 16 != 0, |_| input.rest().to_vec()),
        // An answer to the question: its number and question are right, counts and records are the input's.
        _ => demi::fuzzing::answer("www.example.com", how & 8 != 0, how & 16 != 0, |question| {
            let mut answer = question.to_vec();
            answer[2] = 0x80 | input.u8() & 0x87;
            answer[3] = input.u8();
            answer[6..12].fill(0);
            for count in [7, 9, 11] {
                answer[count] = input.u8();
            }
            // The offer of EDNS is behind the question: away with it.
            let end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
            answer.truncate(end);
            answer.extend(input.rest());
            answer
        }),
    }
}
