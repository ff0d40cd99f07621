//! One ownership group's life: wait, probe, own, announce, let go.

use std::time::Duration;

use fairlead_model::MacAddr;

use super::{
    Action, Engine,
    claims::Holder,
    order::{MemberId, NodeId},
    report::{GroupReport, VipReport, Why},
};
use crate::time::BootTime;

/// What the silence that is being looked for permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum ProbeKind {
    /// First use of an address: RFC 5227, IPv6 DAD.
    Detect,
    /// An address that was ours and that nobody owns now.
    Quick,
    /// The owner is silent.
    Takeover { slot: u8 },
    /// Our own deadline passed.
    Reacquire,
    /// A former process owned it and the kernel still answers, past its deadline.
    Adopt,
}

/// Probing in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probing {
    pub kind: ProbeKind,
    /// Rounds sent.
    pub sent: u8,
    pub next_at: BootTime,
    /// Frames since then prove that the segment lives.
    pub began: BootTime,
    /// Silent, but nothing else was heard either: begins again with the first frame.
    pub waits_for_frame: bool,
}

/// Where a group stands on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Idle,
    Probing(Probing),
    Owned,
    /// Owned, and to be had.
    Offered {
        to: MemberId,
        until: BootTime,
    },
    /// A stranger answers.
    Conflict {
        until: BootTime,
    },
}

impl Phase {
    /// What survives when groups are regrouped.
    const fn weight(&self) -> u8 {
        match self {
            Self::Owned | Self::Offered { .. } => 3,
            Self::Probing(_) => 2,
            Self::Conflict { .. } => 1,
            Self::Idle => 0,
        }
    }
}

/// A group's state.
#[derive(Debug, Clone)]
pub(super) struct GroupState {
    pub phase: Phase,
    pub since: BootTime,
    pub why: Why,
    /// Of our claim, or of our last one.
    pub epoch: u64,
    /// The peers' claim that counts most.
    pub holder: Option<Holder>,
    pub unowned_since: BootTime,
    /// When our turn comes; `NEVER` = not computed.
    pub start_at: BootTime,
    /// Somebody answered or came first: nothing is begun before.
    pub hold_until: BootTime,
    pub stand_downs: u8,
    pub offer_from: Option<u8>,
    /// The offer was asked for.
    pub offer_is_pinned: bool,
    /// Who did not take our offer, and until when it is not asked again.
    pub refused: Option<(MemberId, BootTime)>,
    pub offers: u8,
    /// Moved here on request: stays.
    pub is_pinned: bool,
    /// Next of the repeats, and the time that they count from.
    pub announce_next: u8,
    pub announce_from: BootTime,
    pub announced_again: BootTime,
    /// Candidates as programmed last; `None` = write the entries.
    pub candidates: Option<u64>,
    /// Candidates as of the latest change of members or table.
    pub could_own: u64,
    pub reported: Option<GroupReport>,
}

impl Default for GroupState {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            since: BootTime::ZERO,
            why: Why::Starting,
            epoch: 0,
            holder: None,
            unowned_since: BootTime::ZERO,
            start_at: BootTime::NEVER,
            hold_until: BootTime::ZERO,
            stand_downs: 0,
            offer_from: None,
            offer_is_pinned: false,
            refused: None,
            offers: 0,
            is_pinned: false,
            announce_next: u8::MAX,
            announce_from: BootTime::ZERO,
            announced_again: BootTime::ZERO,
            candidates: None,
            could_own: 0,
            reported: None,
        }
    }
}

impl GroupState {
    /// Takes over from a group of the former table that shares an address; the weightier of several stays.
    pub(super) fn inherit(&mut self, from: &Self) {
        let epoch = self.epoch.max(from.epoch);
        if self.unowned_since == BootTime::ZERO || from.phase.weight() > self.phase.weight() {
            *self = from.clone();
            self.reported = None;
            // Its addresses may have changed: entries are written anew, probing begins anew.
            self.candidates = None;
            if let Phase::Probing(probing) = &mut self.phase {
                probing.sent = 0;
                probing.next_at = BootTime::ZERO;
            }
        }
        self.epoch = epoch;
    }

    /// Has the entries written again.
    pub(super) const fn reprogram(&mut self) {
        self.candidates = None;
    }

    pub(super) fn enter(&mut self, phase: Phase, why: Why, now: BootTime) {
        self.phase = phase;
        self.why = why;
        self.since = now;
        self.start_at = BootTime::NEVER;
    }
}

/// A VIP's state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct VipState {
    /// The kernel has our entry.
    pub answering: bool,
    /// Highest epoch seen, ours included.
    pub max_epoch: u64,
    /// Probes before first use, for an address that joined an owned group.
    pub detect_sent: u8,
    pub detect_at: BootTime,
    /// A stranger answers for it.
    pub conflict: Option<MacAddr>,
    /// When it was heard first, and while the address is owned: until when that holds without another answer.
    pub conflict_since: BootTime,
    pub conflict_until: BootTime,
    /// Who owned it before us, or owns it now, or is next in line after us: where replies without a record belong.
    pub handoff: Option<MacAddr>,
    pub reported: VipReport,
}

/// Stand-downs before an earlier prober that never claims is no longer waited for.
pub(super) const MAX_STAND_DOWNS: u8 = 3;
/// Least time between announcements that answer others' claims.
const DEFEND_EVERY: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes over what a former process of this node left answering.
    pub(super) fn adopt(
        &mut self,
        vip: std::net::IpAddr,
        epoch: u64,
        is_expired: bool,
        now: BootTime,
    ) {
        let Some(vip) = self.table.find(vip) else {
            return;
        };
        let vip_state = &mut self.table.vip_state[vip];
        vip_state.answering = true;
        // The caller has seen the entry; a release is what it must hear of.
        vip_state.reported.is_held = true;
        vip_state.max_epoch = epoch;
        let group = self.table.vips[vip].group as usize;
        let state = &mut self.table.group_state[group];
        state.epoch = epoch.max(1);
        state.unowned_since = now;
        let phase = if is_expired {
            Phase::Probing(Probing::new(ProbeKind::Adopt, now))
        } else {
            Phase::Owned
        };
        state.enter(phase, Why::Adopted, now);
    }

    /// Does what is due for one group.
    pub(super) fn step_group(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        match self.table.group_state[group].phase {
            Phase::Idle => self.consider(group, now, out),
            Phase::Probing(probing) => self.step_probing(group, probing, now, out),
            Phase::Owned | Phase::Offered { .. } => self.step_owned(group, now, out),
            Phase::Conflict { until } if now >= until || self.is_settled_conflict(group) => {
                let state = &mut self.table.group_state[group];
                state.enter(Phase::Idle, Why::Starting, now);
                state.unowned_since = now;
                self.clear_conflicts(group);
                self.wake_by(now);
            }
            Phase::Conflict { until } => self.wake_by(until),
        }
    }

    /// Claims the group with the highest epoch seen plus one, programs its addresses and announces them. `only_of` limits the addresses to
    /// those that a peer claims (it hands them over); the others are probed before use.
    pub(super) fn acquire(
        &mut self,
        group: usize,
        why: Why,
        only_of: Option<u8>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let mut highest = self.table.group_state[group].epoch;
        for vip in self.table.vips_of(group) {
            highest = highest.max(self.table.vip_state[vip].max_epoch);
        }
        let former = self.table.group_state[group].holder.map(|h| h.slot);
        let former_mac = former.and_then(|slot| self.peer(slot)).map(|p| p.mac);
        let epoch = highest + 1;
        let candidates = self.candidates(group);
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let row = &self.table.vips[vip];
            let is_given = only_of.is_none_or(|slot| self.table.claim(usize::from(slot), vip) > 0);
            if row.is_programmed && is_given {
                self.table.vip_state[vip].answering = true;
                self.table.vip_state[vip].max_epoch = epoch;
                self.table.vip_state[vip].conflict = None;
                out.push(Action::Program {
                    vip: row.addr,
                    epoch,
                    cell_epoch: self.cell_epoch,
                    candidates,
                });
                out.push(Action::Announce { vip: row.addr });
                let state = &mut self.table.vip_state[vip];
                state.handoff = former_mac.or(state.handoff);
            }
        }
        let state = &mut self.table.group_state[group];
        state.enter(Phase::Owned, why, now);
        state.epoch = epoch;
        state.candidates = Some(candidates);
        state.announce_next = 1;
        state.announce_from = now;
        state.stand_downs = 0;
        state.is_pinned = only_of.is_some() && state.offer_is_pinned;
        state.offer_from = None;
        state.offers = 0;
        state.refused = None;
        self.claims_changed = true;
        self.wake_by(now + self.settings.announce[1]);
    }

    /// Stops answering. `to` is the hardware address of the owner that follows.
    pub(super) fn release(
        &mut self,
        group: usize,
        why: Why,
        to: Option<MacAddr>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let mut was_answering = false;
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let state = &mut self.table.vip_state[vip];
            state.conflict = None;
            if std::mem::take(&mut state.answering) {
                was_answering = true;
                state.handoff = to.or(state.handoff);
                let vip = self.table.vips[vip].addr;
                out.push(Action::Unprogram { vip });
            }
        }
        let state = &mut self.table.group_state[group];
        if was_answering || state.phase != Phase::Idle {
            state.enter(Phase::Idle, why, now);
            state.unowned_since = now;
            state.candidates = None;
            state.announce_next = u8::MAX;
            state.is_pinned = false;
            self.claims_changed |= was_answering;
            self.is_dirty = true;
        }
    }

    /// Our deadline passed: what was owned is silent in the kernel and must be asked for.
    pub(super) fn expire(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        let phase = self.table.group_state[group].phase;
        if !matches!(phase, Phase::Owned | Phase::Offered { .. }) {
            return;
        }
        self.release(group, Why::Expired, None, now, out);
        let probing = Phase::Probing(Probing::new(ProbeKind::Reacquire, now));
        self.table.group_state[group].enter(probing, Why::Expired, now);
    }

    pub(super) fn step_owned(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        if !self.step_handover(group, now, out) {
            return;
        }
        self.update_entries(group, out);
        self.repeat_announcements(group, now, out);
        self.expire_conflicts(group, now);
        self.detect_joined(group, now, out);
    }

    /// A stranger that was not heard again no longer counts as one that answers.
    fn expire_conflicts(&mut self, group: usize, now: BootTime) {
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let state = &mut self.table.vip_state[vip];
            if state.conflict.is_none() {
                continue;
            }
            let until = state.conflict_until;
            if now < until {
                self.wake_by(until);
            } else {
                state.conflict = None;
            }
        }
    }

    /// Peers come and go: entries name those that could own the address instead.
    fn update_entries(&mut self, group: usize, out: &mut Vec<Action>) {
        let state = &mut self.table.group_state[group];
        let candidates = state.could_own;
        if state.candidates == Some(candidates) {
            return;
        }
        state.candidates = Some(candidates);
        let epoch = state.epoch;
        for vip in self.table.vips_of(group) {
            if self.table.vip_state[vip].answering {
                out.push(Action::Program {
                    vip: self.table.vips[vip].addr,
                    epoch,
                    cell_epoch: self.cell_epoch,
                    candidates,
                });
            }
        }
    }

    fn repeat_announcements(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        let state = &mut self.table.group_state[group];
        let due = |state: &GroupState, settings: &super::Settings| {
            let after = settings.announce.get(usize::from(state.announce_next))?;
            Some(state.announce_from + *after)
        };
        let Some(at) = due(state, &self.settings) else {
            return;
        };
        if now < at {
            self.wake_by(at);
            return;
        }
        state.announce_next += 1;
        let next = due(state, &self.settings);
        for vip in self.table.vips_of(group) {
            if self.table.vip_state[vip].answering {
                let vip = self.table.vips[vip].addr;
                out.push(Action::Announce { vip });
            }
        }
        if let Some(at) = next {
            self.wake_by(at);
        }
    }

    /// Starts the announcements over, at most once a second: somebody else spoke for an address of ours.
    pub(super) fn announce_again(&mut self, group: usize, now: BootTime) {
        let state = &mut self.table.group_state[group];
        let is_due = state.announced_again == BootTime::ZERO
            || now.since(state.announced_again) >= DEFEND_EVERY;
        if is_due {
            state.announced_again = now;
            state.announce_next = 0;
            state.announce_from = now;
            self.wake_by(now);
        }
    }

    /// Addresses that joined a group we own are probed before first use, each on its own.
    fn detect_joined(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        let epoch = self.table.group_state[group].epoch;
        let candidates = self.table.group_state[group].could_own;
        let mut wake = BootTime::NEVER;
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let row = &self.table.vips[vip];
            if self.table.vip_state[vip].answering || !row.is_programmed {
                continue;
            }
            if self
                .alive()
                .any(|(slot, _)| self.table.claim(slot, vip) > 0)
            {
                continue;
            }
            let state = &mut self.table.vip_state[vip];
            if now < state.detect_at {
                wake = wake.min(state.detect_at);
                continue;
            }
            state.conflict = None;
            if state.detect_sent < self.settings.dad_probes {
                state.detect_sent += 1;
                state.detect_at = now + self.settings.dad_wait;
                wake = wake.min(state.detect_at);
                out.push(Action::Probe {
                    vip: row.addr,
                    to: None,
                });
                continue;
            }
            state.detect_sent = 0;
            state.answering = true;
            state.max_epoch = state.max_epoch.max(epoch);
            self.claims_changed = true;
            out.push(Action::Program {
                vip: row.addr,
                epoch,
                cell_epoch: self.cell_epoch,
                candidates,
            });
            out.push(Action::Announce { vip: row.addr });
            let group_state = &mut self.table.group_state[group];
            group_state.announce_next = 1;
            group_state.announce_from = now;
            wake = wake.min(now + self.settings.announce[1]);
        }
        self.wake_by(wake);
    }

    /// Slots of the peers that could own the group.
    pub(super) fn candidates(&self, group: usize) -> u64 {
        let slots = self.peers.iter().enumerate();
        slots
            .filter_map(|(slot, peer)| Some((slot, peer.as_ref()?.node)))
            .filter(|(_, node)| self.table.is_eligible(group, *node))
            .fold(0, |mask, (slot, _)| mask | 1 << slot)
    }

    /// The node of a slot.
    pub(super) fn node_of(&self, slot: u8) -> NodeId {
        self.peer(slot)
            .map_or_else(NodeId::default, |peer| peer.node)
    }
}

impl Probing {
    pub(super) const fn new(kind: ProbeKind, now: BootTime) -> Self {
        Self {
            kind,
            sent: 0,
            next_at: now,
            began: now,
            waits_for_frame: false,
        }
    }
}
