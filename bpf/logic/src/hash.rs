//! Hashes and keys that the programs and user space must compute alike.
//!
//! Every function here is part of the contract with `xdp-lb`: a change makes pinned tables unreadable.
//! None depends on the state of a VIP, so that every node sends a flow to the same slot.

use fairlead_abi::{
    flow::{NODE_PORT_MIN, NODE_PORTS, SNAT_PORT_MIN, SNAT_PORTS},
    lb::{N_VIP_BUCKETS, SLOTS_PER_LINE},
};

const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0x9e37_79b9_7f4a_7c15;
/// Distance between two SNAT ports that are tried for one flow; coprime to `SNAT_PORTS` and `NODE_PORTS`, and far from small port steps.
const SNAT_STRIDE: u32 = 7_919;

/// Mixes 64 bits; a bijection, so that distinct keys collide only after truncation.
#[inline(always)]
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(K1);
    let x = (x ^ (x >> 32)).wrapping_mul(K1);
    x ^ (x >> 32)
}

#[inline(always)]
fn words6(addr: &[u8; 16]) -> (u64, u64) {
    let wide = u128::from_be_bytes(*addr);
    ((wide >> 64) as u64, wide as u64)
}

/// Key of an IPv4 frontend, or with port and protocol 0 of the VIP itself. `addr` and `port` in host order.
#[inline(always)]
pub const fn vip_key4(addr: u32, port: u16, proto: u8) -> u64 {
    addr as u64 | (port as u64) << 32 | (proto as u64) << 48 | 1 << 56
}

/// The two candidate buckets of an IPv4 key in `VIPS4`, the preferred one first; always different.
#[inline(always)]
pub const fn bucket_pair4(key: u64) -> (u32, u32) {
    pair(mix(key))
}

/// The word of an IPv6 slot in `VIPS6`: what is compared in the low half ([`vip_tag6`]), the record in the high half.
#[inline(always)]
pub const fn vip_word6(port: u16, proto: u8, index: u32) -> u64 {
    vip_tag6(port, proto) as u64 | (index as u64) << 32
}

/// The low half of [`vip_word6`].
#[inline(always)]
pub const fn vip_tag6(port: u16, proto: u8) -> u32 {
    port as u32 | (proto as u32) << 16 | 1 << 24
}

/// The two candidate buckets of an IPv6 frontend in `VIPS6`, the preferred one first; always different.
#[inline(always)]
pub fn bucket_pair6(addr: &[u8; 16], port: u16, proto: u8) -> (u32, u32) {
    let (hi, lo) = words6(addr);
    pair(mix(hi
        .wrapping_mul(K2)
        .wrapping_add(lo.rotate_left(29))
        .wrapping_add(
            (vip_tag6(port, proto) as u64).wrapping_mul(K1),
        )))
}

#[inline(always)]
const fn pair(h: u64) -> (u32, u32) {
    let mask = N_VIP_BUCKETS.wrapping_sub(1);
    let (a, b) = (h as u32, (h >> 32) as u32);
    (a & mask, (a ^ (b | 1)) & mask)
}

/// Hash of a flow to an IPv4 frontend: client address, ports, protocol; host order.
#[inline(always)]
pub const fn flow_hash4(client: u32, client_port: u16, vip_port: u16, proto: u8) -> u32 {
    let word = (client as u64) << 32 | (client_port as u64) << 16 | vip_port as u64;
    (mix(word ^ (proto as u64).wrapping_mul(K2)) >> 32) as u32
}

/// Hash of a flow to an IPv6 frontend: client address (network order), ports and protocol (host order).
#[inline(always)]
pub fn flow_hash6(client: &[u8; 16], client_port: u16, vip_port: u16, proto: u8) -> u32 {
    let (hi, lo) = words6(client);
    let ports = (client_port as u64) << 32 | (vip_port as u64) << 16 | proto as u64;
    let word = mix(hi ^ ports.wrapping_mul(K2)).wrapping_add(lo);
    (mix(word) >> 32) as u32
}

/// Slot of a hash in a table of `len` slots, by multiplication and shift; below `len` unless `len` is 0.
#[inline(always)]
pub const fn slot(hash: u32, len: u32) -> u32 {
    ((hash as u64).wrapping_mul(len as u64) >> 32) as u32
}

/// Line (relative to the table's first) and position in it of a slot.
#[inline(always)]
pub const fn line_of(slot: u32) -> (u32, u32) {
    (slot / SLOTS_PER_LINE, slot % SLOTS_PER_LINE)
}

/// Offset that SNAT adds to the client's port: a hash of client and frontend, equal on every node. Addresses in the 16-byte form.
#[inline(always)]
pub fn snat_offset(client: &[u8; 16], vip: &[u8; 16], vip_port: u16, proto: u8) -> u32 {
    let (ch, cl) = words6(client);
    let (vh, vl) = words6(vip);
    let front = (vip_port as u64) << 8 | proto as u64;
    let a = mix(ch.wrapping_mul(K2).wrapping_add(cl));
    let b = mix(a ^ vh.wrapping_mul(K1).wrapping_add(vl));
    let h = (mix(b ^ front.wrapping_mul(K2)) >> 32) as u32;
    slot(h, SNAT_PORTS)
}

/// The SNAT port of try `attempt` (0 first): `SNAT_PORT_MIN + (client port + offset + attempt * stride) mod SNAT_PORTS`, host order.
#[inline(always)]
pub const fn snat_port(client_port: u16, offset: u32, attempt: u32) -> u16 {
    let sum = (client_port as u32)
        .wrapping_add(offset)
        .wrapping_add(attempt.wrapping_mul(SNAT_STRIDE));
    (SNAT_PORT_MIN as u32).wrapping_add(sum % SNAT_PORTS) as u16
}

/// The same where the source is the node's own address: `NODE_PORT_MIN + (client port + offset + attempt * stride) mod NODE_PORTS`.
#[inline(always)]
pub const fn node_port(client_port: u16, offset: u32, attempt: u32) -> u16 {
    let sum = (client_port as u32)
        .wrapping_add(offset)
        .wrapping_add(attempt.wrapping_mul(SNAT_STRIDE));
    (NODE_PORT_MIN as u32).wrapping_add(sum % NODE_PORTS) as u16
}

#[cfg(test)]
mod tests;
