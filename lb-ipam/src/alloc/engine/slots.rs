//! Addresses one by one: who claims each in its status, and who of them may keep it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Bound,
};

use fairlead_api::convert::check_vip;
use fairlead_model::{IpRange, ServiceName};

use super::{Engine, Entry, Id, Services, Step};
use crate::alloc::{
    Family, ServiceInput,
    pools::Landscape,
    runs::Runs,
    sharing::{Incompatible, compatible},
};

/// One address that somebody has, had or will have.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// Whose status names it.
    claimants: Vec<Id>,
    /// Whose write under way takes it out of the status.
    releasing: Vec<Id>,
    /// Who keeps it or was given it.
    holders: Vec<Id>,
    /// Who still has a shared address in its status and is about to leave it to the others.
    leaving: Vec<Id>,
    /// Somebody we do not serve has it, or it is not yet released: taken, and never shared.
    is_closed: bool,
    /// Closed, but not for long.
    is_releasing: bool,
}

impl Slot {
    const fn is_taken(&self) -> bool {
        !self.holders.is_empty() || self.is_closed
    }
}

/// The addresses that are not free, and whose they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    by_ip: BTreeMap<IpAddr, Slot>,
    by_key: HashMap<String, BTreeMap<IpAddr, usize>>,
    taken: Runs,
    /// As counted in the pools.
    releasing: Runs,
}

impl Slots {
    pub(super) const fn taken(&self) -> &Runs {
        &self.taken
    }

    /// Who has the address, in order.
    pub(super) fn of(&self, ip: IpAddr) -> &[Id] {
        self.by_ip.get(&ip).map_or(&[], |slot| &slot.holders)
    }

    /// Whether somebody is about to let the address go.
    pub(super) fn is_releasing(&self, ip: IpAddr) -> bool {
        let slot = self.by_ip.get(&ip);
        slot.is_some_and(|s| (s.is_closed && s.is_releasing) || !s.leaving.is_empty())
    }

    /// Addresses held under the key, ascending.
    pub(super) fn under_key(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        let held = self.by_key.get(key).filter(|_| !key.is_empty());
        held.into_iter().flat_map(|ips| ips.keys().copied())
    }

    /// Addresses of the range that somebody has, with who holds them, ascending.
    pub(super) fn within(&self, range: &IpRange) -> impl Iterator<Item = (IpAddr, &[Id])> {
        let bounds = (
            Bound::Included(range.first()),
            Bound::Included(range.last()),
        );
        let slots = self.by_ip.range(bounds);
        slots.map(|(ip, slot)| (*ip, slot.holders.as_slice()))
    }

    /// # Errors
    /// Why `service` may not hold `ip` beside those who do, and beside those who have not left yet.
    pub(super) fn may_hold(
        &self,
        ip: IpAddr,
        service: &ServiceInput,
        services: &Services,
    ) -> Result<(), Incompatible> {
        let Some(slot) = self.by_ip.get(&ip) else {
            return Ok(());
        };
        if slot.is_closed {
            return Err(Incompatible::Key);
        }
        let others = slot.holders.iter().chain(&slot.leaving);
        may_share(others, service, services)
    }

    fn count_key(&mut self, key: &str, ip: IpAddr, is_more: bool) {
        if key.is_empty() {
            return;
        }
        if is_more {
            let ips = self.by_key.entry(key.to_owned()).or_default();
            *ips.entry(ip).or_default() += 1;
            return;
        }
        let Some(ips) = self.by_key.get_mut(key) else {
            return;
        };
        if let Some(n) = ips.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                ips.remove(&ip);
            }
        }
        if ips.is_empty() {
            self.by_key.remove(key);
        }
    }
}

fn may_share<'a>(
    mut others: impl Iterator<Item = &'a Id>,
    service: &ServiceInput,
    services: &Services,
) -> Result<(), Incompatible> {
    others.try_for_each(|id| {
        let other = &services.at(*id).input;
        if other.name == service.name {
            return Ok(());
        }
        compatible(other, service)
    })
}

/// Who keeps an address before whom: edited ones last, then those that lack nothing, the oldest, the first by name.
fn rank(entry: &Entry) -> (bool, bool, i64, &ServiceName) {
    let input = &entry.input;
    (
        input.is_edited,
        !entry.want.is_covered(&input.ingress),
        input.created,
        &input.name,
    )
}

/// Whether the Service may keep the address as far as the pools and its own wishes go.
fn is_valid(entry: &Entry, ip: IpAddr, land: &Landscape) -> bool {
    entry.is_ours
        && entry.want.allows(ip)
        && check_vip(ip).is_ok()
        && land.may_keep(ip, &entry.input)
}

impl Engine {
    /// Enters what the Service's status claims.
    pub(super) fn attach(&mut self, id: Id, step: &mut Step) {
        let entry = self.services.at(id);
        for ip in &entry.input.ingress {
            let slot = self.slots.by_ip.entry(*ip).or_default();
            if !slot.claimants.contains(&id) {
                slot.claimants.push(id);
            }
            step.addresses.insert(*ip);
        }
        for ip in &entry.input.releasing {
            self.slots.by_ip.entry(*ip).or_default().releasing.push(id);
            step.addresses.insert(*ip);
        }
        step.services.insert(id);
    }

    /// Takes out what the Service claims and holds.
    pub(super) fn detach(&mut self, id: Id, step: &mut Step) {
        self.waiting.remove(id, self.services.at(id));
        let entry = self.services.at_mut(id);
        entry.n_kept = 0;
        let held = std::mem::take(&mut entry.held);
        let input = &entry.input;
        for ip in input.ingress.iter().chain(&input.releasing) {
            if let Some(slot) = self.slots.by_ip.get_mut(ip) {
                slot.claimants.retain(|other| *other != id);
                slot.releasing.retain(|other| *other != id);
                slot.leaving.retain(|other| *other != id);
                step.addresses.insert(*ip);
            }
        }
        for ip in held {
            if let Some(slot) = self.slots.by_ip.get_mut(&ip) {
                slot.holders.retain(|other| *other != id);
                self.slots.count_key(&input.sharing.key, ip, false);
                step.addresses.insert(ip);
            }
        }
        if !input.sharing.key.is_empty() {
            step.keys.insert(input.sharing.key.clone());
        }
    }

    /// Decides anew who keeps each address that changed, and refreshes what the Services concerned hold.
    pub(super) fn settle(&mut self, step: &mut Step) {
        for ip in std::mem::take(&mut step.addresses) {
            self.settle_one(ip, step);
            step.services.extend(self.waiting.for_address(ip));
        }
        for id in &step.services {
            let entry = self.services.at_mut(*id);
            let holds = |ip: &IpAddr| self.slots.of(*ip).contains(id);
            let mut held: Vec<IpAddr> = Vec::with_capacity(entry.held.len());
            for ip in entry.input.ingress.iter().filter(|ip| holds(ip)) {
                if !held.contains(ip) {
                    held.push(*ip);
                }
            }
            let n_kept = held.len();
            let given = entry.held.iter().copied().filter(holds);
            let given: Vec<IpAddr> = given.filter(|ip| !held.contains(ip)).collect();
            held.extend(given);
            entry.held = held;
            entry.n_kept = n_kept;
        }
    }

    fn settle_one(&mut self, ip: IpAddr, step: &mut Step) {
        let Some(mut slot) = self.slots.by_ip.remove(&ip) else {
            return;
        };
        let before = std::mem::take(&mut slot.holders);
        step.services.extend(&before);
        step.services.extend(&slot.claimants);
        let services = &self.services;
        let mut claimants = slot.claimants.clone();
        claimants.sort_by(|a, b| rank(services.at(*a)).cmp(&rank(services.at(*b))));
        let holders = self.keepers(ip, &claimants, &before);
        slot.leaving.clear();
        (slot.is_closed, slot.is_releasing) = (false, false);
        claimants.extend(&slot.releasing);
        for id in claimants.iter().filter(|id| !holders.contains(id)) {
            let entry = services.at(*id);
            let is_released = entry.is_ours || entry.input.has_our_addresses();
            if holders.is_empty() {
                slot.is_closed = true;
                slot.is_releasing |= is_released;
            } else if is_released {
                slot.leaving.push(*id);
            }
        }
        for (ids, is_more) in [(&before, false), (&holders, true)] {
            for id in ids {
                let key = &services.at(*id).input.sharing.key;
                self.slots.count_key(key, ip, is_more);
                if before != holders && !key.is_empty() {
                    step.keys.insert(key.clone());
                }
            }
        }
        slot.holders = holders;
        self.sync(ip, slot, step);
    }

    /// Who of the claimants, in their order, may keep the address; then those of `before` to whom it was given and who may
    /// still have it.
    fn keepers(&self, ip: IpAddr, claimants: &[Id], before: &[Id]) -> Vec<Id> {
        let services = &self.services;
        let mut holders: Vec<Id> = Vec::with_capacity(claimants.len());
        for id in claimants {
            let entry = services.at(*id);
            if is_valid(entry, ip, &self.land)
                && may_share(holders.iter(), &entry.input, services).is_ok()
            {
                holders.push(*id);
            }
        }
        // Members of a group that joined by key alone stay as long as the one they joined.
        for id in claimants {
            let entry = services.at(*id);
            let is_joined = !holders.is_empty()
                && !holders.contains(id)
                && entry.is_ours
                && entry.want.allows(ip)
                && self.land.is_named(ip, &entry.input)
                && may_share(holders.iter(), &entry.input, services).is_ok();
            if is_joined {
                holders.push(*id);
            }
        }
        for id in before.iter().filter(|id| !claimants.contains(id)) {
            if may_share(holders.iter(), &services.at(*id).input, services).is_ok() {
                holders.push(*id);
            }
        }
        holders
    }

    /// Gives the address to the Service; the caller has asked [`Slots::may_hold`].
    pub(super) fn hold(&mut self, ip: IpAddr, id: Id, step: &mut Step) {
        let mut slot = self.slots.by_ip.remove(&ip).unwrap_or_default();
        slot.holders.push(id);
        let entry = self.services.at_mut(id);
        entry.held.push(ip);
        let key = entry.input.sharing.key.clone();
        self.slots.count_key(&key, ip, true);
        if !key.is_empty() {
            step.keys.insert(key);
        }
        self.sync(ip, slot, step);
    }

    /// Puts the slot back if it still says something, and brings what is counted and indexed up to it.
    fn sync(&mut self, ip: IpAddr, slot: Slot, step: &mut Step) {
        let is_taken = slot.is_taken();
        let is_releasing = slot.is_closed && slot.is_releasing;
        if is_taken || !slot.claimants.is_empty() || !slot.releasing.is_empty() {
            self.slots.by_ip.insert(ip, slot);
        }
        if is_taken != self.slots.taken.contains(ip) {
            self.sync_taken(ip, is_taken, step);
        }
        if is_releasing != self.slots.releasing.contains(ip) {
            for view in self.land.views_with(ip) {
                let n = &mut self.land.views[view].n_releasing[Family::of(ip) as usize];
                *n = if is_releasing { *n + 1 } else { *n - 1 };
                step.freed.insert(view);
            }
            if is_releasing {
                self.slots.releasing.insert_one(ip);
            } else {
                self.slots.releasing.remove(ip);
            }
        }
    }

    fn sync_taken(&mut self, ip: IpAddr, is_taken: bool, step: &mut Step) {
        let family = Family::of(ip) as usize;
        let blocks: Vec<(usize, usize)> = self.land.blocks_with(ip).collect();
        for (view, block) in blocks {
            let is_counted = self.land.counts(ip, view, block);
            let v = &mut self.land.views[view];
            if is_taken {
                v.n_held += usize::from(is_counted);
            } else {
                v.n_held -= usize::from(is_counted);
                v.is_full[0][family] = false;
                v.is_full[1][family] = false;
                step.freed.insert(view);
            }
            step.views.insert(view);
        }
        if is_taken {
            self.slots.taken.insert_one(ip);
        } else {
            self.slots.taken.remove(ip);
        }
    }
}
