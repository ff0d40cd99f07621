//! What the nodes say of themselves, by way of the `fairlead` command line.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairlead_observe::explain::ExplainView;
use fairlead_observe::l2::L2Row;
use fairlead_observe::service::ServiceView;
use fairlead_observe::status::StatusView;
use serde::de::DeserializeOwned;

use super::{NODES, SERVICE};
use crate::error::LabError;
use crate::node::Node;

/// One node's view.
#[derive(Debug)]
pub struct NodeView {
    /// The node that was asked.
    pub node: String,
    /// `fairlead status`.
    pub status: StatusView,
    /// `fairlead service list`.
    pub services: Vec<ServiceView>,
    /// `fairlead l2 list`.
    pub l2: Vec<L2Row>,
}

impl NodeView {
    /// Asks the agent on `node`.
    pub fn ask(node: &Node) -> Result<Self, LabError> {
        Ok(Self {
            node: node.name().to_owned(),
            status: ask(node, &["status"])?,
            services: ask(node, &["service", "list"])?,
            l2: ask(node, &["l2", "list"])?,
        })
    }
}

fn ask<T: DeserializeOwned>(node: &Node, question: &[&str]) -> Result<T, LabError> {
    let argv = [&["fairlead"], question, &["-o", "json"]].concat();
    let answer = node.run(&argv)?;
    serde_json::from_str(&answer).map_err(|e| LabError::Command {
        node: node.name().to_owned(),
        command: argv.join(" "),
        message: format!("the answer is not what it should be: {e}"),
    })
}

/// VIPs (IPv4 first), owner and reason when every view says the same and every node could take
/// over, else what is missing. Pure.
pub fn agreed(views: &[NodeView]) -> Result<(Vec<IpAddr>, String, String), String> {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut vips = Vec::new();
    let mut why = String::new();
    for view in views {
        let node = &view.node;
        for other in NODES.iter().filter(|n| *n != node) {
            let peer = view.status.peers.iter().find(|p| p.node == *other);
            match peer.map(|p| p.state.as_str()) {
                Some("Alive") => {}
                state => {
                    return Err(format!(
                        "{node} sees {other} as {}",
                        state.unwrap_or("absent")
                    ));
                }
            }
        }
        let service = view
            .services
            .iter()
            .find(|s| format!("{}/{}", s.namespace, s.name) == SERVICE);
        let service = service.ok_or_else(|| format!("{node} knows no Service {SERVICE}"))?;
        if service.vips.len() != 2 {
            return Err(format!(
                "{SERVICE} has {} of 2 addresses on {node}",
                service.vips.len()
            ));
        }
        for frontend in &service.frontends {
            let serving = frontend.backends.iter().filter(|b| b.is_serving()).count();
            if !frontend.is_programmed || serving < 3 {
                let name = &frontend.frontend;
                return Err(format!(
                    "{node} has programmed {name} with {serving} of 3 backends"
                ));
            }
        }
        if service.frontends.len() != 4 {
            return Err(format!(
                "{node} has {} of 4 frontends",
                service.frontends.len()
            ));
        }
        vips.clone_from(&service.vips);
        for vip in &service.vips {
            let row = view.l2.iter().find(|row| row.vip == *vip);
            let row = row.ok_or_else(|| format!("{node} does not announce {vip}"))?;
            let owner = row
                .owner
                .clone()
                .ok_or_else(|| format!("{node} knows no owner of {vip}"))?;
            if owner == *node && !row.is_self {
                return Err(format!("{node} does not know that it owns {vip}"));
            }
            if owner == *node {
                why.clone_from(&row.why);
            }
            owners
                .entry(owner)
                .or_default()
                .push(format!("{vip} on {node}"));
        }
    }
    vips.sort();
    match owners.pop_first() {
        Some((owner, _)) if owners.is_empty() => Ok((vips, owner, why)),
        Some((owner, _)) => Err(format!("owners differ: {owner} and {owners:?}")),
        None => Err("no VIP has an owner".to_owned()),
    }
}

/// The first broken link of the Service as `node` sees it, in a sentence.
pub fn first_broken_link(node: &Node) -> Option<String> {
    let argv = ["fairlead", "explain", "svc", SERVICE, "-o", "json"];
    let output = node.command(&argv).output().ok()?;
    let view: ExplainView = serde_json::from_slice(&output.stdout).ok()?;
    let link = view.first_broken()?;
    let remedy = link
        .remedy
        .as_ref()
        .map_or_else(String::new, |r| format!("; {r}"));
    Some(format!(
        "{} says that link `{}` is broken: {}{remedy}",
        node.name(),
        link.name,
        link.detail
    ))
}
