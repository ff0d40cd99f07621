//! Services as the load balancer holds them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{render::Render, text, timestamp::Timestamp};

/// A condition of an object, with the fields of Kubernetes' `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionView {
    /// E.g. `fairlead.io/Announced`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Closed CamelCase word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// One target of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// Where it listens.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// `Active`, `Terminating` or `NotReady`.
    pub state: String,
    /// The node that hosts it, if known.
    pub node: Option<String>,
    /// How packets reach it: `snat`, `dsr-l2`, `dsr-ipip`.
    pub mode: Option<String>,
    /// MAC address of the next hop; `None` while it is not resolved.
    pub next_hop: Option<String>,
    /// Interface towards it.
    pub interface: Option<String>,
    /// Why it gets no packets, if it gets none.
    pub problem: Option<String>,
}

impl BackendView {
    /// Takes new flows and can be reached.
    pub fn is_serving(&self) -> bool {
        self.state == "Active" && self.next_hop.is_some() && self.problem.is_none()
    }
}

/// What a client dials, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendView {
    /// `192.0.2.1:80/TCP`.
    pub frontend: String,
    /// The address.
    pub vip: IpAddr,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// Mode in words: `auto`, `snat`, `dsr-l2`, `dsr-ipip`.
    pub mode: String,
    /// It is in the kernel's tables.
    pub is_programmed: bool,
    /// Maglev slots; `None` until programmed.
    pub table_size: Option<u32>,
    /// Packets forwarded by this node since it was programmed.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

/// One Service of type LoadBalancer (or with external addresses).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its VIPs.
    pub vips: Vec<IpAddr>,
    /// Owner of its VIPs, `None` if there is none.
    pub owner: Option<String>,
    /// What clients dial.
    pub frontends: Vec<FrontendView>,
    /// Conditions as this node sees them.
    pub conditions: Vec<ConditionView>,
}

impl ServiceView {
    /// The first condition that says no, as `Reason: message`.
    fn problem(&self) -> Option<String> {
        let bad = self.conditions.iter().find(|c| c.status == "False")?;
        Some(format!("{}: {}", bad.reason, bad.message))
    }
}

impl Render for Vec<ServiceView> {
    fn table(&self, _now: Timestamp) -> String {
        if self.is_empty() {
            return "No Service of type LoadBalancer exists.\n".to_owned();
        }
        let mut rows: Vec<[String; 6]> = Vec::new();
        for service in self {
            let name = format!("{}/{}", service.namespace, service.name);
            let owner = service.owner.clone().unwrap_or_else(|| "none".to_owned());
            if service.frontends.is_empty() {
                let [dash_a, dash_b, dash_c] = [(); 3].map(|()| "-".to_owned());
                rows.push([name, "<pending>".to_owned(), dash_a, dash_b, owner, dash_c]);
                continue;
            }
            for frontend in &service.frontends {
                let n_serving = frontend.backends.iter().filter(|b| b.is_serving()).count();
                rows.push([
                    name.clone(),
                    frontend.frontend.clone(),
                    frontend.mode.clone(),
                    format!("{n_serving}/{}", frontend.backends.len()),
                    owner.clone(),
                    text::grouped(frontend.packets),
                ]);
            }
        }
        let header = [
            "SERVICE", "FRONTEND", "MODE", "BACKENDS", "OWNER", "PACKETS",
        ];
        let mut text = text::columns(&header, rows);
        let problems = self.iter().filter_map(|service| {
            let problem = service.problem()?;
            Some(format!(
                "{}/{}: {problem}\n",
                service.namespace, service.name
            ))
        });
        let problems: String = problems.collect();
        if !problems.is_empty() {
            text.push('\n');
            text.push_str(&problems);
        }
        text
    }
}
