//! The end of transitions: what a sweep has seen decides which slots need no looking up any more.
//!
//! A slot folds at the earliest an hour (a setting) after its last change, and only when no live flow of it has another backend than
//! `current` gives. By then every flow that has sent a packet has an entry, and those without are taken for dead. When a table has changed
//! its length, `previous` has slots of its own length and folds as a whole: what must still be looked up is carried over to a `previous` of
//! the present length.

use std::collections::{BTreeSet, HashMap};

use fairlead_abi::{
    flow::FlowKey,
    lb::{
        MaglevLine, SLOT_UNCHANGED, SLOTS_PER_LINE, SlotTable, backend_flags, frontend_flags, mode,
    },
};
use fairlead_datapath::{LbMaps, MapError, Window};
use fairlead_logic::{Table, hash};

use crate::{
    op::{FrontendWord, MapOp, n_lines, read_table, to_line},
    ranges::REST_NS,
    state::{Changed, FrontendState, State, lines_of, n_u32, no_backend},
    sweep::{Fact, Read, Scan, remove_unless_touched},
};

/// What a sweep leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    /// In order.
    pub ops: Vec<MapOp>,
    /// Entries that nobody looks up any more, or whose backend is gone.
    pub remove: Vec<(Table, Read<FlowKey>)>,
    /// Slots that folded.
    pub n_folded: usize,
    /// Frontends still in transition.
    pub n_in_transition: usize,
}

impl State {
    /// Folds what may be folded, forgets dead backends that nothing names and frontend records that have drained.
    ///
    /// `scan` must have been asked with this state's [`State::question`]; changes made since it started are taken into account.
    #[must_use]
    pub fn fold(&mut self, scan: &Scan, maglev: &Window<MaglevLine>, now: u64) -> Fold {
        let mut fold = Fold::default();
        self.release_drained(scan, now);
        // First, while the array still says what the state says.
        self.unneeded(scan, maglev, &mut fold);
        let facts = by_frontend(scan);
        let none = Vec::new();
        let frontends: Vec<_> = self.frontends.keys().copied().collect();
        for frontend in frontends {
            let Some(mut fe) = self.frontends.remove(&frontend) else {
                continue;
            };
            let mine = facts.get(&fe.record).unwrap_or(&none);
            if fe.flags & frontend_flags::ASK_RECORDS != 0 && !scan.used_ports.contains(&frontend) {
                fe.flags &= !frontend_flags::ASK_RECORDS;
                fold.word(&fe, FrontendWord::Flags(fe.flags));
            }
            if mine.is_empty() && fe.changed.is_none() && fe.member_ids().all(|(_, m)| m.flags != 0)
            {
                self.frontends.insert(frontend, fe);
                continue;
            }
            let mut view = View {
                state: self,
                fe: &mut fe,
                facts: mine,
                current: Vec::new(),
                scan,
                now,
            };
            // A slot that this fold clears frees its index next time.
            let named = read_table(maglev, view.fe.previous);
            view.fold(maglev, &mut fold);
            view.forget(frontend.vip.is_ipv4(), &named, &mut fold);
            fold.n_in_transition += usize::from(fe.changed.is_some());
            self.frontends.insert(frontend, fe);
        }
        fold
    }

    /// What the next sweep has to look for.
    pub fn question(&self) -> crate::sweep::Question {
        crate::sweep::Question {
            draining: self.draining(),
            asking: self.asking(),
        }
    }

    fn release_drained(&mut self, scan: &Scan, now: u64) {
        let drained: Vec<u32> = self
            .draining
            .iter()
            .filter(|(_, since)| **since + REST_NS <= scan.started)
            .map(|(record, _)| *record)
            .collect();
        for record in drained {
            self.draining.remove(&record);
            self.records.give(record..record + 1, now);
        }
    }

    /// Entries of frontends and slots that are not looked up, or that name a backend without life.
    fn unneeded(&self, scan: &Scan, maglev: &Window<MaglevLine>, fold: &mut Fold) {
        let by_record = self.by_record();
        let mut previous: HashMap<u32, Vec<u16>> = HashMap::new();
        for (table, read, fact) in &scan.flows {
            let Some(fe) = by_record
                .get(&fact.frontend)
                .and_then(|f| self.frontends.get(f))
            else {
                continue;
            };
            let is_needed = fe.previous.len != 0 && fe.is_alive(fact.backend) && {
                let slots = previous.entry(fact.frontend);
                let slots = slots.or_insert_with(|| read_table(maglev, fe.previous));
                let slot = hash::slot(fact.hash, fe.previous.len) as usize;
                slots.get(slot).is_none_or(|slot| *slot != SLOT_UNCHANGED)
            };
            if !is_needed {
                fold.remove.push((*table, *read));
            }
        }
    }
}

fn by_frontend(scan: &Scan) -> HashMap<u32, Vec<Fact>> {
    let mut facts: HashMap<u32, Vec<Fact>> = HashMap::new();
    let flows = scan.flows.iter().map(|(_, _, fact)| fact);
    for fact in flows.chain(&scan.records) {
        facts.entry(fact.frontend).or_default().push(*fact);
    }
    facts
}

// === impl Fold ===

impl Fold {
    /// Removes what nobody looks up, unless a packet has come since the sweep read it: whoever wrote then knew what is looked up.
    ///
    /// # Errors
    /// [`MapError`] of the flow tables.
    pub fn remove_entries(&self, maps: &LbMaps) -> Result<(), MapError> {
        for (which, read) in &self.remove {
            let table = match which {
                Table::Established => &maps.flows,
                Table::New => &maps.flows_new,
            };
            remove_unless_touched(table, std::slice::from_ref(read), |v| v.last_seen)?;
        }
        Ok(())
    }

    fn word(&mut self, fe: &FrontendState, word: FrontendWord) {
        let record = fe.record;
        self.ops.push(MapOp::FrontendWord { record, word });
    }
}

// === impl FrontendState ===

impl FrontendState {
    fn is_alive(&self, index: u16) -> bool {
        let member = self.members.get(usize::from(index)).copied().flatten();
        member.is_some_and(|m| m.flags & backend_flags::ALIVE != 0)
    }
}

/// One frontend while it is looked at.
struct View<'a> {
    state: &'a mut State,
    fe: &'a mut FrontendState,
    facts: &'a [Fact],
    /// Slots of `current`, read when first needed.
    current: Vec<u16>,
    scan: &'a Scan,
    now: u64,
}

// === impl View ===

impl View<'_> {
    fn fold(&mut self, maglev: &Window<MaglevLine>, fold: &mut Fold) {
        let Some(changed) = self.fe.changed.take() else {
            return;
        };
        self.current = read_table(maglev, self.fe.current);
        let left = match changed {
            Changed::PerSlot(times) => self.fold_slots(maglev, times, fold),
            Changed::Whole(since) => self.fold_whole(since, fold),
        };
        self.fe.changed = left;
        if self.fe.changed.is_none() {
            self.end(fold);
        }
    }

    fn is_due(&self, since: u64) -> bool {
        since.saturating_add(self.state.times.fold_after) <= self.scan.started
    }

    /// Slots of `current` with a live flow that has another backend, which lives.
    fn differing(&self) -> BTreeSet<usize> {
        let len = n_u32(self.current.len());
        let facts = self.facts.iter().filter(|f| self.fe.is_alive(f.backend));
        facts
            .filter_map(|fact| {
                let slot = hash::slot(fact.hash, len) as usize;
                let gives = self.current.get(slot);
                gives
                    .is_none_or(|gives| *gives != fact.backend)
                    .then_some(slot)
            })
            .collect()
    }

    /// `None`: everything has folded.
    fn fold_slots(
        &self,
        maglev: &Window<MaglevLine>,
        mut times: Vec<u64>,
        fold: &mut Fold,
    ) -> Option<Changed> {
        let differing = self.differing();
        let mut slots = read_table(maglev, self.fe.previous);
        let per_line = SLOTS_PER_LINE as usize;
        let (mut patches, mut n_folded, mut n_left) = (Vec::new(), 0, 0);
        for (line, chunk) in (self.fe.previous.line..).zip(slots.chunks_mut(per_line)) {
            let first = (line - self.fe.previous.line) as usize * per_line;
            let before = n_folded;
            for (n, slot) in chunk.iter_mut().enumerate() {
                let at = first + n;
                if *slot == SLOT_UNCHANGED {
                    continue;
                }
                let since = times.get_mut(at);
                if since.as_ref().is_some_and(|since| self.is_due(**since))
                    && !differing.contains(&at)
                {
                    *slot = SLOT_UNCHANGED;
                    if let Some(since) = since {
                        *since = 0;
                    }
                    n_folded += 1;
                } else {
                    n_left += 1;
                }
            }
            if n_folded > before {
                let value = to_line(chunk);
                patches.push(MapOp::PatchLine { line, value });
            }
        }
        fold.n_folded += n_folded;
        if n_left == 0 {
            return None;
        }
        fold.ops.append(&mut patches);
        Some(Changed::PerSlot(times))
    }

    fn fold_whole(&mut self, since: u64, fold: &mut Fold) -> Option<Changed> {
        if !self.is_due(since) {
            return Some(Changed::Whole(since));
        }
        let differing = self.differing();
        if differing.is_empty() {
            fold.n_folded += self.fe.previous.len as usize;
            return None;
        }
        let len = n_u32(self.current.len());
        // The SNAT record of a flow that was silent has no entry and is found only under a backend that a table names: the former one stays.
        if len == 0 || self.fe.mode() == mode::SNAT {
            return Some(Changed::Whole(since));
        }
        // Flows with an entry go on by it; those without are taken for dead, so that `current` is as good an answer as any.
        let Ok(lines) = self.state.lines.take(n_lines(len), self.now) else {
            return Some(Changed::Whole(since));
        };
        let carried = |(at, gives): (usize, &u16)| {
            if differing.contains(&at) {
                (*gives, self.now)
            } else {
                (SLOT_UNCHANGED, 0)
            }
        };
        let (slots, times): (Vec<u16>, Vec<u64>) =
            self.current.iter().enumerate().map(carried).unzip();
        let line = lines.start;
        fold.n_folded += slots.iter().filter(|slot| **slot == SLOT_UNCHANGED).count();
        fold.ops.push(MapOp::Lines { line, slots });
        self.state.lines.give(lines_of(self.fe.previous), self.now);
        self.fe.previous = SlotTable { line, len };
        fold.word(self.fe, FrontendWord::Previous(self.fe.previous));
        Some(Changed::PerSlot(times))
    }

    /// Leaves transition: the flag first, so that nobody reads what is given back.
    fn end(&mut self, fold: &mut Fold) {
        self.fe.flags &= !frontend_flags::IN_TRANSITION;
        fold.word(self.fe, FrontendWord::Flags(self.fe.flags));
        self.state.lines.give(lines_of(self.fe.previous), self.now);
        self.fe.previous = SlotTable::default();
        fold.word(self.fe, FrontendWord::Previous(self.fe.previous));
    }

    /// Frees indices of dead backends that no table and no flow names.
    fn forget(&mut self, is_v4: bool, previous: &[u16], fold: &mut Fold) {
        let started = self.scan.started;
        let is_candidate = |m: &crate::state::Member| {
            m.flags == 0 && m.out_since.is_some_and(|since| since + REST_NS <= started)
        };
        let candidates = self.fe.member_ids().filter(|(_, m)| is_candidate(m));
        let mut candidates: BTreeSet<u16> = candidates.map(|(index, _)| index).collect();
        if candidates.is_empty() {
            return;
        }
        for fact in self.facts {
            candidates.remove(&fact.backend);
        }
        for index in previous.iter().chain(&self.fe.in_table) {
            candidates.remove(index);
        }
        for index in candidates {
            if let Some(member) = self.fe.members.get_mut(usize::from(index)) {
                *member = None;
            }
            fold.ops.push(MapOp::Backend {
                record: self.fe.base + u32::from(index),
                value: no_backend(is_v4),
            });
        }
    }
}

#[cfg(test)]
mod tests;
