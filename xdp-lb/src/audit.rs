//! Do the maps still hold what the state believes? What differs is repaired and counted.
//!
//! Nobody else writes these maps, so a difference means a bug, a hand with bpftool or a broken machine. Everything but tables is compared
//! each time; of the tables, which are the bulk, some, in turn. `previous` cannot be recomputed and is left alone.

use std::mem::offset_of;
use std::ops::Bound;

use fairlead_abi::lb::{FrontendValue, SLOTS_PER_LINE};
use fairlead_datapath::LbMaps;
use fairlead_model::Frontend;

use crate::{
    buckets::Place,
    maglev,
    op::{BackendValue, FrontendWord, Key, MapOp, read_table, to_line},
    state::{FrontendState, State, key_of, n_u32, no_backend, vip_key},
};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Repairs, in order; one for each difference.
    pub ops: Vec<MapOp>,
    /// The last frontend whose table was compared; the next audit goes on behind it.
    pub cursor: Option<Frontend>,
}

impl State {
    /// Compares the maps with the state; of the tables, `n_tables` behind `after`.
    pub fn audit(&self, maps: &LbMaps, after: Option<Frontend>, n_tables: usize) -> Audit {
        let mut audit = Auditor {
            state: self,
            maps,
            ops: Vec::new(),
        };
        audit.ifaces();
        audit.strays();
        audit.vips();
        for (frontend, fe) in &self.frontends {
            audit.frontend(frontend, fe);
        }
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.frontends.range((behind, Bound::Unbounded));
        let mut cursor = None;
        for (frontend, fe) in next.take(n_tables) {
            audit.table(fe);
            cursor = Some(*frontend);
        }
        Audit {
            ops: audit.ops,
            cursor,
        }
    }
}

struct Auditor<'a> {
    state: &'a State,
    maps: &'a LbMaps,
    ops: Vec<MapOp>,
}

// === impl Auditor ===

impl Auditor<'_> {
    fn ifaces(&mut self) {
        for slot in 0..self.maps.ifaces.len() {
            let value = self.state.ifaces.get(&slot).copied().unwrap_or_default();
            if self.maps.ifaces.read(slot) != value {
                self.ops.push(MapOp::Iface { slot, value });
            }
        }
    }

    /// Slots that nobody placed.
    fn strays(&mut self) {
        for bucket in 0..self.maps.vips4.len() {
            for (way, slot) in (0..).zip(self.maps.vips4.read(bucket).slots) {
                let place = Place { bucket, way };
                if slot.key != 0 && self.state.buckets4.place_of(&slot.key) != Some(place) {
                    self.ops.push(MapOp::Clear { place, is_v4: true });
                }
            }
        }
        for bucket in 0..self.maps.vips6.len() {
            for (way, slot) in (0..).zip(self.maps.vips6.read(bucket).slots) {
                let place = Place { bucket, way };
                let tag =
                    u32::try_from(slot.word & u64::from(u32::MAX)).expect("masked to 32 bits");
                if slot.word != 0 && self.state.buckets6.place_of(&(slot.addr, tag)) != Some(place)
                {
                    self.ops.push(MapOp::Clear {
                        place,
                        is_v4: false,
                    });
                }
            }
        }
    }

    fn vips(&mut self) {
        for (vip, entry) in &self.state.vips {
            let (record, value) = (entry.record, entry.value);
            if self.maps.vip_state.read(record) != value {
                self.ops.push(MapOp::VipState { record, value });
            }
            self.slot(vip_key(*vip), record);
        }
    }

    /// The slot that makes a key reachable.
    fn slot(&mut self, key: Key, index: u32) {
        let (place, is_set) = match key {
            Key::V4(k) => {
                let Some(place) = self.state.buckets4.place_of(&k) else {
                    return;
                };
                let slot = self.maps.vips4.read(place.bucket).slots[usize::from(place.way)];
                (place, slot.key == k && slot.index == index)
            }
            Key::V6(addr, tag) => {
                let Some(place) = self.state.buckets6.place_of(&(addr, tag)) else {
                    return;
                };
                let slot = self.maps.vips6.read(place.bucket).slots[usize::from(place.way)];
                let word = u64::from(tag) | u64::from(index) << 32;
                (place, slot.addr == addr && slot.word == word)
            }
        };
        if !is_set {
            self.ops.push(MapOp::Set { place, key, index });
        }
    }

    fn frontend(&mut self, frontend: &Frontend, fe: &FrontendState) {
        let is_v4 = frontend.vip.is_ipv4();
        for (record, member) in fe.window().zip(&fe.members) {
            let value = member.map_or_else(|| no_backend(is_v4), |m| m.value());
            let found = if is_v4 {
                BackendValue::V4(self.maps.backends4.read(record))
            } else {
                BackendValue::V6(self.maps.backends6.read(record))
            };
            if found != value {
                self.ops.push(MapOp::Backend { record, value });
            }
        }
        let (record, want) = (fe.record, fe.value());
        let words = [
            FrontendWord::Base {
                backend_base: want.backend_base,
                vip: want.vip,
            },
            FrontendWord::NBackends(want.n_backends),
            FrontendWord::UdpPreviousUntil(want.udp_previous_until),
            FrontendWord::Previous(want.previous),
            FrontendWord::Flags(want.flags),
            FrontendWord::Current(want.current),
        ];
        for word in words {
            let (offset, value) = word.encode();
            debug_assert!(offset <= offset_of!(FrontendValue, n_backends));
            if self.maps.frontends.load_u64(record, offset) != value {
                self.ops.push(MapOp::FrontendWord { record, word });
            }
        }
        self.slot(key_of(frontend), record);
    }

    fn table(&mut self, fe: &FrontendState) {
        let members: Vec<maglev::Member> = fe
            .member_ids()
            .filter(|(index, _)| fe.in_table.binary_search(index).is_ok())
            .map(|(index, m)| maglev::Member {
                identity: m.identity,
                index,
            })
            .collect();
        let Ok(want) = maglev::build(&members, fe.current.len) else {
            return;
        };
        let found = read_table(&self.maps.maglev, fe.current);
        let per_line = SLOTS_PER_LINE as usize;
        let lines = want.chunks(per_line).zip(found.chunks(per_line));
        for (n, (want, found)) in lines.enumerate() {
            if want != found {
                self.ops.push(MapOp::PatchLine {
                    line: fe.current.line + n_u32(n),
                    value: to_line(want),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fairlead_abi::lb::{Backend4, Iface, MaglevLine, mode};
    use fairlead_model::Protocol;

    use crate::sim::{Node, Wish, frontend, wish_all};

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        let mut node = Node::new();
        let (four, six) = (
            frontend("192.0.2.10", 80, Protocol::Tcp),
            frontend("2001:db8::10", 80, Protocol::Tcp),
        );
        let mut wishes = BTreeMap::from([
            (four, Wish::of(mode::DSR_L2, 1..=3)),
            (six, Wish::of(mode::SNAT, 1..=3)),
        ]);
        node.settle(&wish_all(&wishes));
        wishes.insert(four, Wish::of(mode::DSR_L2, 2..=4));
        node.settle(&wish_all(&wishes));
        assert_eq!(node.state.audit(&node.maps, None, 10).ops, []);
    }

    #[test]
    fn every_kind_of_damage_is_found_and_mended() {
        let mut node = Node::new();
        let fe = frontend("192.0.2.10", 80, Protocol::Tcp);
        let wishes = BTreeMap::from([(fe, Wish::of(mode::DSR_L2, 1..=3))]);
        node.settle(&wish_all(&wishes));
        let entry = node.state.frontends[&fe].clone();
        let maps = node.maps.clone();
        maps.ifaces.write(3, &Iface::default());
        maps.ifaces.write(9, &crate::sim::iface());
        maps.backends4.write(entry.base + 1, &Backend4::default());
        maps.frontends.store_u64(entry.record, 16, 7 << 8);
        let wrong = MaglevLine { slots: [9; 32] };
        maps.maglev.write(entry.current.line + 1, &wrong);
        for bucket in 0..maps.vips4.len() {
            for way in 0..4 {
                maps.vips4.store_u64(bucket, way * 16, 0);
            }
        }
        maps.vips6.store_u64(77, 16, 1 << 24 | 1 << 32);
        let audit = node.state.audit(&node.maps, None, 10);
        // Two rows, a stray, two slots, a backend, a word, a line.
        assert_eq!(audit.ops.len(), 8, "{:?}", audit.ops);
        assert_eq!(audit.cursor, Some(fe));
        node.apply_all(&audit.ops);
        assert_eq!(node.state.audit(&node.maps, None, 10).ops, []);
        node.assert_is(&wishes);
    }

    #[test]
    fn tables_are_compared_in_turn() {
        let mut node = Node::new();
        let frontends = [80, 81, 82].map(|port| frontend("192.0.2.10", port, Protocol::Tcp));
        let wishes = frontends.map(|fe| (fe, Wish::of(mode::DSR_L2, 1..=3)));
        node.settle(&wish_all(&BTreeMap::from(wishes)));
        let mut seen = Vec::new();
        let mut cursor = None;
        for _ in 0..4 {
            cursor = node.state.audit(&node.maps, cursor, 1).cursor;
            seen.push(cursor);
        }
        let [a, b, c] = frontends.map(Some);
        assert_eq!(seen, [a, b, c, None], "and then from the beginning");
    }
}
