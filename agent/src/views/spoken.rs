//! What this node says on Service objects: pure, from the snapshot, the owners, and what the load balancer found.

use std::collections::BTreeMap;

use fairlead_api::{
    condition::{Status, Wanted},
    names, view,
};
use fairlead_model::{NodeName, Service, ServiceName, Snapshot};
use fairlead_observe::{ConditionView, L2Row};
use fairlead_xdp_lb::problem::Problem;

/// Most findings in one message; the rest is counted.
const N_SHOWN: usize = 3;

/// Rows and findings by Service.
#[derive(Debug)]
pub struct Found<'a> {
    rows: BTreeMap<&'a str, Vec<&'a L2Row>>,
    problems: BTreeMap<&'a ServiceName, Vec<&'a Problem>>,
}

impl<'a> Found<'a> {
    /// Sorts them.
    pub fn new(l2: &'a [L2Row], problems: &'a [Problem]) -> Self {
        let mut found = Self {
            rows: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        for row in l2 {
            found
                .rows
                .entry(row.service.as_str())
                .or_default()
                .push(row);
        }
        for problem in problems {
            found
                .problems
                .entry(&problem.service)
                .or_default()
                .push(problem);
        }
        found
    }

    /// The Service's rows.
    pub fn rows(&self, name: &ServiceName) -> &[&'a L2Row] {
        self.rows
            .get(name.to_string().as_str())
            .map_or(&[], Vec::as_slice)
    }

    /// The conditions of one Service, whoever speaks for it.
    pub fn judge(&self, snapshot: &Snapshot, service: &Service) -> Vec<Wanted> {
        let rows = self.rows(&service.name);
        let problems = self
            .problems
            .get(&service.name)
            .map_or(&[][..], Vec::as_slice);
        let three = [
            announced(snapshot, service, rows),
            conflict(rows),
            forwarding(problems),
        ];
        three.into_iter().flatten().collect()
    }
}

/// The conditions of every Service that `node` speaks for: those that it owns and, of those that nobody owns, those where it comes first.
pub fn spoken(
    node: &NodeName,
    snapshot: &Snapshot,
    l2: &[L2Row],
    problems: &[Problem],
) -> BTreeMap<ServiceName, Vec<Wanted>> {
    let found = Found::new(l2, problems);
    let speaks = |service: &&Service| {
        speaker(snapshot, service, found.rows(&service.name)) == Some(node.as_str())
    };
    let own = snapshot.services.values().filter(speaks);
    own.map(|service| (service.name.clone(), found.judge(snapshot, service)))
        .collect()
}

/// As people are shown it.
pub fn view(wanted: &Wanted) -> ConditionView {
    ConditionView {
        type_: wanted.type_.to_owned(),
        status: wanted.status.as_str().to_owned(),
        reason: wanted.reason.clone(),
        message: wanted.message.clone(),
    }
}

/// The owner; without one, the first eligible node; without one of those, the first node.
fn speaker<'a>(snapshot: &'a Snapshot, service: &Service, rows: &[&'a L2Row]) -> Option<&'a str> {
    if let Some(owner) = rows.iter().find_map(|row| row.owner.as_deref()) {
        return Some(owner);
    }
    let policies = || {
        snapshot
            .l2_policies
            .values()
            .filter(|p| view::selects(p, service))
    };
    let is_eligible = |node: &&fairlead_model::Node| {
        let by = |policy: &fairlead_model::L2Policy| {
            policy
                .node_selector
                .as_ref()
                .is_ok_and(|s| s.matches(&node.labels))
        };
        !node.is_excluded && policies().any(by)
    };
    let first = snapshot.nodes.values().find(is_eligible);
    first
        .or_else(|| snapshot.nodes.values().next())
        .map(|node| node.name.as_str())
}

fn wanted(type_: &'static str, status: Status, reason: &str, message: String) -> Wanted {
    Wanted {
        type_,
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: None,
    }
}

/// `False` while an address that should be announced is not.
fn announced(snapshot: &Snapshot, service: &Service, rows: &[&L2Row]) -> Option<Wanted> {
    let no = |reason: &str, message: String| {
        Some(wanted(
            names::condition::ANNOUNCED,
            Status::False,
            reason,
            message,
        ))
    };
    if service.vips().is_empty() {
        return None;
    }
    let is_selected = snapshot
        .l2_policies
        .values()
        .any(|p| view::selects(p, service));
    if !is_selected {
        // Without any policy nobody asked for announcements, e.g. where routes lead to the VIPs.
        if snapshot.l2_policies.is_empty() {
            return None;
        }
        return no(
            "NoPolicy",
            "no CiliumL2AnnouncementPolicy selects this Service".to_owned(),
        );
    }
    let silent = rows.iter().find(|row| row.owner.is_none())?;
    let reason = match silent.state.as_str() {
        "Conflict" => "AddressConflict",
        _ => "NoOwner",
    };
    no(reason, format!("{}: {}", silent.vip, silent.why))
}

/// `True` while a stranger uses an address.
fn conflict(rows: &[&L2Row]) -> Option<Wanted> {
    let row = rows.iter().find(|row| row.state == "Conflict")?;
    Some(wanted(
        names::condition::ADDRESS_CONFLICT,
        Status::True,
        "AddressConflict",
        format!("{}: {}", row.vip, row.why),
    ))
}

/// `False` while packets are not forwarded as the Service says; the gravest finding gives the reason.
fn forwarding(problems: &[&Problem]) -> Option<Wanted> {
    let gravest = problems
        .iter()
        .find(|p| p.reason.blocks_programming())
        .or_else(|| problems.first())?;
    // The condition's own reason is not repeated in front of each finding.
    let shown = problems.iter().take(N_SHOWN).map(|p| {
        if p.reason == gravest.reason {
            p.message.clone()
        } else {
            format!("{}: {}", p.reason, p.message)
        }
    });
    let mut message: Vec<String> = shown.collect();
    if problems.len() > N_SHOWN {
        message.push(format!("and {} more", problems.len() - N_SHOWN));
    }
    Some(wanted(
        names::condition::FORWARDING,
        Status::False,
        gravest.reason.as_str(),
        message.join("; "),
    ))
}

#[cfg(test)]
mod tests;
