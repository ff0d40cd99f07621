//! From a topology to the ordered list of steps that builds it. Pure: the same file gives the same
//! plan on every machine, which is what the snapshot tests hold.
//!
//! Invariants: a step names nothing that an earlier step has not made; `exec` lines come last, when
//! every node and link exists, as in containerlab. Next: `runner.rs` applies a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::clab::{Link, Node, Phase, Stage, StageExec, Target, Topology};

#[cfg(test)]
mod tests;

/// Namespace of the management bridge, as a node name that no topology can use.
const MGMT: &str = "mgmt_";

/// One thing to do. Nodes are named as in the topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes the network namespace and the mount view of a node.
    Namespace { node: String },
    /// Writes a sysctl inside a node, before its links exist.
    Sysctl {
        node: String,
        key: String,
        value: String,
    },
    /// Shows a host file or folder inside the node's mount view.
    Bind {
        node: String,
        from: PathBuf,
        to: PathBuf,
        read_only: bool,
    },
    /// Makes a veth pair, each end directly inside its node; both ends are down.
    Link {
        a: (String, String),
        b: (String, String),
        mtu: u16,
    },
    /// Starts the node's main process and leaves it running.
    Start {
        node: String,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
    },
    /// Runs a command to its end, in a node or on the machine; it must succeed.
    Exec {
        node: Option<String>,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
    },
}

/// Everything that `up` does, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Name of the running lab; namespaces are `clab-<lab>-<node>`.
    pub lab: String,
    /// The nodes, in name order.
    pub nodes: Vec<String>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Why a topology has no plan.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PlanError {
    /// `stages.*.wait-for` makes a circle.
    #[error("{node} waits in stage {stage:?} for itself, by way of {path}")]
    #[diagnostic(help("remove one `wait-for` of the circle"))]
    Circular {
        node: String,
        stage: Stage,
        path: String,
    },
}

impl PlanError {
    /// The closed word for this failure.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Circular { .. } => "CircularWait",
        }
    }
}

/// Name of the network namespace of `node`: the name that containerlab gives to its container.
pub fn namespace(lab: &str, node: &str) -> String {
    format!("clab-{lab}-{node}")
}

/// Plans `topology` as the lab named `lab`; relative binds start at `base`.
pub fn plan(topology: &Topology, lab: &str, base: &Path) -> Result<Plan, PlanError> {
    let nodes = topology.nodes();
    let mut builder = Builder {
        topology,
        base,
        made: BTreeSet::new(),
        steps: Vec::new(),
    };
    builder.management(&nodes);
    for (name, stage) in order(&nodes)? {
        let node = nodes
            .iter()
            .find(|n| n.name == name)
            .expect("`order` returns given nodes only");
        builder.stage(node, stage);
    }
    for node in &nodes {
        for command in &node.exec {
            builder.steps.push(exec(node, command));
        }
    }
    let names = nodes.into_iter().map(|n| n.name).collect();
    Ok(Plan {
        lab: lab.to_owned(),
        nodes: names,
        steps: builder.steps,
    })
}

struct Builder<'a> {
    topology: &'a Topology,
    base: &'a Path,
    /// Nodes whose namespace exists.
    made: BTreeSet<String>,
    steps: Vec<Step>,
}

impl Builder<'_> {
    /// The management bridge, if any node is on it.
    fn management(&mut self, nodes: &[Node]) {
        if nodes.iter().all(|n| n.isolated) {
            return;
        }
        self.steps.push(Step::Namespace {
            node: MGMT.to_owned(),
        });
        self.steps
            .push(in_node(MGMT, "ip link add br0 type bridge"));
        self.steps.push(in_node(MGMT, "ip link set br0 up"));
    }

    fn stage(&mut self, node: &Node, stage: Stage) {
        let config = node.stages.of(stage);
        self.hooks(node, &config.exec, Phase::OnEnter);
        match stage {
            Stage::Create => self.create(node),
            Stage::CreateLinks => self.links(node),
            Stage::Configure => {}
        }
        self.hooks(node, &config.exec, Phase::OnExit);
    }

    fn hooks(&mut self, node: &Node, all: &[StageExec], phase: Phase) {
        for hook in all.iter().filter(|h| h.phase == phase) {
            self.steps.push(match hook.target {
                Target::Container => exec(node, &hook.command),
                Target::Host => Step::Exec {
                    node: None,
                    argv: words(&hook.command),
                    env: BTreeMap::new(),
                },
            });
        }
    }

    fn create(&mut self, node: &Node) {
        let name = &node.name;
        self.made.insert(name.clone());
        self.steps.push(Step::Namespace { node: name.clone() });
        for (key, value) in &node.sysctls {
            let (key, value) = (key.clone(), value.to_string());
            self.steps.push(Step::Sysctl {
                node: name.clone(),
                key,
                value,
            });
        }
        for bind in &node.binds {
            let parts: Vec<&str> = bind.split(':').collect();
            self.steps.push(Step::Bind {
                node: name.clone(),
                from: self.base.join(parts[0]),
                to: PathBuf::from(parts[1]),
                read_only: parts.get(2) == Some(&"ro"),
            });
        }
        if !node.isolated {
            self.management_end(node);
        }
        if let Some(cmd) = &node.cmd {
            let (argv, env) = (words(cmd), env_of(node));
            self.steps.push(Step::Start {
                node: name.clone(),
                argv,
                env,
            });
        }
    }

    fn management_end(&mut self, node: &Node) {
        let (a, b) = (
            (MGMT.to_owned(), node.name.clone()),
            (node.name.clone(), "eth0".to_owned()),
        );
        let port = in_node(MGMT, &format!("ip link set dev {} master br0 up", a.1));
        self.steps.extend([Step::Link { a, b, mtu: 1500 }, port]);
        let mgmt = self.topology.mgmt.clone().unwrap_or_default();
        let length = |subnet: Option<String>, default: &str| {
            subnet
                .and_then(|s| s.split_once('/').map(|(_, n)| n.to_owned()))
                .unwrap_or_else(|| default.to_owned())
        };
        if let Some(addr) = node.mgmt_ipv4 {
            let bits = length(mgmt.ipv4_subnet, "24");
            self.steps.push(in_node(
                &node.name,
                &format!("ip addr add {addr}/{bits} dev eth0"),
            ));
        }
        if let Some(addr) = node.mgmt_ipv6 {
            let bits = length(mgmt.ipv6_subnet, "64");
            self.steps.push(in_node(
                &node.name,
                &format!("ip addr add {addr}/{bits} dev eth0 nodad"),
            ));
        }
        self.steps.push(in_node(&node.name, "ip link set eth0 up"));
    }

    /// Links of `node` whose other end exists; the rest are made when the other node gets here.
    fn links(&mut self, node: &Node) {
        let links: &[Link] = &self.topology.topology.links;
        for link in links {
            let [a, b] = link.ends();
            let ours = a.node == node.name || b.node == node.name;
            let (a, b) = ((a.node, a.interface), (b.node, b.interface));
            let step = Step::Link {
                a: a.clone(),
                b: b.clone(),
                mtu: link.mtu,
            };
            let ready = self.made.contains(&a.0) && self.made.contains(&b.0);
            if ours && ready && !self.steps.contains(&step) {
                self.steps.push(step);
            }
        }
    }
}

/// Stages of all nodes, dependencies first, else by stage and name.
fn order(nodes: &[Node]) -> Result<Vec<(String, Stage)>, PlanError> {
    let mut waiting: Vec<(&Node, Stage)> = Stage::ALL
        .into_iter()
        .flat_map(|s| nodes.iter().map(move |n| (n, s)))
        .collect();
    let mut done: Vec<(String, Stage)> = Vec::new();
    while let Some(first) = waiting.first().copied() {
        let finished = |node: &str, stage: Stage| done.contains(&(node.to_owned(), stage));
        let ready = waiting.iter().position(|(node, stage)| {
            let before = Stage::ALL.into_iter().filter(|s| s < stage);
            before.into_iter().all(|s| finished(&node.name, s))
                && node
                    .stages
                    .of(*stage)
                    .wait_for
                    .iter()
                    .all(|w| finished(&w.node, w.stage))
        });
        let Some(idx) = ready else {
            let waits = |(n, s): &(&Node, Stage)| format!("{}/{s:?}", n.name);
            let path = waiting.iter().map(waits).collect::<Vec<_>>().join(", ");
            return Err(PlanError::Circular {
                node: first.0.name.clone(),
                stage: first.1,
                path,
            });
        };
        let (node, stage) = waiting.remove(idx);
        done.push((node.name.clone(), stage));
    }
    Ok(done)
}

fn exec(node: &Node, command: &str) -> Step {
    Step::Exec {
        node: Some(node.name.clone()),
        argv: words(command),
        env: env_of(node),
    }
}

fn in_node(node: &str, command: &str) -> Step {
    Step::Exec {
        node: Some(node.to_owned()),
        argv: words(command),
        env: BTreeMap::new(),
    }
}

fn env_of(node: &Node) -> BTreeMap<String, String> {
    node.env
        .iter()
        .map(|(k, v)| (k.clone(), v.to_string()))
        .collect()
}

fn words(command: &str) -> Vec<String> {
    shlex::split(command).expect("checked by `clab::parse`: every command splits into words")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { node } => write!(f, "{node}: make the namespace"),
            Self::Sysctl { node, key, value } => write!(f, "{node}: sysctl {key}={value}"),
            Self::Bind {
                node,
                from,
                to,
                read_only,
            } => {
                let mode = if *read_only { "read-only" } else { "writable" };
                write!(
                    f,
                    "{node}: show {} at {}, {mode}",
                    from.display(),
                    to.display()
                )
            }
            Self::Link { a, b, mtu } => write!(f, "link {}:{} {}:{} mtu {mtu}", a.0, a.1, b.0, b.1),
            Self::Start { node, argv, .. } => write!(f, "{node}: start {}", argv.join(" ")),
            Self::Exec { node, argv, .. } => {
                write!(
                    f,
                    "{}: {}",
                    node.as_deref().unwrap_or("host"),
                    argv.join(" ")
                )
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}
