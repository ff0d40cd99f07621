//! One step of a change to the maps. A list of them is valid after every prefix: what is pointed at comes before the pointer.

use std::mem::offset_of;

use fairlead_abi::lb::{
    Backend4, Backend6, Counter, FrontendValue, Iface, MaglevLine, SLOT_UNCHANGED, SLOTS_PER_LINE,
    SlotTable, VipState,
};
use fairlead_datapath::{LbMaps, MapError, Window};
use zerocopy::IntoBytes;

use crate::buckets::Place;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapOp {
    /// An interface row; its first word (index and MTU) is written last, or first when it is cleared.
    Iface {
        /// Slot in `IFACES`.
        slot: u32,
        /// Zero = none.
        value: Iface,
    },
    /// A backend record. In place, only what may change under a reader's eyes changes: next hop and flags.
    Backend {
        /// Record in `BACKENDS4` or `BACKENDS6`.
        record: u32,
        /// Content.
        value: BackendValue,
    },
    /// A whole table in lines that nothing points at.
    Lines {
        /// First line.
        line: u32,
        /// Slots.
        slots: Vec<u16>,
    },
    /// One line of a reachable `previous` table.
    PatchLine {
        /// Line.
        line: u32,
        /// Content.
        value: MaglevLine,
    },
    /// A whole frontend record that nothing points at.
    Frontend {
        /// Record in `FRONTENDS`.
        record: u32,
        /// Content.
        value: FrontendValue,
    },
    /// One word of a reachable frontend record.
    FrontendWord {
        /// Record in `FRONTENDS`.
        record: u32,
        /// Which, and its content.
        word: FrontendWord,
    },
    /// What a VIP's frontends share: two words, each valid by itself.
    VipState {
        /// Record in `VIP_STATE`.
        record: u32,
        /// Content.
        value: VipState,
    },
    /// Makes a frontend or VIP reachable.
    Set {
        /// Where.
        place: Place,
        /// What.
        key: Key,
        /// Record in `FRONTENDS`, or in `VIP_STATE` for a VIP itself.
        index: u32,
    },
    /// Makes it unreachable.
    Clear {
        /// Where.
        place: Place,
        /// Which table.
        is_v4: bool,
    },
    /// Counters of a record that is used anew.
    ResetStats {
        /// Record in `FE_STATS`.
        record: u32,
    },
}

/// A backend of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendValue {
    /// IPv4.
    V4(Backend4),
    /// IPv6.
    V6(Backend6),
}

/// One 8-byte word of [`FrontendValue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendWord {
    /// `current`.
    Current(SlotTable),
    /// `previous`.
    Previous(SlotTable),
    /// `flags`.
    Flags(u64),
    /// `udp_previous_until`.
    UdpPreviousUntil(u64),
    /// `backend_base` and `vip`.
    Base {
        /// First record of the window.
        backend_base: u32,
        /// Record in `VIP_STATE`.
        vip: u32,
    },
    /// `n_backends`.
    NBackends(u32),
}

/// What a bucket slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `logic::hash::vip_key4`.
    V4(u64),
    /// Address in network order, and `logic::hash::vip_tag6`.
    V6([u8; 16], u32),
}

/// Applies the steps in order.
///
/// # Errors
/// [`MapError`] from resetting counters; everything else is a store.
pub fn apply(maps: &LbMaps, ops: &[MapOp]) -> Result<(), MapError> {
    ops.iter().try_for_each(|op| apply_one(maps, op))
}

fn apply_one(maps: &LbMaps, op: &MapOp) -> Result<(), MapError> {
    match op {
        MapOp::Iface { slot, value } => write_iface(&maps.ifaces, *slot, value),
        MapOp::Backend { record, value } => match value {
            BackendValue::V4(value) => maps.backends4.write(*record, value),
            BackendValue::V6(value) => maps.backends6.write(*record, value),
        },
        MapOp::Lines { line, slots } => {
            for (n, chunk) in (0..).zip(slots.chunks(SLOTS_PER_LINE as usize)) {
                maps.maglev.write(line + n, &to_line(chunk));
            }
        }
        MapOp::PatchLine { line, value } => maps.maglev.write(*line, value),
        MapOp::Frontend { record, value } => maps.frontends.write(*record, value),
        MapOp::FrontendWord { record, word } => {
            let (offset, value) = word.encode();
            maps.frontends.store_u64(*record, offset, value);
        }
        MapOp::VipState { record, value } => maps.vip_state.write(*record, value),
        MapOp::Set { place, key, index } => set(maps, *place, *key, *index),
        MapOp::Clear { place, is_v4: true } => {
            maps.vips4.store_u64(place.bucket, offset4(*place), 0);
        }
        MapOp::Clear {
            place,
            is_v4: false,
        } => {
            maps.vips6.store_u64(place.bucket, offset6(*place) + 16, 0);
        }
        MapOp::ResetStats { record } => maps.fe_stats.reset(*record, &Counter::default())?,
    }
    Ok(())
}

/// The slots of a table, as they are in the array now.
pub fn read_table(maglev: &Window<MaglevLine>, table: SlotTable) -> Vec<u16> {
    let mut slots = Vec::with_capacity(table.len as usize);
    for n in 0..n_lines(table.len) {
        let left = table.len - n * SLOTS_PER_LINE;
        let line = maglev.read(table.line + n);
        slots.extend_from_slice(&line.slots[..left.min(SLOTS_PER_LINE) as usize]);
    }
    slots
}

/// Lines that a table of `len` slots takes.
pub const fn n_lines(len: u32) -> u32 {
    len.div_ceil(SLOTS_PER_LINE)
}

/// A line with these slots; those beyond the table's end are never read.
pub fn to_line(slots: &[u16]) -> MaglevLine {
    let mut line = MaglevLine {
        slots: [SLOT_UNCHANGED; SLOTS_PER_LINE as usize],
    };
    line.slots[..slots.len()].copy_from_slice(slots);
    line
}

// === impl FrontendWord ===

impl FrontendWord {
    /// Byte offset in the record, and the word.
    pub fn encode(self) -> (usize, u64) {
        match self {
            Self::Current(table) => (offset_of!(FrontendValue, current), table_word(table)),
            Self::Previous(table) => (offset_of!(FrontendValue, previous), table_word(table)),
            Self::Flags(flags) => (offset_of!(FrontendValue, flags), flags),
            Self::UdpPreviousUntil(at) => (offset_of!(FrontendValue, udp_previous_until), at),
            Self::Base { backend_base, vip } => (
                offset_of!(FrontendValue, backend_base),
                pair_word(backend_base, vip),
            ),
            Self::NBackends(n) => (offset_of!(FrontendValue, n_backends), pair_word(n, 0)),
        }
    }
}

/// Two neighbouring `u32` fields as one word.
fn pair_word(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn table_word(table: SlotTable) -> u64 {
    pair_word(table.line, table.len)
}

fn write_iface(ifaces: &Window<Iface>, slot: u32, value: &Iface) {
    let first = pair_word(value.ifindex, value.mtu);
    if value.ifindex == 0 {
        ifaces.store_u64(slot, 0, first);
    }
    for (n, chunk) in value.as_bytes().chunks_exact(8).enumerate().skip(1) {
        let word = chunk.try_into().map(u64::from_ne_bytes);
        ifaces.store_u64(slot, n * 8, word.expect("chunks are eight bytes long"));
    }
    ifaces.store_u64(slot, 0, first);
}

const fn offset4(place: Place) -> usize {
    place.way as usize * 16
}

const fn offset6(place: Place) -> usize {
    place.way as usize * 32
}

fn set(maps: &LbMaps, place: Place, key: Key, index: u32) {
    match key {
        Key::V4(key) => {
            let offset = offset4(place);
            maps.vips4
                .store_u64(place.bucket, offset + 8, pair_word(index, 0));
            maps.vips4.store_u64(place.bucket, offset, key);
        }
        Key::V6(addr, tag) => {
            let offset = offset6(place);
            for (n, half) in addr.chunks_exact(8).enumerate() {
                let word = half.try_into().map(u64::from_ne_bytes);
                let word = word.expect("halves are eight bytes long");
                maps.vips6.store_u64(place.bucket, offset + n * 8, word);
            }
            let word = u64::from(tag) | u64::from(index) << 32;
            maps.vips6.store_u64(place.bucket, offset + 16, word);
        }
    }
}
