//! Servers that hold VIPs and take packets in IPIP or ip6ip6: what their owner sets up on them.

use super::{INTERFACE, Job, JobError};
use crate::checks::main::SERVERS;
use crate::error::LabError;
use crate::node::Node;

impl Job {
    /// Runs `fairlead-agent decap` on every server, for the addresses on its loopback interface and
    /// with every load-balancer node as a sender. It stays attached.
    pub fn decapsulate(&mut self) -> Result<(), JobError> {
        let mut senders = Vec::new();
        for node in self.nodes.clone() {
            senders.extend(addresses(&self.lab.node(node)?, INTERFACE)?);
        }
        for (server, _) in SERVERS {
            let node = self.lab.node(server)?;
            let vips = addresses(&node, "lo")?;
            let mut argv = vec!["fairlead-agent", "decap", "--interface", INTERFACE];
            argv.extend(vips.iter().flat_map(|vip| ["--vip", vip]));
            argv.extend(senders.iter().flat_map(|sender| ["--sender", sender]));
            (self.say)(&format!("{server}: {}", argv.join(" ")));
            for line in node.run(&argv)?.lines() {
                (self.say)(&format!("    {line}"));
            }
        }
        Ok(())
    }
}

/// The global addresses of an interface.
fn addresses(node: &Node, interface: &str) -> Result<Vec<String>, LabError> {
    let shown = node.run(&[
        "ip", "-o", "addr", "show", "dev", interface, "scope", "global",
    ])?;
    let address = |line: &str| {
        let prefix = line.split_whitespace().nth(3)?;
        prefix.split('/').next().map(str::to_owned)
    };
    Ok(shown.lines().filter_map(address).collect())
}
