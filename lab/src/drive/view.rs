//! What the nodes say of themselves, by way of the `fairlead` command line.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairlead_observe::explain::ExplainView;
use fairlead_observe::l2::L2Row;
use fairlead_observe::service::{FrontendView, ServiceView};
use fairlead_observe::status::StatusView;
use serde::de::DeserializeOwned;

use super::Frontends;
use crate::error::LabError;
use crate::node::Node;

#[cfg(test)]
mod tests;

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

/// Frontends, owner and reason of `service` when every view says the same and every node could take
/// over, else what is missing. Pure.
pub fn agreed(service: &str, views: &[NodeView]) -> Result<(Frontends, String, String), String> {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut frontends = None;
    let mut why = String::new();
    let nodes: Vec<&String> = views.iter().map(|v| &v.node).collect();
    for view in views {
        let node = &view.node;
        peers_alive(view, &nodes)?;
        let is_it = |s: &&ServiceView| format!("{}/{}", s.namespace, s.name) == service;
        let found = view.services.iter().find(is_it);
        let found = found.ok_or_else(|| format!("{node} knows no Service {service}"))?;
        let theirs = programmed(node, found)?;
        for vip in &theirs.vips {
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
        if frontends
            .replace(theirs.clone())
            .is_some_and(|before| before != theirs)
        {
            return Err(format!("the nodes differ about the frontends of {service}"));
        }
    }
    match (owners.pop_first(), frontends) {
        (Some((owner, _)), Some(frontends)) if owners.is_empty() => Ok((frontends, owner, why)),
        (Some((owner, _)), _) => Err(format!("owners differ: {owner} and {owners:?}")),
        (None, _) => Err("no VIP has an owner".to_owned()),
    }
}

/// Every other node is heard by this one.
fn peers_alive(view: &NodeView, nodes: &[&String]) -> Result<(), String> {
    let node = &view.node;
    for other in nodes.iter().filter(|n| **n != node) {
        let peer = view.status.peers.iter().find(|p| p.node == **other);
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
    Ok(())
}

/// What clients of `service` dial, if `node` has all of it in the kernel with every backend.
fn programmed(node: &str, service: &ServiceView) -> Result<Frontends, String> {
    let name = format!("{}/{}", service.namespace, service.name);
    if service.vips.len() != 2 {
        return Err(format!(
            "{name} has {} of 2 addresses on {node}",
            service.vips.len()
        ));
    }
    for frontend in &service.frontends {
        let serving = frontend.backends.iter().filter(|b| b.is_serving()).count();
        let all = frontend.backends.len();
        if !frontend.is_programmed || serving == 0 || serving < all {
            let problem = frontend
                .backends
                .iter()
                .find_map(|b| b.problem.clone())
                .unwrap_or_default();
            return Err(format!(
                "{node} has {} programmed: {}, {serving} of {all} backends serve {problem}",
                frontend.frontend, frontend.is_programmed
            ));
        }
    }
    let mut vips = service.vips.clone();
    vips.sort();
    let port = |protocol: &str| {
        let of = |vip: &IpAddr| {
            let is = |f: &&FrontendView| f.vip == *vip && f.protocol == protocol;
            service.frontends.iter().find(is).map(|f| f.port)
        };
        let ports: Option<Vec<u16>> = vips.iter().map(of).collect();
        let missing = || format!("{name} lacks a {protocol} frontend on {node}");
        ports.and_then(|p| p.first().copied()).ok_or_else(missing)
    };
    Ok(Frontends {
        tcp_port: port("TCP")?,
        udp_port: port("UDP")?,
        vips,
        returns_direct: service.frontends.iter().all(|f| f.mode.starts_with("dsr")),
    })
}

/// The first broken link of the Service as `node` sees it, in a sentence.
pub fn first_broken_link(node: &Node, service: &str) -> Option<String> {
    let argv = ["fairlead", "explain", "svc", service, "-o", "json"];
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
