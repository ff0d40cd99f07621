//! A restart's first act: what the maps say, and what has to be mended in them.
//!
//! Everything is found from the bucket slots, as a packet would find it. What an interrupted change left behind is unreachable and counts as
//! free; what contradicts itself is made unreachable and counted.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use fairlead_abi::lb::{
    FrontendValue, SLOT_UNCHANGED, SlotTable, VipSlot4, VipSlot6, backend_flags, frontend_flags,
};
use fairlead_datapath::{LbMaps, MapError};

use super::{
    Changed, FrontendState, Member, Named, Sizes, State, Times, VipEntry, lines_of, name_of,
};
use crate::{
    buckets::Place,
    op::{FrontendWord, Key, MapOp, read_table},
};

/// What was found.
#[derive(Debug, Clone)]
pub struct ReadBack {
    /// The maps as memory.
    pub state: State,
    /// What to mend before the first plan, in order.
    pub repairs: Vec<MapOp>,
    /// Slots that contradicted others or themselves.
    pub n_contradictions: u32,
}

impl State {
    /// Reads the maps. `now` is CLOCK_BOOTTIME ns.
    ///
    /// # Errors
    /// [`MapError`] of the flow tables.
    pub fn read_back(maps: &LbMaps, times: Times, now: u64) -> Result<ReadBack, MapError> {
        let sizes = Sizes {
            frontends: maps.frontends.len(),
            vips: maps.vip_state.len(),
            lines: maps.maglev.len(),
            backends4: maps.backends4.len(),
            backends6: maps.backends6.len(),
        };
        let mut reader = Reader {
            maps,
            now,
            state: Self::new(&sizes, times),
            repairs: Vec::new(),
            n_contradictions: 0,
        };
        for slot in 0..maps.ifaces.len() {
            let row = maps.ifaces.read(slot);
            if row.ifindex != 0 {
                reader.state.ifaces.insert(slot, row);
            }
        }
        let found = reader.found();
        // VIPs first: frontends name their records.
        let (vips, frontends): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(_, key, _)| matches!(name_of(key), Named::Vip(_)));
        for (place, key, index) in vips.into_iter().chain(frontends) {
            if !reader.claim(place, &key, index) {
                reader.n_contradictions += 1;
                let is_v4 = matches!(key, Key::V4(_));
                reader.repairs.push(MapOp::Clear { place, is_v4 });
            }
        }
        reader.draining()?;
        Ok(ReadBack {
            state: reader.state,
            repairs: reader.repairs,
            n_contradictions: reader.n_contradictions,
        })
    }
}

struct Reader<'a> {
    maps: &'a LbMaps,
    now: u64,
    state: State,
    repairs: Vec<MapOp>,
    n_contradictions: u32,
}

// === impl Reader ===

impl Reader<'_> {
    /// Every used bucket slot with its key and index.
    fn found(&self) -> Vec<(Place, Key, u32)> {
        let mut found = Vec::new();
        for bucket in 0..self.maps.vips4.len() {
            let slots = self.maps.vips4.read(bucket).slots;
            for (way, VipSlot4 { key, index, .. }) in (0..).zip(slots) {
                if key != 0 {
                    found.push((Place { bucket, way }, Key::V4(key), index));
                }
            }
        }
        for bucket in 0..self.maps.vips6.len() {
            let slots = self.maps.vips6.read(bucket).slots;
            for (way, VipSlot6 { addr, word, .. }) in (0..).zip(slots) {
                if word != 0 {
                    let [tag, index] = halves(word);
                    found.push((Place { bucket, way }, Key::V6(addr, tag), index));
                }
            }
        }
        found
    }

    /// Records without a frontend that flows still name: another frontend there would take those flows for its own.
    fn draining(&mut self) -> Result<(), MapError> {
        let mut named = BTreeSet::new();
        for table in [&self.maps.flows, &self.maps.flows_new] {
            table.for_each(|_, flow| {
                named.insert(flow.frontend);
            })?;
        }
        for table in [&self.maps.snat, &self.maps.snat_new] {
            table.for_each(|_, record| {
                named.insert(record.frontend);
            })?;
        }
        for record in named {
            let one = record..record.saturating_add(1);
            // Whoever has a frontend is claimed already.
            if self.state.records.claim(&one) {
                self.state.draining.insert(record, self.now);
            }
        }
        Ok(())
    }

    /// `false`: the slot must go.
    fn claim(&mut self, place: Place, key: &Key, index: u32) -> bool {
        let name = name_of(key);
        if name == Named::Unknown {
            return false;
        }
        let placed = match key {
            Key::V4(key) => self.state.buckets4.claim(*key, place),
            Key::V6(addr, tag) => self.state.buckets6.claim((*addr, *tag), place),
        };
        if !placed {
            return false;
        }
        let claimed = match name {
            Named::Vip(vip) => self.vip(vip, index),
            Named::Frontend(frontend) => self.frontend(frontend, index),
            Named::Unknown => false,
        };
        if !claimed {
            match key {
                Key::V4(key) => drop(self.state.buckets4.remove(key, self.now)),
                Key::V6(addr, tag) => drop(self.state.buckets6.remove(&(*addr, *tag), self.now)),
            }
        }
        claimed
    }

    fn vip(&mut self, vip: std::net::IpAddr, record: u32) -> bool {
        if !self
            .state
            .vip_records
            .claim(&(record..record.saturating_add(1)))
        {
            return false;
        }
        let value = self.maps.vip_state.read(record);
        self.state.vips.insert(vip, VipEntry { record, value });
        true
    }

    fn frontend(&mut self, frontend: fairlead_model::Frontend, record: u32) -> bool {
        let Some(vip) = self.state.vips.get(&frontend.vip) else {
            return false;
        };
        let vip_record = vip.record;
        if !self
            .state
            .records
            .claim(&(record..record.saturating_add(1)))
        {
            return false;
        }
        let value = self.maps.frontends.read(record);
        let parts = self.parts(frontend.vip.is_ipv4(), record, vip_record, &value);
        let Some(fe) = parts else {
            self.state.records.give_unused(record..record + 1);
            return false;
        };
        self.state.frontends.insert(frontend, fe);
        true
    }

    fn parts(
        &mut self,
        is_v4: bool,
        record: u32,
        vip_record: u32,
        value: &FrontendValue,
    ) -> Option<FrontendState> {
        if value.vip != vip_record {
            return None;
        }
        let window_end = value.backend_base.checked_add(value.n_backends)?;
        let window = value.backend_base..window_end;
        if value.n_backends > u32::from(u16::MAX) || !self.state.windows(is_v4).claim(&window) {
            return None;
        }
        let in_transition = value.flags & frontend_flags::IN_TRANSITION != 0;
        // A change was interrupted between two words: before the flag, `previous` is not read; without a table, the flag says nothing.
        let previous = if in_transition {
            value.previous
        } else {
            SlotTable::default()
        };
        let flags = if previous.len == 0 {
            value.flags & !frontend_flags::IN_TRANSITION
        } else {
            value.flags
        };
        if !self.claim_tables(value.current, previous) {
            self.state.windows(is_v4).give_unused(window);
            return None;
        }
        if flags != value.flags {
            let word = FrontendWord::Flags(flags);
            self.repairs.push(MapOp::FrontendWord { record, word });
        }
        if previous != value.previous {
            let word = FrontendWord::Previous(previous);
            self.repairs.push(MapOp::FrontendWord { record, word });
        }
        let mut fe = FrontendState {
            record,
            vip_record,
            current: value.current,
            previous,
            flags,
            udp_until: value.udp_previous_until,
            base: value.backend_base,
            members: (window).map(|r| self.member(is_v4, r)).collect(),
            in_table: Vec::new(),
            changed: None,
            applied: None,
            due: None,
            held_until: None,
        };
        self.tables(&mut fe);
        Some(fe)
    }

    fn claim_tables(&mut self, current: SlotTable, previous: SlotTable) -> bool {
        let is_sane = |t: SlotTable| t.len < 1 << 24 && t.line.checked_add(t.len).is_some();
        if !is_sane(current) || !is_sane(previous) {
            return false;
        }
        if !self.state.lines.claim(&lines_of(current)) {
            return false;
        }
        let claimed = self.state.lines.claim(&lines_of(previous));
        if !claimed {
            self.state.lines.give_unused(lines_of(current));
        }
        claimed
    }

    fn member(&self, is_v4: bool, record: u32) -> Option<Member> {
        let (identity, flags, mac, iface, csum) = if is_v4 {
            let b = self.maps.backends4.read(record);
            let identity = SocketAddr::from((Ipv4Addr::from(b.addr), u16::from_be_bytes(b.port)));
            (identity, b.flags, b.mac, b.iface, b.csum)
        } else {
            let b = self.maps.backends6.read(record);
            let identity = SocketAddr::from((Ipv6Addr::from(b.addr), u16::from_be_bytes(b.port)));
            (identity, b.flags, b.mac, b.iface, 0)
        };
        (!identity.ip().is_unspecified()).then_some(Member {
            identity,
            flags,
            mac,
            iface,
            csum,
            linger_until: None,
            out_since: None,
        })
    }

    fn tables(&self, fe: &mut FrontendState) {
        let mut indices = read_table(&self.maps.maglev, fe.current);
        indices.sort_unstable();
        indices.dedup();
        fe.in_table = indices;
        // A dead member may be named still: it is forgotten when a sweep has found that nothing does.
        for (index, member) in (0_u16..).zip(&mut fe.members) {
            if let Some(member) = member
                && member.flags & backend_flags::ALIVE == 0
                && fe.in_table.binary_search(&index).is_err()
            {
                member.out_since = Some(self.now);
            }
        }
        if fe.previous.len == 0 {
            return;
        }
        fe.changed = Some(if fe.previous.len == fe.current.len {
            let slots = read_table(&self.maps.maglev, fe.previous);
            let since = |slot: u16| if slot == SLOT_UNCHANGED { 0 } else { self.now };
            Changed::PerSlot(slots.into_iter().map(since).collect())
        } else {
            Changed::Whole(self.now)
        });
    }
}

/// Low and high half.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}
