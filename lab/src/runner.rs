//! Builds and removes labs from network namespaces: no daemon, only iproute2, ethtool and util-linux.
//!
//! A node is a network namespace with a mount namespace of its own, so that `/sys` shows its devices
//! and a bpffs that it mounts stays as long as the node, as in a container. Both are held by files;
//! no process is needed to keep a node. Invariant: `down` removes everything that `up` made, by
//! name or id, whatever state a crash left. Next: `node.rs`, how to act inside a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;
use crate::error::LabError;
use crate::node::Node;
use crate::plan::{Plan, Step, namespace};
use crate::state::{self, NodeState, State};

mod neigh;

#[cfg(test)]
mod tests;

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    state: State,
}

/// Programs that the runner and the topologies call.
const TOOLS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ethtool", "ethtool"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("taskset", "util-linux"),
    ("mount", "mount"),
];

impl Lab {
    /// Builds the lab of `plan`. Nodes find programs in `bin_dir` before those of the machine.
    /// Repeating it for the same plan changes nothing; on failure nothing is left.
    pub fn up(
        plan: &Plan,
        file: &Path,
        bin_dir: &Path,
        progress: &mut dyn FnMut(&Step),
    ) -> Result<Self, LabError> {
        require_root_and_tools()?;
        if let Some(state) = State::read(&plan.lab)? {
            let lab = Self { state };
            if lab.state.ready && lab.state.plan == plan.to_string() && lab.whole() {
                return Ok(lab);
            }
            let file = file.display().to_string();
            return Err(LabError::Exists {
                lab: plan.lab.clone(),
                file,
            });
        }
        let mut lab = Self {
            state: State {
                lab: plan.lab.clone(),
                file: file.to_owned(),
                plan: plan.to_string(),
                bin_dir: bin_dir.to_owned(),
                ..State::default()
            },
        };
        match lab.build(plan, progress) {
            Ok(()) => Ok(lab),
            Err(failure) => {
                let logs = lab.keep_logs();
                Self::down(&plan.lab)?;
                Err(match failure {
                    LabError::Step { step, message, .. } => LabError::Step {
                        step,
                        message,
                        logs,
                    },
                    other => other,
                })
            }
        }
    }

    /// The lab named `name`, which must be up.
    pub fn open(name: &str) -> Result<Self, LabError> {
        require_root_and_tools()?;
        match State::read(name)? {
            Some(state) if state.ready => Ok(Self { state }),
            _ => Err(LabError::NotUp {
                lab: name.to_owned(),
            }),
        }
    }

    /// Removes the lab named `name`, whatever is left of it; nothing to remove is no failure.
    pub fn down(name: &str) -> Result<(), LabError> {
        require_root_and_tools()?;
        let Some(state) = State::read(name)? else {
            return Ok(());
        };
        let mut left = Vec::new();
        end_processes(&state, &mut left);
        let mounts = state::dir(name).join("mnt");
        for node in state.nodes.values() {
            if is_mounted(&node.view) {
                attempt(&mut left, &["umount", &node.view.display().to_string()]);
            }
            if Path::new("/run/netns").join(&node.namespace).exists() {
                attempt(&mut left, &["ip", "netns", "del", &node.namespace]);
            }
        }
        if is_mounted(&mounts) {
            attempt(&mut left, &["umount", &mounts.display().to_string()]);
        }
        for file in state.files.iter().rev() {
            let removed = if file.is_dir() {
                fs::remove_dir(file)
            } else {
                fs::remove_file(file)
            };
            if let Err(e) = removed
                && e.kind() != std::io::ErrorKind::NotFound
            {
                left.push(format!("{}: {e}", file.display()));
            }
        }
        if !left.is_empty() {
            return Err(LabError::Leftover {
                lab: name.to_owned(),
                left: left.join("; "),
            });
        }
        neigh::release(name)?;
        fs::remove_dir_all(state::dir(name))
            .map_err(LabError::io(|| format!("remove the state of lab {name}")))
    }

    /// The node named `name`.
    pub fn node(&self, name: &str) -> Result<Node, LabError> {
        let missing = || LabError::NoNode {
            lab: self.state.lab.clone(),
            node: name.to_owned(),
        };
        let node = self.state.nodes.get(name).ok_or_else(missing)?;
        Ok(Node::new(&self.state, name, node))
    }

    /// The names of its nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.state.nodes.keys().cloned().collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.lab
    }

    /// Folder of the programs that its nodes find first.
    pub fn bin_dir(&self) -> &Path {
        &self.state.bin_dir
    }

    /// Folder of its state and logs; gone after `down`.
    pub fn dir(&self) -> PathBuf {
        state::dir(&self.state.lab)
    }

    /// Folder on the machine that `node` sees as `/run/fairlead`.
    pub fn run_dir(&self, node: &str) -> PathBuf {
        self.dir().join("run").join(node)
    }

    /// The other end of the link at `node`'s `interface`: node and interface.
    pub fn across(&self, node: &str, interface: &str) -> Result<(String, String), LabError> {
        let topology = crate::clab::load(&self.state.file)?;
        let missing = || LabError::NoNode {
            lab: self.state.lab.clone(),
            node: format!("{node}:{interface}"),
        };
        let is = |end: &crate::clab::Endpoint| end.node == node && end.interface == interface;
        let across = topology
            .topology
            .links
            .iter()
            .find_map(|link| match link.ends() {
                [a, b] if is(&a) => Some((b.node, b.interface)),
                [a, b] if is(&b) => Some((a.node, a.interface)),
                _ => None,
            });
        across.ok_or_else(missing)
    }

    /// Starts `argv` in `node`, output to `NAME.log`, and registers it so that `down` ends it.
    pub fn start(
        &mut self,
        node: &str,
        name: &str,
        argv: &[String],
        env: &[(String, String)],
    ) -> Result<std::process::Child, LabError> {
        let (child, process) = self.node(node)?.spawn(name, argv, env)?;
        self.state.processes.retain(state::Process::alive);
        self.state.processes.push(process);
        self.state.write()?;
        Ok(child)
    }

    fn build(&mut self, plan: &Plan, progress: &mut dyn FnMut(&Step)) -> Result<(), LabError> {
        self.state.write()?;
        neigh::hold(&plan.lab)?;
        let mounts = self.dir().join("mnt");
        for dir in [&mounts, &self.dir().join("log")] {
            fs::create_dir_all(dir).map_err(LabError::io(|| format!("make {}", dir.display())))?;
        }
        // A file can only hold a mount namespace where mounts do not propagate.
        let at = mounts.display().to_string();
        host(&["mount", "--bind", &at, &at])?;
        host(&["mount", "--make-private", &at])?;
        for step in &plan.steps {
            progress(step);
            self.apply(step).map_err(|e| {
                let message = match e {
                    LabError::Command { message, .. } => message,
                    other => crate::report::chain(&other),
                };
                LabError::Step {
                    step: step.to_string(),
                    message,
                    logs: String::new(),
                }
            })?;
        }
        self.state.ready = true;
        self.state.write()
    }

    fn apply(&mut self, step: &Step) -> Result<(), LabError> {
        match step {
            Step::Namespace { node } => self.make_namespace(node),
            Step::Sysctl { node, key, value } => {
                let path = format!("/proc/sys/{}", key.replace('.', "/"));
                self.node(node)?
                    .in_netns(|| fs::write(&path, value))?
                    .map_err(LabError::io(|| format!("set {key} to {value}")))
            }
            Step::Bind {
                node,
                from,
                to,
                read_only,
            } => self.bind(node, from, to, *read_only),
            Step::Link { a, b, mtu } => {
                let (ns_a, ns_b) = (self.namespace(&a.0), self.namespace(&b.0));
                let mtu = mtu.to_string();
                host(&[
                    "ip", "link", "add", "name", &a.1, "netns", &ns_a, "mtu", &mtu, "type", "veth",
                    "peer", "name", &b.1, "netns", &ns_b, "mtu", &mtu,
                ])
            }
            Step::Start { node, argv, env } => {
                let env: Vec<_> = env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                self.start(node, &format!("{node}-cmd"), argv, &env)
                    .map(drop)
            }
            Step::Exec { node, argv, env } => {
                let words: Vec<&str> = argv.iter().map(String::as_str).collect();
                match node {
                    Some(node) => {
                        let mut command = self.node(node)?.command(&words);
                        command.envs(env);
                        run(command, node, &words).map(drop)
                    }
                    None => host(&words),
                }
            }
        }
    }

    fn namespace(&self, node: &str) -> String {
        namespace(&self.state.lab, node)
    }

    fn make_namespace(&mut self, node: &str) -> Result<(), LabError> {
        let ns = self.namespace(node);
        if Path::new("/run/netns").join(&ns).exists() {
            // Not ours (our own would be in the state of an existing lab): leave it alone.
            let message = format!("a network namespace {ns} exists already");
            return Err(LabError::Command {
                node: node.to_owned(),
                command: String::new(),
                message,
            });
        }
        let view = self.dir().join("mnt").join(node);
        let held = NodeState {
            namespace: ns.clone(),
            view: view.clone(),
        };
        self.state.nodes.insert(node.to_owned(), held);
        self.state.write()?;
        host(&["ip", "netns", "add", &ns])?;
        host(&["ip", "-n", &ns, "link", "set", "lo", "up"])?;
        fs::write(&view, []).map_err(LabError::io(|| format!("make {}", view.display())))?;
        hold_mounts(&view)?;
        let run = self.run_dir(node);
        for dir in [&run, &PathBuf::from("/run/fairlead")] {
            fs::create_dir_all(dir).map_err(LabError::io(|| format!("make {}", dir.display())))?;
        }
        let node = self.node(node)?;
        node.run(&["mount", "-t", "sysfs", "sysfs", "/sys"])?;
        // As in a container, what the node's processes leave in /run is the node's alone.
        let run = run.display().to_string();
        node.run(&["mount", "--bind", &run, "/run/fairlead"])
            .map(drop)
    }

    fn bind(
        &mut self,
        node: &str,
        from: &Path,
        to: &Path,
        read_only: bool,
    ) -> Result<(), LabError> {
        let from = from
            .canonicalize()
            .map_err(LabError::io(|| format!("bind {}", from.display())))?;
        self.make_target(to, from.is_dir())?;
        let (from, to) = (from.display().to_string(), to.display().to_string());
        let node = self.node(node)?;
        node.run(&["mount", "--bind", &from, &to])?;
        if read_only {
            node.run(&["mount", "-o", "remount,bind,ro", &to])?;
        }
        Ok(())
    }

    /// Makes the place that a bind is seen at, which a container's image would have; noted for `down`.
    fn make_target(&mut self, to: &Path, is_dir: bool) -> Result<(), LabError> {
        let missing: Vec<PathBuf> = to
            .ancestors()
            .take_while(|p| !p.exists())
            .map(Path::to_path_buf)
            .collect();
        for path in missing.iter().rev() {
            self.state.files.push(path.clone());
            self.state.write()?;
            let made = if path == to && !is_dir {
                fs::write(path, [])
            } else {
                fs::create_dir(path)
            };
            made.map_err(LabError::io(|| format!("make {}", path.display())))?;
        }
        Ok(())
    }

    /// Whether every namespace of the lab still exists.
    fn whole(&self) -> bool {
        let exists = |n: &NodeState| Path::new("/run/netns").join(&n.namespace).exists();
        self.state
            .nodes
            .values()
            .all(|n| exists(n) && is_mounted(&n.view))
    }

    /// Copies the logs to where they outlive the lab.
    fn keep_logs(&self) -> String {
        let kept = std::env::temp_dir().join(format!("fairlead-lab-{}", self.state.lab));
        crate::report::copy_dir(&self.dir().join("log"), &kept);
        kept.display().to_string()
    }
}

/// Ends the lab's processes: the registered ones, then whatever else lives in its namespaces.
fn end_processes(state: &State, left: &mut Vec<String>) {
    let ours = || state.processes.iter().filter(|p| p.alive());
    for process in ours() {
        signal(process.pid, Signal::SIGTERM);
    }
    let patience = Duration::from_secs(3);
    clock::poll(patience, || ours().next().is_none().then_some(()));
    for process in ours() {
        signal(process.pid, Signal::SIGKILL);
    }
    for node in state.nodes.values() {
        for pid in processes_in(&node.namespace) {
            signal(pid, Signal::SIGKILL);
        }
        clock::poll(patience, || {
            processes_in(&node.namespace).is_empty().then_some(())
        });
        for pid in processes_in(&node.namespace) {
            left.push(format!("process {pid} in {}", node.namespace));
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended by itself meanwhile, which is what is wanted.
    kill(Pid::from_raw(pid), signal).ok();
}

/// Ids of the processes in a network namespace, zombies left out.
fn processes_in(namespace: &str) -> Vec<i32> {
    let Ok(output) = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
    else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pids = text.split_whitespace().filter_map(|p| p.parse().ok());
    pids.filter(|pid| state::stat(*pid).is_some_and(|(state, _)| state != 'Z'))
        .collect()
}

fn is_mounted(path: &Path) -> bool {
    let path = path.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(&path))
}

fn require_root_and_tools() -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (tool, package) in TOOLS {
        if !std::env::split_paths(&path).any(|dir| dir.join(tool).exists()) {
            return Err(LabError::MissingTool { tool, package });
        }
    }
    Ok(())
}

/// Makes a mount namespace that the file `view` holds.
///
/// The kernel lets a mount namespace be held only from an older one, and since 6.18 numbers them in blocks for each processor: in a container,
/// whose own is young, only those made on some processors count as younger than it.
fn hold_mounts(view: &Path) -> Result<(), LabError> {
    let hold = format!("--mount={}", view.display());
    let unshare = ["unshare", &hold, "--propagation", "slave", "true"];
    let mut made = host(&unshare);
    let ours = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let is_ours = |cpu: &usize| ours.is_set(*cpu).unwrap_or_default();
    for cpu in (0..CpuSet::count()).filter(is_ours) {
        if made.is_ok() {
            break;
        }
        let cpu = cpu.to_string();
        let there = ["taskset", "--cpu-list", &cpu];
        made = host(&[&there[..], &unshare[..]].concat());
    }
    made
}

fn attempt(left: &mut Vec<String>, argv: &[&str]) {
    if let Err(e) = host(argv) {
        left.push(crate::report::chain(&e));
    }
}

/// Runs `argv` on the machine.
fn host(argv: &[&str]) -> Result<(), LabError> {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    run(command, "host", argv).map(drop)
}

/// Runs a prepared command to its end; its standard output, or what it complained about.
pub(crate) fn run(mut command: Command, node: &str, argv: &[&str]) -> Result<String, LabError> {
    let shown = argv.join(" ");
    let output = command
        .output()
        .map_err(LabError::io(|| format!("run {shown}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let message = format!("{}: {complaint}", output.status);
    Err(LabError::Command {
        node: node.to_owned(),
        command: shown,
        message,
    })
}
