//! Acting inside a node: run a command, start a process, or run our own code on its network.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};

use crate::error::LabError;
use crate::runner::run;
use crate::state::{self, NodeState, Process, State};

/// A handle on a node; cheap, and valid as long as the lab is up.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    namespace: String,
    view: PathBuf,
    logs: PathBuf,
    bin_dir: PathBuf,
}

impl Node {
    pub(crate) fn new(state: &State, name: &str, node: &NodeState) -> Self {
        Self {
            name: name.to_owned(),
            namespace: node.namespace.clone(),
            view: node.view.clone(),
            logs: state::dir(&state.lab).join("log"),
            bin_dir: state.bin_dir.clone(),
        }
    }

    /// Its name in the topology.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command that runs `argv` in the node; the working directory is `/`.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg(format!("--mount={}", self.view.display()))
            .arg("--")
            .args(argv)
            .stdin(Stdio::null());
        let mut path = self.bin_dir.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path);
        command
    }

    /// Runs `argv` to its end; its standard output.
    pub fn run(&self, argv: &[&str]) -> Result<String, LabError> {
        run(self.command(argv), &self.name, argv)
    }

    /// Starts `argv` in a process group of its own (Ctrl-C at the terminal spares it), with its
    /// output appended to `NAME.log`.
    pub(crate) fn spawn(
        &self,
        name: &str,
        argv: &[String],
        env: &[(String, String)],
    ) -> Result<(Child, Process), LabError> {
        let what = || format!("start {name} in {}", self.name);
        let log = self.log(name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(LabError::io(what))?;
        let errors = log.try_clone().map_err(LabError::io(what))?;
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let mut command = self.command(&words);
        command
            .envs(env.iter().cloned())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let child = command.spawn().map_err(LabError::io(what))?;
        let pid = i32::try_from(child.id()).expect("a process id fits i32 on Linux");
        let started = state::stat(pid).map_or(0, |(_, started)| started);
        let process = Process {
            node: self.name.clone(),
            name: name.to_owned(),
            pid,
            started,
        };
        Ok((child, process))
    }

    /// Log file of the process `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Starts a thread on the node's network. Threads that it starts are on that network too.
    pub fn thread_in_netns<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, LabError> + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T, LabError>>, LabError> {
        let namespace = self.open_netns()?;
        let what = format!("enter the network of {}", self.name);
        Ok(std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| LabError::io(|| what)(errno.into()))?;
            work()
        }))
    }

    fn open_netns(&self) -> Result<File, LabError> {
        File::open(format!("/run/netns/{}", self.namespace)).map_err(LabError::io(|| {
            format!("enter the network of {}", self.name)
        }))
    }

    /// Runs `work` on a thread that is on the node's network, and waits for it. Threads that it
    /// starts are on that network too.
    pub fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let what = || format!("enter the network of {}", self.name);
        let namespace = self.open_netns()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| LabError::io(what)(errno.into()))?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
