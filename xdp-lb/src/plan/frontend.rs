//! One frontend: made, changed.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
};

use fairlead_abi::{
    flow::SNAT_PORT_MIN,
    lb::{SlotTable, backend_flags, frontend_flags, mode, vip_flags},
};
use fairlead_model::{Frontend, Protocol};

use super::{Blocked, Planner, table::Tables};
use crate::{
    desired::{DesiredBackend, DesiredFrontend},
    maglev,
    op::{FrontendWord, MapOp, n_lines},
    problem::ProblemReason,
    state::{FrontendState, Member, State, key_of, n_u32, no_backend, outer_csum},
};

/// Indices of a frontend: one below the mark of an unchanged slot.
const MAX_MEMBERS: usize = 0xfffe;

/// How long a change waits for next hops at the most: then it is made without, for tables must become equal on every node. As long as an
/// unanswered question counts as pending.
const HOLD_NS: u64 = 500_000_000;

/// What a change has taken and must give back if it fails.
#[derive(Default)]
pub(super) struct Reserved {
    pub(super) window: Option<Range<u32>>,
    pub(super) lines: Vec<Range<u32>>,
}

/// What a change no longer needs once its steps are applied.
#[derive(Default)]
pub(super) struct Freed {
    pub(super) window: Option<Range<u32>>,
    pub(super) lines: Vec<Range<u32>>,
}

/// One frontend's change in the making.
pub(super) struct Change<'a> {
    pub(super) frontend: Frontend,
    pub(super) want: &'a DesiredFrontend,
    pub(super) fe: FrontendState,
    pub(super) ops: Vec<MapOp>,
    pub(super) reserved: Reserved,
    pub(super) freed: Freed,
}

// === impl Reserved ===

impl Reserved {
    fn release(self, state: &mut State, is_v4: bool) {
        if let Some(window) = self.window {
            state.windows(is_v4).give_unused(window);
        }
        for lines in self.lines {
            state.lines.give_unused(lines);
        }
    }
}

// === impl Planner ===

impl Planner<'_> {
    pub(super) fn frontend(
        &mut self,
        frontend: Frontend,
        want: &Arc<DesiredFrontend>,
    ) -> Result<(), Blocked> {
        let is_v4 = frontend.vip.is_ipv4();
        let Some(fe) = self.state.frontends.get(&frontend) else {
            return self.create(frontend, want);
        };
        let is_same = fe
            .applied
            .as_ref()
            .is_some_and(|applied| Arc::ptr_eq(applied, want) || applied == want);
        if is_same && fe.due.is_none_or(|due| due > self.now) {
            return Ok(());
        }
        let fe = fe.clone();
        if self.hold(frontend, want) {
            return Ok(());
        }
        let mut change = Change {
            frontend,
            want,
            fe,
            ops: Vec::new(),
            reserved: Reserved::default(),
            freed: Freed::default(),
        };
        match self.update(&mut change) {
            Ok(()) => {
                change.fe.applied = Some(Arc::clone(want));
                change.fe.held_until = None;
                self.plan.ops.append(&mut change.ops);
                self.plan.touched.insert(frontend);
                self.state.frontends.insert(frontend, change.fe);
                if let Some(window) = change.freed.window {
                    self.state.windows(is_v4).give(window, self.now);
                }
                for lines in change.freed.lines {
                    self.state.lines.give(lines, self.now);
                }
                Ok(())
            }
            Err(blocked) => {
                change.reserved.release(self.state, is_v4);
                Err(blocked)
            }
        }
    }

    /// Whether the change waits: a table that named a backend before its next hop is known would lose what is sent there.
    fn hold(&mut self, frontend: Frontend, want: &DesiredFrontend) -> bool {
        let Some(fe) = self.state.frontends.get_mut(&frontend) else {
            return false;
        };
        if !awaits_a_hop(fe, want) {
            return false;
        }
        let until = *fe.held_until.get_or_insert(self.now + HOLD_NS);
        if until <= self.now {
            return false;
        }
        self.plan.held.insert(frontend);
        self.plan.wake(until);
        true
    }

    fn create(&mut self, frontend: Frontend, want: &Arc<DesiredFrontend>) -> Result<(), Blocked> {
        let now = self.now;
        let taken = self.state.records.take(1, now);
        let record = taken.map_err(|e| Blocked::from(e, ProblemReason::FrontendTableFull))?;
        let vip = self.state.vips.get(&frontend.vip);
        let vip = vip.expect("frontends are planned after their VIPs");
        let asks = frontend.port >= SNAT_PORT_MIN
            && vip.value.flags & vip_flags::HAS_SNAT != 0
            && !self.fresh.contains(&frontend.vip);
        let fe = FrontendState {
            record: record.start,
            vip_record: vip.record,
            current: SlotTable::default(),
            previous: SlotTable::default(),
            flags: mode_bits(want.mode) | if asks { frontend_flags::ASK_RECORDS } else { 0 },
            udp_until: 0,
            base: 0,
            members: Vec::new(),
            in_table: Vec::new(),
            changed: None,
            applied: Some(Arc::clone(want)),
            due: None,
            held_until: None,
        };
        let mut change = Change {
            frontend,
            want,
            fe,
            ops: Vec::new(),
            reserved: Reserved::default(),
            freed: Freed::default(),
        };
        match self.publish_new(&mut change) {
            Ok(()) => {
                self.plan.touched.insert(frontend);
                self.state.frontends.insert(frontend, change.fe);
                Ok(())
            }
            Err(blocked) => {
                let is_v4 = frontend.vip.is_ipv4();
                change.reserved.release(self.state, is_v4);
                self.state.records.give_unused(record);
                Err(blocked)
            }
        }
    }

    fn publish_new(&mut self, change: &mut Change<'_>) -> Result<(), Blocked> {
        self.assign(change)?;
        raise(change);
        let slots = accepting_table(change);
        if !slots.is_empty() {
            let len = n_u32(slots.len());
            let line = self.reserve_lines(change, len)?;
            change.ops.push(MapOp::Lines { line, slots });
            change.fe.current = SlotTable { line, len };
        }
        change.fe.in_table = accepting(change);
        // Last of all that can fail: moves of other keys are steps of their own and valid whatever becomes of this one.
        let key = key_of(&change.frontend);
        let place = self.place(key)?;
        let index = change.fe.record;
        self.plan.ops.push(MapOp::ResetStats { record: index });
        self.plan.ops.append(&mut change.ops);
        let value = change.fe.value();
        self.plan.ops.push(MapOp::Frontend {
            record: index,
            value,
        });
        self.plan.ops.push(MapOp::Set { place, key, index });
        Ok(())
    }

    fn update(&mut self, change: &mut Change<'_>) -> Result<(), Blocked> {
        let old_base = change.fe.base;
        let old = change.fe.members.clone();
        let moved = self.assign(change)?;
        raise(change);
        if moved {
            // All records lie in the new window now; the same indices mean the same backends in both.
            let record = change.fe.record;
            let word = FrontendWord::Base {
                backend_base: change.fe.base,
                vip: change.fe.vip_record,
            };
            change.ops.push(MapOp::FrontendWord { record, word });
            let word = FrontendWord::NBackends(n_u32(change.fe.members.len()));
            change.ops.push(MapOp::FrontendWord { record, word });
            change.freed.window = Some(old_base..old_base + n_u32(old.len()));
        }
        let flags =
            change.fe.flags & !mode_bits(frontend_flags::MODE_MASK) | mode_bits(change.want.mode);
        let tables = Tables {
            in_table: accepting(change),
            slots: Vec::new(),
        };
        let size_differs =
            !tables.in_table.is_empty() && change.want.table_size != change.fe.current.len;
        if tables.in_table != change.fe.in_table || size_differs {
            let slots = accepting_table(change);
            self.retable(change, Tables { slots, ..tables }, flags)?;
        } else if flags != change.fe.flags {
            set_flags(change, flags);
        }
        self.lower(change);
        Ok(())
    }

    /// Gives every wanted backend an index; moves to a larger window where this one is full. Whether it moved.
    fn assign(&mut self, change: &mut Change<'_>) -> Result<bool, Blocked> {
        let is_v4 = change.frontend.vip.is_ipv4();
        let members = change.fe.member_ids();
        let known: HashMap<SocketAddr, u16> = members.map(|(i, m)| (m.identity, i)).collect();
        let fresh: Vec<&DesiredBackend> = change
            .want
            .backends
            .iter()
            .filter(|b| !known.contains_key(&b.identity))
            .collect();
        let n_used = change.fe.members.iter().flatten().count();
        let n_free = change.fe.members.len() - n_used;
        let is_new = change.fe.members.is_empty();
        let moves = is_new || fresh.len() > n_free;
        if moves {
            let needed = n_used + fresh.len();
            if needed > MAX_MEMBERS {
                return Err(Blocked::Full(ProblemReason::BackendTableFull));
            }
            let capacity = capacity(needed);
            let taken = self.state.windows(is_v4).take(n_u32(capacity), self.now);
            let window = taken.map_err(|e| Blocked::from(e, ProblemReason::BackendTableFull))?;
            change.fe.base = window.start;
            change.fe.members.resize(capacity, None);
            change.reserved.window = Some(window);
        }
        let mut fresh = fresh.into_iter();
        for slot in change.fe.members.iter_mut().filter(|slot| slot.is_none()) {
            let Some(backend) = fresh.next() else { break };
            *slot = Some(Member {
                identity: backend.identity,
                flags: 0,
                mac: [0; 6],
                iface: 0,
                csum: 0,
                linger_until: None,
                out_since: None,
            });
        }
        if moves {
            write_window(change, is_v4);
        }
        Ok(moves && !is_new)
    }

    /// What backends lose: new flows, then life. After no table sends anything there.
    fn lower(&self, change: &mut Change<'_>) {
        let wanted = by_identity(change.want);
        let is_udp = change.frontend.protocol == Protocol::Udp;
        let linger = if is_udp { 0 } else { self.state.times.linger };
        let (base, now) = (change.fe.base, self.now);
        change.fe.due = None;
        for (index, member) in (0_u16..).zip(&mut change.fe.members) {
            let Some(member) = member else { continue };
            let before = *member;
            match wanted.get(&member.identity) {
                Some(want) if want.accepts_new => {}
                Some(_) => member.flags &= !backend_flags::ACCEPTS_NEW,
                None => {
                    member.flags &= !backend_flags::ACCEPTS_NEW;
                    if member.out_since.is_none() {
                        member.out_since = Some(now);
                        member.linger_until = Some(now + linger);
                    }
                    if member.linger_until.is_none_or(|until| until <= now) {
                        member.flags = 0;
                        member.linger_until = None;
                    }
                }
            }
            if member.value() != before.value() {
                change.ops.push(member.op(base, index));
            }
            if let Some(until) = member.linger_until {
                change.fe.due = Some(change.fe.due.map_or(until, |due| due.min(until)));
            }
        }
    }

    pub(super) fn reserve_lines(
        &mut self,
        change: &mut Change<'_>,
        len: u32,
    ) -> Result<u32, Blocked> {
        let taken = self.state.lines.take(n_lines(len), self.now);
        let lines = taken.map_err(|e| Blocked::from(e, ProblemReason::MaglevFull))?;
        let line = lines.start;
        change.reserved.lines.push(lines);
        Ok(line)
    }
}

/// Empties the records of a fresh window that have no member: they hold what their former owner left.
fn write_window(change: &mut Change<'_>, is_v4: bool) {
    let (base, n) = (change.fe.base, change.fe.members.len());
    for (record, member) in (base..base + n_u32(n)).zip(&change.fe.members) {
        let value = member.map_or_else(|| no_backend(is_v4), |m| m.value());
        change.ops.push(MapOp::Backend { record, value });
    }
}

/// What wanted backends gain: flags and next hops. Before any table names them.
fn raise(change: &mut Change<'_>) {
    let wanted = by_identity(change.want);
    let base = change.fe.base;
    for (index, member) in (0_u16..).zip(&mut change.fe.members) {
        let Some(member) = member else { continue };
        let Some(want) = wanted.get(&member.identity) else {
            continue;
        };
        let before = *member;
        member.flags |= backend_flags::ALIVE;
        if want.accepts_new {
            member.flags |= backend_flags::ACCEPTS_NEW;
        }
        if let Some(hop) = want.hop {
            member.flags &= !backend_flags::NODE_SOURCE;
            if hop.is_node_source {
                member.flags |= backend_flags::NODE_SOURCE;
            }
            member.mac = hop.mac.0;
            member.iface = hop.iface;
            member.csum = match member.identity {
                SocketAddr::V4(v4) if hop.source4 != [0; 4] => outer_csum(hop.source4, *v4.ip()),
                _ => 0,
            };
        }
        member.linger_until = None;
        member.out_since = None;
        if member.value() != before.value() {
            change.ops.push(member.op(base, index));
        }
    }
}

/// Whether a backend that is to get new flows has no next hop in its record and is still being asked for it.
fn awaits_a_hop(fe: &FrontendState, want: &DesiredFrontend) -> bool {
    let is_awaited = |b: &&DesiredBackend| b.is_awaited && b.accepts_new;
    let mut awaited = want.backends.iter().filter(is_awaited).peekable();
    if awaited.peek().is_none() {
        return false;
    }
    let members = fe.members.iter().flatten();
    let known: HashSet<SocketAddr> = members
        .filter(|m| m.mac != [0; 6])
        .map(|m| m.identity)
        .collect();
    awaited.any(|backend| !known.contains(&backend.identity))
}

pub(super) fn set_flags(change: &mut Change<'_>, flags: u64) {
    if flags != change.fe.flags {
        change.fe.flags = flags;
        let (record, word) = (change.fe.record, FrontendWord::Flags(flags));
        change.ops.push(MapOp::FrontendWord { record, word });
    }
}

/// Room for some that come later, so that a window moves seldom.
fn capacity(n: usize) -> usize {
    (n + (n / 8).max(2)).min(MAX_MEMBERS)
}

const fn mode_bits(mode: u64) -> u64 {
    (mode & frontend_flags::MODE_MASK) << frontend_flags::MODE_SHIFT
}

fn by_identity(want: &DesiredFrontend) -> HashMap<SocketAddr, &DesiredBackend> {
    want.backends.iter().map(|b| (b.identity, b)).collect()
}

/// Indices of the backends that take new flows, sorted.
fn accepting(change: &Change<'_>) -> Vec<u16> {
    let wanted = by_identity(change.want);
    let members = change.fe.member_ids();
    let taking = members.filter(|(_, m)| wanted.get(&m.identity).is_some_and(|w| w.accepts_new));
    taking.map(|(index, _)| index).collect()
}

fn accepting_table(change: &Change<'_>) -> Vec<u16> {
    let wanted = by_identity(change.want);
    let members = change.fe.member_ids();
    let taking = members.filter(|(_, m)| wanted.get(&m.identity).is_some_and(|w| w.accepts_new));
    let members: Vec<maglev::Member> = taking
        .map(|(index, m)| maglev::Member {
            identity: m.identity,
            index,
        })
        .collect();
    maglev::build(&members, change.want.table_size)
        .expect("table sizes are checked against the number of backends when the wish is made")
}

const _: () = assert!(mode::DSR_IPIP <= frontend_flags::MODE_MASK);
