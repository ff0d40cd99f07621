//! Starting, killing and restarting appliances.

use std::fs;
use std::time::Duration;

use super::{INTERFACE, Job, JobError, NODES};
use crate::clock;
use crate::error::LabError;

/// Default port of the embedded API.
const API_PORT: u16 = 6443;
/// Where a node keeps its state; the folder is the node's own (`Lab::run_dir`).
const STATE_DIR: &str = "/run/fairlead/state";
/// The manifests, as the first node sees them.
const MANIFESTS: &str = "/run/fairlead/manifests";
/// The kubeconfig that the joining node was given.
const JOIN_KUBECONFIG: &str = "/run/fairlead/join.kubeconfig";

impl Job {
    /// Starts the appliance of `node`, the same command line every time.
    pub fn start_appliance(&mut self, node: &str) -> Result<(), JobError> {
        let mut argv = vec!["fairlead-appliance".to_owned()];
        let mut flag = |name: &str, value: &str| argv.extend([name.to_owned(), value.to_owned()]);
        flag("--node-name", node);
        flag("--interface", INTERFACE);
        flag("--state-dir", STATE_DIR);
        let address = self.address_of(NODES[0])?;
        if node == NODES[0] {
            flag("--manifests", MANIFESTS);
        } else {
            self.hand_over_kubeconfig(node)?;
            flag("--join", &format!("https://{address}:{API_PORT}"));
            flag("--kubeconfig", JOIN_KUBECONFIG);
        }
        (self.say)(&format!("{node}: {}", argv.join(" ")));
        let child = self
            .lab
            .start(node, &format!("{node}-appliance"), &argv, &[])?;
        self.appliances.insert(node.to_owned(), child);
        Ok(())
    }

    /// Kills the appliance of `node` with SIGKILL and reaps it.
    pub fn kill_appliance(&mut self, node: &str) -> Result<(), JobError> {
        let what = || format!("kill the appliance of {node}");
        if let Some(mut child) = self.appliances.remove(node) {
            child.kill().map_err(LabError::io(what))?;
            child.wait().map_err(LabError::io(what))?;
        }
        Ok(())
    }

    /// The node's IPv4 address on the LAN.
    fn address_of(&self, node: &str) -> Result<String, JobError> {
        // Groups that the announcer had the kernel join are addresses of another scope.
        let show = [
            "ip", "-4", "-o", "addr", "show", "dev", INTERFACE, "scope", "global",
        ];
        let shown = self.lab.node(node)?.run(&show)?;
        let address = shown
            .split_whitespace()
            .nth(3)
            .and_then(|a| a.split('/').next());
        let message = || format!("{node} has no IPv4 address on {INTERFACE}");
        Ok(address
            .map(str::to_owned)
            .ok_or_else(|| LabError::Command {
                node: node.to_owned(),
                command: "ip addr".to_owned(),
                message: message(),
            })?)
    }

    /// Copies the first node's kubeconfig to `node`, as its owner would by hand; waits until it exists.
    fn hand_over_kubeconfig(&mut self, node: &str) -> Result<(), JobError> {
        let from = self.lab.run_dir(NODES[0]).join("state/kubeconfig");
        let to = self.lab.run_dir(node).join("join.kubeconfig");
        let copied = clock::poll(Duration::from_secs(30), || fs::copy(&from, &to).ok());
        if copied.is_some() {
            return Ok(());
        }
        let why = format!("{} does not appear", from.display());
        Err(self.broken("the first appliance does not start", &why))
    }
}
