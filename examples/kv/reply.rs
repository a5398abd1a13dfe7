//! RESP2, the client's half: what a server answers.

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+text`
    Simple(String),
    /// `-text`
    Error(String),
    /// `:number`
    Integer(i64),
    /// A bulk string, or the null bulk string.
    Bulk(Option<Vec<u8>>),
    /// An array, whose elements are no arrays.
    Array(Vec<Reply>),
}

/// Bytes at most of a bulk string: as many as Redis allows.
const MAX_BULK_BYTES: usize = 512 << 20;
/// Bytes at most of a line.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Elements at most of an array.
const MAX_ELEMENTS: usize = 1 << 20;

/// The reply at the front of `input`, and the bytes it took; `None`: it has not come as a whole.
///
/// # Errors
/// What no server of RESP2 sends.
pub fn parse(input: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    reply(input, true)
}

/// A command, as a server takes it.
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn reply(input: &[u8], may_be_array: bool) -> Result<Option<(Reply, usize)>, String> {
    let window = &input[..input.len().min(MAX_LINE_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() == MAX_LINE_BYTES {
            Err("a line without an end".to_owned())
        } else {
            Ok(None)
        };
    };
    let mut at = end + 1;
    let line = window[..end].strip_suffix(b"\r").ok_or("a line that does not end with CRLF")?;
    let (kind, rest) = line.split_first().ok_or("an empty line")?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = || text().parse::<i64>().map_err(|_| format!("{:?} is no number", text()));
    let found = match kind {
        b'+' => Reply::Simple(text()),
        b'-' => Reply::Error(text()),
        b':' => Reply::Integer(number()?),
        b'$' if rest == b"-1" => Reply::Bulk(None),
        b'$' => {
            let bytes = count(number()?, MAX_BULK_BYTES)?;
            let Some(framed) = input.get(at..at + bytes + 2) else { return Ok(None) };
            let bulk = framed.strip_suffix(b"\r\n").ok_or("a bulk string that does not end with CRLF")?;
            at += framed.len();
            Reply::Bulk(Some(bulk.to_vec()))
        }
        b'*' if may_be_array => {
            let mut elements = Vec::new();
            for _ in 0..count(number()?, MAX_ELEMENTS)? {
                let Some((element, bytes)) = reply(&input[at..], false)? else { return Ok(None) };
                elements.push(element);
                at += bytes;
            }
            Reply::Array(elements)
        }
        kind => return Err(format!("a reply that begins with {:?}", char::from(*kind))),
    };
    Ok(Some((found, at)))
}

fn count(number: i64, most: usize) -> Result<usize, String> {
    let count = usize::try_from(number).ok().filter(|count| *count <= most);
    count.ok_or_else(|| format!("{number} of something: it may be {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_kind_are_read_as_soon_as_they_are_whole_and_no_sooner() {
        let bulk = |text: &str| Reply::Bulk(Some(text.into()));
        for (bytes, expected) in [
            ("+OK\r\n", Reply::Simple("OK".into())),
            ("-ERR no\r\n", Reply::Error("ERR no".into())),
            (":-7\r\n", Reply::Integer(-7)),
            ("$-1\r\n", Reply::Bulk(None)),
            ("$0\r\n\r\n", bulk("")),
            ("$4\r\na\r\nb\r\n", bulk("a\r\nb")),
            (
                "*3\r\n$1\r\nx\r\n:1\r\n$-1\r\n",
                Reply::Array(vec![bulk("x"), Reply::Integer(1), Reply::Bulk(None)]),
            ),
        ] {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes.as_bytes()[..end]), Ok(None), "{end} bytes of {bytes:?}");
            }
            let more = format!("{bytes}+more\r\n");
            assert_eq!(parse(more.as_bytes()), Ok(Some((expected, bytes.len()))), "{bytes:?}");
        }
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        for bytes in
            ["?\r\n", "\r\n", "+OK\n", ":x\r\n", "$-2\r\n", "$9999999999\r\n", "$1\r\nabc", "*1\r\n*0\r\n"]
        {
            assert!(parse(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        assert!(parse(&vec![b'+'; MAX_LINE_BYTES]).is_err());
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        assert_eq!(command(&[b"GET", b"a\r\n"]), b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n");
    }
}
