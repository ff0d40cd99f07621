//! The chain from a Service to its packets: which link holds, which is the first that does not, and what to do about it.
//!
//! [`explain`] is pure. Who has an agent fills [`Facts::local`], who has only the API server leaves it out, and the links
//! that only a node knows are then `unknown`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    l2::L2Row,
    render::Render,
    service::{ConditionView, FrontendView},
    status::InterfaceView,
    text,
    timestamp::Timestamp,
};

mod links;

/// Whether a link holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// It holds.
    Ok,
    /// It does not.
    Broken,
    /// It cannot be told, mostly because an earlier link is broken.
    Unknown,
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainLink {
    /// `service`, `class`, `address`, ...
    pub name: String,
    /// Whether it holds.
    pub state: LinkState,
    /// What was found.
    pub detail: String,
    /// Closed CamelCase word, for a broken link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do, for a broken link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The whole chain of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// NAMESPACE/NAME.
    pub service: String,
    /// The node that was asked, if one was.
    pub node: Option<String>,
    /// From Service to packet.
    pub links: Vec<ExplainLink>,
}

impl ExplainView {
    /// The first broken link.
    pub fn first_broken(&self) -> Option<&ExplainLink> {
        self.links
            .iter()
            .find(|link| link.state == LinkState::Broken)
    }
}

/// A Service as the API server has it.
#[derive(Debug, Clone, Default)]
pub struct ServiceFacts {
    /// `spec.type`.
    pub type_name: String,
    /// `spec.loadBalancerClass`, as written.
    pub class: Option<String>,
    /// The class is one of ours (or unset).
    pub is_our_class: bool,
    /// Its VIPs.
    pub vips: Vec<IpAddr>,
    /// Its conditions.
    pub conditions: Vec<ConditionView>,
    /// Backends in its EndpointSlices: active and all.
    pub n_backends: (usize, usize),
}

/// An L2 policy, seen from one Service.
#[derive(Debug, Clone, Default)]
pub struct PolicyFacts {
    /// Object name.
    pub name: String,
    /// Its service selector takes this Service, and it announces the kind of address that the Service has.
    pub selects_service: bool,
    /// Nodes that its node selector takes.
    pub nodes: Vec<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// What only the node's agent knows.
#[derive(Debug, Clone, Default)]
pub struct LocalFacts {
    /// Its node.
    pub node: String,
    /// The Service's frontends as programmed.
    pub frontends: Vec<FrontendView>,
    /// Its interfaces.
    pub interfaces: Vec<InterfaceView>,
    /// VIPs that this node's kernel answers for at this moment (the responder's deadline lies ahead).
    pub answering: Vec<IpAddr>,
    /// Forwarding is switched on; off beside another CNI.
    pub is_forwarding: bool,
}

/// Everything that the chain is judged by.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// NAMESPACE/NAME.
    pub service_name: String,
    /// `None`: it does not exist.
    pub service: Option<ServiceFacts>,
    /// Names of the pools, to say whether there is any; `None`: not known.
    pub pools: Option<Vec<String>>,
    /// Every policy.
    pub policies: Vec<PolicyFacts>,
    /// The Service's rows of `l2 list`.
    pub l2: Vec<L2Row>,
    /// The agent's part.
    pub local: Option<LocalFacts>,
}

/// Judges every link. Links behind the first broken one that depend on it are `unknown`.
pub fn explain(facts: &Facts, now: Timestamp) -> ExplainView {
    ExplainView {
        service: facts.service_name.clone(),
        node: facts.local.as_ref().map(|local| local.node.clone()),
        links: links::all(facts, now),
    }
}

impl Render for ExplainView {
    fn table(&self, _now: Timestamp) -> String {
        let mut out = match &self.node {
            Some(node) => format!("Service {}, seen from node {node}\n\n", self.service),
            None => format!(
                "Service {}, seen from the API server only\n\n",
                self.service
            ),
        };
        let first = self.links.iter().position(|l| l.state == LinkState::Broken);
        let rows = self.links.iter().enumerate().map(|(i, link)| {
            let mark = match link.state {
                LinkState::Ok => "ok",
                LinkState::Broken if Some(i) == first => "BROKEN",
                LinkState::Broken => "broken",
                LinkState::Unknown => "?",
            };
            [mark.to_owned(), link.name.clone(), link.detail.clone()]
        });
        out.push_str(&text::columns(&[], rows));
        out.push('\n');
        match self.first_broken() {
            None if self.links.iter().any(|l| l.state == LinkState::Unknown) => {
                out.push_str(
                    "No link is known to be broken; those marked ? could not be checked.\n",
                );
            }
            None => out.push_str("Every link holds.\n"),
            Some(link) => {
                let reason = link.reason.as_deref().unwrap_or("Broken");
                out.extend(["First broken link: ", &link.name, " (", reason, ")\n"]);
                if let Some(remedy) = &link.remedy {
                    out.extend(["What to do: ", remedy, "\n"]);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
