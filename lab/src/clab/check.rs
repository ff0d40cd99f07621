//! The rules of the subset that a parser cannot state. Each error names the field, and the first line
//! that holds what is wrong.

use std::collections::BTreeSet;

use super::{ClabError, Kind, Node, NodeConfig, Stage, Topology};

/// A topology beside the text that it came from.
pub(super) struct Check<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) topology: &'a Topology,
}

impl Check<'_> {
    /// The first rule that does not hold.
    pub(super) fn run(&self) -> Result<(), ClabError> {
        self.name("name", &self.topology.name)?;
        if let Some((at, line)) = self.text.lines().enumerate().find(|(_, l)| expands(l)) {
            return Err(ClabError::Meaning {
                file: self.file.to_owned(),
                line: at + 1,
                field: "$".to_owned(),
                message: format!(
                    "containerlab expands variables in `{}`; leave them out",
                    line.trim()
                ),
            });
        }
        if self.topology.topology.defaults.stages_set()
            || self
                .topology
                .topology
                .kinds
                .values()
                .any(NodeConfig::stages_set)
        {
            return Err(self.at(
                "stages",
                "stages",
                "state stages at the node they belong to",
            ));
        }
        for node in self.topology.nodes() {
            self.node(&node)?;
        }
        self.links()
    }

    fn node(&self, node: &Node) -> Result<(), ClabError> {
        let field = format!("topology.nodes.{}", node.name);
        self.name(&field, &node.name)?;
        let own = &self.topology.topology.nodes[&node.name];
        let defaults = &self.topology.topology.defaults;
        if own.kind.or(defaults.kind).is_none() {
            return Err(self.at(
                &format!("{field}.kind"),
                &node.name,
                "missing; write `kind: linux`",
            ));
        }
        let kind = self.topology.topology.kinds.get(&Kind::Linux);
        if own.image.is_none() && defaults.image.is_none() && kind.is_none_or(|k| k.image.is_none())
        {
            let message = "missing; containerlab cannot start a node without an image";
            return Err(self.at(&format!("{field}.image"), &node.name, message));
        }
        if node.mgmt_ipv4.is_none() && node.mgmt_ipv6.is_none() && !node.isolated {
            let message =
                "give it a mgmt-ipv4, or `network-mode: none` for no management interface";
            return Err(self.at(&field, &node.name, message));
        }
        let mut seen = BTreeSet::new();
        for command in &node.exec {
            if !seen.insert(command) {
                let message = "stated twice; containerlab runs equal commands once";
                return Err(self.at(&format!("{field}.exec"), command, message));
            }
        }
        let at_stages = Stage::ALL.into_iter().flat_map(|s| &node.stages.of(s).exec);
        let commands = node
            .exec
            .iter()
            .chain(&node.cmd)
            .chain(at_stages.map(|e| &e.command));
        for command in commands {
            if shlex::split(command).is_none_or(|words| words.is_empty()) {
                return Err(self.at(
                    &format!("{field}.exec"),
                    command,
                    "unbalanced quotes, or empty",
                ));
            }
        }
        for bind in &node.binds {
            let parts: Vec<&str> = bind.split(':').collect();
            if !matches!(parts[..], [_, to] | [_, to, "ro" | "rw"] if to.starts_with('/')) {
                let message = "write host-path:/absolute/path or host-path:/absolute/path:ro";
                return Err(self.at(&format!("{field}.binds"), bind, message));
            }
        }
        for stage in Stage::ALL {
            for wait in &node.stages.of(stage).wait_for {
                if !self.topology.topology.nodes.contains_key(&wait.node) {
                    let message = format!("waits for node `{}`, which does not exist", wait.node);
                    return Err(self.at(&format!("{field}.stages"), &wait.node, &message));
                }
            }
        }
        Ok(())
    }

    fn links(&self) -> Result<(), ClabError> {
        let mut taken = BTreeSet::new();
        for (idx, link) in self.topology.topology.links.iter().enumerate() {
            let field = format!("topology.links[{idx}].endpoints");
            for end in &link.endpoints {
                let Some((node, interface)) = end.split_once(':') else {
                    return Err(self.at(&field, end, &format!("`{end}` is not node:interface")));
                };
                if !self.topology.topology.nodes.contains_key(node) {
                    return Err(self.at(&field, end, &format!("node `{node}` does not exist")));
                }
                let plain = interface
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                if interface.is_empty() || interface.len() > 15 || !plain || interface == "eth0" {
                    let message = format!(
                        "`{interface}` is no interface name of at most 15 characters (eth0 is the management interface)"
                    );
                    return Err(self.at(&field, end, &message));
                }
                if !taken.insert(end) {
                    return Err(self.at(&field, end, &format!("`{end}` is on two links")));
                }
            }
            if link.mtu < 68 {
                let message = format!("{} is below IPv4's least MTU of 68", link.mtu);
                return Err(self.at(&format!("topology.links[{idx}].mtu"), "mtu", &message));
            }
        }
        Ok(())
    }

    fn name(&self, field: &str, name: &str) -> Result<(), ClabError> {
        let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && name.len() <= 15;
        if good {
            return Ok(());
        }
        Err(self.at(field, name, "use up to 15 letters, digits and dashes"))
    }

    /// The error for `field`, at the first line that holds `token`.
    fn at(&self, field: &str, token: &str, message: &str) -> ClabError {
        let line = self
            .text
            .lines()
            .position(|l| l.contains(token))
            .map_or(1, |at| at + 1);
        ClabError::Meaning {
            file: self.file.to_owned(),
            line,
            field: field.to_owned(),
            message: message.to_owned(),
        }
    }
}

impl NodeConfig {
    fn stages_set(&self) -> bool {
        Stage::ALL.into_iter().any(|s| {
            let config = self.stages.of(s);
            !config.wait_for.is_empty() || !config.exec.is_empty()
        })
    }
}

/// Whether containerlab's variable expansion would touch `line`.
fn expands(line: &str) -> bool {
    !line.trim_start().starts_with('#') && line.contains('$')
}
