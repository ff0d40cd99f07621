//! Planned moves: the owner offers, the target acquires with the next epoch and announces, the owner hears the claim and lets go.

use std::time::Duration;

use super::{Action, Engine, group::Phase, order::MemberId, report::Why};
use crate::time::BootTime;

/// How long a target that did not take an offer is not asked again.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Offers that a node which may not own a group any more makes before it lets go without a successor.
const MAX_OFFERS: u8 = 3;

impl Engine {
    /// Puts a group up for `to`.
    pub(super) fn offer(&mut self, group: usize, to: MemberId, now: BootTime) {
        let until = now + self.settings.offer_wait;
        let state = &mut self.table.group_state[group];
        state.phase = Phase::Offered { to, until };
        state.offers = state.offers.saturating_add(1);
        self.claims_changed = true;
        self.wake_by(until);
    }

    /// Takes what a living peer offers us.
    pub(super) fn take_offer(
        &mut self,
        group: usize,
        now: BootTime,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(slot) = self.table.group_state[group].offer_from else {
            return false;
        };
        let is_holder = self.table.group_state[group]
            .holder
            .is_some_and(|holder| holder.slot == slot);
        let is_alive = self.peer(slot).is_some_and(super::peers::Peer::is_alive);
        if !is_holder || !is_alive {
            self.table.group_state[group].offer_from = None;
            return false;
        }
        let why = Why::HandedOver(self.node_of(slot));
        self.acquire(group, why, Some(slot), now, out);
        true
    }

    /// Follows up an offer, or makes one where this node should not go on owning. False if the group was let go.
    pub(super) fn step_handover(
        &mut self,
        group: usize,
        now: BootTime,
        out: &mut Vec<Action>,
    ) -> bool {
        if let Phase::Offered { to, until } = self.table.group_state[group].phase {
            let is_there = self.alive().any(|(_, p)| p.member == to && !p.is_leaving());
            if now < until && is_there {
                self.wake_by(until);
                return true;
            }
            let state = &mut self.table.group_state[group];
            state.phase = Phase::Owned;
            state.refused = Some((to, now + REFUSED_FOR));
            state.is_pinned = false;
            self.claims_changed = true;
        }
        if self.table.group_state[group].offer_from.is_some() {
            return self.take_rest(group, now);
        }
        let is_eligible = self.table.is_eligible(group, self.me.node);
        let has_lost_gateway = self.must_leave_gateway(now);
        if let Some(winner) = self.winner_of_rest(group, now) {
            self.offer(group, winner, now);
            return true;
        }
        if is_eligible && self.leave_until.is_none() && !has_lost_gateway {
            return true;
        }
        // What this node must give away goes wherever it is served best.
        self.table.group_state[group].is_pinned = false;
        let must_reach_gateway = is_eligible && self.leave_until.is_none();
        let offers = self.table.group_state[group].offers;
        match self.best_successor(group, must_reach_gateway, now) {
            Some(target) if is_eligible || offers < MAX_OFFERS => {
                self.offer(group, target, now);
                true
            }
            // What a policy no longer gives us is let go; what nobody takes at a clean stop goes on being answered.
            _ if !is_eligible => {
                self.release(group, Why::NotEligible, None, now, out);
                false
            }
            _ => true,
        }
    }

    /// We own a part of the group and are offered the rest: its addresses become claimable once the offerer's claim is ours.
    fn take_rest(&mut self, group: usize, now: BootTime) -> bool {
        let state = &mut self.table.group_state[group];
        let Some(slot) = state.offer_from.take() else {
            return true;
        };
        let mut highest = state.epoch;
        let former_mac = self.peer(slot).map(|peer| peer.mac);
        for vip in self.table.vips_of(group) {
            highest = highest.max(self.table.vip_state[vip].max_epoch);
        }
        // A new epoch over all addresses: the offerer hears it for its own and lets go.
        let epoch = highest + 1;
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let is_offered = self.table.claim(usize::from(slot), vip) > 0;
            let state = &mut self.table.vip_state[vip];
            let is_taken = is_offered && self.table.vips[vip].is_programmed;
            if is_taken && !state.answering {
                state.handoff = former_mac.or(state.handoff);
            }
            if state.answering || is_taken {
                state.answering = true;
                state.max_epoch = epoch;
            }
        }
        let state = &mut self.table.group_state[group];
        state.epoch = epoch;
        state.reprogram();
        state.announce_next = 0;
        state.announce_from = now;
        self.claims_changed = true;
        true
    }

    /// Two nodes own addresses of one group: the one with the lesser claim gives its part to the other.
    fn winner_of_rest(&self, group: usize, now: BootTime) -> Option<MemberId> {
        let state = &self.table.group_state[group];
        let holder = state.holder?;
        let peer = self.peer(holder.slot).filter(|peer| peer.is_alive())?;
        let has_refused = |(who, until): (MemberId, BootTime)| who == peer.member && now < until;
        if state.refused.is_some_and(has_refused) {
            return None;
        }
        let theirs = (holder.epoch, self.score_of(group, holder.slot));
        let mine = (state.epoch, self.score_of(group, super::peers::ME));
        (theirs > mine).then_some(peer.member)
    }
}
