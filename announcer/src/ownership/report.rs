//! What the engine shows to people: per group who owns it, since when and why.

use std::time::Duration;

use fairlead_model::MacAddr;

use super::{
    Engine,
    group::{Phase, ProbeKind},
    order::NodeId,
};
use crate::{heartbeat::flags, time::BootTime};

/// State of a group, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// This node answers.
    Owner,
    /// This node answers and has offered the group to a peer.
    HandingOver,
    /// This node asks whether anybody answers.
    Probing,
    /// A peer owns it.
    Standby,
    /// Nobody owns it.
    Unowned,
    /// A stranger answers for an address of it.
    Conflict,
}

/// Why it is so. Durations and nodes are for the sentence that people read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Why {
    /// Nothing has been decided yet.
    #[default]
    Starting,
    /// The datapath does not serve it yet.
    NotProgrammed,
    /// No policy selects this node for it, the node is excluded, or it has no local backend.
    NotEligible,
    /// This node is listening before it takes anything.
    Listening,
    /// A peer's claims are not known in full yet.
    Unsynced,
    /// Others come first; this many.
    StandingBy(u8),
    /// Probing before use.
    Probing,
    /// No frame of another station has arrived, so silence proves nothing.
    NothingHeard,
    /// Another peer still hears the suspect.
    StillHeard(NodeId),
    /// Somebody of ours answers without a claim known here.
    Answered(MacAddr),
    /// A stranger answers.
    Conflict(MacAddr),
    /// First in line for a group that nobody owned.
    First,
    /// The owner was silent.
    TookOver {
        /// The former owner.
        from: NodeId,
        /// How long nothing was heard of it.
        silent: Duration,
        /// Probes without an answer.
        probes: u8,
    },
    /// The owner gave it.
    HandedOver(NodeId),
    /// A former process of this node owned it, and the kernel went on answering.
    Adopted,
    /// Acquired anew after this node had missed its deadline.
    Reacquired,
    /// This node's deadline passed unrenewed.
    Expired,
    /// A peer's claim counts more.
    Superseded(NodeId),
    /// Given away.
    GaveTo(NodeId),
    /// The interface has no carrier.
    CarrierLost,
    /// The owner is silent, its addresses are being probed.
    Suspecting(NodeId),
}

/// A group's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupReport {
    /// Its state.
    pub state: State,
    /// Who owns it, if anybody.
    pub owner: Option<NodeId>,
    /// Epoch of the owner's claim, 0 without one.
    pub epoch: u64,
    /// Since when the state holds.
    pub since: BootTime,
    /// Why.
    pub why: Why,
}

/// What the kernel and other features need to know of an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VipReport {
    /// This node has an entry for it.
    pub is_held: bool,
    /// A stranger answers for it.
    pub conflict: Option<MacAddr>,
    /// Its former or present owner elsewhere.
    pub handoff: Option<MacAddr>,
}

/// A peer's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerReport {
    /// The node.
    pub node: NodeId,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its latest heartbeat that counts.
    pub last_heard: BootTime,
    /// We hear each other.
    pub is_alive: bool,
    /// It would be given groups.
    pub is_settled: bool,
    /// It is about to go.
    pub is_leaving: bool,
}

impl Engine {
    /// Passes each row that changed since it was last accepted to `accept`, with its group's lowest address; a row that is not accepted
    /// (the reader's queue is full) comes again. Allocates nothing.
    pub fn reports(&mut self, mut accept: impl FnMut(std::net::IpAddr, GroupReport) -> bool) {
        for group in 0..self.table.groups.len() {
            let report = self.group_report(group);
            if self.table.group_state[group].reported == Some(report) {
                continue;
            }
            if !accept(self.table.groups[group].key, report) {
                return;
            }
            self.table.group_state[group].reported = Some(report);
        }
    }

    /// The same for each address.
    pub fn vip_reports(&mut self, mut accept: impl FnMut(std::net::IpAddr, VipReport) -> bool) {
        let rows = self.table.vips.iter().zip(&mut self.table.vip_state);
        for (row, state) in rows {
            let report = VipReport {
                is_held: state.answering,
                conflict: state.conflict,
                handoff: state.handoff,
            };
            if state.reported == report {
                continue;
            }
            if !accept(row.addr, report) {
                return;
            }
            state.reported = report;
        }
    }

    /// Every member heard so far.
    pub fn peer_reports(&self, now: BootTime) -> impl Iterator<Item = PeerReport> + '_ {
        self.peers.iter().flatten().map(move |peer| PeerReport {
            node: peer.node,
            mac: peer.mac,
            last_heard: peer.last_fresh,
            is_alive: peer.is_alive(),
            is_settled: peer.is_settled(&self.settings, now),
            is_leaving: peer.flags & flags::LEAVING != 0,
        })
    }

    /// The row of one group.
    pub(super) fn group_report(&self, group: usize) -> GroupReport {
        let state = &self.table.group_state[group];
        let mine = (Some(self.me.node), state.epoch);
        let theirs = state
            .holder
            .and_then(|holder| Some((self.peer(holder.slot)?.node, holder.epoch)));
        let other = theirs.map_or((None, 0), |(node, epoch)| (Some(node), epoch));
        let (kind, (owner, epoch)) = match state.phase {
            Phase::Owned => (State::Owner, mine),
            Phase::Offered { .. } => (State::HandingOver, mine),
            Phase::Probing(probing) if probing.kind == ProbeKind::Adopt => (State::Probing, mine),
            Phase::Probing(_) => (State::Probing, other),
            Phase::Conflict { .. } => (State::Conflict, (None, 0)),
            Phase::Idle if theirs.is_some() => (State::Standby, other),
            Phase::Idle => (State::Unowned, (None, 0)),
        };
        GroupReport {
            state: kind,
            owner,
            epoch,
            since: state.since,
            why: state.why,
        }
    }
}
