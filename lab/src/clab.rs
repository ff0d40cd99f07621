//! The subset of containerlab's topology format that both runners accept, and nothing else.
//!
//! Invariant: whatever [`parse`] accepts deploys with an unmodified containerlab and means the same
//! there. An unknown field, a node kind other than `linux` or an expression that containerlab would
//! expand is an error that names the field and the line, because a silently ignored field would make
//! the two runners build different labs. Next: `plan.rs` turns a topology into commands.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::Deserialize;

mod check;
#[cfg(test)]
mod tests;

/// Why a topology file is refused.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ClabError {
    /// The file cannot be read.
    #[error("cannot read {file}")]
    #[diagnostic(help("topologies are lab/NAME.clab.yml; give NAME, or a path with --topo"))]
    Read {
        file: String,
        source: std::io::Error,
    },
    /// Not YAML, an unknown field, or a value of the wrong type; serde names path, line and column.
    #[error("{file}: {message}")]
    #[diagnostic(help("lab/src/clab.rs states the subset of containerlab's format used here"))]
    Syntax { file: String, message: String },
    /// Well-formed, but it does not describe a lab that both runners can build.
    #[error("{file}:{line}: {field}: {message}")]
    #[diagnostic(help("both our runner and containerlab must build the same lab from this file"))]
    Meaning {
        file: String,
        line: usize,
        field: String,
        message: String,
    },
}

impl ClabError {
    /// The closed word for this failure.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "TopologyUnreadable",
            Self::Syntax { .. } => "TopologySyntax",
            Self::Meaning { .. } => "TopologyInvalid",
        }
    }
}

/// A whole topology file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// Name of the lab; containers and namespaces are `clab-<name>-<node>`.
    pub name: String,
    /// The management network of nodes without `network-mode: none`.
    #[serde(default)]
    pub mgmt: Option<Mgmt>,
    /// Nodes and links.
    pub topology: Body,
}

/// containerlab's management network: a bridge that each node's `eth0` is on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mgmt {
    /// Name of the network (a label only).
    #[serde(default)]
    pub network: Option<String>,
    /// Subnet in CIDR form, from which nodes state their `mgmt-ipv4`.
    #[serde(default)]
    pub ipv4_subnet: Option<String>,
    /// Subnet in CIDR form, from which nodes state their `mgmt-ipv6`.
    #[serde(default)]
    pub ipv6_subnet: Option<String>,
}

/// Contents of `topology:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Body {
    /// Settings that every node inherits.
    #[serde(default)]
    pub defaults: NodeConfig,
    /// Settings that every node of a kind inherits.
    #[serde(default)]
    pub kinds: BTreeMap<Kind, NodeConfig>,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, NodeConfig>,
    /// The links.
    #[serde(default)]
    pub links: Vec<Link>,
}

/// Node kinds that exist without a vendor's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A plain Linux container, or a network namespace in our runner.
    Linux,
}

/// What can be said of a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeConfig {
    /// Must come out as `linux`.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// Container image; our runner uses the host's files instead.
    #[serde(default)]
    pub image: Option<String>,
    /// The node's main process; started before its links exist, as in a container.
    #[serde(default)]
    pub cmd: Option<String>,
    /// Commands, run in order when every node and link exists; split like a shell does, no shell.
    #[serde(default)]
    pub exec: Vec<String>,
    /// `host:node[:ro]`; a relative host path starts at the topology file.
    #[serde(default)]
    pub binds: Vec<String>,
    /// Environment of `cmd` and `exec`.
    #[serde(default)]
    pub env: BTreeMap<String, Scalar>,
    /// Set before links exist, so that `net.*.conf.default` reaches them.
    #[serde(default)]
    pub sysctls: BTreeMap<String, Scalar>,
    /// `none`: no management interface.
    #[serde(default)]
    pub network_mode: Option<NetworkMode>,
    /// Address of `eth0` on the management network.
    #[serde(default)]
    pub mgmt_ipv4: Option<Ipv4Addr>,
    /// Address of `eth0` on the management network.
    #[serde(default)]
    pub mgmt_ipv6: Option<Ipv6Addr>,
    /// Order between nodes, and commands at stage boundaries.
    #[serde(default)]
    pub stages: Stages,
}

/// How a node meets the management network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Not at all: no `eth0`.
    None,
}

/// A YAML string, number or boolean, kept as text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A number without a fraction.
    Int(i64),
    /// `true` or `false`.
    Bool(bool),
    /// Anything else.
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(n) => n.fmt(f),
            Self::Bool(b) => b.fmt(f),
            Self::Text(s) => s.fmt(f),
        }
    }
}

/// The stages of a node, each with what it waits for and what it runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stages {
    /// The container or namespace is made.
    #[serde(default)]
    pub create: StageConfig,
    /// The links are attached.
    #[serde(default)]
    pub create_links: StageConfig,
    /// Post-deploy work of the kind; none for `linux`.
    #[serde(default)]
    pub configure: StageConfig,
}

impl Stages {
    /// The settings of `stage`.
    pub const fn of(&self, stage: Stage) -> &StageConfig {
        match stage {
            Stage::Create => &self.create,
            Stage::CreateLinks => &self.create_links,
            Stage::Configure => &self.configure,
        }
    }
}

/// A step in a node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// See [`Stages::create`].
    Create,
    /// See [`Stages::create_links`].
    CreateLinks,
    /// See [`Stages::configure`].
    Configure,
}

impl Stage {
    /// In order of life.
    pub const ALL: [Self; 3] = [Self::Create, Self::CreateLinks, Self::Configure];
}

/// Settings of one stage.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StageConfig {
    /// Stages of other nodes that must have finished first.
    #[serde(default)]
    pub wait_for: Vec<WaitFor>,
    /// Commands at the boundaries of the stage.
    #[serde(default)]
    pub exec: Vec<StageExec>,
}

/// One dependency.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WaitFor {
    /// The node waited for.
    pub node: String,
    /// The stage it must have finished.
    pub stage: Stage,
}

/// One command at a stage boundary.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StageExec {
    /// Split like a shell does; no shell.
    pub command: String,
    /// When to run it.
    #[serde(default)]
    pub phase: Phase,
    /// Where to run it.
    #[serde(default)]
    pub target: Target,
}

/// Before or after the stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before its work.
    #[default]
    OnEnter,
    /// After its work.
    OnExit,
}

/// In the node or on the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// In the node.
    #[default]
    Container,
    /// On the machine that runs the lab.
    Host,
}

/// A pair of connected interfaces, in containerlab's brief form.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// `node:interface`, twice.
    pub endpoints: [String; 2],
    /// Bytes; required, because containerlab's default is 9500 and hides what a real LAN drops.
    pub mtu: u16,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name of the node.
    pub node: String,
    /// Name of the interface in it.
    pub interface: String,
}

impl Link {
    /// Both ends; a valid topology has no other form.
    pub fn ends(&self) -> [Endpoint; 2] {
        self.endpoints.each_ref().map(|end| {
            let (node, interface) = end
                .split_once(':')
                .expect("checked by `parse`: every endpoint has a colon");
            Endpoint {
                node: node.to_owned(),
                interface: interface.to_owned(),
            }
        })
    }
}

/// A node with everything it inherits merged in.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// See [`NodeConfig::cmd`].
    pub cmd: Option<String>,
    /// See [`NodeConfig::exec`]; defaults first, then kind, then node, as containerlab merges.
    pub exec: Vec<String>,
    /// See [`NodeConfig::binds`].
    pub binds: Vec<String>,
    /// See [`NodeConfig::env`].
    pub env: BTreeMap<String, Scalar>,
    /// See [`NodeConfig::sysctls`].
    pub sysctls: BTreeMap<String, Scalar>,
    /// Has no management interface.
    pub isolated: bool,
    /// See [`NodeConfig::mgmt_ipv4`].
    pub mgmt_ipv4: Option<Ipv4Addr>,
    /// See [`NodeConfig::mgmt_ipv6`].
    pub mgmt_ipv6: Option<Ipv6Addr>,
    /// See [`NodeConfig::stages`].
    pub stages: Stages,
}

impl Topology {
    /// The nodes in name order, inheritance applied.
    pub fn nodes(&self) -> Vec<Node> {
        self.topology
            .nodes
            .iter()
            .map(|(name, own)| self.merged(name, own))
            .collect()
    }

    fn merged(&self, name: &str, own: &NodeConfig) -> Node {
        let absent = NodeConfig::default();
        let kind = own.kind.or(self.topology.defaults.kind);
        let of_kind = kind
            .and_then(|k| self.topology.kinds.get(&k))
            .unwrap_or(&absent);
        let layers = [&self.topology.defaults, of_kind, own];
        let network_mode = layers.iter().rev().find_map(|l| l.network_mode);
        Node {
            name: name.to_owned(),
            cmd: layers.iter().rev().find_map(|l| l.cmd.clone()),
            exec: layers.iter().flat_map(|l| l.exec.clone()).collect(),
            binds: layers.iter().flat_map(|l| l.binds.clone()).collect(),
            env: layers.iter().flat_map(|l| l.env.clone()).collect(),
            sysctls: layers.iter().flat_map(|l| l.sysctls.clone()).collect(),
            isolated: network_mode == Some(NetworkMode::None),
            mgmt_ipv4: own.mgmt_ipv4,
            mgmt_ipv6: own.mgmt_ipv6,
            stages: own.stages.clone(),
        }
    }
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Topology, ClabError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ClabError::Read {
        file: file.clone(),
        source,
    })?;
    parse(&file, &text)
}

/// Parses and checks `text`; `file` is its name in errors.
pub fn parse(file: &str, text: &str) -> Result<Topology, ClabError> {
    let topology: Topology = serde_norway::from_str(text).map_err(|e| ClabError::Syntax {
        file: file.to_owned(),
        message: e.to_string(),
    })?;
    let check = check::Check {
        file,
        text,
        topology: &topology,
    };
    check.run()?;
    Ok(topology)
}
