//! From what the maps hold to what they should hold: an ordered list of steps, valid after every prefix.
//!
//! Pure but for reading tables out of the array, which is the truth about what flows use. Each frontend's steps run: backends, Maglev
//! lines, `previous`, flags, `current`, bucket slot; what is taken away goes the other way round, and rests before it is used again.
//! The state is changed as the steps are made; they must be applied before the next plan. See [`frontend`] for one frontend, [`table`] for
//! the two tables.

use std::collections::BTreeSet;

use fairlead_abi::lb::{Iface, MaglevLine, VipState, mode, vip_flags};
use fairlead_datapath::Window;
use fairlead_model::{Frontend, Vip};

use crate::{
    buckets::{Place, Placement},
    desired::{Desired, DesiredVip},
    op::{Key, MapOp},
    problem::{Problem, ProblemReason},
    ranges::{NoRoom, REST_NS},
    state::{Named, State, VipEntry, key_of, lines_of, name_of, vip_key},
};

mod frontend;
mod table;

/// Steps and findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub ops: Vec<MapOp>,
    /// What could not be done.
    pub problems: Vec<Problem>,
    /// Frontends that are not (or not completely) as wanted.
    pub blocked: BTreeSet<Frontend>,
    /// VIPs that have no entry.
    pub blocked_vips: BTreeSet<Vip>,
    /// Frontends that go on as they are until the next hops of backends that came have answered.
    pub held: BTreeSet<Frontend>,
    /// Frontends that were made, changed or removed.
    pub touched: BTreeSet<Frontend>,
    /// Plan again then, even if nothing changes; CLOCK_BOOTTIME ns.
    pub wake_at: Option<u64>,
}

/// Why something has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    /// Something rests; try again then.
    Until(u64),
    /// There is no room.
    Full(ProblemReason),
}

struct Planner<'a> {
    state: &'a mut State,
    maglev: &'a Window<MaglevLine>,
    now: u64,
    plan: Plan,
    /// VIPs whose entry this plan has made: no record of a former flow can exist.
    fresh: BTreeSet<Vip>,
}

impl State {
    /// The steps from here to `desired`. `now` is CLOCK_BOOTTIME ns and never goes back.
    #[must_use]
    pub fn plan(&mut self, desired: &Desired, maglev: &Window<MaglevLine>, now: u64) -> Plan {
        let mut planner = Planner {
            state: self,
            maglev,
            now,
            plan: Plan::default(),
            fresh: BTreeSet::new(),
        };
        planner.ifaces(desired);
        planner.add_vips(desired);
        planner.frontends(desired);
        planner.remove_frontends(desired);
        planner.remove_vips(desired);
        planner.remove_ifaces(desired);
        if !planner.plan.blocked.is_empty() || !planner.plan.blocked_vips.is_empty() {
            // What this very plan has removed makes room when it has rested.
            planner.plan.wake(now.saturating_add(REST_NS));
        }
        planner.plan.problems.sort();
        planner.plan
    }
}

// === impl Plan ===

impl Plan {
    fn wake(&mut self, at: u64) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

// === impl Blocked ===

impl Blocked {
    fn from(no_room: NoRoom, reason: ProblemReason) -> Self {
        match no_room {
            NoRoom::Until(at) => Self::Until(at),
            NoRoom::Full => Self::Full(reason),
        }
    }
}

// === impl Planner ===

impl Planner<'_> {
    fn ifaces(&mut self, desired: &Desired) {
        for (slot, row) in &desired.ifaces {
            if self.state.ifaces.get(slot) != Some(row) {
                self.state.ifaces.insert(*slot, *row);
                let (slot, value) = (*slot, *row);
                self.plan.ops.push(MapOp::Iface { slot, value });
            }
        }
    }

    fn remove_ifaces(&mut self, desired: &Desired) {
        let surplus: Vec<u32> = self
            .state
            .ifaces
            .keys()
            .filter(|slot| !desired.ifaces.contains_key(slot))
            .copied()
            .collect();
        if surplus.is_empty() {
            return;
        }
        let frontends = self.state.frontends.values();
        let used: BTreeSet<u32> = frontends
            .flat_map(|fe| fe.member_ids().map(|(_, m)| u32::from(m.iface)))
            .collect();
        for slot in surplus.into_iter().filter(|slot| !used.contains(slot)) {
            self.state.ifaces.remove(&slot);
            let value = Iface::default();
            self.plan.ops.push(MapOp::Iface { slot, value });
        }
    }

    fn add_vips(&mut self, desired: &Desired) {
        let snat = snat_vips(desired);
        for (vip, want) in &desired.vips {
            let has_snat = snat.contains(vip);
            match self.state.vips.get(vip).copied() {
                Some(entry) => {
                    let kept = entry.value.flags & vip_flags::HAS_SNAT;
                    let mut value = vip_value(want, has_snat);
                    value.flags |= kept;
                    self.set_vip(*vip, entry, value);
                }
                None => match self.create_vip(*vip, vip_value(want, has_snat)) {
                    Ok(()) => {
                        self.fresh.insert(*vip);
                    }
                    Err(blocked) => self.block_vip(desired, *vip, blocked),
                },
            }
        }
    }

    fn block_vip(&mut self, desired: &Desired, vip: Vip, blocked: Blocked) {
        self.plan.blocked_vips.insert(vip);
        let mine = desired.frontends.iter().filter(|(f, _)| f.vip == vip);
        for (frontend, want) in mine {
            self.block(*frontend, &want.service, blocked);
        }
        if let Blocked::Until(at) = blocked {
            self.plan.wake(at);
        }
    }

    fn set_vip(&mut self, vip: Vip, entry: VipEntry, value: VipState) {
        if entry.value == value {
            return;
        }
        let record = entry.record;
        self.state.vips.insert(vip, VipEntry { record, value });
        self.plan.ops.push(MapOp::VipState { record, value });
    }

    fn create_vip(&mut self, vip: Vip, value: VipState) -> Result<(), Blocked> {
        let now = self.now;
        let taken = self.state.vip_records.take(1, now);
        let range = taken.map_err(|e| Blocked::from(e, ProblemReason::FrontendTableFull))?;
        let record = range.start;
        let key = vip_key(vip);
        match self.place(key) {
            Ok(place) => {
                self.state.vips.insert(vip, VipEntry { record, value });
                let index = record;
                self.plan.ops.push(MapOp::VipState { record, value });
                self.plan.ops.push(MapOp::Set { place, key, index });
                Ok(())
            }
            Err(blocked) => {
                self.state.vip_records.give_unused(range);
                Err(blocked)
            }
        }
    }

    fn remove_vips(&mut self, desired: &Desired) {
        let snat = snat_vips(desired);
        let all: Vec<(Vip, VipEntry)> = self.state.vips.iter().map(|(v, e)| (*v, *e)).collect();
        for (vip, entry) in all {
            match desired.vips.get(&vip) {
                Some(want) => self.set_vip(vip, entry, vip_value(want, snat.contains(&vip))),
                None if desired.held.contains(&vip) => {}
                None => {
                    self.state.vips.remove(&vip);
                    self.unplace(&vip_key(vip));
                    let record = entry.record;
                    self.state.vip_records.give(record..record + 1, self.now);
                }
            }
        }
    }

    fn frontends(&mut self, desired: &Desired) {
        for (frontend, want) in &desired.frontends {
            if !self.state.vips.contains_key(&frontend.vip) {
                // Its VIP has no place; said there.
                continue;
            }
            if let Err(blocked) = self.frontend(*frontend, want) {
                self.block(*frontend, &want.service, blocked);
            }
            if let Some(due) = self.state.frontends.get(frontend).and_then(|fe| fe.due) {
                self.plan.wake(due);
            }
        }
    }

    fn block(
        &mut self,
        frontend: Frontend,
        service: &fairlead_model::ServiceName,
        blocked: Blocked,
    ) {
        self.plan.blocked.insert(frontend);
        match blocked {
            Blocked::Until(at) => self.plan.wake(at),
            Blocked::Full(reason) => self.plan.problems.push(Problem {
                service: service.clone(),
                reason,
                frontend: Some(frontend),
                backend: None,
                message: full_message(frontend, reason),
            }),
        }
    }

    fn remove_frontends(&mut self, desired: &Desired) {
        let is_kept = |frontend: &Frontend| {
            desired.frontends.contains_key(frontend)
                || (!desired.vips.contains_key(&frontend.vip)
                    && desired.held.contains(&frontend.vip))
        };
        let surplus = self.state.frontends.keys().filter(|f| !is_kept(f));
        let surplus: Vec<Frontend> = surplus.copied().collect();
        for frontend in surplus {
            let Some(fe) = self.state.frontends.remove(&frontend) else {
                continue;
            };
            self.unplace(&key_of(&frontend));
            self.plan.touched.insert(frontend);
            let now = self.now;
            let is_v4 = frontend.vip.is_ipv4();
            self.state.lines.give(lines_of(fe.current), now);
            self.state.lines.give(lines_of(fe.previous), now);
            self.state.windows(is_v4).give(fe.window(), now);
            self.state.draining.insert(fe.record, now);
        }
    }

    /// Finds a place for a key; may emit the move of another that is in the way.
    fn place(&mut self, key: Key) -> Result<Place, Blocked> {
        let now = self.now;
        let (moved, from, to, retry_at) = match key {
            Key::V4(k) => match self.state.buckets4.place(k, now) {
                Placement::Taken(place) => return Ok(place),
                Placement::Wait(at) => return Err(Blocked::Until(at)),
                Placement::Full => return Err(Blocked::Full(ProblemReason::VipTableFull)),
                Placement::Moved {
                    key,
                    from,
                    to,
                    retry_at,
                } => (Key::V4(key), from, to, retry_at),
            },
            Key::V6(addr, tag) => match self.state.buckets6.place((addr, tag), now) {
                Placement::Taken(place) => return Ok(place),
                Placement::Wait(at) => return Err(Blocked::Until(at)),
                Placement::Full => return Err(Blocked::Full(ProblemReason::VipTableFull)),
                Placement::Moved {
                    key: (addr, tag),
                    from,
                    to,
                    retry_at,
                } => (Key::V6(addr, tag), from, to, retry_at),
            },
        };
        let index = self.index_of(&moved);
        let is_v4 = matches!(key, Key::V4(_));
        self.plan.ops.push(MapOp::Set {
            place: to,
            key: moved,
            index,
        });
        self.plan.ops.push(MapOp::Clear { place: from, is_v4 });
        Err(Blocked::Until(retry_at))
    }

    fn index_of(&self, key: &Key) -> u32 {
        let found = match name_of(key) {
            Named::Vip(vip) => self.state.vips.get(&vip).map(|entry| entry.record),
            Named::Frontend(frontend) => self.state.record_of(&frontend),
            Named::Unknown => None,
        };
        found.expect("every placed key has its VIP or frontend in the state")
    }

    fn unplace(&mut self, key: &Key) {
        let (place, is_v4) = match key {
            Key::V4(key) => (self.state.buckets4.remove(key, self.now), true),
            Key::V6(addr, tag) => (self.state.buckets6.remove(&(*addr, *tag), self.now), false),
        };
        if let Some(place) = place {
            self.plan.ops.push(MapOp::Clear { place, is_v4 });
        }
    }
}

fn snat_vips(desired: &Desired) -> BTreeSet<Vip> {
    let frontends = desired.frontends.iter();
    let snat = frontends.filter(|(_, want)| want.mode == mode::SNAT);
    snat.map(|(frontend, _)| frontend.vip).collect()
}

fn vip_value(want: &DesiredVip, has_snat: bool) -> VipState {
    let mut flags = 0;
    if has_snat {
        flags |= vip_flags::HAS_SNAT;
    }
    flags |= if want.pass_to_host {
        vip_flags::PASS_TO_HOST
    } else {
        vip_flags::ANSWER_ECHO
    };
    let (mac, iface) = want.handoff.unwrap_or_default();
    VipState {
        flags,
        _pad: 0,
        handoff_mac: mac.0,
        handoff_iface: iface,
    }
}

fn full_message(frontend: Frontend, reason: ProblemReason) -> String {
    let what = match reason {
        ProblemReason::VipTableFull => "the frontend table has no place for it: remove frontends",
        ProblemReason::MaglevFull => {
            "the Maglev array is full: raise its number of lines, or lower table sizes"
        }
        ProblemReason::BackendTableFull => "the backend array is full: remove backends",
        ProblemReason::FrontendTableFull => "no frontend record is left: remove frontends",
        _ => "it cannot be programmed",
    };
    format!("{frontend}: {what}")
}

#[cfg(test)]
mod tests;
