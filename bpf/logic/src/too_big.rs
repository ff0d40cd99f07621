//! Telling a sender that its packet does not fit: fragmentation needed, packet too big.
//!
//! The answer comes from the packet's destination, which is the VIP for requests and replies alike, goes back where the packet came from, and
//! quotes its first bytes. It is sent whether or not the packet forbids fragmentation: nothing here can fragment.
//!
//! # Source
//! RFC 1191 4, RFC 4443 3.2, RFC 1122 3.2.2 (about what no error is sent).

use fairlead_abi::reasons;
use zerocopy::network_endian::{U16, U32};

use crate::{
    Maps, Packet, Verdict,
    csum::{self, Sum},
    output,
    parse::{Parsed, Part},
    wire::{
        DF, IPV4_LEN, IPV6_LEN, Icmp, Ipv4, Ipv6, Macs, TTL, ethertype, icmp, icmp6, proto,
        unmapped,
    },
};

/// Bytes quoted over IPv4: the longest header and the eight bytes that name the flow.
const QUOTE4: usize = 68;
/// Bytes quoted over IPv6: header and eight bytes, with room for an extension header.
const QUOTE6: usize = 88;
const ICMP_LEN: usize = size_of::<Icmp>();

/// Answers the packet `h` with the MTU that the caller before the tail call left behind.
#[inline(always)]
pub fn answer<P: Packet, M: Maps>(p: &mut P, m: &M, h: &Parsed) -> Verdict {
    let mtu = m.mtu();
    let quote = if h.v6 { QUOTE6 } else { QUOTE4 };
    let kept = h.link.l3().wrapping_add(quote);
    if mtu == 0 || h.part == Part::Later || !may_be_told(h) || p.len() < kept {
        return m.drop(p, reasons::TOO_BIG_UNANSWERED);
    }
    let Some(macs) = p.view::<Macs>(0).copied() else {
        return m.drop(p, reasons::TRUNCATED);
    };
    let Some(text) = csum::words::<P, { QUOTE6 / 2 }>(p, h.link.l3(), quote >> 1) else {
        return m.drop(p, reasons::TRUNCATED);
    };
    let header = if h.v6 { IPV6_LEN } else { IPV4_LEN }.wrapping_add(ICMP_LEN);
    let cut = p.len().wrapping_sub(kept) as i32;
    if p.grow_tail(0i32.wrapping_sub(cut)).is_none() || p.grow_head(header as i32).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    let back = Macs {
        dst: macs.src,
        src: macs.dst,
    };
    let done = if h.v6 {
        put6(p, h, back, mtu, text)
    } else {
        put4(p, h, back, mtu, text)
    };
    if done.is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    m.count(reasons::TOO_BIG, u64::from(h.bytes));
    output::back(p, m)
}

/// Whether the source is one that an error may be sent to: not unspecified, no group, no broadcast, no loopback.
#[inline(always)]
const fn may_be_told(h: &Parsed) -> bool {
    if h.v6 {
        let [first, ..] = h.src;
        return first != 0xff && u128::from_be_bytes(h.src) > 1;
    }
    let [first, ..] = unmapped(&h.src);
    first != 0 && first != 127 && first < 224
}

#[inline(always)]
fn put4<P: Packet>(p: &mut P, h: &Parsed, macs: Macs, mtu: u32, text: Sum) -> Option<()> {
    let mtu = if mtu > 0xffff {
        0xffff
    } else {
        (mtu & 0xffff) as u16
    };
    let len = IPV4_LEN.wrapping_add(ICMP_LEN).wrapping_add(QUOTE4) as u16;
    let (src, dst) = (unmapped(&h.dst), unmapped(&h.src));
    let sum = Sum(0)
        .word(0x4500)
        .word(len)
        .word(DF)
        .word(u16::from_be_bytes([TTL, proto::ICMP]))
        .bytes4(src)
        .bytes4(dst);
    let ip = Ipv4 {
        vihl: 0x45,
        tos: 0,
        len: U16::new(len),
        id: U16::ZERO,
        frag: U16::new(DF),
        ttl: TTL,
        proto: proto::ICMP,
        csum: U16::new(sum.finish()),
        src,
        dst,
    };
    let [hi, lo] = mtu.to_be_bytes();
    let sum = text
        .word(u16::from_be_bytes([icmp::UNREACHABLE, icmp::FRAG_NEEDED]))
        .word(mtu);
    let message = Icmp {
        kind: icmp::UNREACHABLE,
        code: icmp::FRAG_NEEDED,
        csum: U16::new(sum.finish()),
        rest: [0, 0, hi, lo],
    };
    output::put_tagged(p, &h.link, macs, ethertype::IPV4)?;
    p.put(h.link.l3(), ip)?;
    p.put(h.link.l3().wrapping_add(IPV4_LEN), message)
}

#[inline(always)]
fn put6<P: Packet>(p: &mut P, h: &Parsed, macs: Macs, mtu: u32, text: Sum) -> Option<()> {
    let len = ICMP_LEN.wrapping_add(QUOTE6) as u16;
    let ip = Ipv6 {
        vtf: U32::new(0x6000_0000),
        len: U16::new(len),
        next: proto::ICMPV6,
        hops: TTL,
        src: h.dst,
        dst: h.src,
    };
    let sum = csum::pseudo6(&h.dst, &h.src, len, proto::ICMPV6)
        .plus(text)
        .word(u16::from_be_bytes([icmp6::TOO_BIG, 0]))
        .bytes4(mtu.to_be_bytes());
    let message = Icmp {
        kind: icmp6::TOO_BIG,
        code: 0,
        csum: U16::new(sum.finish()),
        rest: mtu.to_be_bytes(),
    };
    output::put_tagged(p, &h.link, macs, ethertype::IPV6)?;
    p.put(h.link.l3(), ip)?;
    p.put(h.link.l3().wrapping_add(IPV6_LEN), message)
}
