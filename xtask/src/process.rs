//! Runs one command: its output goes to a log, it may take a bounded time, and nothing of it outlives that time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use crate::workspace::Workspace;

/// A command to run, as data, so that it can be listed without being run.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// The program.
    pub(crate) program: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Environment variables set for it.
    pub(crate) envs: Vec<(String, String)>,
    /// The longest it may take.
    pub(crate) limit: Duration,
}

impl Invocation {
    /// A command, split at spaces.
    pub(crate) fn new(line: &str) -> Invocation {
        let mut words = line.split_whitespace().map(str::to_owned);
        Invocation {
            program: words.next().unwrap_or_default(),
            args: words.collect(),
            envs: Vec::new(),
            limit: Duration::from_secs(30 * 60),
        }
    }

    /// Adds arguments, split at spaces.
    pub(crate) fn args(mut self, line: &str) -> Invocation {
        self.args.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    /// Sets an environment variable for the command.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Invocation {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Bounds the time the command may take.
    pub(crate) fn limit_s(mut self, seconds: u64) -> Invocation {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// The command as one would type it.
    pub(crate) fn line(&self) -> String {
        let envs = self.envs.iter().map(|(name, value)| {
            if value.contains(' ') { format!("{name}=\"{value}\"") } else { format!("{name}={value}") }
        });
        let words = std::iter::once(self.program.clone()).chain(self.args.iter().cloned());
        envs.chain(words).collect::<Vec<_>>().join(" ")
    }

    fn command(&self, workspace: &Workspace) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(workspace.root()).stdin(Stdio::null());
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// It exited with 0.
    pub(crate) success: bool,
    /// All it wrote, standard output and standard error as they came.
    pub(crate) output: String,
    /// Where that is kept.
    pub(crate) log: PathBuf,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

/// Runs `invocation`, its output kept in the log called `name`.
pub(crate) fn run(workspace: &Workspace, name: &str, invocation: &Invocation) -> io::Result<Outcome> {
    let log = workspace.logs().join(format!("{name}.log"));
    let start = Instant::now();
    let success = run_into(workspace, &log, invocation)?;
    let bytes = fs::read(&log)?;
    let output = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Outcome { success, output, log, elapsed: start.elapsed() })
}

fn run_into(workspace: &Workspace, log: &Path, invocation: &Invocation) -> io::Result<bool> {
    let out = File::create(log)?;
    let err = out.try_clone()?;
    let spawned = invocation.command(workspace).stdout(out).stderr(err).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            fs::write(log, format!("cannot run `{}`: {error}\n", invocation.program))?;
            return Ok(false);
        }
    };
    match ended(&mut child, invocation.limit)? {
        Some(status) => Ok(status.success()),
        None => {
            let note = format!("\nkilled: it took longer than {} s\n", invocation.limit.as_secs());
            append(log, &note)?;
            Ok(false)
        }
    }
}

/// How `child` ended; `None` if it had to be killed, and all it had started, because `limit` was over.
fn ended(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            kill_tree(child.id());
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `invocation` with its output on the terminal; whether it ended by itself before its limit.
pub(crate) fn passthrough_in_time(workspace: &Workspace, invocation: &Invocation) -> bool {
    let spawned = invocation.command(workspace).spawn();
    match spawned.and_then(|mut child| ended(&mut child, invocation.limit)) {
        Ok(status) => status.is_some(),
        Err(error) => {
            eprintln!("cannot run `{}`: {error}", invocation.program);
            true
        }
    }
}

/// Runs `invocation` with its output on the terminal; whether it exited with 0.
pub(crate) fn passthrough(workspace: &Workspace, invocation: &Invocation) -> bool {
    match invocation.command(workspace).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("cannot run `{}`: {error}", invocation.program);
            false
        }
    }
}

fn append(log: &Path, text: &str) -> io::Result<()> {
    use io::Write;
    fs::OpenOptions::new().append(true).open(log)?.write_all(text.as_bytes())
}

/// Kills a process and all its descendants, which killing cargo alone would leave running.
fn kill_tree(root: u32) {
    let mut doomed = vec![root];
    let parents = parents();
    let mut next = 0;
    while let Some(&pid) = doomed.get(next) {
        doomed.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    let pids = doomed.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    // The shell's own `kill`: the only way to signal a foreign process with std alone.
    let _ = Command::new("sh").arg("-c").arg(format!("kill -9 {pids} 2>/dev/null")).status();
}

/// Each process on the machine with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // proc(5): `pid (comm) state ppid …`, where comm may hold spaces and parentheses.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace::open().expect("target is writable")
    }

    #[test]
    fn output_of_both_streams_and_the_status_are_kept() {
        let shell = Invocation {
            args: vec!["-c".to_owned(), "echo out; echo err >&2; exit 3".to_owned()],
            ..Invocation::new("sh")
        };
        let outcome = run(&workspace(), "selftest-output", &shell).expect("runs");
        assert!(!outcome.success);
        assert_eq!(outcome.output, "out\nerr\n");
    }

    #[test]
    fn a_program_that_is_not_there_fails_with_its_name() {
        let outcome =
            run(&workspace(), "selftest-absent", &Invocation::new("no-such-program")).expect("no error");
        assert!(!outcome.success);
        assert!(outcome.output.contains("no-such-program"), "{}", outcome.output);
    }

    #[test]
    fn a_command_over_its_limit_is_killed_with_its_children() {
        let shell = Invocation {
            args: vec!["-c".to_owned(), "sleep 300 & echo $!; wait".to_owned()],
            ..Invocation::new("sh")
        };
        let outcome = run(&workspace(), "selftest-limit", &shell.limit_s(1)).expect("runs");
        assert!(!outcome.success);
        assert!(outcome.output.contains("longer than 1 s"), "{}", outcome.output);
        let child = outcome.output.lines().next().unwrap_or_default().to_owned();
        // A signal is delivered when its target is next scheduled, which on a busy machine may take a while.
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !(stat.is_empty() || stat.contains(") Z") || stat.contains(") X"))
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while runs() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!runs(), "child {child} still runs");
    }

    #[test]
    fn a_line_shows_the_environment_too() {
        let invocation = Invocation::new("cargo doc").env("RUSTDOCFLAGS", "-D warnings").args("--no-deps");
        assert_eq!(invocation.line(), "RUSTDOCFLAGS=\"-D warnings\" cargo doc --no-deps");
    }
}
