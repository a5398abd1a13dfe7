//! Programs that end by themselves (curl, ping, redis-benchmark), each within a bound.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Namespace;

/// The longest a client may take unless it is told otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// A program to run in a namespace.
#[derive(Debug)]
pub(crate) struct Client {
    command: Command,
    line: String,
    input: Option<Vec<u8>>,
    limit: Duration,
}

/// What a program that ended had to say.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How it ended; `None`: its time was up and it was killed.
    pub(crate) status: Option<ExitStatus>,
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error.
    pub(crate) stderr: String,
    line: String,
}

impl Client {
    /// `program`, to be run in `namespace`.
    pub(crate) fn new(namespace: &Namespace, program: &str) -> Client {
        Client { command: enter(namespace, program), line: program.to_owned(), input: None, limit: LIMIT }
    }

    /// Adds arguments, split at spaces.
    pub(crate) fn args(mut self, line: &str) -> Client {
        self.line = format!("{} {line}", self.line);
        self.command.args(line.split_whitespace());
        self
    }

    /// Adds one argument, spaces and all.
    pub(crate) fn arg(mut self, argument: &str) -> Client {
        self.line = format!("{} {argument}", self.line);
        self.command.arg(argument);
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Client {
        self.command.env(name, value);
        self
    }

    /// Forbids it io_uring, as the sandbox of a container does.
    pub(crate) fn without_io_uring(mut self) -> Client {
        super::sandbox::forbid_io_uring(&mut self.command);
        self
    }

    /// What it reads from its standard input, which then ends.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Client {
        self.input = Some(bytes.into());
        self
    }

    /// The longest it may take.
    pub(crate) fn limit_s(mut self, seconds: u64) -> Client {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs it to its end, or kills it when its time is up.
    #[track_caller]
    pub(crate) fn run(mut self) -> Ended {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot run `{}`: {error}", self.line),
        };
        if let (Some(input), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // A program that ends without reading all closes the pipe: its own business.
            thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
        }
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let status = wait(&mut child, self.limit);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let text = |reader: JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
        let stderr = String::from_utf8_lossy(&text(stderr)).into_owned();
        Ended { status, stdout: text(stdout), stderr, line: self.line }
    }

    /// Runs it and answers its standard output.
    ///
    /// # Panics
    /// It does not exit with 0 in time.
    #[track_caller]
    pub(crate) fn must(self) -> String {
        let ended = self.run();
        assert!(ended.status.is_some_and(|status| status.success()), "{}", ended.report());
        String::from_utf8_lossy(&ended.stdout).into_owned()
    }
}

impl Ended {
    /// All there is to say about it, for a failure's message.
    pub(crate) fn report(&self) -> String {
        let how = self.status.map_or("killed, its time was up".to_owned(), |status| status.to_string());
        format!("`{}`: {how}\n{}{}", self.line, String::from_utf8_lossy(&self.stdout), self.stderr)
    }
}

/// A command that runs `program` in `namespace`, sees nothing of the tests' own configuration, and dies with the test.
pub(super) fn enter(namespace: &Namespace, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    // Each of these replaces itself with the next, so the child's id is the program's. Thousands of connections are more
    // descriptors than a process may have by default.
    command.args(["--pdeathsig", "KILL", "prlimit", "--nofile=10000:"]);
    command.args(["ip", "netns", "exec", namespace.name(), program]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        // A backtrace is for whoever runs the tests, not for what a user of the program sees.
        if name.starts_with("DEMI_") || matches!(&*name, "RUST_BACKTRACE" | "RUST_LIB_BACKTRACE") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Waits for a child until `limit` has passed.
pub(super) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // An error is a pipe that broke: what came before it is kept.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}
