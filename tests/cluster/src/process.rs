//! A server that a test starts. Invariant: it never outlives the test, however that ends: dropping kills it by its id, and
//! the programs of `tests/tools` also end by themselves when the pipe to their standard input closes.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use fairlead_lab::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Makes a program of `tests/tools` end with its standard input.
const END_WITH_STDIN: &str = "TOOLS_END_WITH_STDIN";

/// A running server and its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, its output appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let what = || format!("start {name}");
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let child = command
            .env(END_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .stdout(open().with_context(what)?)
            .stderr(open().with_context(what)?)
            .spawn()
            .with_context(what)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended, and how.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with the end of its log if it is not running any more.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended: {status}\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Asks it to stop and waits; kills it when it takes longer than `patience`.
    pub fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        let pid = i32::try_from(self.id()).context("a process id fits i32 on Linux")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stop {}", self.name))?;
        let ended = clock::poll(patience, || self.child.try_wait().transpose());
        ended.transpose()?;
        Ok(())
    }

    /// Everything it wrote.
    pub fn log(&self) -> anyhow::Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The end of what it wrote.
    pub fn tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("no log: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was reaped, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
