//! The program under test as a process of its own, to be killed, frozen and stopped.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{
    polling::{eventually, patience},
    space::Space,
};

/// A running `headwater`.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where its own part of the log begins: one of the same name may have written to it before.
    begins: usize,
}

impl Process {
    /// Starts the program with these arguments in a space; its log is kept under the space's folder.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(program: &str, space: &Space, name: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let log = space.dir.join(format!("{name}.log"));
        let begins = std::fs::metadata(&log).map_or(0, |file| usize::try_from(file.len()).unwrap_or(0));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(program)
            .args(args)
            .current_dir(&space.dir)
            .envs(space.env())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log file"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        Self { child, log, begins }
    }

    /// Runs the program to its end with this input; gives exit code, standard output and standard error.
    ///
    /// # Panics
    /// When it cannot be started, or does not end within two minutes.
    pub async fn run(
        program: &str,
        space: &Space,
        args: &[&str],
        env: &[(&str, &str)],
        input: &str,
    ) -> (i32, String, String) {
        use tokio::io::AsyncWriteExt as _;
        let mut child = Command::new(program)
            .args(args)
            .current_dir(&space.dir)
            .envs(space.env())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        // A program that ends early closes its input.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(patience(Duration::from_mins(2)), child.wait_with_output()).await;
        let output = output.expect("the program ends").expect("its output");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Waits until it has logged this.
    pub async fn logs(&self, text: &str, limit: Duration) {
        eventually(&format!("the log says `{text}`"), limit, async || self.log().contains(text)).await;
    }

    /// Where it answers for its health, once it has logged that: `http://…`.
    ///
    /// # Panics
    /// When it has not within a minute.
    pub async fn address(&self) -> String {
        let own = || self.log().get(self.begins..).unwrap_or_default().to_owned();
        let said = || own().split_once("addr=").map(|(_, rest)| rest.to_owned());
        eventually("it logs its address", Duration::from_mins(1), async || said().is_some()).await;
        let said = said().unwrap_or_default();
        format!("http://{}", said.split_whitespace().next().unwrap_or_default())
    }

    /// A metric's value, by its name and its labels as they are written, 0 when there is none.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metric(&self, series: &str) -> f64 {
        let answer = reqwest::get(format!("{}/metrics", self.address().await)).await.expect("it answers");
        let text = answer.text().await.expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// How often groups have failed, by the metric. Without the times, each in the log, that a late join of its own took a
    /// member's static name: a broker that is slow, or drops a connection amid a join, does so to any member.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn group_failures(&self) -> f64 {
        let late_joins = self.log().matches("was given away, to a late join").count();
        let answer = reqwest::get(format!("{}/metrics", self.address().await)).await.expect("it answers");
        let text = answer.text().await.expect("text");
        let of = text.lines().filter(|line| line.starts_with("headwater_group_failures_total{"));
        let failures: f64 = of.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        failures - late_joins as f64
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Freezes or thaws it.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// How it has ended, if it has.
    ///
    /// # Panics
    /// When nobody knows.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// Asks it to stop and waits for that.
    ///
    /// # Panics
    /// When it has not stopped after a minute.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(patience(Duration::from_mins(1)), self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("did not stop; its log is {}", self.log.display())).expect("its status")
    }
}
