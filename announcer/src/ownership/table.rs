//! What may be owned on one segment, and what is known about it: static rows from the control side, state carried from table to table.
//!
//! The control side builds a table with every vector at its final size and hands it to the heartbeat thread, which only moves state into
//! it and gives the old one back: installing allocates and frees nothing there.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    group::{GroupState, VipState},
    order::NodeId,
};
use crate::time::BootTime;

/// Most members of a segment that a node tells apart, itself not counted; the slots of `PEERS`.
pub const MAX_PEERS: usize = fairlead_abi::l2::N_PEER_SLOTS as usize;

/// An ownership group as the control side describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its addresses and whether the datapath serves them (style.md I1); any order, never empty.
    pub vips: Vec<(IpAddr, bool)>,
    /// Nodes that may own it: selected by a policy, not excluded, with a local backend where the Service demands one.
    pub eligible: Vec<NodeId>,
    /// Nodes among these that are preferred, the weightier the more; every other weighs 0.
    pub weights: Vec<(NodeId, u32)>,
    /// Who holds its Lease: preferred where nobody owns the group.
    pub lease_holder: Option<NodeId>,
}

/// Who may own a group, sorted, with the weight of each.
pub(super) type Class = Vec<(NodeId, u32)>;

/// Keeps memory from being paged out.
pub trait KeepResident {
    /// Keeps the memory of a slice.
    fn keep<T>(&self, memory: &[T]);
}

/// A group's static row.
#[derive(Debug, Clone)]
pub(super) struct GroupRow {
    /// First of its VIPs in [`Table::vips`]: its key in the order.
    pub first: u32,
    /// Its lowest address, the key of the rendezvous order.
    pub key: IpAddr,
    /// Index into [`Table::classes`].
    pub class: u16,
    pub lease_holder: Option<NodeId>,
}

/// A VIP's static row.
#[derive(Debug, Clone)]
pub(super) struct VipRow {
    pub addr: IpAddr,
    pub group: u32,
    /// Next VIP of the same group, or `u32::MAX`.
    pub next: u32,
    /// The datapath serves it.
    pub is_programmed: bool,
}

/// Rows and state of one segment.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Table {
    /// Sorted by address.
    pub(super) vips: Vec<VipRow>,
    /// Sorted by key.
    pub(super) groups: Vec<GroupRow>,
    /// Distinct sets of eligible nodes.
    pub(super) classes: Vec<Class>,
    pub(super) vip_state: Vec<VipState>,
    pub(super) group_state: Vec<GroupState>,
    /// Epoch of `peer`'s claim to `vip` at `peer * vips.len() + vip`; 0 = none.
    pub(super) claims: Vec<u64>,
    /// Version of the peer's list that named the claim last.
    pub(super) stamps: Vec<u32>,
    /// Scratch of planned placement: groups per member.
    pub(super) loads: Vec<u32>,
    /// Placed owner of each unowned group (`peers::ME` or a slot).
    pub(super) placed: Vec<u8>,
}

impl Table {
    /// Builds the rows. An address in two specs makes them one group, with the nodes eligible for both.
    ///
    /// # Complexity
    /// O(n log n) in addresses; memory 12 bytes per address and peer slot.
    pub fn new(specs: &[GroupSpec]) -> Self {
        let merged = merge(specs);
        let mut classes: Vec<Class> = Vec::new();
        let mut groups = Vec::with_capacity(merged.len());
        let mut vips: Vec<VipRow> = Vec::new();
        for (index, spec) in merged.iter().enumerate() {
            let nodes = class_of(spec);
            let known = classes.iter().position(|class| *class == nodes);
            let class = known.unwrap_or_else(|| {
                classes.push(nodes);
                classes.len() - 1
            });
            groups.push(GroupRow {
                first: u32::MAX,
                key: spec.vips[0].0,
                class: u16::try_from(class).unwrap_or(u16::MAX),
                lease_holder: spec.lease_holder,
            });
            vips.extend(spec.vips.iter().map(|(addr, is_programmed)| VipRow {
                addr: *addr,
                group: u32::try_from(index).unwrap_or(u32::MAX),
                next: u32::MAX,
                is_programmed: *is_programmed,
            }));
        }
        vips.sort_by_key(|vip| vip.addr);
        for at in (0..vips.len()).rev() {
            let group = &mut groups[vips[at].group as usize];
            vips[at].next = group.first;
            group.first = u32::try_from(at).unwrap_or(u32::MAX);
        }
        let (n_vips, n_groups) = (vips.len(), groups.len());
        Self {
            vips,
            groups,
            classes,
            vip_state: vec![VipState::default(); n_vips],
            group_state: vec![GroupState::default(); n_groups],
            claims: vec![0; n_vips * MAX_PEERS],
            stamps: vec![0; n_vips * MAX_PEERS],
            loads: vec![0; MAX_PEERS + 1],
            placed: vec![0; n_groups],
        }
    }

    /// Shows every part of the memory that the heartbeat thread works on.
    pub fn keep_resident(&self, keeper: &impl KeepResident) {
        keeper.keep(&self.vips);
        keeper.keep(&self.groups);
        keeper.keep(&self.vip_state);
        keeper.keep(&self.group_state);
        keeper.keep(&self.claims);
        keeper.keep(&self.stamps);
        keeper.keep(&self.placed);
    }

    /// Each group: its lowest address, which names it in reports, and all of them.
    pub fn groups(&self) -> impl Iterator<Item = (IpAddr, Vec<IpAddr>)> + '_ {
        (0..self.groups.len()).map(|group| {
            let vips = self.vips_of(group).map(|vip| self.vips[vip].addr);
            (self.groups[group].key, vips.collect())
        })
    }

    /// Index of an address.
    pub(super) fn find(&self, addr: IpAddr) -> Option<usize> {
        self.vips.binary_search_by_key(&addr, |vip| vip.addr).ok()
    }

    /// VIPs of a group, lowest address first.
    pub(super) fn vips_of(&self, group: usize) -> VipsOf<'_> {
        VipsOf {
            vips: &self.vips,
            at: self.groups[group].first,
        }
    }

    /// First VIP of a group, for loops that change state ([`Table::next_vip`]).
    pub(super) fn first_vip(&self, group: usize) -> Option<usize> {
        self.vips_of(group).next()
    }

    /// The VIP after `vip` in its group.
    pub(super) fn next_vip(&self, vip: usize) -> Option<usize> {
        let next = self.vips.get(vip)?.next as usize;
        (next < self.vips.len()).then_some(next)
    }

    /// Whether a node may own a group.
    pub(super) fn is_eligible(&self, group: usize, node: NodeId) -> bool {
        self.find_eligible(group, node).is_some()
    }

    /// How much a node is preferred for a group.
    pub(super) fn weight(&self, group: usize, node: NodeId) -> u32 {
        self.find_eligible(group, node).unwrap_or(0)
    }

    fn find_eligible(&self, group: usize, node: NodeId) -> Option<u32> {
        let class = usize::from(self.groups[group].class);
        let nodes = self.classes.get(class)?;
        let at = nodes.binary_search_by_key(&node, |(id, _)| *id).ok()?;
        Some(nodes[at].1)
    }

    /// Whether nodes other than `node` may own a group.
    pub(super) fn has_others(&self, group: usize, node: NodeId) -> bool {
        let class = usize::from(self.groups[group].class);
        self.classes
            .get(class)
            .is_some_and(|nodes| nodes.iter().any(|(n, _)| *n != node))
    }

    pub(super) fn claim(&self, slot: usize, vip: usize) -> u64 {
        self.claims[slot * self.vips.len() + vip]
    }

    pub(super) fn set_claim(&mut self, slot: usize, vip: usize, epoch: u64, version: u32) {
        let at = slot * self.vips.len() + vip;
        self.claims[at] = epoch;
        self.stamps[at] = version;
        let state = &mut self.vip_state[vip];
        state.max_epoch = state.max_epoch.max(epoch);
    }

    /// Forgets the claims of a peer that the version `keep` of its list did not name; `None` forgets all.
    pub(super) fn drop_claims(&mut self, slot: usize, keep: Option<u32>) {
        let n = self.vips.len();
        for at in slot * n..(slot + 1) * n {
            if keep != Some(self.stamps[at]) {
                self.claims[at] = 0;
            }
        }
    }

    /// Takes the state of `old` for what both know. Addresses that `old` did not have begin anew; returns whether there are any.
    pub(super) fn carry(&mut self, old: &Self, now: BootTime) -> bool {
        let mut has_new = false;
        for vip in 0..self.vips.len() {
            let Some(was) = old.find(self.vips[vip].addr) else {
                has_new = true;
                continue;
            };
            self.vip_state[vip] = old.vip_state[was];
            for slot in 0..MAX_PEERS {
                self.claims[slot * self.vips.len() + vip] = old.claims[slot * old.vips.len() + was];
                self.stamps[slot * self.vips.len() + vip] = old.stamps[slot * old.vips.len() + was];
            }
            let group = self.vips[vip].group as usize;
            let from = &old.group_state[old.vips[was].group as usize];
            self.group_state[group].inherit(from);
        }
        for state in &mut self.group_state {
            if state.unowned_since == BootTime::ZERO {
                state.unowned_since = now;
            }
        }
        has_new
    }
}

/// See [`Table::vips_of`].
#[derive(Clone)]
pub(super) struct VipsOf<'a> {
    vips: &'a [VipRow],
    at: u32,
}

impl Iterator for VipsOf<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let at = self.at as usize;
        self.at = self.vips.get(at)?.next;
        Some(at)
    }
}

/// One spec per connected set of addresses, sorted by lowest address, addresses and nodes sorted.
fn merge(specs: &[GroupSpec]) -> Vec<GroupSpec> {
    let mut root: Vec<usize> = (0..specs.len()).collect();
    let mut seen: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate() {
        for (addr, _) in &spec.vips {
            let other = *seen.entry(*addr).or_insert(index);
            let (a, b) = (find(&mut root, other), find(&mut root, index));
            root[a.max(b)] = a.min(b);
        }
    }
    let mut merged: BTreeMap<usize, GroupSpec> = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate().filter(|(_, s)| !s.vips.is_empty()) {
        let mut spec = spec.clone();
        spec.eligible.sort_unstable();
        spec.eligible.dedup();
        match merged.entry(find(&mut root, index)) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(spec);
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                let group = occupied.get_mut();
                group
                    .eligible
                    .retain(|n| spec.eligible.binary_search(n).is_ok());
                group.vips.append(&mut spec.vips);
                group.weights.append(&mut spec.weights);
                group.lease_holder = group.lease_holder.or(spec.lease_holder);
            }
        }
    }
    let mut groups: Vec<GroupSpec> = merged.into_values().collect();
    for group in &mut groups {
        // An address that one Service has programmed and another not yet is answered: the packets have a place to go.
        group
            .vips
            .sort_unstable_by_key(|(addr, is_programmed)| (*addr, !*is_programmed));
        group.vips.dedup_by_key(|(addr, _)| *addr);
    }
    groups.sort_by_key(|group| group.vips[0].0);
    groups
}

/// The class of a merged spec: weights of Services that share an address add up.
fn class_of(spec: &GroupSpec) -> Class {
    let weight = |node: NodeId| {
        let own = spec.weights.iter().filter(|(of, _)| *of == node);
        own.fold(0u32, |sum, (_, weight)| sum.saturating_add(*weight))
    };
    let nodes = spec.eligible.iter();
    nodes.map(|node| (*node, weight(*node))).collect()
}

fn find(root: &mut [usize], mut at: usize) -> usize {
    while root[at] != at {
        root[at] = root[root[at]];
        at = root[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::{GroupSpec, Table};
    use crate::ownership::order::NodeId;

    fn spec(vips: &[&str], eligible: &[u64]) -> GroupSpec {
        GroupSpec {
            vips: vips.iter().map(|v| (v.parse().unwrap(), true)).collect(),
            eligible: eligible.iter().map(|n| NodeId(*n)).collect(),
            weights: Vec::new(),
            lease_holder: None,
        }
    }

    #[test]
    fn services_that_share_an_address_are_one_group_with_the_nodes_of_both() {
        let table = Table::new(&[
            spec(&["192.0.2.5", "2001:db8::5"], &[1, 2]),
            spec(&["192.0.2.1"], &[1]),
            spec(&["2001:db8::5", "192.0.2.9"], &[2, 3]),
        ]);
        assert_eq!(table.groups.len(), 2);
        let shared: Vec<String> = table
            .vips_of(1)
            .map(|v| table.vips[v].addr.to_string())
            .collect();
        assert_eq!(shared, ["192.0.2.5", "192.0.2.9", "2001:db8::5"]);
        let eligible: Vec<bool> = (1..4).map(|n| table.is_eligible(1, NodeId(n))).collect();
        assert_eq!(eligible, [false, true, false]);
    }

    #[test]
    fn a_service_without_addresses_is_no_group() {
        assert!(Table::new(&[spec(&[], &[1])]).groups.is_empty());
    }
}
