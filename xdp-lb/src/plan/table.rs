//! The two tables of a frontend: where new flows go, and where those go that began before a change.
//!
//! `previous` holds, for each slot that has changed since its last fold, the index it had then. While lengths agree it is sparse; when the
//! table's length changes it keeps its own length and holds every slot. It never loses an entry here: folding is the sweep's business.

use fairlead_abi::lb::{SLOT_UNCHANGED, SLOTS_PER_LINE, SlotTable, frontend_flags};
use fairlead_model::Protocol;

use super::{
    Blocked, Planner,
    frontend::{Change, set_flags},
};
use crate::{
    op::{FrontendWord, MapOp, read_table, to_line},
    state::{Changed, lines_of, n_u32},
};

/// A table that is to be.
pub(super) struct Tables {
    /// Indices it holds, sorted.
    pub(super) in_table: Vec<u16>,
    /// Its slots; empty = no backend takes flows.
    pub(super) slots: Vec<u16>,
}

impl Planner<'_> {
    /// Publishes `new` as `current`, after `previous` says where the flows of changed slots are. `flags` are those wanted apart from the
    /// transition's.
    pub(super) fn retable(
        &mut self,
        change: &mut Change<'_>,
        new: Tables,
        flags: u64,
    ) -> Result<(), Blocked> {
        let record = change.fe.record;
        let old = read_table(self.maglev, change.fe.current);
        change.fe.in_table = new.in_table;
        if old == new.slots {
            set_flags(change, flags);
            return Ok(());
        }
        let current = if new.slots.is_empty() {
            SlotTable::default()
        } else {
            let len = n_u32(new.slots.len());
            let line = self.reserve_lines(change, len)?;
            let slots = new.slots.clone();
            change.ops.push(MapOp::Lines { line, slots });
            SlotTable { line, len }
        };
        if change.fe.previous.len == 0 {
            if !old.is_empty() {
                self.begin(change, &old, &new.slots)?;
            }
        } else {
            self.extend(change, &old, &new.slots);
        }
        let mut flags = flags & !frontend_flags::IN_TRANSITION;
        if change.fe.previous.len != 0 {
            flags |= frontend_flags::IN_TRANSITION;
            if change.frontend.protocol == Protocol::Udp {
                change.fe.udp_until = self.now + self.state.times.udp_previous;
                let word = FrontendWord::UdpPreviousUntil(change.fe.udp_until);
                change.ops.push(MapOp::FrontendWord { record, word });
            }
        }
        set_flags(change, flags);
        change.freed.lines.push(lines_of(change.fe.current));
        change.fe.current = current;
        let word = FrontendWord::Current(current);
        change.ops.push(MapOp::FrontendWord { record, word });
        Ok(())
    }

    /// The first change since the last fold.
    fn begin(&mut self, change: &mut Change<'_>, old: &[u16], new: &[u16]) -> Result<(), Blocked> {
        let now = self.now;
        let (slots, changed) = if old.len() == new.len() {
            let differs = |(o, n): (&u16, &u16)| {
                if o == n {
                    (SLOT_UNCHANGED, 0)
                } else {
                    (*o, now)
                }
            };
            let (slots, times) = old.iter().zip(new).map(differs).unzip();
            (slots, Changed::PerSlot(times))
        } else {
            (old.to_vec(), Changed::Whole(now))
        };
        let len = n_u32(old.len());
        let line = self.reserve_lines(change, len)?;
        change.ops.push(MapOp::Lines { line, slots });
        change.fe.previous = SlotTable { line, len };
        change.fe.changed = Some(changed);
        let word = FrontendWord::Previous(change.fe.previous);
        let record = change.fe.record;
        change.ops.push(MapOp::FrontendWord { record, word });
        Ok(())
    }

    /// A further change: slots of `previous` that were unchanged so far and change now get what they have now.
    fn extend(&mut self, change: &mut Change<'_>, old: &[u16], new: &[u16]) {
        let now = self.now;
        let previous = change.fe.previous;
        if previous.len != n_u32(old.len()) {
            // `previous` has its own length and holds every slot: it is complete.
            change.fe.changed = Some(Changed::Whole(now));
            return;
        }
        let same_length = old.len() == new.len();
        let changes = |slot: usize| !same_length || old[slot] != new[slot];
        let mut slots = read_table(self.maglev, previous);
        let per_line = SLOTS_PER_LINE as usize;
        for (line, chunk) in (previous.line..).zip(slots.chunks_mut(per_line)) {
            let first = (line - previous.line) as usize * per_line;
            let mut is_patched = false;
            for (n, slot) in chunk.iter_mut().enumerate() {
                if *slot == SLOT_UNCHANGED && changes(first + n) {
                    *slot = old[first + n];
                    is_patched = true;
                }
            }
            if is_patched {
                let value = to_line(chunk);
                change.ops.push(MapOp::PatchLine { line, value });
            }
        }
        change.fe.changed = Some(match change.fe.changed.take() {
            Some(Changed::PerSlot(mut times)) if same_length => {
                for (slot, time) in times.iter_mut().enumerate() {
                    if changes(slot) {
                        *time = now;
                    }
                }
                Changed::PerSlot(times)
            }
            _ => Changed::Whole(now),
        });
    }
}
