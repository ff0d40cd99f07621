//! Planned placement: which member an unowned group goes to, and what balance asks of an owner.

use super::{
    Engine,
    group::Phase,
    order::{self, MemberId, NodeId},
    peers::ME,
    table::MAX_PEERS,
};
use crate::{heartbeat::flags, time::BootTime};

/// How many groups are offered at a time for balance.
const MAX_OFFERS: usize = 64;

impl Engine {
    /// Members that groups could be planned on: slot, id, node, settled. This member is the last one.
    fn members(&self, now: BootTime) -> impl Iterator<Item = (u8, MemberId, NodeId, bool)> + '_ {
        let peers = self.alive().filter(|(_, peer)| !peer.is_leaving());
        let peers = peers.map(move |(slot, peer)| {
            let slot = u8::try_from(slot).unwrap_or(ME);
            let is_settled = peer.is_settled(&self.settings, now);
            (slot, peer.member, peer.node, is_settled)
        });
        let me = (ME, self.member, self.me.node, self.is_settled(now));
        let is_here = self.leave_until.is_none() && self.has_carrier;
        peers.chain(is_here.then_some(me))
    }

    /// Whether a member reaches its gateway, as far as it says; the engine's own word for this one.
    fn lacks_gateway(&self, slot: u8, now: BootTime) -> bool {
        if slot == ME {
            return self.has_lost_gateway(now);
        }
        self.peer(slot)
            .is_some_and(|peer| peer.flags & flags::GATEWAY_LOST != 0)
    }

    /// How many living members come before this one for a group, `except` apart and `first` in front. Settled ones come before others.
    pub(super) fn rank(
        &self,
        group: usize,
        except: Option<u8>,
        first: Option<u8>,
        now: BootTime,
    ) -> u8 {
        let key = self.table.groups[group].key;
        let place = |(slot, member, node, is_settled): (u8, MemberId, NodeId, bool)| {
            let is_first = first == Some(slot);
            let has_gateway = !self.lacks_gateway(slot, now);
            let weight = self.table.weight(group, node);
            let score = order::score(key, member);
            (is_first, is_settled, has_gateway, weight, score)
        };
        let mine = place((ME, self.member, self.me.node, self.is_settled(now)));
        let before = self
            .members(now)
            .filter(|(slot, _, node, _)| {
                *slot != ME && Some(*slot) != except && self.table.is_eligible(group, *node)
            })
            .filter(|member| place(*member) > mine)
            .count();
        u8::try_from(before).unwrap_or(u8::MAX)
    }

    /// Where a claim of the member in `slot` stands in the group's order.
    pub(super) fn score_of(&self, group: usize, slot: u8) -> (u64, MemberId) {
        let member = self.peer(slot).map_or(self.member, |peer| peer.member);
        order::score(self.table.groups[group].key, member)
    }

    /// Gives every unowned group a planned owner: weight, then rendezvous order with bounded load. The holder of its Lease comes first.
    pub(super) fn place(&mut self, now: BootTime) {
        let any_settled = self.members(now).any(|(.., is_settled)| is_settled);
        let n_members = self
            .members(now)
            .filter(|(.., is_settled)| *is_settled || !any_settled)
            .count();
        let bound = order::load_bound(self.table.groups.len(), n_members);
        self.count_loads();
        for group in 0..self.table.groups.len() {
            let state = &self.table.group_state[group];
            if state.holder.is_some() || matches!(state.phase, Phase::Owned | Phase::Offered { .. })
            {
                continue;
            }
            let row = &self.table.groups[group];
            let best = self
                .members(now)
                .filter(|(_, _, node, _)| self.table.is_eligible(group, *node))
                .max_by_key(|(slot, member, node, is_settled)| {
                    let has_room = (self.table.loads[load_at(*slot)] as usize) < bound;
                    (
                        *is_settled || !any_settled,
                        !self.lacks_gateway(*slot, now),
                        self.table.weight(group, *node),
                        has_room,
                        row.lease_holder == Some(*node),
                        order::score(row.key, *member),
                    )
                });
            let Some((slot, ..)) = best else {
                self.table.placed[group] = ME;
                continue;
            };
            self.table.loads[load_at(slot)] += 1;
            self.table.placed[group] = slot;
        }
    }

    fn count_loads(&mut self) {
        self.table.loads.fill(0);
        for state in &self.table.group_state {
            match (state.phase, state.holder) {
                (Phase::Owned | Phase::Offered { .. }, _) => self.table.loads[load_at(ME)] += 1,
                (_, Some(holder)) => self.table.loads[load_at(holder.slot)] += 1,
                _ => {}
            }
        }
    }

    /// An owner above the bound offers what is too much to settled members below it, those first that would rather be there. With failback
    /// it offers all that comes first elsewhere.
    pub(super) fn rebalance(&mut self, now: BootTime) {
        if now < self.rebalance_at {
            self.wake_by(self.rebalance_at);
            return;
        }
        self.rebalance_at = now + self.settings.gateway_ask;
        self.wake_by(self.rebalance_at);
        if self.leave_until.is_some() || !self.is_settled(now) || self.must_wait(now).is_some() {
            return;
        }
        self.count_loads();
        let n_settled = self.members(now).filter(|(.., settled)| *settled).count();
        let total: u32 = self.table.loads.iter().sum();
        let bound = order::load_bound(total as usize, n_settled);
        if self.settings.failback {
            for group in 0..self.table.groups.len() {
                self.offer_back(group, bound, now);
            }
        }
        let mine = self.table.loads[load_at(ME)] as usize;
        let excess = mine.saturating_sub(bound).min(MAX_OFFERS);
        let mut left = excess;
        // Two rounds: first the groups for which the target comes before us anyway.
        for is_willing in [true, false] {
            for group in 0..self.table.groups.len() {
                if left == 0 {
                    return;
                }
                if self.offer_for_balance(group, bound, is_willing, now) {
                    left -= 1;
                }
            }
        }
    }

    fn offer_for_balance(
        &mut self,
        group: usize,
        bound: usize,
        is_willing: bool,
        now: BootTime,
    ) -> bool {
        let state = &self.table.group_state[group];
        if state.phase != Phase::Owned || state.is_pinned {
            return false;
        }
        let mine = self.table.weight(group, self.me.node);
        let refused = state.refused.filter(|(_, until)| now < *until);
        let key = self.table.groups[group].key;
        let target = self
            .members(now)
            .filter(|(slot, _, node, is_settled)| {
                *slot != ME && *is_settled && self.table.is_eligible(group, *node)
            })
            .filter(|(_, _, node, _)| self.table.weight(group, *node) >= mine)
            .filter(|(slot, member, ..)| {
                let has_room = (self.table.loads[load_at(*slot)] as usize) < bound;
                let is_refused = refused.is_some_and(|(who, _)| who == *member);
                has_room && !is_refused && !self.lacks_gateway(*slot, now)
            })
            .filter(|(_, member, ..)| !is_willing || order::is_before(key, *member, self.member))
            .max_by_key(|(_, member, ..)| order::score(key, *member));
        let Some((slot, member, ..)) = target else {
            return false;
        };
        self.table.loads[load_at(slot)] += 1;
        self.offer(group, member, now);
        true
    }

    /// Offers a group to the settled member that comes first for it: the weightier; among equals the earlier in the order, if it has room.
    fn offer_back(&mut self, group: usize, bound: usize, now: BootTime) {
        let state = &self.table.group_state[group];
        // What has just come is not sent on: nodes may have heard of different weights for a moment.
        let has_come = now.since(state.since) < self.settings.settle;
        if state.phase != Phase::Owned || state.is_pinned || has_come {
            return;
        }
        let refused = state.refused.filter(|(_, until)| now < *until);
        let key = self.table.groups[group].key;
        let weight = |node: NodeId| self.table.weight(group, node);
        let place = |member: MemberId, node: NodeId| (weight(node), order::score(key, member));
        let mine = place(self.member, self.me.node);
        let target = self
            .members(now)
            .filter(|(slot, _, node, is_settled)| {
                *slot != ME && *is_settled && self.table.is_eligible(group, *node)
            })
            .filter(|(slot, member, node, _)| {
                let has_room = (self.table.loads[load_at(*slot)] as usize) < bound;
                let is_refused = refused.is_some_and(|(who, _)| who == *member);
                let is_weightier = weight(*node) > mine.0;
                (has_room || is_weightier) && !is_refused && !self.lacks_gateway(*slot, now)
            })
            .max_by_key(|(_, member, node, _)| place(*member, *node))
            .filter(|(_, member, node, _)| place(*member, *node) > mine);
        if let Some((slot, member, ..)) = target {
            self.table.loads[load_at(slot)] += 1;
            self.table.loads[load_at(ME)] = self.table.loads[load_at(ME)].saturating_sub(1);
            self.offer(group, member, now);
        }
    }

    /// The best member that would take a group from us, by settledness, gateway and order; `None` if nobody is heard that may.
    pub(super) fn best_successor(
        &self,
        group: usize,
        must_reach_gateway: bool,
        now: BootTime,
    ) -> Option<MemberId> {
        let refused = self.table.group_state[group]
            .refused
            .filter(|(_, until)| now < *until);
        let key = self.table.groups[group].key;
        self.members(now)
            .filter(|(slot, member, node, _)| {
                let says_ok = self
                    .peer(*slot)
                    .is_some_and(|peer| peer.flags & flags::GATEWAY_OK != 0);
                *slot != ME
                    && self.table.is_eligible(group, *node)
                    && refused.is_none_or(|(who, _)| who != *member)
                    && (says_ok || !must_reach_gateway)
            })
            .max_by_key(|(slot, member, node, is_settled)| {
                let has_gateway = !self.lacks_gateway(*slot, now);
                let weight = self.table.weight(group, *node);
                (*is_settled, has_gateway, weight, order::score(key, *member))
            })
            .map(|(_, member, ..)| member)
    }
}

/// Where a member's load is counted: its slot, this member behind all slots.
fn load_at(slot: u8) -> usize {
    usize::from(slot).min(MAX_PEERS)
}
