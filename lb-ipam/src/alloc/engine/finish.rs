//! What a run changed, against what the API says.

use super::{Delta, Engine, Step};
use crate::alloc::outcome;

impl Engine {
    pub(super) fn finish(&mut self, mut step: Step) -> Delta {
        let mut delta = std::mem::take(&mut step.delta);
        for id in std::mem::take(&mut step.services) {
            let is_empty = self.land.views.is_empty();
            let entry = self.services.at_mut(id);
            let counted = (entry.is_ours, entry.is_ours && entry.lack.is_some());
            let before = std::mem::replace(&mut entry.counted, counted);
            self.n_matching = self.n_matching + usize::from(counted.0) - usize::from(before.0);
            self.n_unsatisfied =
                self.n_unsatisfied + usize::from(counted.1) - usize::from(before.1);
            let entry = self.services.at(id);
            self.waiting.remove(id, entry);
            self.waiting.put(id, entry);
            let change = if entry.is_ours {
                outcome::served(
                    &entry.input,
                    &entry.held,
                    entry.lack.as_ref(),
                    entry.is_waiting,
                )
                .filter(|_| !outcome::is_left_alone(&entry.input, self.settings, is_empty))
            } else {
                outcome::unserved(&entry.input)
            };
            let name = entry.input.name.clone();
            match &change {
                Some(change) => self.changes.insert(name.clone(), change.clone()),
                None => self.changes.remove(&name),
            };
            delta.services.push((name, change));
        }
        self.finish_pools(&step, &mut delta);
        self.finish_reservations(&step, &mut delta);
        delta
    }

    fn finish_pools(&mut self, step: &Step, delta: &mut Delta) {
        let shown = std::mem::take(&mut self.shown);
        if step.is_rebuilt {
            let gone: Vec<String> = self
                .pool_changes
                .keys()
                .filter(|name| !self.pools.contains_key(*name))
                .cloned()
                .collect();
            for name in gone {
                self.pool_changes.remove(&name);
                delta.pools.push((name, None));
            }
        }
        for (idx, view) in self.land.views.iter().enumerate() {
            let name = &view.input.pool.name;
            if !step.is_rebuilt && !step.views.contains(&idx) && !shown.contains(name) {
                continue;
            }
            let change = outcome::pool(view);
            match &change {
                Some(change) => self.pool_changes.insert(name.clone(), change.clone()),
                None => self.pool_changes.remove(name),
            };
            delta.pools.push((name.clone(), change));
        }
    }

    fn finish_reservations(&mut self, step: &Step, delta: &mut Delta) {
        let is_shown = std::mem::take(&mut self.is_reservation_shown);
        let is_due = step.is_rebuilt || is_shown || !delta.services.is_empty();
        if !is_due || (self.reservations.is_empty() && self.reservation_changes.is_empty()) {
            return;
        }
        let gone: Vec<String> = self
            .reservation_changes
            .keys()
            .filter(|name| !self.reservations.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.reservation_changes.remove(&name);
            delta.reservations.push((name, None));
        }
        for reservation in &self.land.reservations {
            let ranges = reservation.ranges.iter();
            let held = ranges.flat_map(|range| self.slots.within(range));
            let held = held.flat_map(|(ip, ids)| ids.iter().map(move |id| (ip, *id)));
            let held = held.map(|(ip, id)| (ip, &self.services.at(id).input.name));
            let name = &reservation.name;
            let change = outcome::reservation(reservation, held);
            match &change {
                Some(change) => {
                    let change = change.clone();
                    self.reservation_changes.insert(name.clone(), change)
                }
                None => self.reservation_changes.remove(name),
            };
            delta.reservations.push((name.clone(), change));
        }
    }
}
