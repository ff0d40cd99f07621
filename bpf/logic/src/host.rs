//! The programs on the host: a byte buffer for the frame, ordinary collections for the maps, tail calls as the kernel does them.
//!
//! For tests and for user space that wants to know what would happen to a packet (`explain`). [`World`] mirrors the map table of `abi::maps`.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

use fairlead_abi::{
    flow::{self, FlowKey, FlowValue, FragKey, FragValue, SnatKey, SnatValue},
    l2::{self, DeadlineCell, L2Entry, L2Key, PeerKey},
    lb::{
        self, Backend4, Backend6, Counter, FrontendValue, Iface, MaglevLine, SLOTS_PER_LINE,
        SlotTable, VipBucket4, VipBucket6, VipSlot4, VipSlot6, VipState,
    },
    maps::slots,
    reasons,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{
    Insert, Maps, Packet, Table, Verdict, decap, hash, icmp, icmp_snat, ingress, l2 as responder,
    node, rare, snat, wire::mapped,
};

/// Room in front of a received frame, as the kernel's XDP_PACKET_HEADROOM.
const HEADROOM: usize = 256;
/// Room behind it; the kernel's depends on the driver.
const TAILROOM: usize = 256;
/// Largest offset that the programs look at.
const MAX_OFFSET: usize = 0x3ff;
/// The kernel's limit on tail calls.
const MAX_TAIL_CALLS: usize = 33;

/// A frame in memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub bytes: Vec<u8>,
    pub ifindex: u32,
    headroom: usize,
    tailroom: usize,
}

impl Buffer {
    pub fn new(ifindex: u32, bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            ifindex,
            headroom: HEADROOM,
            tailroom: TAILROOM,
        }
    }

    /// Moves one end; bytes that appear are zero.
    fn resize(room: &mut usize, len: usize, n: i32) -> Option<usize> {
        let magnitude = n.unsigned_abs() as usize;
        if n >= 0 {
            *room = room.checked_sub(magnitude)?;
        } else {
            // The kernel keeps at least an Ethernet header.
            len.checked_sub(magnitude).filter(|&left| left >= 14)?;
            *room = room.saturating_add(magnitude);
        }
        Some(magnitude)
    }
}

impl Packet for Buffer {
    fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, off: usize) -> Option<&T> {
        if off > MAX_OFFSET {
            return None;
        }
        T::ref_from_prefix(self.bytes.get(off..)?)
            .ok()
            .map(|(value, _)| value)
    }

    fn put<T: IntoBytes + Immutable + Unaligned + Copy>(
        &mut self,
        off: usize,
        value: T,
    ) -> Option<()> {
        if off > MAX_OFFSET {
            return None;
        }
        value.write_to_prefix(self.bytes.get_mut(off..)?).ok()
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn grow_head(&mut self, n: i32) -> Option<()> {
        let magnitude = Self::resize(&mut self.headroom, self.bytes.len(), n)?;
        let removed = if n >= 0 { 0 } else { magnitude };
        let added = if n >= 0 { magnitude } else { 0 };
        self.bytes.splice(..removed, std::iter::repeat_n(0, added));
        Some(())
    }

    fn grow_tail(&mut self, n: i32) -> Option<()> {
        let magnitude = Self::resize(&mut self.tailroom, self.bytes.len(), n)?;
        let len = self.bytes.len();
        let len = if n >= 0 {
            len.saturating_add(magnitude)
        } else {
            len.saturating_sub(magnitude)
        };
        self.bytes.resize(len, 0);
        Some(())
    }
}

/// An array map: every element exists, most are zero.
#[derive(Clone, Debug)]
pub struct Sparse<T> {
    set: HashMap<u32, T>,
    zero: T,
    len: u32,
}

impl<T: Copy + FromBytes> Sparse<T> {
    fn new(len: u32) -> Self {
        Self {
            set: HashMap::new(),
            zero: T::new_zeroed(),
            len,
        }
    }

    /// The element; `None` outside the array.
    pub fn get(&self, index: u32) -> Option<&T> {
        (index < self.len).then(|| self.set.get(&index).unwrap_or(&self.zero))
    }

    /// The element for writing; `None` outside the array.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        (index < self.len).then(|| self.set.entry(index).or_insert(self.zero))
    }

    /// Writes an element; false outside the array.
    pub fn set(&mut self, index: u32, value: T) -> bool {
        self.get_mut(index)
            .map(|element| *element = value)
            .is_some()
    }
}

/// A hash map with the kernel's limits: full is full, or with `lru` the oldest goes.
#[derive(Clone, Debug)]
pub struct Hashed<K, V> {
    entries: RefCell<HashMap<K, (u64, V)>>,
    written: Cell<u64>,
    /// Entries that fit.
    pub capacity: usize,
    lru: bool,
}

impl<K: Copy + Eq + Hash, V: Copy> Hashed<K, V> {
    fn new(capacity: u32, lru: bool) -> Self {
        let entries = RefCell::new(HashMap::new());
        Self {
            entries,
            written: Cell::new(0),
            capacity: capacity as usize,
            lru,
        }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        self.entries.borrow().get(key).map(|(_, value)| *value)
    }

    /// Whether the entry was written.
    pub fn insert(&self, key: K, value: V, how: Insert) -> bool {
        let mut entries = self.entries.borrow_mut();
        let exists = entries.contains_key(&key);
        if exists && how == Insert::NoExist {
            return false;
        }
        if !exists && entries.len() >= self.capacity {
            let oldest = entries
                .iter()
                .min_by_key(|(_, (age, _))| *age)
                .map(|(key, _)| *key);
            match oldest {
                Some(oldest) if self.lru => entries.remove(&oldest),
                _ => return false,
            };
        }
        self.written.set(self.written.get().wrapping_add(1));
        entries.insert(key, (self.written.get(), value));
        true
    }

    pub fn remove(&self, key: &K) -> Option<V> {
        self.entries
            .borrow_mut()
            .remove(key)
            .map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries, in no order.
    pub fn entries(&self) -> Vec<(K, V)> {
        self.entries
            .borrow()
            .iter()
            .map(|(key, (_, value))| (*key, *value))
            .collect()
    }

    fn change(&self, key: &K, change: impl FnOnce(&mut V)) {
        if let Some((_, value)) = self.entries.borrow_mut().get_mut(key) {
            change(value);
        }
    }
}

/// The maps of `abi::maps` and a clock that stands still until told otherwise.
#[derive(Clone, Debug)]
pub struct World {
    pub ifaces: Sparse<Iface>,
    pub vips4: Sparse<VipBucket4>,
    pub vips6: Sparse<VipBucket6>,
    pub vip_states: Sparse<VipState>,
    pub frontends: Sparse<FrontendValue>,
    pub lines: Sparse<MaglevLine>,
    pub backends4: Sparse<Backend4>,
    pub backends6: Sparse<Backend6>,
    pub flows: Hashed<FlowKey, FlowValue>,
    pub flows_new: Hashed<FlowKey, FlowValue>,
    pub snat: Hashed<SnatKey, SnatValue>,
    pub snat_new: Hashed<SnatKey, SnatValue>,
    pub frags: Hashed<FragKey, FragValue>,
    pub l2_entries: Hashed<L2Key, L2Entry>,
    pub l2_cells: Sparse<DeadlineCell>,
    pub peers: Hashed<PeerKey, u32>,
    /// CLOCK_BOOTTIME ns by index.
    pub peer_seen: RefCell<BTreeMap<u32, u64>>,
    pub decap_vips: BTreeSet<[u8; 16]>,
    pub decap_senders: BTreeSet<[u8; 16]>,
    /// CLOCK_BOOTTIME, ns.
    pub now: Cell<u64>,
    /// What another CPU writes under the key of the next SNAT record that is written here, just before it.
    pub rival: Cell<Option<(Table, SnatValue)>>,
    fe_stats: RefCell<BTreeMap<u32, Counter>>,
    reasons: RefCell<BTreeMap<u32, Counter>>,
    mtu: Cell<u32>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Empty maps, time 1 s after boot.
    pub fn new() -> Self {
        Self {
            ifaces: Sparse::new(lb::N_IFACES),
            vips4: Sparse::new(lb::N_VIP_BUCKETS),
            vips6: Sparse::new(lb::N_VIP_BUCKETS),
            vip_states: Sparse::new(lb::N_VIP_STATES),
            frontends: Sparse::new(lb::N_FRONTENDS),
            lines: Sparse::new(lb::N_MAGLEV_LINES),
            backends4: Sparse::new(lb::N_BACKENDS4),
            backends6: Sparse::new(lb::N_BACKENDS6),
            flows: Hashed::new(flow::N_FLOWS, false),
            flows_new: Hashed::new(flow::N_FLOWS_NEW, false),
            snat: Hashed::new(flow::N_SNAT, false),
            snat_new: Hashed::new(flow::N_SNAT_NEW, true),
            frags: Hashed::new(flow::N_FRAGS, true),
            l2_entries: Hashed::new(l2::N_L2_ENTRIES, false),
            l2_cells: Sparse::new(l2::N_L2_CELLS),
            peers: Hashed::new(l2::N_PEERS, false),
            peer_seen: RefCell::default(),
            decap_vips: BTreeSet::new(),
            decap_senders: BTreeSet::new(),
            now: Cell::new(1_000_000_000),
            rival: Cell::new(None),
            fe_stats: RefCell::default(),
            reasons: RefCell::default(),
            mtu: Cell::new(0),
        }
    }

    /// What happens to a frame that `lb_ingress` receives on `ifindex`, and what it looks like then.
    pub fn run(&mut self, ifindex: u32, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut p = Buffer::new(ifindex, frame);
        let mut work = snat::Work::default();
        let world: &Self = self;
        let mut verdict = ingress::run(&mut p, world);
        for _ in 0..MAX_TAIL_CALLS {
            verdict = match verdict {
                Verdict::Tail(slots::RARE) => rare::run(&mut p, world, &mut work),
                Verdict::Tail(slots::SNAT) => snat::run(&mut p, world, &mut work),
                Verdict::Tail(slots::L2) => responder::run(&mut p, world, &mut work),
                Verdict::Tail(slots::ICMP) => icmp::run(&mut p, world, &mut work),
                Verdict::Tail(slots::ICMP_SNAT) => icmp_snat::run(&mut p, world, &mut work),
                Verdict::Tail(slots::NODE) => node::run(&mut p, world, &mut work),
                settled => return (settled, p.bytes),
            };
        }
        self.count(reasons::TAIL_CALL_MISSED, p.bytes.len() as u64);
        (Verdict::Drop, p.bytes)
    }

    /// The same for `decap_ingress` on a server.
    pub fn run_decap(&mut self, ifindex: u32, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut p = Buffer::new(ifindex, frame);
        let verdict = decap::run(&mut p, &*self);
        (verdict, p.bytes)
    }

    /// Packets and bytes of a frontend.
    pub fn frontend_counter(&self, index: u32) -> Counter {
        self.fe_stats
            .borrow()
            .get(&index)
            .copied()
            .unwrap_or_default()
    }

    /// How often a reason was counted.
    pub fn reason(&self, reason: u32) -> u64 {
        self.reasons
            .borrow()
            .get(&reason)
            .map_or(0, |counter| counter.packets)
    }

    /// Every reason that was counted.
    pub fn reasons(&self) -> BTreeMap<u32, Counter> {
        self.reasons.borrow().clone()
    }

    /// Enters an interface in its slot, which is returned.
    pub fn add_iface(&mut self, iface: Iface) -> u8 {
        let slot = crate::select::iface_slot(iface.ifindex);
        self.ifaces.set(slot, iface);
        u8::try_from(slot).unwrap_or(u8::MAX)
    }

    /// Enters a frontend (or with port and protocol 0 a VIP) in one of its buckets; false when both are full.
    pub fn add_vip(&mut self, addr: IpAddr, port: u16, proto: u8, index: u32) -> bool {
        match addr {
            IpAddr::V4(addr) => {
                let key = hash::vip_key4(addr.into(), port, proto);
                let (a, b) = hash::bucket_pair4(key);
                [a, b].into_iter().any(|bucket| {
                    let free = self
                        .vips4
                        .get_mut(bucket)
                        .and_then(|b| b.slots.iter_mut().find(|slot| slot.key == 0));
                    free.map(|slot| {
                        *slot = VipSlot4 {
                            key,
                            index,
                            _pad: 0,
                        }
                    })
                    .is_some()
                })
            }
            IpAddr::V6(addr) => {
                let addr = addr.octets();
                let word = hash::vip_word6(port, proto, index);
                let (a, b) = hash::bucket_pair6(&addr, port, proto);
                [a, b].into_iter().any(|bucket| {
                    let free = self
                        .vips6
                        .get_mut(bucket)
                        .and_then(|b| b.slots.iter_mut().find(|slot| slot.word == 0));
                    free.map(|slot| {
                        *slot = VipSlot6 {
                            addr,
                            word,
                            _pad: 0,
                        }
                    })
                    .is_some()
                })
            }
        }
    }

    /// Writes a Maglev table from line `line` on.
    pub fn set_table(&mut self, line: u32, slots: &[u16]) -> SlotTable {
        for (i, chunk) in slots.chunks(SLOTS_PER_LINE as usize).enumerate() {
            let mut packed = MaglevLine {
                slots: [0; SLOTS_PER_LINE as usize],
            };
            for (to, from) in packed.slots.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.lines.set(
                line.saturating_add(u32::try_from(i).unwrap_or(u32::MAX)),
                packed,
            );
        }
        SlotTable {
            line,
            len: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        }
    }

    fn snat_table(&self, table: Table) -> &Hashed<SnatKey, SnatValue> {
        match table {
            Table::Established => &self.snat,
            Table::New => &self.snat_new,
        }
    }

    fn flow_table(&self, table: Table) -> &Hashed<FlowKey, FlowValue> {
        match table {
            Table::Established => &self.flows,
            Table::New => &self.flows_new,
        }
    }
}

/// The 16-byte form of an address.
pub fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => mapped(addr.octets()),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn add(counters: &RefCell<BTreeMap<u32, Counter>>, index: u32, bytes: u64) {
    let mut counters = counters.borrow_mut();
    let counter = counters.entry(index).or_default();
    counter.packets = counter.packets.wrapping_add(1);
    counter.bytes = counter.bytes.wrapping_add(bytes);
}

impl Maps for World {
    type Record = (Table, SnatKey);

    fn iface(&self, slot: u32) -> Option<&Iface> {
        self.ifaces.get(slot)
    }

    fn vips4(&self, bucket: u32) -> Option<&VipBucket4> {
        self.vips4.get(bucket)
    }

    fn vips6(&self, bucket: u32) -> Option<&VipBucket6> {
        self.vips6.get(bucket)
    }

    fn vip_state(&self, index: u32) -> Option<&VipState> {
        self.vip_states.get(index)
    }

    fn frontend(&self, index: u32) -> Option<FrontendValue> {
        self.frontends.get(index).copied()
    }

    fn line(&self, index: u32) -> Option<&MaglevLine> {
        self.lines.get(index)
    }

    fn backend4(&self, index: u32) -> Option<&Backend4> {
        self.backends4.get(index)
    }

    fn backend6(&self, index: u32) -> Option<&Backend6> {
        self.backends6.get(index)
    }

    fn count_frontend(&self, index: u32, bytes: u64) {
        add(&self.fe_stats, index, bytes);
    }

    fn count(&self, reason: u32, bytes: u64) {
        add(&self.reasons, reason, bytes);
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn flow(&self, table: Table, key: &FlowKey) -> Option<FlowValue> {
        self.flow_table(table).get(key)
    }

    fn put_flow(&self, table: Table, key: &FlowKey, value: &FlowValue, how: Insert) -> bool {
        self.flow_table(table).insert(*key, *value, how)
    }

    fn remove_flow(&self, table: Table, key: &FlowKey) {
        self.flow_table(table).remove(key);
    }

    fn record(&self, table: Table, key: &SnatKey) -> Option<Self::Record> {
        self.snat_table(table).get(key).map(|_| (table, *key))
    }

    fn load(&self, (table, key): Self::Record) -> SnatValue {
        self.snat_table(table).get(&key).unwrap_or_default()
    }

    fn touch(&self, (table, key): Self::Record, now: u64) {
        self.snat_table(table)
            .change(&key, |value| value.last_seen = now);
    }

    fn set_state(&self, (table, key): Self::Record, state: u16) {
        self.snat_table(table)
            .change(&key, |value| value.state = state);
    }

    fn set_client_hop(&self, (table, key): Self::Record, mac: [u8; 6], iface: u16) {
        self.snat_table(table).change(&key, |value| {
            value.client_mac = mac;
            value.client_iface = iface;
        });
    }

    fn put_record(&self, table: Table, key: &SnatKey, value: &SnatValue, how: Insert) -> bool {
        if let Some((table, value)) = self.rival.take() {
            self.snat_table(table).insert(*key, value, Insert::Any);
        }
        self.snat_table(table).insert(*key, *value, how)
    }

    fn remove_record(&self, table: Table, key: &SnatKey) {
        self.snat_table(table).remove(key);
    }

    fn fragment(&self, key: &FragKey) -> Option<FragValue> {
        self.frags.get(key)
    }

    fn put_fragment(&self, key: &FragKey, value: &FragValue) {
        self.frags.insert(*key, *value, Insert::Any);
    }

    fn l2_entry(&self, key: &L2Key) -> Option<L2Entry> {
        self.l2_entries.get(key)
    }

    fn count_response(&self, key: &L2Key) {
        self.l2_entries.change(key, |entry| {
            entry.responses = entry.responses.wrapping_add(1);
        });
    }

    fn l2_cell(&self, cell: u32) -> Option<DeadlineCell> {
        self.l2_cells.get(cell).copied()
    }

    fn peer(&self, key: &PeerKey) -> Option<u32> {
        self.peers.get(key)
    }

    fn peer_seen(&self, index: u32) -> u64 {
        self.peer_seen.borrow().get(&index).copied().unwrap_or(0)
    }

    fn set_peer_seen(&self, index: u32, at: u64) {
        self.peer_seen.borrow_mut().insert(index, at);
    }

    fn decap_vip(&self, addr: &[u8; 16]) -> bool {
        self.decap_vips.contains(addr)
    }

    fn decap_sender(&self, addr: &[u8; 16]) -> bool {
        self.decap_senders.contains(addr)
    }

    fn set_mtu(&self, mtu: u32) {
        self.mtu.set(mtu);
    }

    fn mtu(&self) -> u32 {
        self.mtu.get()
    }
}
