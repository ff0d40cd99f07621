//! Telling a sender why its packet does not go on: it does not fit (fragmentation needed, packet too big), or its time to live ended here.
//!
//! The answer goes back where the packet came from and quotes its first bytes. That a packet does not fit is said by its destination, whether
//! or not it forbids fragmentation: nothing here can fragment. That its life ended is said by the node that routes it, as by any router.
//!
//! # Source
//! RFC 1191 4, RFC 4443 3.2 and 3.3, RFC 792, RFC 1812 4.3.2.4 (source), RFC 1122 3.2.2 (about what no error is sent).

use fairlead_abi::reasons;
use zerocopy::network_endian::{U16, U32};

use crate::{
    Maps, Packet, Verdict,
    csum::{self, Sum},
    output::{self, LIFE_ENDED},
    parse::{Parsed, Part},
    select,
    wire::{
        DF, IPV4_LEN, IPV6_LEN, Icmp, Ipv4, Ipv6, Macs, TTL, addr_eq, ethertype, icmp, icmp6,
        mapped, proto, unmapped,
    },
};

/// Bytes quoted over IPv4: the longest header and the eight bytes that name the flow.
const QUOTE4: usize = 68;
/// Bytes quoted over IPv6: header and eight bytes, with room for an extension header.
const QUOTE6: usize = 88;
const ICMP_LEN: usize = size_of::<Icmp>();

/// What is to be said.
#[derive(Clone, Copy)]
struct Message {
    src: [u8; 16],
    kind: u8,
    code: u8,
    /// What fits; zero where this is not the point.
    mtu: u32,
    /// Bytes quoted, and their sum.
    quote: u16,
    text: Sum,
}

/// Answers the packet `h` with the MTU that the caller before the tail call left behind, or as too old if that is [`LIFE_ENDED`].
#[inline(always)]
pub fn answer<P: Packet, M: Maps>(p: &mut P, m: &M, h: &Parsed) -> Verdict {
    let mtu = m.mtu();
    let (reason, unanswered) = if mtu == LIFE_ENDED {
        (reasons::TTL_EXPIRED, reasons::TTL_EXPIRED)
    } else {
        (reasons::TOO_BIG, reasons::TOO_BIG_UNANSWERED)
    };
    if h.part == Part::Later || !may_be_told(h) {
        return m.drop(p, unanswered);
    }
    // An even number, because the sum is one of words; at least eight bytes behind the header, where the packet has them.
    let quote = usize::from(h.bytes).min(if h.v6 { QUOTE6 } else { QUOTE4 }) & !1;
    let kept = h.link.l3().wrapping_add(quote);
    // A number and not a difference of two pointers that the compiler may take apart: the verifier knows only the whole.
    let len = core::hint::black_box(p.len());
    if len < kept {
        return m.drop(p, unanswered);
    }
    let Some(macs) = p.view::<Macs>(0).copied() else {
        return m.drop(p, reasons::TRUNCATED);
    };
    let Some(text) = csum::words::<P, { QUOTE6 / 2 }>(p, h.link.l3(), quote >> 1) else {
        return m.drop(p, reasons::TRUNCATED);
    };
    let (kind, code) = match (h.v6, mtu == LIFE_ENDED) {
        (false, false) => (icmp::UNREACHABLE, icmp::FRAG_NEEDED),
        (false, true) => (icmp::TIME_EXCEEDED, 0),
        (true, false) => (icmp6::TOO_BIG, 0),
        (true, true) => (icmp6::TIME_EXCEEDED, 0),
    };
    let message = Message {
        src: speaker(p, m, h, mtu),
        kind,
        code,
        mtu,
        quote: (quote & 0xff) as u16,
        text,
    };
    let header = if h.v6 { IPV6_LEN } else { IPV4_LEN }.wrapping_add(ICMP_LEN);
    let cut = len.wrapping_sub(kept) as i32;
    if p.grow_tail(0i32.wrapping_sub(cut)).is_none() || p.grow_head(header as i32).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    let back = Macs {
        dst: macs.src,
        src: macs.dst,
    };
    let done = if h.v6 {
        put6(p, h, back, &message)
    } else {
        put4(p, h, back, &message)
    };
    if done.is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    m.count(reason, u64::from(h.bytes));
    output::back(p, m)
}

/// Who says it: the packet's destination, or for the end of its life the node, by its address on the interface that received the packet.
#[inline(always)]
fn speaker<P: Packet, M: Maps>(p: &P, m: &M, h: &Parsed, mtu: u32) -> [u8; 16] {
    if mtu != LIFE_ENDED {
        return h.dst;
    }
    match m.iface(select::iface_slot(p.ifindex())) {
        Some(iface) if h.v6 && !addr_eq(&iface.addr6, &[0; 16]) => iface.addr6,
        Some(iface) if !h.v6 && u32::from_ne_bytes(iface.addr4) != 0 => mapped(iface.addr4),
        _ => h.dst,
    }
}

/// Whether the source is one that an error may be sent to: not unspecified, no group, no broadcast, no loopback.
#[inline(always)]
pub const fn may_be_told(h: &Parsed) -> bool {
    if h.v6 {
        let [first, ..] = h.src;
        return first != 0xff && u128::from_be_bytes(h.src) > 1;
    }
    let [first, ..] = unmapped(&h.src);
    first != 0 && first != 127 && first < 224
}

/// The header of an ICMP message of ours; addresses in their mapped form, `len` with this header.
#[inline(always)]
pub fn header4(src: &[u8; 16], dst: &[u8; 16], len: u16) -> Ipv4 {
    let (src, dst) = (unmapped(src), unmapped(dst));
    let sum = Sum(0)
        .word(0x4500)
        .word(len)
        .word(DF)
        .word(u16::from_be_bytes([TTL, proto::ICMP]))
        .bytes4(src)
        .bytes4(dst);
    Ipv4 {
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
    }
}

/// The header of an `ICMPv6` message of ours; `len` without this header.
#[inline(always)]
pub const fn header6(src: [u8; 16], dst: [u8; 16], len: u16) -> Ipv6 {
    Ipv6 {
        vtf: U32::new(0x6000_0000),
        len: U16::new(len),
        next: proto::ICMPV6,
        hops: TTL,
        src,
        dst,
    }
}

#[inline(always)]
fn put4<P: Packet>(p: &mut P, h: &Parsed, macs: Macs, message: &Message) -> Option<()> {
    let mtu = message.mtu.min(0xffff) as u16;
    let len = message
        .quote
        .wrapping_add(IPV4_LEN.wrapping_add(ICMP_LEN) as u16);
    let ip = header4(&message.src, &h.src, len);
    let [hi, lo] = mtu.to_be_bytes();
    let Message { kind, code, .. } = *message;
    let sum = message
        .text
        .word(u16::from_be_bytes([kind, code]))
        .word(mtu);
    let icmp = Icmp {
        kind,
        code,
        csum: U16::new(sum.finish()),
        rest: [0, 0, hi, lo],
    };
    output::put_tagged(p, &h.link, macs, ethertype::IPV4)?;
    p.put(h.link.l3(), ip)?;
    p.put(h.link.l3().wrapping_add(IPV4_LEN), icmp)
}

#[inline(always)]
fn put6<P: Packet>(p: &mut P, h: &Parsed, macs: Macs, message: &Message) -> Option<()> {
    let len = message.quote.wrapping_add(ICMP_LEN as u16);
    let ip = header6(message.src, h.src, len);
    let Message { kind, code, .. } = *message;
    let rest = message.mtu.to_be_bytes();
    let sum = csum::pseudo6(&message.src, &h.src, len, proto::ICMPV6)
        .plus(message.text)
        .word(u16::from_be_bytes([kind, code]))
        .bytes4(rest);
    let icmp = Icmp {
        kind,
        code,
        csum: U16::new(sum.finish()),
        rest,
    };
    output::put_tagged(p, &h.link, macs, ethertype::IPV6)?;
    p.put(h.link.l3(), ip)?;
    p.put(h.link.l3().wrapping_add(IPV6_LEN), icmp)
}
