//! Translating addresses and ports in place, checksums by difference.
//!
//! # Source
//! RFC 1624 (incremental update), RFC 768 (UDP checksum 0 means none over IPv4), RFC 791 and 8200 (time to live).

use fairlead_abi::reasons;
use zerocopy::network_endian::U16;

use crate::{
    Packet,
    csum::{self, Sum},
    parse::{Parsed, Part},
    wire::{Ports, proto, unmapped},
};

/// From the time to live to the end of an IPv4 header without options.
#[derive(
    Clone,
    Copy,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
    zerocopy::Unaligned,
)]
#[repr(C)]
struct Tail4 {
    ttl: u8,
    proto: u8,
    csum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

/// From the hop limit to the end of an IPv6 header.
#[derive(
    Clone,
    Copy,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
    zerocopy::Unaligned,
)]
#[repr(C)]
struct Tail6 {
    hops: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

const TAIL4_OFF: usize = 8;
const TAIL6_OFF: usize = 7;
/// Offset of the checksum in a TCP header.
pub const TCP_CSUM: usize = 16;
/// Offset of the checksum in a UDP header.
pub const UDP_CSUM: usize = 6;

/// Source and destination of a packet, as they are to be. Addresses in the 16-byte form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub ports: Ports,
}

/// Difference of the sums over two addresses; over the mapped form as good as over four bytes, because the prefix cancels out.
#[inline(always)]
pub const fn address_delta(old: &[u8; 16], new: &[u8; 16], v6: bool) -> Sum {
    if v6 {
        Sum(0).bytes16(new).less(Sum(0).bytes16(old))
    } else {
        Sum(0)
            .bytes4(unmapped(new))
            .less(Sum(0).bytes4(unmapped(old)))
    }
}

/// Difference of the sums over two ports.
#[inline(always)]
pub const fn port_delta(old: [u8; 2], new: [u8; 2]) -> Sum {
    Sum(0)
        .word(u16::from_be_bytes(new))
        .minus(u16::from_be_bytes(old))
}

/// Rewrites the L3 header: addresses, and the time to live by one less.
///
/// # Errors
/// The reason for which the packet has to be dropped; it is not changed then.
#[inline(always)]
pub fn l3<P: Packet>(p: &mut P, h: &Parsed, src: &[u8; 16], dst: &[u8; 16]) -> Result<(), u32> {
    if h.v6 {
        let off = h.link.l3().wrapping_add(TAIL6_OFF);
        let Some(tail) = p.view::<Tail6>(off) else {
            return Err(reasons::TRUNCATED);
        };
        let hops = tail.hops;
        if hops <= 1 {
            return Err(reasons::TTL_EXPIRED);
        }
        let tail = Tail6 {
            hops: hops.wrapping_sub(1),
            src: *src,
            dst: *dst,
        };
        return p.put(off, tail).ok_or(reasons::TRUNCATED);
    }
    let off = h.link.l3().wrapping_add(TAIL4_OFF);
    let Some(old) = p.view::<Tail4>(off).copied() else {
        return Err(reasons::TRUNCATED);
    };
    if old.ttl <= 1 {
        return Err(reasons::TTL_EXPIRED);
    }
    let delta = address_delta(&h.src, src, false)
        .plus(address_delta(&h.dst, dst, false))
        // The time to live is the high byte of its word.
        .minus(0x0100);
    let tail = Tail4 {
        ttl: old.ttl.wrapping_sub(1),
        csum: U16::new(csum::update(old.csum.get(), delta)),
        src: unmapped(src),
        dst: unmapped(dst),
        ..old
    };
    p.put(off, tail).ok_or(reasons::TRUNCATED)
}

/// Rewrites addresses, ports, time to live and checksums of a TCP or UDP packet (a later fragment has no ports).
///
/// # Errors
/// The reason for which the packet has to be dropped.
#[inline(always)]
pub fn all<P: Packet>(p: &mut P, h: &Parsed, ends: &Ends) -> Result<(), u32> {
    l3(p, h, &ends.src, &ends.dst)?;
    if h.part == Part::Later {
        return Ok(());
    }
    p.put(h.l4(), ends.ports).ok_or(reasons::TRUNCATED)?;
    let delta = address_delta(&h.src, &ends.src, h.v6)
        .plus(address_delta(&h.dst, &ends.dst, h.v6))
        .plus(port_delta(h.ports.src, ends.ports.src))
        .plus(port_delta(h.ports.dst, ends.ports.dst));
    let udp = h.proto == proto::UDP;
    let off = h.l4().wrapping_add(if udp { UDP_CSUM } else { TCP_CSUM });
    let Some(old) = p.view::<U16>(off) else {
        return Err(reasons::TRUNCATED);
    };
    let old = old.get();
    if udp && old == 0 && !h.v6 {
        return Ok(());
    }
    p.put(off, U16::new(transport_csum(udp, old, delta)))
        .ok_or(reasons::TRUNCATED)
}

/// A TCP or UDP checksum after its text has changed by `delta`; UDP sends 0xffff for 0.
#[inline(always)]
pub const fn transport_csum(udp: bool, old: u16, delta: Sum) -> u16 {
    let new = csum::update(old, delta);
    if udp && new == 0 { 0xffff } else { new }
}
