//! What peers say they own, what we say, and whose claim counts.

use super::{Action, Engine, group::Phase, order, report::Why};
use crate::{
    heartbeat::{Claim, ClaimList, Header, MAX_CHUNKS, chunks_for},
    time::BootTime,
};

/// A claim list on its way in.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Assembly {
    version: u32,
    n_chunks: u16,
    missing: u16,
    digest: u64,
    seen: [u64; MAX_CHUNKS / 64],
}

impl Default for Assembly {
    fn default() -> Self {
        Self {
            version: 0,
            n_chunks: 0,
            missing: 0,
            digest: 0,
            seen: [0; MAX_CHUNKS / 64],
        }
    }
}

impl Assembly {
    /// Notes a chunk; false if it was there already.
    fn begin(&mut self, version: u32, chunk: u16, n_chunks: u16) -> bool {
        if (self.version, self.n_chunks) != (version, n_chunks) {
            *self = Self {
                version,
                n_chunks,
                missing: n_chunks,
                ..Self::default()
            };
        }
        let bit = 1u64 << (chunk % 64);
        let Some(word) = self.seen.get_mut(usize::from(chunk / 64)) else {
            return false;
        };
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.missing -= 1;
        true
    }
}

/// The claim of a group that counts most among the peers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub slot: u8,
    pub epoch: u64,
}

impl Engine {
    /// A part of a peer's list. Each claim counts at once; what the list no longer names goes when it is complete.
    pub(super) fn on_claims(
        &mut self,
        slot: usize,
        header: &Header,
        (chunk, n_chunks): (u16, u16),
        claims: ClaimList<'_>,
    ) {
        let Some(peer) = self.peers[slot].as_mut() else {
            return;
        };
        let version = header.claims_version;
        if peer.known_version == version || !peer.assembly.begin(version, chunk, n_chunks) {
            return;
        }
        self.is_dirty = true;
        let from = u8::try_from(slot).unwrap_or(u8::MAX);
        for claim in claims.iter() {
            peer.assembly.digest = peer.assembly.digest.wrapping_add(claim.digest());
            let Some(vip) = self.table.find(claim.vip) else {
                continue;
            };
            self.table.set_claim(slot, vip, claim.epoch, version);
            let group = self.table.vips[vip].group as usize;
            let state = &mut self.table.group_state[group];
            if claim.offered_to == Some(self.member) {
                state.offer_from = Some(from);
                state.offer_is_pinned = claim.is_pinned;
            } else if state.offer_from == Some(from) {
                state.offer_from = None;
            }
        }
        if peer.assembly.missing > 0 {
            return;
        }
        if peer.assembly.digest == header.claims_digest {
            peer.known_version = version;
            self.table.drop_claims(slot, Some(version));
        }
        peer.assembly = Assembly::default();
    }

    /// Draws a new version of our claims and their digest.
    pub(super) fn update_digest(&mut self) {
        self.claims_version = self.claims_version.wrapping_add(1).max(1);
        self.claims_digest = self
            .claims()
            .fold(0u64, |sum, claim| sum.wrapping_add(claim.digest()));
        self.claims_wanted = true;
    }

    /// Our claims, sorted by address.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        let rows = self.table.vips.iter().zip(&self.table.vip_state);
        rows.filter(|(_, state)| state.answering)
            .map(|(row, _)| (row, &self.table.group_state[row.group as usize]))
            .filter_map(|(row, group)| {
                let offered_to = match group.phase {
                    Phase::Owned => None,
                    Phase::Offered { to, .. } => Some(to),
                    Phase::Idle | Phase::Probing(_) | Phase::Conflict { .. } => return None,
                };
                Some(Claim {
                    vip: row.addr,
                    epoch: group.epoch,
                    offered_to,
                    is_pinned: group.is_pinned,
                })
            })
    }

    /// Parts that our claim list needs.
    pub fn n_claim_chunks(&self) -> usize {
        chunks_for(self.claims().count()).min(MAX_CHUNKS)
    }

    /// Recomputes what depends on claims and membership, and settles claims against ours.
    pub(super) fn refresh(&mut self, now: BootTime, out: &mut Vec<Action>) {
        // Settling a conflict makes things dirty again; it ends because each round releases a group.
        while std::mem::take(&mut self.is_dirty) {
            for group in 0..self.table.groups.len() {
                self.refresh_group(group, now, out);
            }
            self.place(now);
        }
    }

    fn refresh_group(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        let holder = self.find_holder(group);
        let could_own = self.candidates(group);
        let state = &mut self.table.group_state[group];
        if state.holder.is_some() && holder.is_none() {
            state.unowned_since = now;
        }
        if state.holder.map(|h| h.slot) != holder.map(|h| h.slot) && state.phase == Phase::Idle {
            state.since = now;
            if holder.is_some() {
                state.why = Why::Starting;
            }
        }
        state.holder = holder;
        state.could_own = could_own;
        state.start_at = BootTime::NEVER;
        let is_owned = matches!(state.phase, Phase::Owned | Phase::Offered { .. });
        self.foresee_handoff(group);
        if holder.is_some() && is_owned {
            self.settle(group, now, out);
        }
    }

    /// Replies without a record belong to who owns the address, or while that is us to who is next in line. Known before an address moves:
    /// a reply that comes with the first announcement must find it in the kernel.
    fn foresee_handoff(&mut self, group: usize) {
        let state = &self.table.group_state[group];
        let (holder, could_own) = (state.holder, state.could_own);
        let is_next = |slot: &u8| could_own & (1 << slot) != 0;
        let slots = 0..u8::try_from(super::table::MAX_PEERS).unwrap_or(u8::MAX);
        let next = slots
            .filter(is_next)
            .max_by_key(|slot| self.score_of(group, *slot));
        let mac_of = |engine: &Self, slot: u8| engine.peer(slot).map(|peer| peer.mac);
        let next = next.and_then(|slot| mac_of(self, slot));
        let holder = holder.and_then(|h| Some((usize::from(h.slot), mac_of(self, h.slot)?)));
        let mut cursor = self.table.first_vip(group);
        while let Some(vip) = cursor {
            cursor = self.table.next_vip(vip);
            let owner = holder.filter(|(slot, _)| self.table.claim(*slot, vip) > 0);
            let state = &mut self.table.vip_state[vip];
            if state.answering {
                state.handoff = state.handoff.or(next);
            } else if let Some((_, mac)) = owner {
                state.handoff = Some(mac);
            }
        }
    }

    /// The highest claim of a peer that lives or might; among equals the earlier in the order.
    fn find_holder(&self, group: usize) -> Option<Holder> {
        let mut best: Option<Holder> = None;
        for slot in 0..super::table::MAX_PEERS {
            let Some(peer) = &self.peers[slot] else {
                continue;
            };
            if !peer.may_own() {
                continue;
            }
            let epochs = self
                .table
                .vips_of(group)
                .map(|vip| self.table.claim(slot, vip));
            let Some(epoch) = epochs.max().filter(|epoch| *epoch > 0) else {
                continue;
            };
            let candidate = Holder {
                slot: u8::try_from(slot).unwrap_or(u8::MAX),
                epoch,
            };
            let is_better = best.is_none_or(|best| {
                (epoch, self.score_of(group, candidate.slot))
                    > (best.epoch, self.score_of(group, best.slot))
            });
            if is_better {
                best = Some(candidate);
            }
        }
        best
    }

    /// A peer claims what we own. On the same address the higher epoch wins, then the earlier in the order; the loser lets go at once.
    /// Addresses of one group that two nodes own (Services began to share) end with the winner, who is given the rest.
    fn settle(&mut self, group: usize, now: BootTime, out: &mut Vec<Action>) {
        for slot in 0..super::table::MAX_PEERS {
            let Some(peer) = &self.peers[slot] else {
                continue;
            };
            if !peer.may_own() {
                continue;
            }
            let (member, mac, node, is_alive) = (peer.member, peer.mac, peer.node, peer.is_alive());
            let mine = self.table.group_state[group].epoch;
            let mut common = self.table.vips_of(group).filter(|vip| {
                self.table.vip_state[*vip].answering && self.table.claim(slot, *vip) > 0
            });
            let Some(lowest) = common.clone().next() else {
                continue;
            };
            let theirs = common.try_fold(0, |max: u64, vip| {
                Some(max.max(self.table.claim(slot, vip)))
            });
            let theirs = theirs.unwrap_or(0);
            let key = self.table.vips[lowest].addr;
            let is_lost =
                theirs > mine || (theirs == mine && order::is_before(key, member, self.member));
            if is_lost {
                self.release(group, Why::Superseded(node), Some(mac), now, out);
                return;
            }
            if !is_alive {
                continue;
            }
            // The loser lets go when it hears us; neighbours that it may have reached hear us again, too.
            self.claims_wanted = true;
            self.announce_again(group, now);
        }
    }
}
