//! `decap_ingress`: the servers' end of IPIP and ip6ip6.
//!
//! A packet for a known VIP from a known load balancer loses its outer header and goes on to the host, which holds the VIP. If only one of
//! the two is known it is dropped and counted; if neither is, it is somebody else's tunnel and passes.
//!
//! # Source
//! RFC 2003, RFC 2473, RFC 6040 4.2 (congestion marks).

use fairlead_abi::reasons;
use zerocopy::network_endian::{U16, U32};

use crate::{
    Maps, Packet, Verdict,
    csum::{self, Sum},
    output::{Link, put_tagged},
    parse,
    wire::{FRAG_MASK, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Macs, ethertype, mapped, proto},
};

/// Congestion experienced.
const CE: u8 = 3;

/// Decides about a frame that arrives at a server.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M) -> Verdict {
    match parse::link(p) {
        Some((link, ethertype::IPV4)) => ipip(p, m, &link),
        Some((link, ethertype::IPV6)) => ip6ip6(p, m, &link),
        _ => Verdict::Pass,
    }
}

/// Whether to unwrap: `Ok(true)`; somebody else's tunnel: `Ok(false)`.
#[inline(always)]
fn ours<M: Maps>(m: &M, vip: &[u8; 16], sender: &[u8; 16]) -> Result<bool, u32> {
    match (m.decap_vip(vip), m.decap_sender(sender)) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (true, false) => Err(reasons::DECAP_UNKNOWN_SENDER),
        (false, true) => Err(reasons::DECAP_UNKNOWN_VIP),
    }
}

#[inline(always)]
fn ipip<P: Packet, M: Maps>(p: &mut P, m: &M, link: &Link) -> Verdict {
    let Some(outer) = p.view::<Ipv4>(link.l3()).copied() else {
        return Verdict::Pass;
    };
    if outer.vihl != 0x45 || outer.proto != proto::IPIP || outer.frag.get() & FRAG_MASK != 0 {
        return Verdict::Pass;
    }
    let inner_off = link.l3().wrapping_add(IPV4_LEN);
    let Some(inner) = p.view::<Ipv4>(inner_off).copied() else {
        return Verdict::Pass;
    };
    match ours(m, &mapped(inner.dst), &mapped(outer.src)) {
        Ok(true) => {}
        Ok(false) => return Verdict::Pass,
        Err(reason) => return m.drop(p, reason),
    }
    if inner.vihl >> 4 != 4 {
        return m.drop(p, reasons::MALFORMED);
    }
    // A router's congestion mark survives if the inner packet can carry it.
    if outer.tos & CE == CE && inner.tos & CE != 0 && inner.tos & CE != CE {
        let tos = inner.tos | CE;
        let delta = Sum(0).word(u16::from(tos)).minus(u16::from(inner.tos));
        let csum = U16::new(csum::update(inner.csum.get(), delta));
        if p.put(inner_off, Ipv4 { tos, csum, ..inner }).is_none() {
            return m.drop(p, reasons::TRUNCATED);
        }
    }
    unwrap(p, m, link, IPV4_LEN, ethertype::IPV4)
}

#[inline(always)]
fn ip6ip6<P: Packet, M: Maps>(p: &mut P, m: &M, link: &Link) -> Verdict {
    let Some(outer) = p.view::<Ipv6>(link.l3()).copied() else {
        return Verdict::Pass;
    };
    if outer.next != proto::IPV6 {
        return Verdict::Pass;
    }
    let inner_off = link.l3().wrapping_add(IPV6_LEN);
    let Some(inner) = p.view::<Ipv6>(inner_off).copied() else {
        return Verdict::Pass;
    };
    match ours(m, &inner.dst, &outer.src) {
        Ok(true) => {}
        Ok(false) => return Verdict::Pass,
        Err(reason) => return m.drop(p, reason),
    }
    if inner.vtf.get() >> 28 != 6 {
        return m.drop(p, reasons::MALFORMED);
    }
    // The two congestion bits lie below the traffic class's upper six, above the flow label.
    let mark = u32::from(CE) << 20;
    let bits = inner.vtf.get() & mark;
    if outer.vtf.get() & mark == mark && bits != 0 && bits != mark {
        let vtf = U32::new(inner.vtf.get() | mark);
        if p.put(inner_off, vtf).is_none() {
            return m.drop(p, reasons::TRUNCATED);
        }
    }
    unwrap(p, m, link, IPV6_LEN, ethertype::IPV6)
}

#[inline(always)]
fn unwrap<P: Packet, M: Maps>(p: &mut P, m: &M, link: &Link, header: usize, kind: u16) -> Verdict {
    let Some(macs) = p.view::<Macs>(0).copied() else {
        return m.drop(p, reasons::TRUNCATED);
    };
    if p.grow_head(0i32.wrapping_sub(header as i32)).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    if put_tagged(p, link, macs, kind).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    m.count(reasons::DECAPSULATED, p.len() as u64);
    Verdict::Pass
}

#[cfg(test)]
mod tests;
