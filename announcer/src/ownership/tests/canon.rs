//! When two states of the simulated segment are the same: everything that decides what happens next, and nothing else.
//!
//! Points in time count from now and, once they are older than every timer of the model, all look alike; sequence numbers count from their
//! sender's latest. So a segment that has come to rest is one state, whatever led there. Structs are taken apart without `..`: a new field
//! does not compile until it is said here whether it matters.

use std::hash::{Hash, Hasher};

use super::sim::{Arrival, Kernel, Node, Sim};
use crate::{
    BootTime,
    heartbeat::{self, Body, Header},
    ownership::{
        Engine,
        group::{GroupState, Phase, Probing, VipState},
        peers::{Life, Peer, Suspicion},
        table::{MAX_PEERS, Table},
    },
};

/// Older than any timer of the model.
const OLD: i64 = 2_200_000_000;

/// A member's counters, from which others' knowledge of them counts.
struct Counters {
    node: u64,
    boot: u32,
    seq: u32,
    claims_version: u32,
}

/// What is being hashed, and what it is relative to.
struct Canon<'a, H> {
    now: BootTime,
    counters: Vec<Counters>,
    into: &'a mut H,
}

/// Hashes a state.
pub(super) fn hash<H: Hasher>(sim: &Sim, into: &mut H) {
    let counters = sim.nodes.iter().filter_map(|node| {
        let engine = node.engine.as_ref()?;
        Some(Counters {
            node: engine.me.node.0,
            boot: engine.me.boot,
            seq: engine.seq,
            claims_version: engine.claims_version,
        })
    });
    let mut canon = Canon {
        now: sim.now,
        counters: counters.collect(),
        into,
    };
    for (at, node) in sim.nodes.iter().enumerate() {
        canon.node(node);
        for spec in &sim.specs[at] {
            (&spec.eligible, &spec.weights).hash(canon.into);
        }
    }
    let mut queue: Vec<_> = sim.queue.iter().map(|entry| &entry.0).collect();
    queue.sort_unstable();
    for (at, _, to, arrival) in queue {
        canon.time(*at);
        to.hash(canon.into);
        canon.arrival(sim, arrival);
    }
    sim.broken.hash(canon.into);
    sim.fates.hash(canon.into);
    for since in [&sim.twice_since, &sim.twice_hung_since, &sim.dark_since] {
        for (vip, at) in since {
            vip.hash(canon.into);
            canon.time(*at);
        }
    }
}

impl<H: Hasher> Canon<'_, H> {
    fn time(&mut self, at: BootTime) {
        let relative = if at == BootTime::NEVER {
            i64::MAX
        } else if at > self.now {
            i64::try_from((at.since(self.now)).as_nanos()).unwrap()
        } else {
            -i64::try_from(self.now.since(at).as_nanos())
                .unwrap()
                .min(OLD)
        };
        relative.hash(self.into);
    }

    fn counters_of(&self, node: u64) -> (u32, u32, u32) {
        let found = self.counters.iter().find(|c| c.node == node);
        found.map_or((0, 0, 0), |c| (c.boot, c.seq, c.claims_version))
    }

    fn node(&mut self, node: &Node) {
        let Node {
            engine,
            kernel,
            is_powered,
            agent_frozen,
            machine_frozen,
            has_link,
            waiting,
            boots: _,
            control_answers,
            reports: _,
            vips: _,
        } = node;
        (engine.is_some(), is_powered, has_link, control_answers).hash(self.into);
        waiting.hash(self.into);
        for frozen in [agent_frozen, machine_frozen] {
            self.time((*frozen).max(self.now));
        }
        self.kernel(kernel);
        if let Some(engine) = engine {
            self.engine(engine);
        }
    }

    fn kernel(&mut self, kernel: &Kernel) {
        let Kernel {
            deadline,
            cell_epoch,
            entries,
            peers,
            seen,
        } = kernel;
        self.time(*deadline);
        (cell_epoch, entries, peers).hash(self.into);
        for (slot, at) in seen {
            (slot, at > deadline).hash(self.into);
        }
    }

    fn engine(&mut self, engine: &Engine) {
        let Engine {
            settings: _,
            me,
            member: _,
            table,
            peers,
            seq,
            recent,
            claims_version: _,
            claims_digest,
            claims_changed,
            claims_sent_at,
            claims_wanted,
            deadline,
            cell_epoch,
            up_since,
            heard_at,
            witnesses_at,
            has_carrier,
            gateways,
            gateway_seen: _,
            gateway_asked: _,
            gateway_since: _,
            leave_until,
            rebalance_at,
            beat_at,
            wake,
            is_dirty,
            is_adopting,
            twin,
        } = engine;
        assert!(gateways.is_empty(), "the model has no gateways");
        for recent in recent {
            seq.wrapping_sub(*recent).hash(self.into);
        }
        (claims_digest, claims_changed, claims_wanted, cell_epoch).hash(self.into);
        (has_carrier, is_dirty, is_adopting, twin).hash(self.into);
        for at in [
            claims_sent_at,
            deadline,
            up_since,
            heard_at,
            witnesses_at,
            rebalance_at,
            beat_at,
            wake,
        ] {
            self.time(*at);
        }
        self.time(leave_until.unwrap_or_default());
        leave_until.is_some().hash(self.into);
        for (slot, peer) in peers.iter().enumerate() {
            if let Some(peer) = peer {
                slot.hash(self.into);
                self.peer(peer, me.node.0);
            }
        }
        self.table(table, peers);
    }

    fn peer(&mut self, peer: &Peer, me: u64) {
        let Peer {
            member,
            node,
            mac: _,
            flags,
            boot,
            seq,
            is_verified,
            first_heard,
            last_any,
            last_fresh,
            life,
            unbroken_since,
            relapses,
            calls_us_unsettled,
            mutual,
            n_mutual,
            version,
            digest,
            known_version,
            unknown_since,
            assembly,
        } = peer;
        let _ = me;
        let (its_boot, its_seq, its_version) = self.counters_of(node.0);
        (member, flags, its_boot == *boot, its_seq.wrapping_sub(*seq)).hash(self.into);
        (is_verified, relapses.min(&1), calls_us_unsettled, digest).hash(self.into);
        mutual[..*n_mutual].hash(self.into);
        its_version.wrapping_sub(*version).hash(self.into);
        (
            *known_version == 0,
            its_version.wrapping_sub(*known_version),
        )
            .hash(self.into);
        assembly.hash(self.into);
        for at in [
            first_heard,
            last_any,
            last_fresh,
            unbroken_since,
            unknown_since,
        ] {
            self.time(*at);
        }
        std::mem::discriminant(life).hash(self.into);
        if let Life::Suspect(suspicion) = life {
            self.suspicion(suspicion);
        }
    }

    fn suspicion(&mut self, suspicion: &Suspicion) {
        let Suspicion {
            since,
            vip,
            sent,
            round_at,
            next_at,
            is_answered,
            silent_at,
        } = suspicion;
        (vip, sent, is_answered).hash(self.into);
        for at in [since, round_at, next_at, &silent_at.unwrap_or_default()] {
            self.time(*at);
        }
    }

    fn table(&mut self, table: &Table, peers: &[Option<Peer>]) {
        let Table {
            vips,
            groups: _,
            classes,
            vip_state,
            group_state,
            claims,
            stamps: _,
            loads: _,
            placed,
        } = table;
        (classes, placed).hash(self.into);
        for (row, state) in vips.iter().zip(vip_state) {
            row.is_programmed.hash(self.into);
            self.vip(state);
        }
        for state in group_state {
            self.group(state);
        }
        for (at, peer) in peers.iter().enumerate().take(MAX_PEERS) {
            if peer.is_some() {
                claims[at * vips.len()..(at + 1) * vips.len()].hash(self.into);
            }
        }
    }

    fn vip(&mut self, state: &VipState) {
        let VipState {
            answering,
            max_epoch,
            detect_sent,
            detect_at,
            conflict,
            conflict_since,
            conflict_until,
            handoff: _,
            reported: _,
        } = state;
        (answering, max_epoch, detect_sent, conflict).hash(self.into);
        for at in [detect_at, conflict_since, conflict_until] {
            self.time(*at);
        }
    }

    fn group(&mut self, state: &GroupState) {
        let GroupState {
            phase,
            since: _,
            why: _,
            epoch,
            holder,
            unowned_since,
            start_at,
            hold_until,
            stand_downs,
            offer_from,
            refused,
            offers,
            is_pinned,
            offer_is_pinned,
            announce_next,
            announce_from,
            announced_again,
            candidates,
            could_own,
            reported: _,
        } = state;
        (epoch, stand_downs, offer_from, offers, announce_next).hash(self.into);
        (candidates, could_own, is_pinned, offer_is_pinned).hash(self.into);
        holder
            .map(|holder| (holder.slot, holder.epoch))
            .hash(self.into);
        for at in [unowned_since, start_at, hold_until, announced_again] {
            self.time(*at);
        }
        if *announce_next < 4 {
            self.time(*announce_from);
        }
        if let Some((who, until)) = refused {
            who.hash(self.into);
            self.time(*until);
        }
        self.phase(phase);
    }

    fn phase(&mut self, phase: &Phase) {
        std::mem::discriminant(phase).hash(self.into);
        match phase {
            Phase::Idle | Phase::Owned => {}
            Phase::Offered { to, until } => {
                to.hash(self.into);
                self.time(*until);
            }
            Phase::Conflict { until } => self.time(*until),
            Phase::Probing(probing) => {
                let Probing {
                    kind,
                    sent,
                    next_at,
                    began,
                    waits_for_frame,
                } = probing;
                kind.hash(self.into);
                (sent, waits_for_frame).hash(self.into);
                self.time(*next_at);
                self.time(*began);
            }
        }
    }

    /// What is on its way.
    fn arrival(&mut self, sim: &Sim, arrival: &Arrival) {
        let Arrival::Datagram(bytes) = arrival else {
            arrival.hash(self.into);
            return;
        };
        let message = heartbeat::decode(bytes, std::slice::from_ref(&sim.key)).unwrap();
        let Header {
            flags,
            node,
            ifindex: _,
            boot,
            seq,
            mac: _,
            claims_version,
            claims_digest,
        } = message.header;
        let (its_boot, its_seq, its_version) = self.counters_of(node.0);
        (flags, node, its_boot == boot, its_seq.wrapping_sub(seq)).hash(self.into);
        (its_version.wrapping_sub(claims_version), claims_digest).hash(self.into);
        match message.body {
            Body::Beat(heard) => {
                for entry in heard.iter() {
                    (entry.member, entry.flags, entry.claims_version == 0).hash(self.into);
                    let of = self.counters.iter().find(|c| {
                        crate::ownership::order::MemberId::new(
                            crate::ownership::order::NodeId(c.node),
                            2,
                        ) == entry.member
                    });
                    let (seq, version) = of.map_or((0, 0), |c| (c.seq, c.claims_version));
                    (
                        seq.wrapping_sub(entry.echo),
                        version.wrapping_sub(entry.claims_version),
                    )
                        .hash(self.into);
                }
            }
            Body::Claims {
                chunk,
                n_chunks,
                claims,
            } => {
                (chunk, n_chunks).hash(self.into);
                for claim in claims.iter() {
                    (claim.vip, claim.epoch, claim.offered_to).hash(self.into);
                }
            }
        }
    }
}
