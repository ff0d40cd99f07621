//! Who gets what is missing: requested addresses before chosen ones, older Services before younger.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fairlead_api::convert::check_vip;
use fairlead_model::ServiceName;

use super::{Engine, Entry, Id, Step};
use crate::alloc::{
    Family, ServiceInput,
    decide::{Lack, Want},
};

/// Age, name and place of a Service: the order in which Services are served.
type Age = (i64, ServiceName, Id);

/// The address, or why there is none and whether waiting may help.
type Answer = Result<IpAddr, (Lack, bool)>;

/// Who is to be asked again when something changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    /// Lack an address of a family.
    families: BTreeSet<Age>,
    /// Lack an address that they asked for.
    addresses: BTreeMap<IpAddr, BTreeSet<Id>>,
    /// Take what is shared under their key.
    keys: HashMap<String, BTreeSet<Id>>,
}

impl Waiting {
    pub(super) fn put(&mut self, id: Id, entry: &Entry) {
        if !entry.is_ours {
            return;
        }
        let key = &entry.input.sharing.key;
        match &entry.want {
            Want::Addresses(list) if entry.lack.is_some() => {
                for ip in list {
                    self.addresses.entry(*ip).or_default().insert(id);
                }
            }
            Want::Addresses(_) => {}
            Want::Families(_) => {
                if entry.lack.is_some() {
                    self.families.insert(age(id, entry));
                }
                if !key.is_empty() {
                    self.keys.entry(key.clone()).or_default().insert(id);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, id: Id, entry: &Entry) {
        if let Want::Addresses(list) = &entry.want {
            for ip in list {
                if let Some(ids) = self.addresses.get_mut(ip) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.addresses.remove(ip);
                    }
                }
            }
        }
        self.families.remove(&age(id, entry));
        let key = &entry.input.sharing.key;
        if let Some(ids) = self.keys.get_mut(key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    pub(super) fn for_address(&self, ip: IpAddr) -> impl Iterator<Item = Id> {
        self.addresses.get(&ip).into_iter().flatten().copied()
    }

    fn under_key(&self, key: &str) -> impl Iterator<Item = Id> {
        self.keys.get(key).into_iter().flatten().copied()
    }
}

fn age(id: Id, entry: &Entry) -> Age {
    (entry.input.created, entry.input.name.clone(), id)
}

/// The wanted families.
fn families(entry: &Entry) -> Vec<Family> {
    match &entry.want {
        Want::Addresses(_) => Vec::new(),
        Want::Families(list) => {
            let mut list = list.clone();
            list.sort_unstable();
            list.dedup();
            list
        }
    }
}

impl Engine {
    /// Serves everybody who was touched, and who waited for what was freed.
    pub(super) fn give(&mut self, step: &mut Step) {
        let mut round: BTreeSet<Age> = BTreeSet::new();
        for id in &step.services {
            let entry = self.services.at(*id);
            if entry.is_ours {
                round.insert(age(*id, entry));
                self.waiting.put(*id, entry);
            }
        }
        if !step.freed.is_empty() {
            let freed = step.freed.iter().map(|view| &self.land.views[*view]);
            let freed: Vec<_> = freed.filter(|view| view.is_active()).collect();
            let waits = |(_, _, id): &&Age| {
                let input = &self.services.at(*id).input;
                freed.iter().any(|view| view.serves(input))
            };
            let woken: Vec<Age> = self
                .waiting
                .families
                .iter()
                .filter(waits)
                .cloned()
                .collect();
            round.extend(woken);
        }
        self.wake_by_key(step, &mut round);
        while !round.is_empty() {
            let ids: Vec<Id> = round.iter().map(|(_, _, id)| *id).collect();
            step.services.extend(&ids);
            for id in &ids {
                self.give_requested(*id, step);
            }
            for id in &ids {
                self.give_by_family(*id, step);
            }
            for id in &ids {
                self.give_set(*id, step);
            }
            round.clear();
            self.wake_by_key(step, &mut round);
        }
    }

    fn wake_by_key(&self, step: &mut Step, round: &mut BTreeSet<Age>) {
        for key in std::mem::take(&mut step.keys) {
            let ids = self.waiting.under_key(&key);
            round.extend(ids.map(|id| age(id, self.services.at(id))));
        }
    }

    fn give_requested(&mut self, id: Id, step: &mut Step) {
        let entry = self.services.at_mut(id);
        let Want::Addresses(wanted) = &entry.want else {
            return;
        };
        let missing = wanted.iter().filter(|ip| !entry.held.contains(ip));
        let mut missing: Vec<IpAddr> = missing.copied().collect();
        let bad = entry.input.bad_requests.last().cloned();
        (entry.lack, entry.is_waiting) = (None, false);
        missing.sort_by_key(|ip| Family::of(*ip));
        for ip in missing {
            let answer = self.ask_for(ip, &self.services.at(id).input);
            self.note(id, answer, step);
        }
        if let Some(item) = bad {
            self.note(id, Err((Lack::BadRequest(item), false)), step);
        }
    }

    fn ask_for(&self, ip: IpAddr, service: &ServiceInput) -> Answer {
        if let Err(why) = check_vip(ip) {
            return Err((Lack::Unusable(ip, why), false));
        }
        let giving = self.land.giving(ip);
        let name = |view: &usize| self.land.views[*view].input.pool.name.clone();
        let Some(oldest) = giving.first() else {
            let refused = self.land.views_with(ip).into_iter();
            let mut refused = refused.filter(|view| self.land.views[*view].is_active());
            let lack = match refused.next() {
                Some(view) => Lack::Refused(name(&view)),
                None => Lack::NoPoolWith(ip),
            };
            return Err((lack, false));
        };
        let views = || giving.iter().map(|view| &self.land.views[*view]);
        if !views().any(|v| v.selects(service)) {
            let pool = name(oldest);
            return Err((Lack::SelectorMismatch { ip, pool }, false));
        }
        if !views().any(|v| v.serves(service)) {
            let pool = name(oldest);
            return Err((Lack::NotNamed { ip, pool }, false));
        }
        if !self.slots.taken().contains(ip) {
            return self.ask_for_free(ip, service).map_err(|lack| (lack, false));
        }
        let Err(why) = self.slots.may_hold(ip, service, &self.services) else {
            return Ok(ip);
        };
        let holder = self.slots.of(ip).first();
        let holder = holder.map(|id| self.services.at(*id).input.name.clone());
        let lack = match holder {
            None => Lack::TakenElsewhere(ip),
            Some(holder) if service.sharing.key.is_empty() => Lack::Taken { ip, holder },
            Some(holder) => Lack::MayNotShare { ip, holder, why },
        };
        Err((lack, self.slots.is_releasing(ip)))
    }

    /// Who shares a reserved address keeps it; nobody gets it anew.
    fn ask_for_free(&self, ip: IpAddr, service: &ServiceInput) -> Result<IpAddr, Lack> {
        let with_end = self.land.views_with(ip).into_iter();
        let mut with_end = with_end.filter(|view| self.land.views[*view].is_end(ip));
        if let Some(view) = with_end.next() {
            let pool = self.land.views[view].input.pool.name.clone();
            return Err(Lack::Reserved { ip, pool });
        }
        match self.land.reserved_from(ip, &service.name) {
            Some(by) => Err(Lack::KeptFor {
                ip,
                by: by.name.clone(),
            }),
            None => Ok(ip),
        }
    }

    fn give_by_family(&mut self, id: Id, step: &mut Step) {
        let entry = self.services.at_mut(id);
        if !matches!(entry.want, Want::Families(_)) {
            return;
        }
        (entry.lack, entry.is_waiting) = (None, false);
        let entry = self.services.at(id);
        let lacks = |f: &Family| !entry.held.iter().any(|ip| Family::of(*ip) == *f);
        let missing: Vec<Family> = families(entry).into_iter().filter(lacks).collect();
        for family in missing {
            let answer = self.choose(family, id);
            self.note(id, answer, step);
        }
    }

    /// An address of the family: one shared under the Service's key, else one that is reserved for it, else the one it had
    /// before it was deleted, else the lowest free one of the first pool that has any.
    fn choose(&mut self, family: Family, id: Id) -> Answer {
        let service = &self.services.at(id).input;
        let shared = self
            .slots
            .under_key(&service.sharing.key)
            .filter(|ip| Family::of(*ip) == family && self.land.is_named(*ip, service))
            .find(|ip| self.slots.may_hold(*ip, service, &self.services).is_ok());
        let own = shared
            .or_else(|| {
                let taken = self.slots.taken();
                self.land.lowest_reserved(service, family, taken)
            })
            .or_else(|| self.former_address(service, family));
        if let Some(ip) = own {
            return Ok(ip);
        }
        let slot = family as usize;
        for is_soft in [true, false] {
            let kept_back = is_soft.then_some(&self.kept_back);
            for view in &self.land.search {
                let v = &self.land.views[*view];
                if !v.is_active() || v.is_full[usize::from(is_soft)][slot] || !v.serves(service) {
                    continue;
                }
                let taken = self.slots.taken();
                if let Some(ip) = self.land.lowest_free(*view, family, taken, kept_back) {
                    return Ok(ip);
                }
                self.land.views[*view].is_full[usize::from(is_soft)][slot] = true;
            }
        }
        Err(self.no_room(family, service))
    }

    fn former_address(&self, service: &ServiceInput, family: Family) -> Option<IpAddr> {
        let mut held = self.former.get(&service.name)?.iter().copied();
        held.find(|ip| {
            let views = self.land.giving(*ip).into_iter();
            let mut views = views.map(|view| &self.land.views[view]);
            Family::of(*ip) == family
                && check_vip(*ip).is_ok()
                && views.any(|v| v.serves(service))
                && !self.slots.taken().contains(*ip)
                && self.ask_for_free(*ip, service).is_ok()
        })
    }

    fn no_room(&self, family: Family, service: &ServiceInput) -> (Lack, bool) {
        let views = || {
            self.land
                .views
                .iter()
                .filter(|v| v.is_active() && v.serves(service))
        };
        let candidates = views().filter(|v| v.has_family(family));
        let n_pools = candidates.clone().count();
        if n_pools > 0 {
            let mut candidates = candidates;
            let is_waiting = candidates.any(|v| v.n_releasing[family as usize] > 0);
            return (Lack::OutOfIps { family, n_pools }, is_waiting);
        }
        let exists = |name: &String| self.pools.contains_key(name);
        let missing = service.pools.iter().find(|name| !exists(name));
        let refused = views().find(|v| {
            let mut blocks = v.input.pool.blocks.iter();
            blocks.any(|b| Family::of(b.range.first()) == family)
        });
        let lack = match (missing, refused) {
            (Some(name), _) => Lack::NamedPoolMissing(name.clone()),
            (None, Some(view)) => Lack::Refused(view.input.pool.name.clone()),
            (None, None) => Lack::NoPoolOfFamily(family),
        };
        (lack, false)
    }

    /// Who shares one address of a set gets the whole set, as far as it may.
    fn give_set(&mut self, id: Id, step: &mut Step) {
        let entry = self.services.at(id);
        if entry.input.sharing.key.is_empty() || matches!(entry.want, Want::Addresses(_)) {
            return;
        }
        let families = families(entry);
        let mut at = 0;
        while let Some(ip) = self.services.at(id).held.get(at).copied() {
            at += 1;
            let beside = self.slots.of(ip).iter().filter(|other| **other != id);
            let set: BTreeSet<IpAddr> = beside
                .flat_map(|other| self.services.at(*other).held.iter().copied())
                .collect();
            for more in set {
                let entry = self.services.at(id);
                let is_wanted = !entry.held.contains(&more)
                    && families.contains(&Family::of(more))
                    && self.land.is_named(more, &entry.input);
                let may_hold = || {
                    self.slots
                        .may_hold(more, &entry.input, &self.services)
                        .is_ok()
                };
                if is_wanted && may_hold() {
                    self.hold(more, id, step);
                }
            }
        }
    }

    fn note(&mut self, id: Id, answer: Answer, step: &mut Step) {
        match answer {
            Ok(ip) => self.hold(ip, id, step),
            Err((lack, is_waiting)) => {
                let entry = self.services.at_mut(id);
                if self.land.views.is_empty() {
                    entry.lack = Some(Lack::NoPoolAtAll);
                } else {
                    entry.lack = Some(lack);
                    entry.is_waiting |= is_waiting;
                }
            }
        }
    }
}
