//! Child processes that never outlive us.
//!
//! A child is started through a few lines of `sh` that fork a watcher and then *become* the program, so the pid we
//! know is the program's own. The watcher reads a pipe whose other end only we hold: when we let go of it, or die in
//! whatever way (`kill -9` included), it reads the end of the file and stops the program, gently first.
//! (`PR_SET_PDEATHSIG` would need `unsafe`, and follows the thread that forked, not the process.)

mod user;

pub(crate) use user::User;

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStdin, Command};

/// `$1` is the gentle signal, the rest the program. The watcher is in the program's process group, so the number `$$`
/// cannot be given to another process while the watcher may still signal it.
const SUPERVISOR: &str = r#"
exec 3<&0 </dev/null
(
    read -r _ <&3
    kill -s "$1" $$ 2>/dev/null
    n=0
    while [ $n -lt 50 ] && kill -s 0 $$ 2>/dev/null; do sleep 0.2; n=$((n + 1)); done
    kill -s KILL -- -$$ 2>/dev/null
) &
shift
exec 3<&-
exec "$@"
"#;

/// How a program is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopSignal {
    /// `SIGTERM`, what the JVM and Maven expect.
    Term,
    /// `SIGINT`, PostgreSQL's "fast" shutdown (`SIGTERM` would wait for every client to leave).
    Int,
}

impl StopSignal {
    const fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
        }
    }

    const fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
        }
    }

    /// What `Drop` sends, where nobody can wait: a JVM is killed; PostgreSQL leaves quickly in order, which spares its
    /// next start a recovery and frees its shared memory, and else the watcher kills it.
    const fn at_once(self) -> Signal {
        match self {
            Self::Term => Signal::KILL,
            Self::Int => Signal::INT,
        }
    }
}

/// What to start, and how.
#[derive(Debug)]
pub(crate) struct Program {
    /// What messages call it.
    pub(crate) name: &'static str,
    /// The executable: a path, or a name to be found in `PATH`.
    pub(crate) executable: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// The folder it runs in, which its user can enter.
    pub(crate) folder: PathBuf,
    /// Where its output goes; truncated at start.
    pub(crate) log: PathBuf,
    /// Whom it runs as; `None` is ourselves.
    pub(crate) user: Option<User>,
    /// How it is told to end.
    pub(crate) stop_signal: StopSignal,
}

impl Program {
    /// Starts it in a process group of its own, so that a Ctrl-C in the terminal reaches us alone.
    ///
    /// # Errors
    /// When the log cannot be opened or `sh` cannot be started.
    pub(crate) fn spawn(self) -> Result<Process> {
        let log = OpenOptions::new().create(true).write(true).truncate(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open the log {}", self.log.display()))?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(SUPERVISOR).arg("headwater-dev").arg(self.stop_signal.name());
        command.arg(&self.executable).args(&self.args).current_dir(&self.folder);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        // What is set for a database elsewhere is not meant for ours.
        let meant = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("PG");
        std::env::vars_os().filter(|(name, _)| meant(name)).for_each(|(name, _)| _ = command.env_remove(name));
        if self.name.contains("kafka") {
            // In any other locale Java finds no file whose path is not ASCII.
            command.env("LC_ALL", "C.UTF-8");
        }
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {} through sh", self.name))?;
        let lifeline = child.stdin.take();
        Ok(Process { name: self.name, stop_signal: self.stop_signal, log: self.log, child, lifeline, gone: false })
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started or ends with another status than 0; the last lines of its output are in the message.
    pub(crate) async fn run(self) -> Result<()> {
        let mut process = self.spawn()?;
        let status = process.wait().await?;
        if status.success() { Ok(()) } else { Err(process.failure(status)) }
    }
}

/// A running child. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    stop_signal: StopSignal,
    log: PathBuf,
    child: Child,
    /// The pipe that the watcher reads; `Child::wait` would close it, so it lives here.
    lifeline: Option<ChildStdin>,
    gone: bool,
}

impl Process {
    /// The program's own pid; `None` once its end was seen.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the program's end. Can be dropped and called again.
    ///
    /// # Errors
    /// When the operating system refuses to say.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().await.with_context(|| format!("cannot wait for {}", self.name))?;
        self.gone = true;
        Ok(status)
    }

    /// Tells the program to end, and kills it when it has not within `grace`.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub(crate) async fn stop(mut self, grace: Duration) -> Result<()> {
        self.signal(self.stop_signal.signal());
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status.map(drop);
        }
        tracing::warn!(name = self.name, ?grace, "did not stop in time: killing it");
        self.kill().await
    }

    /// Kills the program (`SIGKILL`) and waits for its end.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL);
        self.wait().await.map(drop)
    }

    /// The error for a program that ended when it should not have, with the end of its output.
    pub(crate) fn failure(&self, status: ExitStatus) -> anyhow::Error {
        anyhow!("{} ended ({status}); its last output:\n{}", self.name, tail(&self.log, 30))
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still the program's; a program that is just ending makes this an error
        // that changes nothing.
        if let Some(pid) = self.raw_pid() {
            let _ = kill_process(pid, signal);
        }
    }

    fn raw_pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        self.signal(self.stop_signal.at_once());
        // Maven's own children share its group; PostgreSQL's leave with their parent, and its watcher must stay.
        if self.stop_signal == StopSignal::Term
            && let Some(pid) = self.raw_pid()
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        self.lifeline = None;
    }
}

/// The last `lines` lines of a file (of its last 64 KiB), indented; empty when it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = read_from(path, None);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all[from..].iter().map(|line| format!("    {line}\n")).collect()
}

/// At most 64 KiB of a file from `offset` on, or its last 64 KiB; empty when it cannot be read.
pub(crate) fn read_from(path: &Path, offset: Option<u64>) -> String {
    const LIMIT: u64 = 64 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let start = offset.filter(|start| *start <= length).unwrap_or_else(|| length.saturating_sub(LIMIT));
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(LIMIT))))?;
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The first folder of `PATH` that holds an executable of this name, joined with the name.
pub(crate) fn find_in_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name.as_ref())).find(|file| file.is_file())
}
