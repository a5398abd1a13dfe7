//! Programs that run until they are told to stop: servers, and clients that are talked to while they run.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::Namespace;
use super::client::{enter, wait};
use super::command::signal;

/// How long the end of a program's output may take to arrive once the program has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a program may take to tell how its sockets are.
const REPORT: Duration = Duration::from_millis(500);

/// The longest a server may take to say that it is ready: a debug build on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// A running program; killed when dropped. If the test fails, what it printed is shown.
#[derive(Debug)]
pub(crate) struct Running {
    line: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    printed: Vec<String>,
    reports: bool,
}

impl Running {
    /// Starts `program` with `args` (split at spaces) in `namespace`, `environment` set for it.
    ///
    /// # Panics
    /// It cannot be run.
    #[track_caller]
    pub(crate) fn start(
        namespace: &Namespace,
        program: &str,
        args: &str,
        environment: &[(&'static str, String)],
    ) -> Running {
        Running::start_words(namespace, program, &args.split_whitespace().collect::<Vec<_>>(), environment)
    }

    /// As [`start`](Self::start), with arguments that may hold spaces.
    #[track_caller]
    pub(crate) fn start_words(
        namespace: &Namespace,
        program: &str,
        args: &[&str],
        environment: &[(&'static str, String)],
    ) -> Running {
        let line = format!("{program} {}", args.join(" "));
        let mut command = enter(namespace, program);
        command.args(args).envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot run `{line}`: {error}"),
        };
        let (sender, lines) = mpsc::channel();
        read_lines(child.stdout.take(), sender.clone());
        read_lines(child.stderr.take(), sender);
        let input = child.stdin.take();
        Running { line, child, input, lines, printed: Vec::new(), reports: false }
    }

    /// It tells of its sockets and counters at a signal (`report_signal = usr2`), and is asked to if the test fails.
    pub(crate) fn that_reports(mut self) -> Running {
        self.reports = true;
        self
    }

    /// Waits for the line our own programs print once they can be reached: `listening on ADDR:PORT (DEVICE)`.
    #[track_caller]
    pub(crate) fn ready(self) -> Running {
        self.ready_when("listening on ")
    }

    /// Waits for a line that holds `text`.
    ///
    /// # Panics
    /// The server ends, or prints no such line in time.
    #[track_caller]
    pub(crate) fn ready_when(mut self, text: &str) -> Running {
        let seen = self.wait_for(text, READY_LIMIT);
        assert!(
            seen.is_some(),
            "no line with `{text}` before its end, or within {READY_LIMIT:?}\n{}",
            self.report()
        );
        self
    }

    /// The next line that holds `text`, if there comes one in time.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            self.printed.push(line.clone());
            if line.contains(text) {
                return Some(line);
            }
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// It does not read any more.
    #[track_caller]
    pub(crate) fn say(&mut self, line: &str) {
        let said = self.input.as_mut().is_some_and(|input| writeln!(input, "{line}").is_ok());
        assert!(said, "nobody reads `{line}`\n{}", self.report());
    }

    /// Ends its standard input.
    pub(crate) fn hang_up(&mut self) {
        self.input = None;
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// File descriptors it holds open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// How many of `what` (`streams`, `buffers`) one of our own programs says that it holds; it is asked by a signal.
    pub(crate) fn held(&mut self, what: &str) -> Option<usize> {
        signal(self.pid(), "USR1");
        let line = self.wait_for("streams=", READY_LIMIT)?;
        line.split(' ').find_map(|word| word.strip_prefix(what)?.strip_prefix('='))?.parse().ok()
    }

    /// Ends it at once, as a crash or a power cut would, as far as its peers can tell.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What ctrl-C does.
    pub(crate) fn interrupt(&self) {
        signal(self.pid(), "INT");
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = wait(&mut self.child, limit)?;
        // What it said last may still be on its way here: until its streams end, or whoever it left them to has them too long.
        let deadline = Instant::now() + LAST_WORDS;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.printed.push(line);
        }
        Some(status)
    }

    /// Everything it printed so far, for a failure's message.
    pub(crate) fn report(&mut self) -> String {
        self.printed.extend(self.lines.try_iter());
        format!("`{}` printed:\n{}\n", self.line, self.printed.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let failed = thread::panicking();
        if failed && self.reports && matches!(self.child.try_wait(), Ok(None)) {
            signal(self.pid(), "USR2");
            thread::sleep(REPORT);
        }
        self.kill();
        if failed {
            println!("{}", self.report());
        }
    }
}

fn read_lines(stream: Option<impl Read + Send + 'static>, sender: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

/// Where cargo put the example called `name`: beside this test.
///
/// # Panics
/// It has not been built; `cargo xtask test` builds the examples first.
#[track_caller]
pub(crate) fn example(name: &str) -> String {
    let this = env::current_exe().unwrap_or_default();
    // target/PROFILE/deps/interop-HASH → target/PROFILE/examples/NAME
    let path: PathBuf = this.ancestors().nth(2).unwrap_or(Path::new(".")).join("examples").join(name);
    assert!(path.is_file(), "{} is not there: cargo build --examples", path.display());
    path.display().to_string()
}
