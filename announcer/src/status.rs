//! What the announcer shows: one row per address and interface, peers, policies; sentences for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use fairlead_model::{MacAddr, NodeName, ServiceName, Vip};
use fairlead_observe::{
    l2::{L2Event, L2Row},
    timestamp::Timestamp,
};

use crate::{
    ownership::{State, Why, order::NodeId},
    policy::PolicyVerdict,
};

/// Changes of owners and states, oldest first, at most [`HISTORY`] of them.
pub type History = std::collections::VecDeque<L2Event>;

/// Most changes that are kept: two moves of a thousand addresses.
pub const HISTORY: usize = 4_096;

/// Everything, replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct L2Status {
    /// By address, then interface.
    pub vips: BTreeMap<(Vip, String), VipStatus>,
    /// Members heard, by interface, then hardware address.
    pub peers: BTreeMap<(String, MacAddr), PeerStatus>,
    /// By interface.
    pub interfaces: BTreeMap<String, InterfaceStatus>,
    /// By name.
    pub policies: BTreeMap<String, PolicyVerdict>,
    /// Addresses for which this node has a responder entry, on any interface: what serves them must stay programmed (style.md I2).
    pub held: BTreeSet<Vip>,
    /// Where replies without a record belong: hardware address and interface of an address's former or present owner.
    pub handoff: BTreeMap<Vip, (MacAddr, u32)>,
}

impl L2Status {
    /// The rows of `fairlead l2 list`: one per address, interface and Service.
    pub fn rows(&self) -> Vec<L2Row> {
        let mut rows = Vec::new();
        for ((vip, interface), status) in &self.vips {
            let mut services: Vec<String> =
                status.services.iter().map(ToString::to_string).collect();
            if services.is_empty() {
                // Adopted, and the API has not been heard yet.
                services.push("-".to_owned());
            }
            rows.extend(services.into_iter().map(|service| L2Row {
                vip: *vip,
                service,
                owner: status.owner.clone(),
                is_self: status.is_self,
                interface: Some(interface.clone()),
                since: Some(Timestamp::from_system(status.since)),
                epoch: status.epoch,
                state: status.state.to_owned(),
                why: status.why.clone(),
                conflict: status.conflict.map(|mac| mac.to_string()),
            }));
        }
        rows
    }
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipStatus {
    /// Services that it belongs to, `NAMESPACE/NAME`.
    pub services: BTreeSet<ServiceName>,
    /// Its owner's name; a node that the API does not know appears as its number.
    pub owner: Option<String>,
    /// This node is the owner.
    pub is_self: bool,
    /// Since when the state holds.
    pub since: SystemTime,
    /// Epoch of the owner's claim.
    pub epoch: u64,
    /// One of [`State`]'s words.
    pub state: &'static str,
    /// One sentence.
    pub why: String,
    /// A stranger that answers for it.
    pub conflict: Option<MacAddr>,
}

/// A member of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name, or its number while the API does not know it.
    pub node: String,
    /// Its latest heartbeat that counts.
    pub last_heard: SystemTime,
    /// We hear each other.
    pub is_alive: bool,
    /// It would be given groups.
    pub is_settled: bool,
    /// It is about to go.
    pub is_leaving: bool,
}

/// An announcing interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// What keeps it from announcing, if anything.
    pub trouble: Option<String>,
    /// Its deadline cell.
    pub cell: u16,
    /// Index, while the interface exists.
    pub ifindex: Option<u32>,
    /// The wire is there.
    pub has_carrier: bool,
}

impl State {
    /// The closed word for status and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::HandingOver => "HandingOver",
            Self::Probing => "Probing",
            Self::Standby => "Standby",
            Self::Unowned => "Unowned",
            Self::Conflict => "Conflict",
        }
    }
}

/// Names of nodes, also of those that have left the API.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<NodeId, NodeName>);

impl Names {
    /// Learns names.
    pub fn learn<'a>(&mut self, names: impl Iterator<Item = &'a NodeName>) {
        for name in names {
            self.0
                .entry(NodeId::of(name))
                .or_insert_with(|| name.clone());
        }
    }

    /// The name, or the number of a node whose name was never seen.
    pub fn of(&self, node: NodeId) -> String {
        self.0.get(&node).map_or_else(
            || format!("node-{:016x}", node.0),
            |name| name.as_str().to_owned(),
        )
    }
}

/// Why, in one sentence without a full stop.
pub fn sentence(state: State, why: &Why, owner: Option<&str>, names: &Names) -> String {
    if state == State::Standby && !matches!(why, Why::Suspecting(_) | Why::StillHeard(_)) {
        let owner = owner.unwrap_or("a peer");
        return match why {
            Why::Superseded(_) => format!("{owner} has the better claim"),
            Why::GaveTo(_) => format!("handed over to {owner}"),
            _ => format!("{owner} claims it"),
        };
    }
    match why {
        Why::Starting => "not decided yet".to_owned(),
        Why::NotProgrammed => "the datapath does not serve it yet".to_owned(),
        Why::NotEligible => {
            "this node may not own it: not selected, excluded, or without a local backend"
                .to_owned()
        }
        Why::Listening => "listening before anything is taken".to_owned(),
        Why::Unsynced => "waiting for the claims of a peer".to_owned(),
        Why::StandingBy(0) => "first in line, about to probe".to_owned(),
        Why::StandingBy(1) => "one node comes first".to_owned(),
        Why::StandingBy(n) => format!("{n} nodes come first"),
        Why::Probing => "asking whether anybody answers".to_owned(),
        Why::NothingHeard => {
            "silent, but no frame of any other station has arrived either".to_owned()
        }
        Why::StillHeard(peer) => format!("{} still hears the owner", names.of(*peer)),
        Why::Answered(mac) => format!("{mac} answers without a claim known here"),
        Why::Conflict(mac) => format!("{mac}, which is none of our nodes, answers for it"),
        Why::First => "first in line, and nobody answered".to_owned(),
        Why::TookOver {
            from,
            silent,
            probes,
        } => format!(
            "took over from {}: silent for {} ms, {probes} probes unanswered",
            names.of(*from),
            silent.as_millis()
        ),
        Why::HandedOver(from) => format!("handed over by {}", names.of(*from)),
        Why::Adopted => "owned before the agent restarted, answered all the while".to_owned(),
        Why::Reacquired => "acquired anew after a missed deadline".to_owned(),
        Why::Expired => "this node's deadline passed, asking before answering again".to_owned(),
        Why::Superseded(peer) => format!("{} has the better claim", names.of(*peer)),
        Why::GaveTo(peer) => format!("handed over to {}", names.of(*peer)),
        Why::CarrierLost => "the interface has no carrier".to_owned(),
        Why::Suspecting(peer) => format!("{} is silent, its addresses are probed", names.of(*peer)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fairlead_model::NodeName;

    use super::{Names, sentence};
    use crate::ownership::{State, Why, order::NodeId};

    #[test]
    fn a_takeover_reads_as_a_sentence() {
        let name = NodeName::new("lb1").unwrap();
        let mut names = Names::default();
        names.learn(std::iter::once(&name));
        let why = Why::TookOver {
            from: NodeId::of(&name),
            silent: Duration::from_millis(215),
            probes: 3,
        };
        assert_eq!(
            sentence(State::Owner, &why, Some("lb2"), &names),
            "took over from lb1: silent for 215 ms, 3 probes unanswered"
        );
        assert_eq!(
            sentence(State::Standby, &Why::Starting, Some("lb2"), &names),
            "lb2 claims it"
        );
        assert_eq!(names.of(NodeId(10)), "node-000000000000000a");
    }
}
