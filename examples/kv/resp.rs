//! RESP2, the server's half: requests in (arrays of bulk strings, or a line typed by hand), replies out.
//!
//! Requests are parsed here and not by a crate: a server's parser must bound what a stranger can make it hold, and the
//! general ones recurse into nested arrays as deep as the input says. What is read stays in the input: arguments are slices.

use smallvec::SmallVec;

/// What a client may ask this process to hold at once.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Arguments of one command.
    pub(crate) arguments: usize,
    /// Bytes of one argument.
    pub(crate) argument_bytes: usize,
    /// Bytes of a command typed by hand.
    pub(crate) line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { arguments: 1 << 20, argument_bytes: 64 << 20, line_bytes: 64 * 1024 }
    }
}

/// The arguments of one command; those of the usual ones without an allocation.
pub(crate) type Arguments<'a> = SmallVec<[&'a [u8]; 8]>;

/// What is at the front of the input.
pub(crate) enum Request<'a> {
    /// Not yet a whole command: nothing can come of it before the input has `bytes` bytes.
    Incomplete { bytes: usize },
    /// A command (no arguments: an empty line, to be passed over) of `bytes` bytes.
    Complete { arguments: Arguments<'a>, bytes: usize },
}

/// `$0\r\n\r\n`: no argument takes fewer bytes.
const LEAST_ARGUMENT_BYTES: usize = 6;
/// An argument's length with all that is around it: `$`, a number, `\r\n`.
const MAX_HEADER_BYTES: usize = 32;

/// The command at the front of `input`.
///
/// # Errors
/// What is wrong with it; nothing behind it can be understood, so the connection has to end.
pub(crate) fn parse(input: &[u8], limits: Limits) -> Result<Request<'_>, &'static str> {
    let Some((line, mut at)) = line(input, limits.line_bytes)? else {
        return Ok(Request::Incomplete { bytes: input.len() + 1 });
    };
    let Some(count) = line.strip_prefix(b"*") else {
        let arguments: Arguments<'_> =
            line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
        return Ok(Request::Complete { arguments, bytes: at });
    };
    let count = number(count).ok_or("invalid multibulk length")?;
    if count > limits.arguments as i64 {
        return Err("invalid multibulk length");
    }
    let mut arguments = Arguments::new();
    for left in (0..count).rev() {
        // A client that sends its command byte by byte must not have it read again from the start at each byte.
        let incomplete = |end: usize| {
            let bytes = end.max(input.len() + 1) + left as usize * LEAST_ARGUMENT_BYTES;
            Ok(Request::Incomplete { bytes })
        };
        let Some((header, header_bytes)) = self::line(&input[at..], MAX_HEADER_BYTES)? else {
            return incomplete(at + LEAST_ARGUMENT_BYTES);
        };
        let length = header.strip_prefix(b"$").ok_or("expected '$'")?;
        let length = number(length).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= limits.argument_bytes).ok_or("invalid bulk length")?;
        let start = at + header_bytes;
        let end = start + length + 2;
        let (Some(argument), Some(tail)) = (input.get(start..start + length), input.get(start + length..end))
        else {
            return incomplete(end);
        };
        if tail != b"\r\n" {
            return Err("bulk string does not end with CRLF");
        }
        arguments.push(argument);
        at = end;
    }
    Ok(Request::Complete { arguments, bytes: at })
}

/// The first line without its end, and the bytes it took; `None` while its end has not come.
fn line(input: &[u8], max_bytes: usize) -> Result<Option<(&[u8], usize)>, &'static str> {
    let window = &input[..input.len().min(max_bytes)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]), end + 1))),
        None if window.len() == max_bytes => Err("too big inline request"),
        None => Ok(None),
    }
}

/// A decimal number, as RESP writes it.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `+text`
pub(crate) fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-text`
pub(crate) fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend(text.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// `:value`
pub(crate) fn integer(out: &mut Vec<u8>, value: i64) {
    header(out, b':', value);
}

/// A bulk string, or the null bulk string.
pub(crate) fn bulk(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend_from_slice(b"$-1\r\n"),
        Some(value) => {
            header(out, b'$', value.len() as i64);
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The header of an array of `count` replies.
pub(crate) fn array(out: &mut Vec<u8>, count: usize) {
    header(out, b'*', count as i64);
}

fn header(out: &mut Vec<u8>, kind: u8, value: i64) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
        match parse(input, Limits::default()).unwrap() {
            Request::Incomplete { bytes } => {
                assert!(bytes > input.len(), "waiting for {bytes} bytes, {} are there", input.len());
                None
            }
            Request::Complete { arguments, bytes } => {
                Some((arguments.iter().map(|argument| argument.to_vec()).collect(), bytes))
            }
        }
    }

    #[test]
    fn a_command_is_complete_at_its_last_byte_only() {
        let whole = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for end in 0..whole.len() {
            assert!(arguments(&whole[..end]).is_none(), "cut at {end}");
            let Ok(Request::Incomplete { bytes }) = parse(&whole[..end], Limits::default()) else {
                unreachable!()
            };
            assert!(bytes <= whole.len(), "cut at {end}, {bytes} bytes are waited for");
        }
        let two = [&whole[..], b"PING\r\n"].concat();
        assert_eq!(arguments(&two), Some((vec![b"GET".to_vec(), b"k".to_vec()], whole.len())));
        assert_eq!(
            arguments(b"  set  a b \n"),
            Some((vec![b"set".to_vec(), b"a".to_vec(), b"b".to_vec()], 12))
        );
        assert_eq!(arguments(b"\r\n"), Some((vec![], 2)));
        assert_eq!(arguments(b"*0\r\n"), Some((vec![], 4)));
        assert_eq!(arguments(b"*-1\r\n"), Some((vec![], 5)));
    }

    #[test]
    fn what_cannot_be_a_command_is_an_error_not_a_wait() {
        let limits = Limits { argument_bytes: 8, line_bytes: 32, arguments: 4 };
        for bad in [
            &b"*x\r\n"[..],
            b"*5\r\n",
            b"*1\r\n*1\r\n",
            b"*1\r\n$9\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$1\r\nab\r\n",
            b"an endless line without any line end at all",
        ] {
            assert!(parse(bad, limits).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn replies_are_what_clients_expect() {
        let mut out = Vec::new();
        simple(&mut out, "OK");
        error(&mut out, "ERR a\r\nb");
        integer(&mut out, -5);
        array(&mut out, 2);
        bulk(&mut out, Some(b"hi"));
        bulk(&mut out, None);
        assert_eq!(out, b"+OK\r\n-ERR a  b\r\n:-5\r\n*2\r\n$2\r\nhi\r\n$-1\r\n");
    }
}
