//! ICMP errors about encapsulated packets.
//!
//! A router on the way to a backend takes smaller packets than our interface: the client is told what fits without the outer header, so that
//! its own path MTU discovery finds the way; nothing is kept here. The answer goes back to the router that the error came from, which knows
//! where the client is. Other errors about our tunnels are counted, and pass.
//!
//! # Source
//! RFC 2003 4 and 5.1, RFC 2473 7.1 and 8.1, RFC 1191 4, RFC 4443 3.2.

use fairlead_abi::{lb::mode, reasons};
use zerocopy::network_endian::U16;

use crate::{
    Maps, Packet, Verdict,
    csum::{self, Sum},
    output, quote, refusal, select,
    snat::Work,
    transition::{self, NOWHERE},
    wire::{
        IPV4_LEN, IPV6_LEN, Icmp, Ipv4, Ipv6, Macs, addr_eq, ethertype, icmp, icmp6, mapped, proto,
    },
};

/// Every IPv4 link takes as much (RFC 791).
const MIN_MTU4: u32 = 68;
/// Every IPv6 link takes as much (RFC 8200 5).
const MIN_MTU6: u32 = 1280;

/// Decides about the error `w.outer`, which quotes no packet of TCP or UDP.
#[inline(always)]
pub fn error<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    let quoted = w.outer.l4().wrapping_add(quote::ICMP_LEN);
    let (is_tunnel, backend, inner) = if w.outer.v6 {
        let Some(ip) = p.view::<Ipv6>(quoted) else {
            return Verdict::Pass;
        };
        let is_tunnel = ip.next == proto::IPV6 && addr_eq(&ip.src, &w.outer.dst);
        (is_tunnel, ip.dst, quoted.wrapping_add(IPV6_LEN))
    } else {
        let Some(ip) = p.view::<Ipv4>(quoted) else {
            return Verdict::Pass;
        };
        let is_tunnel =
            ip.vihl == 0x45 && ip.proto == proto::IPIP && addr_eq(&mapped(ip.src), &w.outer.dst);
        (is_tunnel, mapped(ip.dst), quoted.wrapping_add(IPV4_LEN))
    };
    if !is_tunnel || quote::read_at(p, &mut w.h, inner).is_none() {
        return Verdict::Pass;
    }
    // `w.h` is now the client's packet. Whether it is of a frontend of ours, and goes to this backend: else somebody else's tunnel, or a lie.
    if !goes_to(m, w, &backend) {
        return Verdict::Pass;
    }
    match told(p, w, inner) {
        Some(mtu) if refusal::may_be_told(&w.h) => tell(p, m, w, quoted, inner, mtu),
        _ => {
            m.count(reasons::TUNNEL_ERROR, p.len() as u64);
            Verdict::Pass
        }
    }
}

/// Whether the packet `w.h` of a client is one that we wrap for this backend.
#[inline(always)]
fn goes_to<M: Maps>(m: &M, w: &mut Work, backend: &[u8; 16]) -> bool {
    let h = &w.h;
    let Some(index) = select::find(m, h.v6, &h.dst, h.ports.dst, h.proto) else {
        return false;
    };
    let Some(fe) = m.frontend(index) else {
        return false;
    };
    w.fe = fe;
    if select::mode(&w.fe) != mode::DSR_IPIP {
        return false;
    }
    let local = transition::peek(m, &w.fe, index, &w.h);
    if local == NOWHERE {
        return false;
    }
    select::target(m, w.h.v6, &w.fe, local).is_some_and(|to| addr_eq(&to.addr, backend))
}

/// What fits without the outer header, if this is what the error says and it is worth telling.
#[inline(always)]
fn told<P: Packet>(p: &P, w: &Work, inner: usize) -> Option<u32> {
    let message = p.view::<Icmp>(w.outer.l4())?;
    let [_, _, hi, lo] = message.rest;
    let (says_so, mtu, header, least) = if w.outer.v6 {
        let says_so = message.kind == icmp6::TOO_BIG && message.code == 0;
        let mtu = u32::from_be_bytes(message.rest);
        (says_so, mtu, IPV6_LEN, MIN_MTU6)
    } else {
        let says_so = message.kind == icmp::UNREACHABLE && message.code == icmp::FRAG_NEEDED;
        let mtu = u32::from(u16::from_be_bytes([hi, lo]));
        (says_so, mtu, IPV4_LEN, MIN_MTU4)
    };
    let end = w.outer.link.l3().wrapping_add(usize::from(w.outer.bytes));
    let fits = mtu.saturating_sub(header as u32);
    (says_so && fits >= least && end > inner).then_some(fits)
}

/// Makes of the error one about the packet inside, and sends it back the way it came.
#[inline(always)]
fn tell<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &Work,
    quoted: usize,
    inner: usize,
    mtu: u32,
) -> Verdict {
    let Some(csum) = new_csum(p, w, quoted, inner, mtu) else {
        return m.drop(p, reasons::TRUNCATED);
    };
    let Some(macs) = p.view::<Macs>(0).copied() else {
        return m.drop(p, reasons::TRUNCATED);
    };
    let header = if w.h.v6 { IPV6_LEN } else { IPV4_LEN }.wrapping_add(quote::ICMP_LEN);
    // At least the outer header goes, and what the error's own header had beyond the shortest.
    let cut = inner.wrapping_sub(header).wrapping_sub(w.h.link.l3()) & 0x1ff;
    if p.grow_head(0i32.wrapping_sub(cut as i32)).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    let back = Macs {
        dst: macs.src,
        src: macs.dst,
    };
    if put(p, w, back, inner, mtu, csum).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    m.count(reasons::TUNNEL_TOO_BIG, p.len() as u64);
    output::back(p, m)
}

/// Bytes that the new error quotes: all that the old one quotes behind the outer header.
#[inline(always)]
fn n_quoted(w: &Work, inner: usize) -> u16 {
    let end = w.outer.link.l3().wrapping_add(usize::from(w.outer.bytes));
    (end.wrapping_sub(inner) & 0xffff) as u16
}

/// The checksum by difference: the outer header goes, the MTU is another, over IPv6 so is the pseudo header.
#[inline(always)]
fn new_csum<P: Packet>(p: &P, w: &Work, quoted: usize, inner: usize, mtu: u32) -> Option<u16> {
    let old = p.view::<Icmp>(w.outer.l4())?;
    let mut delta = Sum(0)
        .bytes4(mtu.to_be_bytes())
        .less(Sum(0).bytes4(old.rest));
    let csum = old.csum.get();
    let words = if w.h.v6 { IPV6_LEN } else { IPV4_LEN } >> 1;
    delta = delta.less(csum::words::<P, { IPV6_LEN / 2 }>(p, quoted, words)?);
    if w.h.v6 {
        let quotes = n_quoted(w, inner);
        let len = quotes.wrapping_add(quote::ICMP_LEN as u16);
        let old_len = len.wrapping_add(IPV6_LEN as u16);
        let new = csum::pseudo6(&w.h.dst, &w.h.src, len, proto::ICMPV6);
        let old = csum::pseudo6(&w.outer.src, &w.outer.dst, old_len, proto::ICMPV6);
        delta = delta.plus(new).less(old);
    }
    Some(csum::update(csum, delta))
}

#[inline(always)]
fn put<P: Packet>(
    p: &mut P,
    w: &Work,
    macs: Macs,
    inner: usize,
    mtu: u32,
    csum: u16,
) -> Option<()> {
    let link = &w.h.link;
    let n = n_quoted(w, inner).wrapping_add(quote::ICMP_LEN as u16);
    let (kind, code, kind_of) = if w.h.v6 {
        (icmp6::TOO_BIG, 0, ethertype::IPV6)
    } else {
        (icmp::UNREACHABLE, icmp::FRAG_NEEDED, ethertype::IPV4)
    };
    let message = Icmp {
        kind,
        code,
        csum: U16::new(csum),
        rest: mtu.to_be_bytes(),
    };
    output::put_tagged(p, link, macs, kind_of)?;
    if w.h.v6 {
        let ip = refusal::header6(w.h.dst, w.h.src, n);
        p.put(link.l3(), ip)?;
        return p.put(link.l3().wrapping_add(IPV6_LEN), message);
    }
    let len = n.wrapping_add(IPV4_LEN as u16);
    let ip = refusal::header4(&w.h.dst, &w.h.src, len);
    p.put(link.l3(), ip)?;
    p.put(link.l3().wrapping_add(IPV4_LEN), message)
}
