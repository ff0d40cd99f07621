//! Map contents by hand: what `xdp-lb` would write, stated by the test itself.

use std::net::IpAddr;

use anyhow::bail;
use fairlead_abi::lb::{
    Backend4, Backend6, FrontendValue, Iface, MaglevLine, N_IFACES, SLOTS_PER_LINE, SlotTable,
    VipState, backend_flags, frontend_flags,
};
use fairlead_datapath::LbMaps;
use fairlead_logic::hash;

/// A frontend to be written.
#[derive(Clone, Copy, Debug)]
pub struct FrontendSpec {
    pub vip: IpAddr,
    pub port: u16,
    /// IANA number.
    pub proto: u8,
    /// Record in `FRONTENDS`.
    pub index: u32,
    /// Record in `VIP_STATE`.
    pub vip_state: u32,
    /// `abi::lb::mode`.
    pub mode: u64,
    pub current: SlotTable,
    pub previous: SlotTable,
    /// Flags besides the mode.
    pub flags: u64,
    pub backend_base: u32,
    pub n_backends: u32,
    pub udp_previous_until: u64,
}

/// Writes one interface.
pub fn iface(lb: &LbMaps, iface: &Iface) {
    lb.ifaces.write(iface.ifindex & (N_IFACES - 1), iface);
}

/// Writes the VIP itself.
pub fn vip(lb: &LbMaps, addr: IpAddr, index: u32, state: &VipState) -> anyhow::Result<()> {
    lb.vip_state.write(index, state);
    place(lb, addr, 0, 0, index)
}

/// Writes a frontend and the slot that names it.
pub fn frontend(lb: &LbMaps, spec: &FrontendSpec) -> anyhow::Result<()> {
    let value = FrontendValue {
        current: spec.current,
        previous: spec.previous,
        flags: spec.flags | spec.mode << frontend_flags::MODE_SHIFT,
        udp_previous_until: spec.udp_previous_until,
        backend_base: spec.backend_base,
        vip: spec.vip_state,
        n_backends: spec.n_backends,
        ..FrontendValue::default()
    };
    lb.frontends.write(spec.index, &value);
    place(lb, spec.vip, spec.port, spec.proto, spec.index)
}

/// Writes a table of slots from `line` on.
pub fn slots(lb: &LbMaps, line: u32, slots: &[u16]) -> SlotTable {
    for (n, chunk) in slots.chunks(SLOTS_PER_LINE as usize).enumerate() {
        let mut packed = [0; SLOTS_PER_LINE as usize];
        packed[..chunk.len()].copy_from_slice(chunk);
        lb.maglev.write(
            line + u32::try_from(n).expect("a small table"),
            &MaglevLine { slots: packed },
        );
    }
    SlotTable {
        line,
        len: u32::try_from(slots.len()).expect("a small table"),
    }
}

/// Writes an IPv4 backend; `source` is the address of the interface that the outer header names.
pub fn backend4(
    lb: &LbMaps,
    index: u32,
    addr: [u8; 4],
    port: u16,
    mac: [u8; 6],
    iface: u8,
    source: [u8; 4],
) {
    let record = Backend4 {
        addr,
        mac,
        csum: outer_sum(addr, source),
        port: port.to_be_bytes(),
        iface,
        flags: backend_flags::ALIVE | backend_flags::ACCEPTS_NEW,
    };
    lb.backends4.write(index, &record);
}

/// Writes an IPv6 backend.
pub fn backend6(lb: &LbMaps, index: u32, addr: [u8; 16], port: u16, mac: [u8; 6], iface: u8) {
    let flags = backend_flags::ALIVE | backend_flags::ACCEPTS_NEW;
    let record = Backend6 {
        addr,
        mac,
        port: port.to_be_bytes(),
        iface,
        flags,
        _pad: [0; 6],
    };
    lb.backends6.write(index, &record);
}

/// Sum over version/ihl, ttl/protocol, source and destination of an IPIP header (RFC 1071), folded.
pub fn outer_sum(addr: [u8; 4], source: [u8; 4]) -> u16 {
    let words = [0x4500, 0x4004]
        .into_iter()
        .chain([source, addr].into_iter().flat_map(|a| {
            [
                u16::from_be_bytes([a[0], a[1]]),
                u16::from_be_bytes([a[2], a[3]]),
            ]
        }));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// Whether the preferred bucket of a frontend has room: programs that look no further find it there.
pub fn fits_first_bucket(lb: &LbMaps, addr: IpAddr, port: u16, proto: u8) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            let (first, _) = hash::bucket_pair4(hash::vip_key4(u32::from(addr), port, proto));
            lb.vips4.read(first).slots.iter().any(|slot| slot.key == 0)
        }
        IpAddr::V6(addr) => {
            let (first, _) = hash::bucket_pair6(&addr.octets(), port, proto);
            lb.vips6.read(first).slots.iter().any(|slot| slot.word == 0)
        }
    }
}

/// Puts a key into the emptier of its two buckets, or reports that both are full.
fn place(lb: &LbMaps, addr: IpAddr, port: u16, proto: u8, index: u32) -> anyhow::Result<()> {
    match addr {
        IpAddr::V4(addr) => {
            let key = hash::vip_key4(u32::from(addr), port, proto);
            let (first, second) = hash::bucket_pair4(key);
            for bucket in [first, second] {
                let mut record = lb.vips4.read(bucket);
                if let Some(slot) = record
                    .slots
                    .iter_mut()
                    .find(|slot| slot.key == 0 || slot.key == key)
                {
                    slot.index = index;
                    slot.key = key;
                    lb.vips4.write(bucket, &record);
                    return Ok(());
                }
            }
        }
        IpAddr::V6(addr) => {
            let word = hash::vip_word6(port, proto, index);
            let (first, second) = hash::bucket_pair6(&addr.octets(), port, proto);
            for bucket in [first, second] {
                let mut record = lb.vips6.read(bucket);
                let free = |slot: &fairlead_abi::lb::VipSlot6| {
                    slot.word == 0
                        || (slot.addr == addr.octets()
                            && slot.word & 0xffff_ffff == word & 0xffff_ffff)
                };
                if let Some(slot) = record.slots.iter_mut().find(|slot| free(slot)) {
                    slot.addr = addr.octets();
                    slot.word = word;
                    lb.vips6.write(bucket, &record);
                    return Ok(());
                }
            }
        }
    }
    bail!("both buckets of {addr} port {port} are full")
}
