//! Asking before answering: when our turn comes, what silence permits, and what an answer means.

use std::time::Duration;

use fairlead_model::MacAddr;

use super::{
    Action, Defence, Engine,
    group::{GroupState, MAX_STAND_DOWNS, Phase, ProbeKind, Probing},
    order,
    peers::{Life, Peer},
    report::Why,
};
use crate::time::BootTime;

/// A stranger that is heard again so long after its first claim has heard our defence and does not give way. What comes sooner belongs to
/// the first claim: stations announce several times.
const DEFENDED: Duration = Duration::from_millis(500);

impl Engine {
    /// The stranger turned out to be a peer not heard before, or a peer owns the group now.
    pub(super) fn is_settled_conflict(&self, group: usize) -> bool {
        let mut macs = self
            .table
            .vips_of(group)
            .filter_map(|vip| self.table.vip_state[vip].conflict);
        let holder = self.table.group_state[group].holder;
        holder.is_some_and(|holder| self.peer(holder.slot).is_some_and(Peer::is_alive))
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
    pub(super) fn consider(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
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
        let from = state
            .unowned_since
            .max(self.up_since + self.settings.listen);
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

    pub(super) fn step_probing(
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
                // An answer to the first question may have been lost, or nobody who was asked lives: a quiet segment is asked
                // until it shows itself, or this node would take nothing over until somebody happens to speak.
                self.ask_witnesses(now, out);
                self.wake_by(now + self.settings.suspect_probe);
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
        self.probe_all(group, &probing, now, out);
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
            _ => holder.is_some_and(|holder| self.peer(holder.slot).is_some_and(Peer::is_alive)),
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
    fn probe_all(&mut self, group: usize, probing: &Probing, now: BootTime, out: &mut Vec<Action>) {
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
            self.ask_witnesses(now, out);
        }
    }

    /// Asks the segment for a sign of life, once for all groups and suspects that wait for one.
    pub(super) fn ask_witnesses(&mut self, now: BootTime, out: &mut Vec<Action>) {
        if now >= self.witnesses_at {
            self.witnesses_at = now + self.settings.suspect_probe;
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
        let is_adopting = |state: &GroupState| matches!(&state.phase, Phase::Probing(p) if p.kind == ProbeKind::Adopt);
        self.is_adopting = self.is_adopting && self.table.group_state.iter().any(is_adopting);
        if was_adopting && !self.is_adopting {
            // With the next heartbeat, which is due now: the next look at the deadline must find it ahead.
            self.beat_at = BootTime::ZERO;
        }
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
                let state = &mut self.table.vip_state[vip];
                let is_answering = state.answering;
                if slot.is_none() {
                    if state.conflict.is_none() {
                        state.conflict_since = now;
                    }
                    state.conflict = Some(mac);
                    state.conflict_until = now + self.settings.conflict_retry;
                    let insists = now.since(state.conflict_since) >= DEFENDED;
                    let gives_way = match self.settings.defence {
                        Defence::Defend => false,
                        Defence::BackOff => insists,
                        Defence::Stop => true,
                    };
                    if is_answering && gives_way {
                        self.conflict(group, vip, mac, now, out);
                        return;
                    }
                }
                let state = &mut self.table.vip_state[vip];
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

    /// A station is about to use an address of ours. The later of two peers stands down; a stranger is a conflict before our first use, and
    /// afterwards somebody whom the next owner will answer.
    pub(super) fn on_prober(&mut self, vip: usize, mac: MacAddr, now: BootTime) {
        let group = self.table.vips[vip].group as usize;
        let Phase::Probing(probing) = self.table.group_state[group].phase else {
            return;
        };
        if probing.kind == ProbeKind::Adopt {
            return;
        }
        let Some(slot) = self.slot_of(mac) else {
            if probing.kind == ProbeKind::Detect {
                self.table.vip_state[vip].conflict = Some(mac);
                let until = now + self.settings.conflict_retry;
                let state = &mut self.table.group_state[group];
                state.enter(Phase::Conflict { until }, Why::Conflict(mac), now);
            }
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

    pub(super) fn clear_conflicts(&mut self, group: usize) {
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            self.table.vip_state[vip].conflict = None;
        }
    }
}
