//! Who holds what: kept from one change to the next, so that a change costs what it touches.
//!
//! ```text
//! set_service, remove_service ─┐
//! set_pool, set_reservation  ──┼─▶ run: claims of statuses ─▶ who keeps (per address) ─▶ who is given what ─▶ Delta
//! set_in_use, set_former     ──┘         [`slots`]                [`slots`]               [`give`]        [`finish`]
//! ```
//! Invariant: with the same inputs, an engine that has nothing left to write agrees with a fresh one, whatever its history
//! (`props.rs`). What was decided and is not yet written stays decided, unless the API says otherwise meanwhile.

mod finish;
mod give;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fairlead_api::condition::Status;
use fairlead_model::ServiceName;

use super::{
    Former, InUse, Inputs, Plan, PoolChange, PoolCounts, PoolInput, ReservationChange,
    ReservationInput, ServiceChange, ServiceInput, Settings,
    decide::{Lack, Want},
    outcome,
    pools::Landscape,
    runs::Runs,
};
use give::Waiting;
use slots::Slots;

/// Place of a Service in the engine.
type Id = usize;

/// What a run changed: of each object, what is to be written now, or `None` if nothing is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Services.
    pub services: Vec<(ServiceName, Option<ServiceChange>)>,
    /// Pools.
    pub pools: Vec<(String, Option<PoolChange>)>,
    /// Reservations.
    pub reservations: Vec<(String, Option<ReservationChange>)>,
    /// Services that are gone, with what they held.
    pub released: Vec<(ServiceName, Vec<IpAddr>)>,
}

/// A Service and what is decided about it.
#[derive(Debug, Clone)]
struct Entry {
    input: ServiceInput,
    want: Want,
    is_ours: bool,
    /// What its status may keep, in that order; then what it was given.
    held: Vec<IpAddr>,
    n_kept: usize,
    /// Why something is missing; of several reasons the last, as in Cilium.
    lack: Option<Lack>,
    /// What is missing may come with an address that is about to be released: say nothing yet.
    is_waiting: bool,
    /// How it counts in the figures: served, and served but lacking.
    counted: (bool, bool),
}

/// Every Service by name and place.
#[derive(Debug, Clone, Default)]
struct Services {
    slab: Vec<Option<Entry>>,
    by_name: HashMap<ServiceName, Id>,
    vacant: Vec<Id>,
}

/// What one run touches.
#[derive(Debug, Default)]
struct Step {
    /// Addresses whose claims or holders changed.
    addresses: BTreeSet<IpAddr>,
    /// Services to look at again.
    services: BTreeSet<Id>,
    /// Sharing keys under which somebody holds more or less than before.
    keys: BTreeSet<String>,
    /// Pools with other counts.
    views: BTreeSet<usize>,
    /// Pools in which something became free, or is about to.
    freed: BTreeSet<usize>,
    /// Everything was built anew.
    is_rebuilt: bool,
    delta: Delta,
}

/// The allocator.
#[derive(Debug, Clone)]
pub struct Engine {
    settings: Settings,
    land: Landscape,
    services: Services,
    slots: Slots,
    waiting: Waiting,
    former: BTreeMap<ServiceName, Vec<IpAddr>>,
    kept_back: Runs,
    pools: BTreeMap<String, PoolInput>,
    reservations: BTreeMap<String, ReservationInput>,
    in_use: Vec<InUse>,
    pending: BTreeMap<ServiceName, Option<ServiceInput>>,
    /// Pools and reservations whose conditions changed.
    shown: BTreeSet<String>,
    is_reservation_shown: bool,
    is_stale: bool,
    changes: BTreeMap<ServiceName, ServiceChange>,
    pool_changes: BTreeMap<String, PoolChange>,
    reservation_changes: BTreeMap<String, ReservationChange>,
    n_matching: usize,
    n_unsatisfied: usize,
}

impl Engine {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            land: Landscape::default(),
            services: Services::default(),
            slots: Slots::default(),
            waiting: Waiting::default(),
            former: BTreeMap::new(),
            kept_back: Runs::default(),
            pools: BTreeMap::new(),
            reservations: BTreeMap::new(),
            in_use: Vec::new(),
            pending: BTreeMap::new(),
            shown: BTreeSet::new(),
            is_reservation_shown: false,
            is_stale: true,
            changes: BTreeMap::new(),
            pool_changes: BTreeMap::new(),
            reservation_changes: BTreeMap::new(),
            n_matching: 0,
            n_unsatisfied: 0,
        }
    }

    /// Takes whole lists; what is not in them is gone.
    pub fn load(&mut self, inputs: Inputs) {
        let gone: Vec<ServiceName> = self.services.by_name.keys().cloned().collect();
        for name in gone {
            self.remove_service(&name);
        }
        for service in inputs.services {
            self.set_service(service);
        }
        self.pools = inputs
            .pools
            .into_iter()
            .map(|pool| (pool.pool.name.clone(), pool))
            .collect();
        self.reservations = inputs
            .reservations
            .into_iter()
            .map(|r| (r.name.clone(), r))
            .collect();
        self.in_use = inputs.in_use;
        self.set_former(inputs.former);
        self.is_stale = true;
    }

    /// A Service as the API has it, with writes under way counted as done.
    pub fn set_service(&mut self, input: ServiceInput) {
        let known = self.services.get(&input.name);
        let is_same = known.is_some_and(|entry| entry.input == input);
        if is_same {
            self.pending.remove(&input.name);
        } else {
            self.pending.insert(input.name.clone(), Some(input));
        }
    }

    /// A Service that is gone.
    pub fn remove_service(&mut self, name: &ServiceName) {
        if self.services.by_name.contains_key(name) {
            self.pending.insert(name.clone(), None);
        } else {
            self.pending.remove(name);
        }
    }

    /// A pool as the API has it.
    pub fn set_pool(&mut self, input: PoolInput) {
        let name = input.pool.name.clone();
        let old = self.pools.insert(name.clone(), input);
        let input = &self.pools[&name];
        if old.as_ref() == Some(input) {
            return;
        }
        let says_the_same = old.is_some_and(|old| {
            let conditions = input.conditions.clone();
            let generation = input.generation;
            let old = PoolInput {
                generation,
                conditions,
                ..old
            };
            old == *input
        });
        if says_the_same && !self.is_stale {
            let mut views = self.land.views.iter_mut();
            if let Some(view) = views.find(|v| v.input.pool.name == name) {
                view.input = input.clone();
            }
            self.shown.insert(name);
        } else {
            self.is_stale = true;
        }
    }

    /// A pool that is gone.
    pub fn remove_pool(&mut self, name: &str) {
        self.is_stale |= self.pools.remove(name).is_some();
    }

    /// A reservation as the API has it.
    pub fn set_reservation(&mut self, input: ReservationInput) {
        let old = self.reservations.insert(input.name.clone(), input.clone());
        let Some(old) = old else {
            self.is_stale = true;
            return;
        };
        let says_the_same = ReservationInput {
            conditions: input.conditions.clone(),
            generation: input.generation,
            ..old
        } == input;
        if says_the_same && !self.is_stale {
            let mut each = self.land.reservations.iter_mut();
            if let Some(known) = each.find(|r| r.name == input.name) {
                *known = input;
            }
            self.is_reservation_shown = true;
        } else {
            self.is_stale = true;
        }
    }

    /// A reservation that is gone.
    pub fn remove_reservation(&mut self, name: &str) {
        self.is_stale |= self.reservations.remove(name).is_some();
    }

    /// What the cluster itself uses.
    pub fn set_in_use(&mut self, in_use: Vec<InUse>) {
        self.is_stale |= self.in_use != in_use;
        self.in_use = in_use;
    }

    /// What is kept for Services that were deleted. Kept back, not taken: in a full pool it is given to whoever asks.
    pub fn set_former(&mut self, former: Vec<Former>) {
        self.kept_back.clear();
        self.former.clear();
        for Former { service, ip } in former {
            self.kept_back.insert_one(ip);
            self.former.entry(service).or_default().push(ip);
        }
        for view in &mut self.land.views {
            view.is_full[1] = [false; 2];
        }
    }

    /// Whether anything changed since the last run.
    pub fn is_due(&self) -> bool {
        self.is_stale
            || !self.pending.is_empty()
            || !self.shown.is_empty()
            || self.is_reservation_shown
    }

    /// How many Services the next run looks at for sure.
    pub fn n_due(&self) -> usize {
        if self.is_stale {
            self.services.by_name.len() + self.pending.len()
        } else {
            self.pending.len()
        }
    }

    /// Decides about everything that changed.
    ///
    /// # Complexity
    /// `O(changed + touched)` for Services; everything when a pool, a reservation or an address of the cluster changed.
    pub fn run(&mut self) -> Delta {
        let mut step = Step {
            is_rebuilt: std::mem::take(&mut self.is_stale),
            ..Step::default()
        };
        if step.is_rebuilt {
            self.forget();
        }
        for (name, input) in std::mem::take(&mut self.pending) {
            self.take_service(&name, input, &mut step);
        }
        if step.is_rebuilt {
            self.rebuild(&mut step);
        }
        self.settle(&mut step);
        self.give(&mut step);
        self.finish(step)
    }

    /// Services that it knows of.
    pub fn names(&self) -> Vec<ServiceName> {
        self.services.by_name.keys().cloned().collect()
    }

    /// Pools that it knows of.
    pub fn pool_names(&self) -> Vec<String> {
        self.pools.keys().cloned().collect()
    }

    /// Reservations that it knows of.
    pub fn reservation_names(&self) -> Vec<String> {
        self.reservations.keys().cloned().collect()
    }

    /// What is to be written of a Service, as of the last run.
    pub fn change(&self, name: &ServiceName) -> Option<&ServiceChange> {
        self.changes.get(name)
    }

    /// What is to be written of a pool, as of the last run.
    pub fn pool_change(&self, name: &str) -> Option<&PoolChange> {
        self.pool_changes.get(name)
    }

    /// What is to be written of a reservation, as of the last run.
    pub fn reservation_change(&self, name: &str) -> Option<&ReservationChange> {
        self.reservation_changes.get(name)
    }

    /// Everything that is not yet as it should be, and figures.
    pub fn plan(&self) -> Plan {
        Plan {
            services: self.changes.values().cloned().collect(),
            pools: self.pool_changes.values().cloned().collect(),
            reservations: self.reservation_changes.values().cloned().collect(),
            counts: self.counts().collect(),
            n_conflicting: self.n_conflicting(),
            n_matching: self.n_matching,
            n_unsatisfied: self.n_unsatisfied,
        }
    }

    /// Counts of every pool, oldest first.
    pub fn counts(&self) -> impl Iterator<Item = (String, PoolCounts)> {
        self.land.views.iter().map(|view| {
            let (total, used) = (view.total().clone(), view.used());
            // An address that two blocks of a pool share counts in both, so `used` never exceeds `total`.
            let available = &total - &used;
            let counts = PoolCounts {
                total,
                used,
                available,
            };
            (view.input.pool.name.clone(), counts)
        })
    }

    /// What pools have to say beside their counts: name, and reason with message.
    pub fn warnings(&self) -> Vec<(String, String)> {
        let views = self.land.views.iter();
        views
            .flat_map(|view| {
                let bad = outcome::conditions(view).into_iter();
                let bad = bad.filter(|w| w.status == Status::True);
                bad.map(|w| {
                    let name = view.input.pool.name.clone();
                    (name, format!("{}: {}", w.reason, w.message))
                })
            })
            .collect()
    }

    /// Pools in conflict.
    pub fn n_conflicting(&self) -> usize {
        let views = self.land.views.iter();
        views.filter(|v| v.conflict.is_some()).count()
    }

    /// Services that LB-IPAM serves.
    pub const fn n_matching(&self) -> usize {
        self.n_matching
    }

    /// Of these, those that lack an address.
    pub const fn n_unsatisfied(&self) -> usize {
        self.n_unsatisfied
    }

    /// How long a deleted Service's address is kept back: by the pool that holds it.
    pub fn sticky(&self, ip: IpAddr) -> Option<(&str, std::time::Duration)> {
        let mut views = self.land.views_with(ip).into_iter();
        views.find_map(|view| {
            let input = &self.land.views[view].input;
            Some((input.pool.name.as_str(), input.sticky?))
        })
    }

    /// Nothing is held by anybody, until [`Self::rebuild`].
    fn forget(&mut self) {
        self.slots = Slots::default();
        self.waiting = Waiting::default();
        for entry in self.services.slab.iter_mut().flatten() {
            entry.held.clear();
            entry.n_kept = 0;
        }
    }

    fn rebuild(&mut self, step: &mut Step) {
        self.land = Landscape::new(
            self.pools.values().cloned().collect(),
            &self.in_use,
            self.reservations.values().cloned().collect(),
        );
        for id in 0..self.services.slab.len() {
            if self.services.slab[id].is_some() {
                self.attach(id, step);
            }
        }
    }

    fn take_service(&mut self, name: &ServiceName, input: Option<ServiceInput>, step: &mut Step) {
        let known = self.services.by_name.get(name).copied();
        if let Some(id) = known {
            self.detach(id, step);
        }
        match (known, input) {
            (Some(id), None) => self.drop_service(id, step),
            (None, None) => {}
            (known, Some(input)) => {
                let id = self.services.put(known, input, self.settings);
                if !step.is_rebuilt {
                    self.attach(id, step);
                }
            }
        }
    }

    fn drop_service(&mut self, id: Id, step: &mut Step) {
        let Some(entry) = self.services.remove(id) else {
            return;
        };
        self.n_matching -= usize::from(entry.counted.0);
        self.n_unsatisfied -= usize::from(entry.counted.1);
        let name = entry.input.name;
        let held = entry.input.ingress.into_iter();
        let held: Vec<IpAddr> = held.filter(|_| entry.is_ours).collect();
        if !held.is_empty() {
            step.delta.released.push((name.clone(), held));
        }
        step.services.remove(&id);
        self.changes.remove(&name);
        step.delta.services.push((name, None));
    }
}

// === impl Services ===

impl Services {
    fn get(&self, name: &ServiceName) -> Option<&Entry> {
        self.slab[*self.by_name.get(name)?].as_ref()
    }

    fn at(&self, id: Id) -> &Entry {
        let entry = self.slab[id].as_ref();
        entry.expect("ids are taken out of every index before their Service goes")
    }

    fn at_mut(&mut self, id: Id) -> &mut Entry {
        let entry = self.slab[id].as_mut();
        entry.expect("ids are taken out of every index before their Service goes")
    }

    fn put(&mut self, known: Option<Id>, input: ServiceInput, settings: Settings) -> Id {
        let id = known.unwrap_or_else(|| {
            let id = self.vacant.pop().unwrap_or_else(|| {
                self.slab.push(None);
                self.slab.len() - 1
            });
            self.by_name.insert(input.name.clone(), id);
            id
        });
        let counted = self.slab[id].as_ref().map_or((false, false), |e| e.counted);
        self.slab[id] = Some(Entry {
            want: Want::of(&input, settings),
            is_ours: input.is_load_balancer && settings.serves(&input.class),
            input,
            held: Vec::new(),
            n_kept: 0,
            lack: None,
            is_waiting: false,
            counted,
        });
        id
    }

    fn remove(&mut self, id: Id) -> Option<Entry> {
        let entry = self.slab[id].take()?;
        self.by_name.remove(&entry.input.name);
        self.vacant.push(id);
        Some(entry)
    }
}
