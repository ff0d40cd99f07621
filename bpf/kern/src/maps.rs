//! The map statics, one for each row of `abi::maps::MAPS`, behind `logic::Maps`.
//!
//! Values in shared maps are read and written without locks: user space publishes in the order that `abi::lb` states, and counters are per CPU.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    helpers::bpf_ktime_get_boot_ns,
    macros::btf_map,
};
use fairlead_abi::{
    flow::{self, FlowKey, FlowValue, FragKey, FragValue, SnatKey, SnatValue},
    l2::{self, DeadlineCell, L2Entry, L2Key, PeerKey, PeerSeen},
    lb::{
        self, Backend4, Backend6, Counter, FrontendValue, Iface, MaglevLine, SlotTable, VipBucket4,
        VipBucket6, VipState,
    },
    maps::N_PROGS,
    reasons,
};
use fairlead_logic::{Insert, Maps, Table, snat::Work};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// An array that user space writes through a mapping.
type Mapped<T, const N: usize> = Array<T, N, MMAPABLE>;

#[btf_map]
static IFACES: Mapped<Iface, { lb::N_IFACES as usize }> = Mapped::new();
#[btf_map]
static VIPS4: Mapped<VipBucket4, { lb::N_VIP_BUCKETS as usize }> = Mapped::new();
#[btf_map]
static VIPS6: Mapped<VipBucket6, { lb::N_VIP_BUCKETS as usize }> = Mapped::new();
#[btf_map]
static VIP_STATE: Mapped<VipState, { lb::N_VIP_STATES as usize }> = Mapped::new();
#[btf_map]
static FRONTENDS: Mapped<FrontendValue, { lb::N_FRONTENDS as usize }> = Mapped::new();
#[btf_map]
static MAGLEV: Mapped<MaglevLine, { lb::N_MAGLEV_LINES as usize }> = Mapped::new();
#[btf_map]
static BACKENDS4: Mapped<Backend4, { lb::N_BACKENDS4 as usize }> = Mapped::new();
#[btf_map]
static BACKENDS6: Mapped<Backend6, { lb::N_BACKENDS6 as usize }> = Mapped::new();
#[btf_map]
static FE_STATS: PerCpuArray<Counter, { lb::N_FRONTENDS as usize }> = PerCpuArray::new();
#[btf_map]
static REASONS: PerCpuArray<Counter, { reasons::N_REASONS as usize }> = PerCpuArray::new();
#[btf_map]
static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static FLOWS: HashMap<FlowKey, FlowValue, { flow::N_FLOWS as usize }> = HashMap::new();
#[btf_map]
static FLOWS_NEW: HashMap<FlowKey, FlowValue, { flow::N_FLOWS_NEW as usize }> = HashMap::new();
#[btf_map]
static SNAT: HashMap<SnatKey, SnatValue, { flow::N_SNAT as usize }> = HashMap::new();
#[btf_map]
static SNAT_NEW: LruHashMap<SnatKey, SnatValue, { flow::N_SNAT_NEW as usize }> = LruHashMap::new();
#[btf_map]
static FRAGS: LruHashMap<FragKey, FragValue, { flow::N_FRAGS as usize }> = LruHashMap::new();
#[btf_map]
static L2_ENTRIES: HashMap<L2Key, L2Entry, { l2::N_L2_ENTRIES as usize }> = HashMap::new();
#[btf_map]
static L2_CELLS: Mapped<DeadlineCell, { l2::N_L2_CELLS as usize }> = Mapped::new();
#[btf_map]
static PEERS: HashMap<PeerKey, u32, { l2::N_PEERS as usize }> = HashMap::new();
#[btf_map]
static PEER_SEEN: Mapped<PeerSeen, { l2::N_PEERS as usize }> = Mapped::new();
#[btf_map]
pub(crate) static PROGS: ProgramArray<{ N_PROGS as usize }> = ProgramArray::new();
#[btf_map]
static DECAP_VIPS: HashMap<[u8; 16], u32, 4096> = HashMap::new();
#[btf_map]
static DECAP_SENDERS: HashMap<[u8; 16], u32, 1024> = HashMap::new();

/// Memory of one packet, between entry and verdict; it holds nothing across packets and is therefore neither pinned nor part of the contract.
#[btf_map]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// The kernel's maps and clock.
pub(crate) struct Kern;

/// The memory of the packet at hand, for decisions that need more than the stack has. To be called once per program run.
#[inline(always)]
pub(crate) fn work() -> Option<&'static mut Work> {
    let work = WORK.get_ptr_mut(0)?;
    // SAFETY: from a successful look-up in a per-CPU map; each entry point asks once, and no other program runs on this CPU meanwhile. Only
    // `Work`s are ever stored in the map, which begins zeroed, and all zero is a valid `Work`.
    Some(unsafe { &mut *work })
}

/// A SNAT record in its map. Map memory outlives the program's run; a record that is removed meanwhile is at worst read as the next one.
#[derive(Clone, Copy)]
pub(crate) struct Record(*mut SnatValue);

/// Adds to a counter of this CPU.
#[inline(always)]
fn add(counter: Option<*mut Counter>, bytes: u64) {
    if let Some(c) = counter {
        // SAFETY: the pointer comes from a successful look-up in a per-CPU map; no other program runs on this CPU meanwhile.
        let c = unsafe { &mut *c };
        c.packets = c.packets.wrapping_add(1);
        c.bytes = c.bytes.wrapping_add(bytes);
    }
}

/// Reads a table descriptor in one piece, as user space writes it.
///
/// # Safety
/// `table` points into a map value.
#[inline(always)]
unsafe fn read_table(table: *const SlotTable) -> SlotTable {
    // SAFETY: the caller's promise; `SlotTable` has size and alignment of u64.
    let word = unsafe { table.cast::<u64>().read_volatile() };
    SlotTable {
        line: word as u32,
        len: (word >> 32) as u32,
    }
}

impl Maps for Kern {
    type Record = Record;

    #[inline(always)]
    fn iface(&self, slot: u32) -> Option<&Iface> {
        IFACES.get(slot)
    }

    #[inline(always)]
    fn vips4(&self, bucket: u32) -> Option<&VipBucket4> {
        VIPS4.get(bucket)
    }

    #[inline(always)]
    fn vips6(&self, bucket: u32) -> Option<&VipBucket6> {
        VIPS6.get(bucket)
    }

    #[inline(always)]
    fn vip_state(&self, index: u32) -> Option<&VipState> {
        VIP_STATE.get(index)
    }

    #[inline(always)]
    fn frontend(&self, index: u32) -> Option<FrontendValue> {
        let fe = FRONTENDS.get_ptr(index)?;
        // SAFETY: `fe` comes from a successful look-up, here and below.
        let from = unsafe { addr_of!((*fe).current) };
        // SAFETY: it points into that map value.
        let current = unsafe { read_table(from) };
        // SAFETY: as for `current`.
        let from = unsafe { addr_of!((*fe).flags) };
        // SAFETY: likewise; volatile keeps it between `current` and `previous`.
        let flags = unsafe { from.read_volatile() };
        // SAFETY: as for `current`.
        let from = unsafe { addr_of!((*fe).previous) };
        // SAFETY: as for `current`.
        let previous = unsafe { read_table(from) };
        // SAFETY: likewise; the remaining fields do not change while the record is reachable, but for `udp_previous_until`.
        let rest = unsafe { *fe };
        Some(FrontendValue {
            current,
            previous,
            flags,
            ..rest
        })
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&MaglevLine> {
        MAGLEV.get(index)
    }

    #[inline(always)]
    fn backend4(&self, index: u32) -> Option<&Backend4> {
        BACKENDS4.get(index)
    }

    #[inline(always)]
    fn backend6(&self, index: u32) -> Option<&Backend6> {
        BACKENDS6.get(index)
    }

    #[inline(always)]
    fn count_frontend(&self, index: u32, bytes: u64) {
        add(FE_STATS.get_ptr_mut(index), bytes);
    }

    #[inline(always)]
    fn count(&self, reason: u32, bytes: u64) {
        add(REASONS.get_ptr_mut(reason), bytes);
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn flow(&self, table: Table, key: &FlowKey) -> Option<FlowValue> {
        let value = match table {
            Table::Established => FLOWS.get_ptr(key),
            Table::New => FLOWS_NEW.get_ptr(key),
        }?;
        // SAFETY: from a successful look-up; any bits are a valid value.
        Some(unsafe { *value })
    }

    #[inline(always)]
    fn put_flow(&self, table: Table, key: &FlowKey, value: &FlowValue, how: Insert) -> bool {
        match table {
            Table::Established => FLOWS.insert(key, value, flags(how)),
            Table::New => FLOWS_NEW.insert(key, value, flags(how)),
        }
        .is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, table: Table, key: &FlowKey) {
        // An absent key is as good as a removed one.
        let _absent = match table {
            Table::Established => FLOWS.remove(key),
            Table::New => FLOWS_NEW.remove(key),
        };
    }

    #[inline(always)]
    fn record(&self, table: Table, key: &SnatKey) -> Option<Record> {
        match table {
            Table::Established => SNAT.get_ptr_mut(key),
            Table::New => SNAT_NEW.get_ptr_mut(key),
        }
        .map(Record)
    }

    #[inline(always)]
    fn load(&self, record: Record) -> SnatValue {
        // SAFETY: a `Record` is only made from a successful look-up; any bits are a valid value.
        unsafe { *record.0 }
    }

    #[inline(always)]
    fn touch(&self, record: Record, now: u64) {
        // SAFETY: as in `load`.
        let to = unsafe { addr_of_mut!((*record.0).last_seen) };
        // SAFETY: it points into that map value; one aligned store, of which the last wins.
        unsafe { to.write(now) };
    }

    #[inline(always)]
    fn set_state(&self, record: Record, state: u16) {
        // SAFETY: as in `load`.
        let to = unsafe { addr_of_mut!((*record.0).state) };
        // SAFETY: as in `touch`.
        unsafe { to.write(state) };
    }

    #[inline(always)]
    fn set_client_hop(&self, record: Record, mac: [u8; 6], iface: u16) {
        // SAFETY: as in `load`.
        let to = unsafe { addr_of_mut!((*record.0).client_mac) };
        // SAFETY: as in `touch`; a reply that reads between the two finds the former interface with the new MAC once.
        unsafe { to.write(mac) };
        // SAFETY: as in `load`.
        let to = unsafe { addr_of_mut!((*record.0).client_iface) };
        // SAFETY: as in `touch`.
        unsafe { to.write(iface) };
    }

    #[inline(always)]
    fn put_record(&self, table: Table, key: &SnatKey, value: &SnatValue, how: Insert) -> bool {
        match table {
            Table::Established => SNAT.insert(key, value, flags(how)),
            Table::New => SNAT_NEW.insert(key, value, flags(how)),
        }
        .is_ok()
    }

    #[inline(always)]
    fn remove_record(&self, table: Table, key: &SnatKey) {
        // An absent key is as good as a removed one.
        let _absent = match table {
            Table::Established => SNAT.remove(key),
            Table::New => SNAT_NEW.remove(key),
        };
    }

    #[inline(always)]
    fn fragment(&self, key: &FragKey) -> Option<FragValue> {
        let value = FRAGS.get_ptr(key)?;
        // SAFETY: from a successful look-up; any bits are a valid value.
        Some(unsafe { *value })
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragKey, value: &FragValue) {
        // Without room the later fragments are dropped and counted.
        let _full = FRAGS.insert(key, value, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn l2_entry(&self, key: &L2Key) -> Option<L2Entry> {
        let value = L2_ENTRIES.get_ptr(key)?;
        // SAFETY: from a successful look-up; any bits are a valid value.
        Some(unsafe { *value })
    }

    #[inline(always)]
    fn count_response(&self, key: &L2Key) {
        if let Some(entry) = L2_ENTRIES.get_ptr_mut(key) {
            // SAFETY: from a successful look-up; a statistic, two CPUs at once may lose one.
            let responses = unsafe { &mut (*entry).responses };
            *responses = responses.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn l2_cell(&self, cell: u32) -> Option<DeadlineCell> {
        let cell = L2_CELLS.get_ptr(cell)?;
        // SAFETY: from a successful look-up, here and below.
        let from = unsafe { addr_of!((*cell).deadline) };
        // SAFETY: it points into that map value; the writer stores each field in one piece.
        let deadline = unsafe { from.read_volatile() };
        // SAFETY: as for `deadline`.
        let from = unsafe { addr_of!((*cell).epoch) };
        // SAFETY: as for `deadline`.
        let epoch = unsafe { from.read_volatile() };
        Some(DeadlineCell { deadline, epoch })
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<u32> {
        let slot = PEERS.get_ptr(key)?;
        // SAFETY: from a successful look-up.
        Some(unsafe { *slot })
    }

    #[inline(always)]
    fn peer_seen(&self, index: u32) -> u64 {
        PEER_SEEN.get(index).map_or(0, |seen| seen.at)
    }

    #[inline(always)]
    fn set_peer_seen(&self, index: u32, at: u64) {
        if let Some(seen) = PEER_SEEN.get_ptr_mut(index) {
            // SAFETY: from a successful look-up.
            let to = unsafe { addr_of_mut!((*seen).at) };
            // SAFETY: it points into that map value; one aligned store.
            unsafe { to.write_volatile(at) };
        }
    }

    #[inline(always)]
    fn decap_vip(&self, addr: &[u8; 16]) -> bool {
        DECAP_VIPS.get_ptr(addr).is_some()
    }

    #[inline(always)]
    fn decap_sender(&self, addr: &[u8; 16]) -> bool {
        DECAP_SENDERS.get_ptr(addr).is_some()
    }

    #[inline(always)]
    fn set_mtu(&self, mtu: u32) {
        if let Some(cell) = SCRATCH.get_ptr_mut(0) {
            // SAFETY: from a successful look-up in a per-CPU map.
            unsafe { *cell = u64::from(mtu) };
        }
    }

    #[inline(always)]
    fn mtu(&self) -> u32 {
        SCRATCH.get(0).map_or(0, |mtu| *mtu as u32)
    }
}

#[inline(always)]
fn flags(how: Insert) -> u64 {
    match how {
        Insert::NoExist => u64::from(BPF_NOEXIST),
        Insert::Any => u64::from(BPF_ANY),
    }
}
