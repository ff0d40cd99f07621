//! Which backend a flow takes while its frontend is in transition.
//!
//! A slot of `previous` that is not `SLOT_UNCHANGED` had another backend before: flows that may have begun then are looked up, and those not
//! found are told apart by their first packet. Flows of unchanged slots never touch a table.
//!
//! Indices are plain numbers with [`NOWHERE`] for "none": an `Option<u16>` that lives across branches leaves its payload undefined on one of
//! them, and LLVM moves arithmetic on it to where the verifier sees an unwritten register.

use fairlead_abi::{
    flow::{FlowKey, FlowValue, HALF_OPEN_NS, flow_state},
    lb::{FrontendValue, SLOT_UNCHANGED, backend_flags, frontend_flags},
    reasons,
};

use crate::{
    Insert, Maps, Table,
    parse::Parsed,
    select,
    wire::{proto, tcp_flags},
};

/// An entry is written again for a later packet only after this time, ns.
const TOUCH_NS: u64 = 1_000_000_000;

/// No backend.
pub const NOWHERE: u16 = SLOT_UNCHANGED;

/// What the two tables say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// What new flows take, or [`NOWHERE`].
    pub current: u16,
    /// What the slot had before, or [`NOWHERE`] if it has not changed.
    pub previous: u16,
}

/// Reads both tables (the second one only in transition).
#[inline(always)]
pub fn slots<M: Maps>(m: &M, fe: &FrontendValue, flow_hash: u32) -> Slots {
    let current = select::slot(m, fe.current, flow_hash).unwrap_or(NOWHERE);
    if fe.flags & frontend_flags::IN_TRANSITION == 0 {
        return Slots {
            current,
            previous: NOWHERE,
        };
    }
    let previous = select::slot(m, fe.previous, flow_hash).unwrap_or(NOWHERE);
    Slots { current, previous }
}

/// A flow under question.
struct Flow<'a, M> {
    m: &'a M,
    fe: &'a FrontendValue,
    /// Record in `FRONTENDS`.
    index: u32,
    v6: bool,
    key: FlowKey,
}

/// Chooses the backend of a packet from a client, and remembers what must be remembered. [`NOWHERE`]: there is no backend.
#[inline(always)]
pub fn choose<M: Maps>(m: &M, fe: &FrontendValue, index: u32, h: &Parsed) -> u16 {
    choose_from(m, fe, index, h, slots(m, fe, h.flow_hash()))
}

/// The same where both tables have been read.
#[inline(always)]
pub fn choose_from<M: Maps>(
    m: &M,
    fe: &FrontendValue,
    index: u32,
    h: &Parsed,
    Slots { current, previous }: Slots,
) -> u16 {
    if previous == NOWHERE {
        return current;
    }
    let flow = Flow {
        m,
        fe,
        index,
        v6: h.v6,
        key: key(h),
    };
    if h.proto == proto::UDP {
        return flow.udp(current, previous);
    }
    let now = m.now();
    if h.is_syn() {
        flow.syn(now, current, previous)
    } else {
        flow.later(now, h, current, previous)
    }
}

/// The same without leaving a trace, for a packet that only quotes the flow.
#[inline(always)]
pub fn peek<M: Maps>(m: &M, fe: &FrontendValue, index: u32, h: &Parsed) -> u16 {
    peek_from(m, fe, index, h, slots(m, fe, h.flow_hash()))
}

/// The same where both tables have been read.
#[inline(always)]
pub fn peek_from<M: Maps>(
    m: &M,
    fe: &FrontendValue,
    index: u32,
    h: &Parsed,
    Slots { current, previous }: Slots,
) -> u16 {
    if previous == NOWHERE {
        return current;
    }
    let flow = Flow {
        m,
        fe,
        index,
        v6: h.v6,
        key: key(h),
    };
    if h.proto == proto::UDP {
        return flow.udp(current, previous);
    }
    if let Some(entry) = flow.established() {
        return entry.backend;
    }
    match flow.half_open(m.now()) {
        Some(entry) => entry.backend,
        None if flow.is(previous, backend_flags::ALIVE) => previous,
        None => current,
    }
}

/// Corrects what is remembered of a TCP flow: its SNAT record is under `backend`.
#[inline(always)]
pub fn correct<M: Maps>(m: &M, index: u32, h: &Parsed, now: u64, backend: u16) {
    let value = FlowValue {
        last_seen: now,
        frontend: index,
        backend,
        state: state_after(h),
    };
    if !m.put_flow(Table::Established, &key(h), &value, Insert::Any) {
        m.count(reasons::FLOW_TABLE_FULL, 0);
    }
}

/// State of an entry that a later packet of its flow makes.
#[inline(always)]
const fn state_after(h: &Parsed) -> u16 {
    if h.tcp_flags & tcp_flags::RST != 0 {
        flow_state::CLOSED
    } else if h.tcp_flags & tcp_flags::FIN != 0 {
        flow_state::FIN_CLIENT
    } else {
        flow_state::ESTABLISHED
    }
}

#[inline(always)]
fn key(h: &Parsed) -> FlowKey {
    FlowKey {
        client: h.src,
        vip: h.dst,
        client_port: h.ports.src,
        vip_port: h.ports.dst,
        proto: h.proto,
        _pad: [0; 3],
    }
}

impl<M: Maps> Flow<'_, M> {
    #[inline(always)]
    fn is(&self, backend: u16, flag: u8) -> bool {
        select::backend_flags(self.m, self.v6, self.fe, backend) & flag != 0
    }

    #[inline(always)]
    fn udp(&self, current: u16, previous: u16) -> u16 {
        if self.m.now() < self.fe.udp_previous_until && self.is(previous, backend_flags::ALIVE) {
            previous
        } else {
            current
        }
    }

    /// The established entry, if it names this frontend and a backend that lives.
    #[inline(always)]
    fn established(&self) -> Option<FlowValue> {
        self.m.flow(Table::Established, &self.key).filter(|entry| {
            entry.frontend == self.index && self.is(entry.backend, backend_flags::ALIVE)
        })
    }

    /// The half-open entry, likewise, unless it is too old. One that found no room among the established does not age.
    #[inline(always)]
    fn half_open(&self, now: u64) -> Option<FlowValue> {
        self.m.flow(Table::New, &self.key).filter(|entry| {
            let fresh = now.wrapping_sub(entry.last_seen) < HALF_OPEN_NS
                || entry.state == flow_state::ESTABLISHED;
            fresh && entry.frontend == self.index && self.is(entry.backend, backend_flags::ALIVE)
        })
    }

    #[inline(always)]
    const fn entry(&self, now: u64, backend: u16, state: u16) -> FlowValue {
        FlowValue {
            last_seen: now,
            frontend: self.index,
            backend,
            state,
        }
    }

    /// A first packet: what is remembered, else `current`, remembered if there is room.
    #[inline(always)]
    fn syn(&self, now: u64, current: u16, previous: u16) -> u16 {
        let live = self.established();
        let reused = match live {
            Some(entry) if entry.state == flow_state::ESTABLISHED => return entry.backend,
            Some(_) => true,
            None => false,
        };
        if !reused && let Some(entry) = self.half_open(now) {
            return entry.backend;
        }
        if current == NOWHERE {
            return if self.is(previous, backend_flags::ACCEPTS_NEW) {
                previous
            } else {
                NOWHERE
            };
        }
        let value = self.entry(now, current, flow_state::NEW);
        // Overwrites a stale entry of the same flow and fails only when the table is full.
        if self.m.put_flow(Table::New, &self.key, &value, Insert::Any) {
            if reused {
                self.m.remove_flow(Table::Established, &self.key);
            }
            return current;
        }
        self.m.count(reasons::FLOW_TABLE_FULL, 0);
        if self.is(previous, backend_flags::ACCEPTS_NEW) {
            previous
        } else {
            current
        }
    }

    /// A later packet of a TCP flow.
    #[inline(always)]
    fn later(&self, now: u64, h: &Parsed, current: u16, previous: u16) -> u16 {
        let state = state_after(h);
        if let Some(mut entry) = self.established() {
            let state = if state == flow_state::ESTABLISHED {
                entry.state
            } else {
                state
            };
            if now.wrapping_sub(entry.last_seen) > TOUCH_NS || state != entry.state {
                entry.last_seen = now;
                entry.state = state;
                // The key exists, so there is room.
                self.m
                    .put_flow(Table::Established, &self.key, &entry, Insert::Any);
            }
            return entry.backend;
        }
        if let Some(entry) = self.half_open(now) {
            let value = self.entry(now, entry.backend, state);
            if self
                .m
                .put_flow(Table::Established, &self.key, &value, Insert::Any)
            {
                self.m.remove_flow(Table::New, &self.key);
            } else {
                self.m.count(reasons::FLOW_TABLE_FULL, 0);
                let kept = self.entry(now, entry.backend, flow_state::ESTABLISHED);
                self.m.put_flow(Table::New, &self.key, &kept, Insert::Any);
            }
            return entry.backend;
        }
        if !self.is(previous, backend_flags::ALIVE) {
            return current;
        }
        let value = self.entry(now, previous, state);
        if !self
            .m
            .put_flow(Table::Established, &self.key, &value, Insert::Any)
        {
            // Without an entry the next packet finds the same answer, as long as `previous` stays.
            self.m.count(reasons::FLOW_TABLE_FULL, 0);
        }
        previous
    }
}

#[cfg(test)]
mod tests;
