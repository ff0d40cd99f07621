//! One ownership group's life: wait, probe, own, announce, let go.

use std::time::Duration;

use fairlead_model::MacAddr;

use super::{
    Action, Engine,
    claims::Holder,
    order::{self, MemberId, NodeId},
    peers::Life,
    report::{GroupReport, VipReport, Why},
};
use crate::time::BootTime;

/// What the silence that is being looked for permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Who did not take our offer, and until when it is not asked again.
    pub refused: Option<(MemberId, BootTime)>,
    pub offers: u8,
    /// Next of the repeats, and the time that they count from.
    announce_next: u8,
    announce_from: BootTime,
    announced_again: BootTime,
    /// Candidates as programmed last; `None` = write the entries.
    candidates: Option<u64>,
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
            refused: None,
            offers: 0,
            announce_next: u8::MAX,
            announce_from: BootTime::ZERO,
            announced_again: BootTime::ZERO,
            candidates: None,
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

    fn enter(&mut self, phase: Phase, why: Why, now: BootTime) {
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
    detect_sent: u8,
    detect_at: BootTime,
    /// A stranger answers for it.
    pub conflict: Option<MacAddr>,
    /// Who owned it before us, or owns it after us: where replies without a record belong.
    pub handoff: Option<MacAddr>,
    pub reported: VipReport,
}

/// Stand-downs before an earlier prober that never claims is no longer waited for.
const MAX_STAND_DOWNS: u8 = 3;
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

    /// The stranger turned out to be a peer not heard before, or a peer owns the group now.
    fn is_settled_conflict(&self, group: usize) -> bool {
        let mut macs = self
            .table
            .vips_of(group)
            .filter_map(|vip| self.table.vip_state[vip].conflict);
        self.table.group_state[group].holder.is_some()
            || macs.any(|mac| self.slot_of(mac).is_some())
    }

    /// Why this node may not take the group now, if so.
    fn obstacle(&self, group: usize) -> Option<Why> {
        if !self.has_carrier {
            return Some(Why::CarrierLost);
        }
        let is_programmed = |vip: usize| self.table.vips[vip].is_programmed;
        if !self.table.vips_of(group).any(is_programmed) {
            return Some(Why::NotProgrammed);
        }
        let may = self.leave_until.is_none() && self.table.is_eligible(group, self.me.node);
        (!may).then_some(Why::NotEligible)
    }

    /// A group that we neither own nor probe: is it our turn?
    fn consider(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        if let Some(why) = self.obstacle(group) {
            self.explain(group, why);
            return;
        }
        if self.take_offer(group, now, out) {
            return;
        }
        let state = &self.table.group_state[group];
        let (holder, hold_until) = (state.holder, state.hold_until);
        let turn = match holder {
            Some(holder) => self.turn_after_suspect(group, holder),
            None => self.turn_unowned(group, now),
        };
        let Some((at, kind)) = turn else {
            return;
        };
        let at = at.max(hold_until);
        if now < at {
            self.wake_by(at);
            return;
        }
        let mut probing = Probing::new(kind, now);
        if let ProbeKind::Takeover { slot } = kind {
            probing = self.takeover_probing(group, slot, probing);
        }
        let state = &mut self.table.group_state[group];
        state.enter(Phase::Probing(probing), Why::Probing, now);
        self.step_probing(group, probing, now, out);
    }

    /// When an unowned group is ours to probe: the placed owner at once, each later one after his turn had passed.
    fn turn_unowned(&mut self, group: usize, now: BootTime) -> Option<(BootTime, ProbeKind)> {
        if let Some(why) = self.must_wait(now) {
            self.explain(group, why);
            let listened = self.up_since + self.settings.listen;
            self.wake_by(if now < listened {
                listened
            } else {
                now + self.settings.beat
            });
            return None;
        }
        let was_ours = self
            .table
            .vips_of(group)
            .all(|vip| self.table.vip_state[vip].max_epoch > 0);
        let (kind, took) = if was_ours {
            let took = self.settings.probe_wait * u32::from(self.settings.probes);
            (ProbeKind::Quick, took)
        } else {
            let took = self.settings.dad_wait * u32::from(self.settings.dad_probes);
            (ProbeKind::Detect, took)
        };
        let rank = self.rank(group, None, Some(self.table.placed[group]), now);
        self.explain(group, Why::StandingBy(rank));
        let state = &self.table.group_state[group];
        let from = state.unowned_since.max(self.up_since + self.settings.listen);
        let at = if rank == 0 {
            from
        } else {
            from + took + self.settings.stagger * u32::from(rank)
        };
        Some((at, kind))
    }

    /// Says why, without disturbing since when.
    pub(super) fn explain(&mut self, group: usize, why: Why) {
        self.table.group_state[group].why = why;
    }

    fn step_probing(
        &mut self,
        group: usize,
        mut probing: Probing,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if self.is_probing_moot(group, &probing) || self.obstacle(group).is_some() {
            self.stop_probing(group, &probing, Why::Starting, now, out);
            return;
        }
        if probing.waits_for_frame {
            if self.heard_at <= probing.began {
                return;
            }
            probing = Probing {
                sent: 0,
                next_at: now,
                waits_for_frame: false,
                ..probing
            };
        }
        if now < probing.next_at {
            self.table.group_state[group].phase = Phase::Probing(probing);
            self.wake_by(probing.next_at);
            return;
        }
        let (rounds, wait) = match probing.kind {
            ProbeKind::Detect => (self.settings.dad_probes, self.settings.dad_wait),
            _ => (self.settings.probes, self.settings.probe_wait),
        };
        if probing.sent >= rounds {
            self.on_silence(group, probing, now, out);
            return;
        }
        self.probe_all(group, &probing, out);
        probing.sent += 1;
        probing.next_at = now + wait;
        self.table.group_state[group].phase = Phase::Probing(probing);
        self.wake_by(probing.next_at);
    }

    /// Somebody claimed it meanwhile, or the suspect is back.
    fn is_probing_moot(&self, group: usize, probing: &Probing) -> bool {
        let holder = self.table.group_state[group].holder;
        match probing.kind {
            ProbeKind::Takeover { slot } => {
                let is_suspect = self
                    .peer(slot)
                    .is_some_and(|peer| matches!(peer.life, Life::Suspect(_)));
                !is_suspect || holder.is_some_and(|holder| holder.slot != slot)
            }
            _ => holder.is_some_and(|holder| self.peer(holder.slot).is_some_and(|p| p.is_alive())),
        }
    }

    fn stop_probing(
        &mut self,
        group: usize,
        probing: &Probing,
        why: Why,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if probing.kind == ProbeKind::Adopt {
            self.release(group, why, None, now, out);
        } else {
            self.table.group_state[group].enter(Phase::Idle, why, now);
        }
        self.check_adoption();
        self.wake_by(now);
    }

    /// Asks for every address. The middle one of three rounds goes to the suspect alone, in case the segment lost its multicast.
    fn probe_all(&self, group: usize, probing: &Probing, out: &mut Vec<Action>) {
        let to = match probing.kind {
            ProbeKind::Takeover { slot } if probing.sent % 2 == 1 => {
                self.peer(slot).map(|peer| peer.mac)
            }
            _ => None,
        };
        for vip in self.table.vips_of(group) {
            let row = &self.table.vips[vip];
            if row.is_programmed || probing.kind == ProbeKind::Adopt {
                out.push(Action::Probe { vip: row.addr, to });
            }
        }
        if probing.sent == 0 && self.heard_at <= probing.began {
            out.push(Action::AskWitnesses);
        }
    }

    /// Nobody answered: does that permit to acquire?
    fn on_silence(
        &mut self,
        group: usize,
        mut probing: Probing,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let needs_frame = self.table.has_others(group, self.me.node);
        if needs_frame && self.heard_at <= probing.began {
            probing.waits_for_frame = true;
            let state = &mut self.table.group_state[group];
            state.phase = Phase::Probing(probing);
            state.why = Why::NothingHeard;
            return;
        }
        let why = match probing.kind {
            ProbeKind::Takeover { slot } => match self.takeover_reason(slot, &probing, now) {
                Ok(why) => why,
                Err(why) => {
                    probing.sent = 0;
                    probing.next_at = now + self.settings.suspect_probe;
                    let state = &mut self.table.group_state[group];
                    state.phase = Phase::Probing(probing);
                    state.why = why;
                    self.wake_by(probing.next_at);
                    return;
                }
            },
            ProbeKind::Detect | ProbeKind::Quick => Why::First,
            ProbeKind::Reacquire => Why::Reacquired,
            ProbeKind::Adopt => {
                let state = &mut self.table.group_state[group];
                state.enter(Phase::Owned, Why::Adopted, now);
                self.claims_changed = true;
                self.check_adoption();
                self.step_owned(group, now, out);
                return;
            }
        };
        self.acquire(group, why, None, now, out);
    }

    /// The deadline is renewed again once every adopted group is decided.
    fn check_adoption(&mut self) {
        let was_adopting = self.is_adopting;
        let is_adopting = |state: &GroupState| {
            matches!(&state.phase, Phase::Probing(p) if p.kind == ProbeKind::Adopt)
        };
        self.is_adopting =
            self.is_adopting && self.table.group_state.iter().any(is_adopting);
        if was_adopting && !self.is_adopting {
            // With the next heartbeat, which is due now: the next look at the deadline must find it ahead.
            self.beat_at = BootTime::ZERO;
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
            let is_given =
                only_of.is_none_or(|slot| self.table.claim(usize::from(slot), vip) > 0);
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

    fn step_owned(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        if !self.step_handover(group, now, out) {
            return;
        }
        self.update_entries(group, out);
        self.repeat_announcements(group, now, out);
        self.detect_joined(group, now, out);
    }

    /// Peers come and go: entries name those that could own the address instead.
    fn update_entries(&mut self, group: usize, out: &mut Vec<Action>) {
        let candidates = self.candidates(group);
        let state = &mut self.table.group_state[group];
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
        let candidates = self.candidates(group);
        let mut wake = BootTime::NEVER;
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let row = &self.table.vips[vip];
            let is_claimed = self
                .alive()
                .any(|(slot, _)| self.table.claim(slot, vip) > 0);
            if self.table.vip_state[vip].answering || !row.is_programmed || is_claimed {
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

    /// A station says that it has an address of ours, in answer to a probe or by itself.
    pub(super) fn on_answer(
        &mut self,
        vip: usize,
        mac: MacAddr,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let slot = self.slot_of(mac);
        self.suspect_answered(vip, slot);
        let group = self.table.vips[vip].group as usize;
        match self.table.group_state[group].phase {
            Phase::Probing(probing) => {
                if slot.is_none() {
                    self.conflict(group, vip, mac, now, out);
                    return;
                }
                // The owner, or its kernel, lives; or a peer owns it whose claim is on its way.
                self.stop_probing(group, &probing, Why::Answered(mac), now, out);
                self.table.group_state[group].hold_until = now + self.settings.offer_wait;
            }
            Phase::Owned | Phase::Offered { .. } => {
                let is_answering = self.table.vip_state[vip].answering;
                let state = &mut self.table.vip_state[vip];
                if slot.is_none() {
                    state.conflict = Some(mac);
                }
                if is_answering {
                    self.announce_again(group, now);
                } else {
                    state.detect_sent = 0;
                    state.detect_at = now + self.settings.conflict_retry;
                }
            }
            Phase::Idle | Phase::Conflict { .. } => {}
        }
    }

    /// A station is about to use an address of ours. The later of two peers stands down; a stranger is a conflict.
    pub(super) fn on_prober(&mut self, vip: usize, mac: MacAddr, now: BootTime) {
        let group = self.table.vips[vip].group as usize;
        let Phase::Probing(probing) = self.table.group_state[group].phase else {
            return;
        };
        if probing.kind == ProbeKind::Adopt {
            return;
        }
        let Some(slot) = self.slot_of(mac) else {
            self.table.vip_state[vip].conflict = Some(mac);
            let until = now + self.settings.conflict_retry;
            let state = &mut self.table.group_state[group];
            state.enter(Phase::Conflict { until }, Why::Conflict(mac), now);
            return;
        };
        let key = self.table.groups[group].key;
        let is_earlier = self
            .peer(slot)
            .is_some_and(|peer| order::is_before(key, peer.member, self.member));
        let state = &mut self.table.group_state[group];
        if !is_earlier || state.stand_downs >= MAX_STAND_DOWNS {
            return;
        }
        let took = match probing.kind {
            ProbeKind::Detect => self.settings.dad_wait * u32::from(self.settings.dad_probes),
            _ => self.settings.probe_wait * u32::from(self.settings.probes),
        };
        state.stand_downs += 1;
        state.hold_until = now + took + self.settings.stagger;
        state.enter(Phase::Idle, Why::StandingBy(1), now);
        self.wake_by(now);
    }

    fn conflict(
        &mut self,
        group: usize,
        vip: usize,
        mac: MacAddr,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        self.release(group, Why::Conflict(mac), None, now, out);
        self.table.vip_state[vip].conflict = Some(mac);
        let until = now + self.settings.conflict_retry;
        self.table.group_state[group].enter(Phase::Conflict { until }, Why::Conflict(mac), now);
        self.check_adoption();
        self.wake_by(until);
    }

    fn clear_conflicts(&mut self, group: usize) {
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            self.table.vip_state[vip].conflict = None;
        }
    }

    /// Slots of the peers that could own the group.
    fn candidates(&self, group: usize) -> u64 {
        let slots = self.peers.iter().enumerate();
        slots
            .filter_map(|(slot, peer)| Some((slot, peer.as_ref()?.node)))
            .filter(|(_, node)| self.table.is_eligible(group, *node))
            .fold(0, |mask, (slot, _)| mask | 1 << slot)
    }

    /// The node of a slot.
    pub(super) fn node_of(&self, slot: u8) -> NodeId {
        self.peer(slot).map_or(NodeId::default(), |peer| peer.node)
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
