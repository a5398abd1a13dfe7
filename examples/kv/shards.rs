//! One map a core: a key belongs to the core that its hash names, and whoever wants it asks there.
//!
//! State of a core is in a `thread_local!`: nobody else can reach it, so it needs no lock. A command about one key of another
//! core travels there and its reply comes back; one about several keys is cut into one for each core that has some of them, and one
//! about all of the map goes to every core. The commands that one connection pipelines are under way together; their replies are
//! written in order.

use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use demi::task::RemoteHandle;
use demi::time::Instant;

use crate::commands::Server;
use crate::resp;

thread_local! {
    static HERE: RefCell<Option<Rc<RefCell<Server>>>> = const { RefCell::new(None) };
}

/// This core's part of the map.
pub(crate) fn here() -> Rc<RefCell<Server>> {
    HERE.with_borrow_mut(|here| {
        Rc::clone(here.get_or_insert_with(|| Rc::new(RefCell::new(Server::new(Instant::now())))))
    })
}

/// A command as it travels.
type Command = Vec<Vec<u8>>;

/// How the replies of a command's parts make one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Join {
    /// There is one part.
    Only,
    /// The sum of what they count.
    Sum,
    /// The elements of all of them: for each key in its turn, which part has the next one.
    Elements(Vec<usize>),
    /// All say the same.
    First,
}

/// The parts of a command, and on which core each is to run; `None`: all of it runs here.
fn plan(arguments: &[&[u8]], cores: usize, here: usize) -> Option<(Join, Vec<(usize, Command)>)> {
    let (name, rest) = arguments.split_first()?;
    let name = name.to_ascii_lowercase();
    let whole = || arguments.iter().map(|word| word.to_vec()).collect::<Command>();
    match (&name[..], rest) {
        (b"mget", [_, ..]) => by_core(&name, rest.chunks(1), cores, here, Join::Elements),
        (b"del" | b"exists", [_, ..]) => by_core(&name, rest.chunks(1), cores, here, |_| Join::Sum),
        (b"mset", [_, _, ..]) if rest.len().is_multiple_of(2) => {
            by_core(&name, rest.chunks(2), cores, here, |_| Join::First)
        }
        (b"dbsize", []) => Some((Join::Sum, (0..cores).map(|core| (core, whole())).collect())),
        (b"flushall", _) => Some((Join::First, (0..cores).map(|core| (core, whole())).collect())),
        (
            b"client" | b"command" | b"config" | b"echo" | b"info" | b"ping" | b"quit" | b"select" | b"mget"
            | b"mset" | b"del" | b"exists" | b"dbsize",
            _,
        ) => None,
        (_, [key, ..]) => {
            let core = core_of(key, cores);
            (core != here).then(|| (Join::Only, vec![(core, whole())]))
        }
        (_, []) => None,
    }
}

/// A command about several keys, as one for each core that has any of them: a message a core, however many the keys. `words`
/// begin with a key each; `None`: all of them are here.
fn by_core<'w>(
    name: &[u8],
    words: impl Iterator<Item = &'w [&'w [u8]]>,
    cores: usize,
    here: usize,
    join: impl FnOnce(Vec<usize>) -> Join,
) -> Option<(Join, Vec<(usize, Command)>)> {
    let (mut parts, mut places): (Vec<(usize, Command)>, _) = (Vec::new(), Vec::new());
    for words in words {
        let core = core_of(words[0], cores);
        let place = parts.iter().position(|(other, _)| *other == core).unwrap_or_else(|| {
            parts.push((core, vec![name.to_vec()]));
            parts.len() - 1
        });
        parts[place].1.extend(words.iter().map(|word| word.to_vec()));
        places.push(place);
    }
    match parts[..] {
        [(core, _)] if core == here => None,
        [_] => Some((Join::Only, parts)),
        _ => Some((join(places), parts)),
    }
}

/// The core that a key belongs to; alike on all of them.
fn core_of(key: &[u8], cores: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % cores as u64) as usize
}

/// Replies of one connection that are under way, and where they belong in its output.
#[derive(Default)]
pub(crate) struct Pending {
    replies: Vec<(usize, Join, Vec<Part>)>,
}

/// The reply to one part.
enum Part {
    Here(Vec<u8>),
    There(RemoteHandle<Vec<u8>>),
}

impl Pending {
    /// Sends a command on its way if it is not for this core alone; `false`: it is.
    pub(crate) fn send(&mut self, arguments: &[&[u8]], output: &[u8]) -> bool {
        let (cores, here) = (demi::cores().len(), demi::this_core().index());
        if cores == 1 {
            return false;
        }
        let Some((join, parts)) = plan(arguments, cores, here) else { return false };
        let parts = parts.into_iter().map(|(core, command)| {
            if core == here {
                Part::Here(run(&command))
            } else {
                Part::There(demi::core(core).spawn(move || async move { run(&command) }))
            }
        });
        self.replies.push((output.len(), join, parts.collect()));
        true
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Puts the replies where they belong once all have come.
    pub(crate) async fn settle(&mut self, output: &mut Vec<u8>) {
        let (written, mut done) = (std::mem::take(output), 0);
        for (at, join, parts) in self.replies.drain(..) {
            output.extend_from_slice(&written[done..at]);
            done = at;
            let mut replies = Vec::with_capacity(parts.len());
            for part in parts {
                replies.push(match part {
                    Part::Here(reply) => reply,
                    Part::There(reply) => {
                        reply.await.unwrap_or_else(|error| format!("-ERR {error}\r\n").into_bytes())
                    }
                });
            }
            joined(&join, &replies, output);
        }
        output.extend_from_slice(&written[done..]);
    }
}

/// Runs a command on this core's map; its reply.
fn run(command: &Command) -> Vec<u8> {
    let arguments: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    let mut reply = Vec::new();
    here().borrow_mut().run(&arguments, Instant::now(), &mut reply);
    reply
}

/// One reply of several; the first error, if there is one.
fn joined(join: &Join, replies: &[Vec<u8>], output: &mut Vec<u8>) {
    if let Some(error) = replies.iter().find(|reply| reply.first() == Some(&b'-')) {
        return output.extend_from_slice(error);
    }
    match join {
        Join::Only | Join::First => output.extend_from_slice(replies.first().map_or(b"", |reply| reply)),
        Join::Sum => {
            let counts = replies.iter().filter_map(|reply| {
                let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
                resp::number(digits)
            });
            resp::integer(output, counts.sum());
        }
        Join::Elements(places) => {
            resp::array(output, places.len());
            let mut rest: Vec<&[u8]> = replies.iter().map(|reply| after_line(reply).1).collect();
            for place in places {
                let (element, after) = bulk(rest[*place]);
                output.extend_from_slice(element);
                rest[*place] = after;
            }
        }
    }
}

/// The line that a reply begins with, its end included, and what comes after it.
fn after_line(reply: &[u8]) -> (&[u8], &[u8]) {
    let end = reply.iter().position(|byte| *byte == b'\n').map_or(reply.len(), |at| at + 1);
    reply.split_at(end)
}

/// The bulk string, or the nil, that a reply of ours begins with, and what comes after it.
fn bulk(reply: &[u8]) -> (&[u8], &[u8]) {
    let (line, _) = after_line(reply);
    let digits = line.strip_prefix(b"$").and_then(|line| line.strip_suffix(b"\r\n"));
    let value = digits.and_then(resp::number).and_then(|bytes| usize::try_from(bytes).ok());
    reply.split_at(line.len() + value.map_or(0, |bytes| bytes + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn commands_go_where_their_keys_are() {
        for key in ["a", "b", "c", "d", "e"] {
            let core = core_of(key.as_bytes(), 4);
            let planned = plan(&words(&format!("GET {key}")), 4, core);
            assert_eq!(planned, None, "it is here");
            let (join, parts) = plan(&words(&format!("get {key}")), 4, (core + 1) % 4).unwrap();
            assert_eq!((join, parts.len(), parts[0].0), (Join::Only, 1, core));
        }
        assert_eq!(plan(&words("DBSIZE"), 3, 0).unwrap().1.len(), 3);
        for line in ["MSET a", "PING", "INFO", "MGET", "NOSUCH"] {
            assert_eq!(plan(&words(line), 4, 0), None, "{line}");
        }
    }

    #[test]
    fn keys_of_one_core_travel_together() {
        let keys: Vec<String> = (0..64).map(|key| format!("key{key}")).collect();
        let line = format!("MGET {}", keys.join(" "));
        let (join, parts) = plan(&words(&line), 4, 0).unwrap();
        let mut cores: Vec<usize> = parts.iter().map(|(core, _)| *core).collect();
        cores.sort_unstable();
        assert_eq!(cores, [0, 1, 2, 3], "one message a core");
        let Join::Elements(places) = join else { panic!("{join:?}") };
        let mut next = [1; 4];
        for (key, place) in keys.iter().zip(places) {
            assert_eq!((parts[place].0, &parts[place].1[0][..]), (core_of(key.as_bytes(), 4), &b"mget"[..]));
            assert_eq!(parts[place].1[next[place]], key.as_bytes(), "in their order");
            next[place] += 1;
        }

        // What is set twice has the value that comes last.
        let core = core_of(b"a", 4);
        let (join, parts) = plan(&words("MSET a 1 a 2"), 4, (core + 1) % 4).unwrap();
        let expected: Command = words("mset a 1 a 2").iter().map(|word| word.to_vec()).collect();
        assert_eq!((join, parts), (Join::Only, vec![(core, expected)]));
        assert_eq!(plan(&words("DEL a a"), 4, core), None, "all of it is here");
    }

    #[test]
    fn parts_make_one_reply() {
        let reply = |join, parts: &[&str]| {
            let mut output = Vec::new();
            let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
            joined(&join, &parts, &mut output);
            String::from_utf8(output).unwrap()
        };
        assert_eq!(reply(Join::Sum, &[":1\r\n", ":41\r\n"]), ":42\r\n");
        let elements = Join::Elements(vec![1, 0, 1, 0]);
        let parts = ["*2\r\n$-1\r\n$2\r\n\r\n\r\n", "*2\r\n$1\r\nx\r\n$0\r\n\r\n"];
        assert_eq!(reply(elements, &parts), "*4\r\n$1\r\nx\r\n$-1\r\n$0\r\n\r\n$2\r\n\r\n\r\n".to_owned());
        assert_eq!(reply(Join::First, &["+OK\r\n", "+OK\r\n"]), "+OK\r\n");
        assert_eq!(reply(Join::Sum, &[":1\r\n", "-ERR no\r\n"]), "-ERR no\r\n");
    }

    #[test]
    fn two_cores_are_one_map() {
        let cpus = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        if cpus < 2 {
            return;
        }
        let config = demi::Config::new().device("posix").cores("0-1").idle("park").huge_pages(false);
        let replies = demi::run(config, || async {
            if demi::this_core().index() == 1 {
                return String::new();
            }
            let (mut pending, mut output) = (Pending::default(), Vec::new());
            let lines = (0..100).map(|key| format!("SET key{key} {key}"));
            let more = [
                "MGET key7 key8 key9 nope",
                "INCR key7",
                "DEL key8 key9 nope",
                "DBSIZE",
                "MSET x 1 y 2",
                "PING",
            ];
            for line in lines.chain(more.map(str::to_owned)) {
                if !pending.send(&words(&line), &output) {
                    here().borrow_mut().run(&words(&line), Instant::now(), &mut output);
                }
            }
            pending.settle(&mut output).await;
            assert!(pending.is_empty());
            String::from_utf8(output).unwrap()
        });
        let expected = "+OK\r\n".repeat(100)
            + "*4\r\n$1\r\n7\r\n$1\r\n8\r\n$1\r\n9\r\n$-1\r\n:8\r\n:2\r\n:98\r\n+OK\r\n+PONG\r\n";
        assert_eq!(replies.unwrap()[0], expected);
    }
}
