//! From packet to frontend to backend: look-ups without a decision about state.

use fairlead_abi::lb::{self, Backend4, Backend6, FrontendValue, SlotTable, frontend_flags};

use crate::{
    Maps, Packet, hash,
    wire::{addr_eq, mapped, unmapped},
};

/// Slot of an interface in `IFACES`.
#[inline(always)]
pub const fn iface_slot(ifindex: u32) -> u32 {
    ifindex & lb::N_IFACES.wrapping_sub(1)
}

/// Index of an IPv4 frontend in `FRONTENDS`, or of a VIP in `VIP_STATE` (port and protocol 0). `addr` and `port` in host order.
#[inline(always)]
pub fn find4<M: Maps>(m: &M, addr: u32, port: u16, proto: u8) -> Option<u32> {
    let key = hash::vip_key4(addr, port, proto);
    let (first, second) = hash::bucket_pair4(key);
    if let Some(index) = in_bucket4(m, first, key) {
        return Some(index);
    }
    in_bucket4(m, second, key)
}

#[inline(always)]
fn in_bucket4<M: Maps>(m: &M, bucket: u32, key: u64) -> Option<u32> {
    let [a, b, c, d] = &m.vips4(bucket)?.slots;
    if a.key == key {
        Some(a.index)
    } else if b.key == key {
        Some(b.index)
    } else if c.key == key {
        Some(c.index)
    } else if d.key == key {
        Some(d.index)
    } else {
        None
    }
}

/// The same for IPv6; `addr` in network order, `port` in host order.
#[inline(always)]
pub fn find6<M: Maps>(m: &M, addr: &[u8; 16], port: u16, proto: u8) -> Option<u32> {
    let (first, second) = hash::bucket_pair6(addr, port, proto);
    let tag = hash::vip_tag6(port, proto);
    if let Some(index) = in_bucket6(m, first, addr, tag) {
        return Some(index);
    }
    in_bucket6(m, second, addr, tag)
}

#[inline(always)]
fn in_bucket6<M: Maps>(m: &M, bucket: u32, addr: &[u8; 16], tag: u32) -> Option<u32> {
    let [a, b] = &m.vips6(bucket)?.slots;
    if low(a.word) == tag && addr_eq(&a.addr, addr) {
        Some(high(a.word))
    } else if low(b.word) == tag && addr_eq(&b.addr, addr) {
        Some(high(b.word))
    } else {
        None
    }
}

#[inline(always)]
const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

#[inline(always)]
const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The frontend's mode (`abi::lb::mode`).
#[inline(always)]
pub const fn mode(fe: &FrontendValue) -> u64 {
    (fe.flags >> frontend_flags::MODE_SHIFT) & frontend_flags::MODE_MASK
}

/// Backend index that a table gives to a flow; `None` if the table is empty or outside the array.
#[inline(always)]
pub fn slot<M: Maps>(m: &M, table: SlotTable, flow_hash: u32) -> Option<u16> {
    if table.len == 0 {
        return None;
    }
    let (line, pos) = hash::line_of(hash::slot(flow_hash, table.len));
    m.line(table.line.wrapping_add(line))?
        .slots
        .get(pos as usize)
        .copied()
}

/// The IPv4 backend with this index of the frontend.
#[inline(always)]
pub fn backend4<'m, M: Maps>(m: &'m M, fe: &FrontendValue, index: u16) -> Option<&'m Backend4> {
    m.backend4(fe.backend_base.wrapping_add(u32::from(index)))
}

/// The IPv6 backend with this index of the frontend.
#[inline(always)]
pub fn backend6<'m, M: Maps>(m: &'m M, fe: &FrontendValue, index: u16) -> Option<&'m Backend6> {
    m.backend6(fe.backend_base.wrapping_add(u32::from(index)))
}

/// Index of a frontend (or with port and protocol 0 of a VIP), whatever the family; `port` in network order.
#[inline(always)]
pub fn find<M: Maps>(m: &M, v6: bool, addr: &[u8; 16], port: [u8; 2], proto: u8) -> Option<u32> {
    let port = u16::from_be_bytes(port);
    if v6 {
        find6(m, addr, port, proto)
    } else {
        find4(m, u32::from_be_bytes(unmapped(addr)), port, proto)
    }
}

/// A backend, whatever the family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// IPv4 in its mapped form.
    pub addr: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    pub mac: [u8; 6],
    pub iface: u8,
    /// See `abi::lb::backend_flags`.
    pub flags: u8,
}

/// The backend with this index of the frontend.
#[inline(always)]
pub fn target<M: Maps>(m: &M, v6: bool, fe: &FrontendValue, index: u16) -> Option<Target> {
    if v6 {
        let be = backend6(m, fe, index)?;
        Some(Target {
            addr: be.addr,
            port: be.port,
            mac: be.mac,
            iface: be.iface,
            flags: be.flags,
        })
    } else {
        let be = backend4(m, fe, index)?;
        let addr = mapped(be.addr);
        Some(Target {
            addr,
            port: be.port,
            mac: be.mac,
            iface: be.iface,
            flags: be.flags,
        })
    }
}

/// The source that a backend sees under SNAT: the VIP, or the node's address on the backend's interface.
#[inline(always)]
pub fn source<M: Maps>(m: &M, v6: bool, vip: &[u8; 16], target: &Target) -> [u8; 16] {
    if target.flags & lb::backend_flags::NODE_SOURCE == 0 {
        return *vip;
    }
    match m.iface(u32::from(target.iface)) {
        Some(iface) if v6 && !addr_eq(&iface.addr6, &[0; 16]) => iface.addr6,
        Some(iface) if !v6 && u32::from_ne_bytes(iface.addr4) != 0 => mapped(iface.addr4),
        // The interface has lost its address: better a reply that may come back than none.
        _ => *vip,
    }
}

/// Whether an address is the node's own on the interface that has received the packet.
#[inline(always)]
pub fn is_own<P: Packet, M: Maps>(p: &P, m: &M, v6: bool, addr: &[u8; 16]) -> bool {
    let Some(iface) = m.iface(iface_slot(p.ifindex())) else {
        return false;
    };
    iface.ifindex == p.ifindex()
        && if v6 {
            addr_eq(&iface.addr6, addr)
        } else {
            u32::from_ne_bytes(iface.addr4) == u32::from_ne_bytes(unmapped(addr))
        }
}

/// Flags of a backend; none if there is no such backend.
#[inline(always)]
pub fn backend_flags<M: Maps>(m: &M, v6: bool, fe: &FrontendValue, index: u16) -> u8 {
    if u32::from(index) >= fe.n_backends {
        return 0;
    }
    if v6 {
        backend6(m, fe, index).map_or(0, |be| be.flags)
    } else {
        backend4(m, fe, index).map_or(0, |be| be.flags)
    }
}
