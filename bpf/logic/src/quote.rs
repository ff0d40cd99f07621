//! Reading and translating the packet that an ICMP error quotes, and answering an echo.
//!
//! Every changed word counts in the ICMP checksum, the quoted checksums too; over IPv6 the pseudo header as well.

use fairlead_abi::{lb::Iface, reasons};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};

use crate::{
    Maps, Packet, Verdict,
    csum::{self, Sum},
    output,
    parse::Parsed,
    rewrite::{self, TCP_CSUM, UDP_CSUM},
    snat::Work,
    wire::{
        FRAG_MASK, IPV4_LEN, IPV6_LEN, Icmp, Ipv4, Ipv6, Macs, Ports, TTL, icmp, icmp6, mapped,
        proto,
    },
};

/// Length of an ICMP header with its four bytes of meaning.
pub const ICMP_LEN: usize = 8;
/// Offset of the checksum in an IPv4 header.
const SUMMED4_OFF: usize = 10;
/// Offset of the addresses in an IPv6 header.
const ADDRS6_OFF: usize = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Summed4 {
    csum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Addrs6 {
    src: [u8; 16],
    dst: [u8; 16],
}

/// Reads the packet that the error `w.outer` quotes into `w.h` (family, addresses, ports, protocol); the offset of its transport header.
/// `None`: nothing that we could have sent.
#[inline(always)]
pub fn read<P: Packet>(p: &P, w: &mut Work) -> Option<usize> {
    let off = w.outer.l4().wrapping_add(ICMP_LEN);
    read_at(p, &mut w.h, off)
}

/// The same for a packet of the family of `h` that is quoted from `off` on.
#[inline(always)]
pub fn read_at<P: Packet>(p: &P, h: &mut Parsed, off: usize) -> Option<usize> {
    h.tcp_flags = 0;
    let l4 = if h.v6 {
        let ip = p.view::<Ipv6>(off)?;
        h.src = ip.src;
        h.dst = ip.dst;
        h.proto = ip.next;
        off.wrapping_add(IPV6_LEN)
    } else {
        let ip = p.view::<Ipv4>(off)?;
        let header = usize::from(ip.vihl & 0xf).wrapping_mul(4);
        // The first fragment has the ports.
        if header < IPV4_LEN || ip.frag.get() & FRAG_MASK & 0x1fff != 0 {
            return None;
        }
        h.src = mapped(ip.src);
        h.dst = mapped(ip.dst);
        h.proto = ip.proto;
        off.wrapping_add(header)
    };
    if !h.has_ports() {
        return None;
    }
    h.ports = *p.view::<Ports>(l4)?;
    Some(l4)
}

/// Translates the error `w.outer` so that it quotes a packet with the ends `w.ends`, and sends it to that packet's source through `eg` and
/// `mac`. Its own source becomes that packet's destination: to whom it goes knows no other address of this flow.
#[inline(always)]
pub fn forward<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &Work,
    inner_l4: usize,
    eg: &Iface,
    mac: [u8; 6],
) -> Verdict {
    if u32::from(w.outer.bytes) > eg.mtu {
        return m.drop(p, reasons::TOO_BIG_UNANSWERED);
    }
    if let Err(reason) = translate(p, w, inner_l4) {
        return m.drop(p, reason);
    }
    if p.put(
        0,
        Macs {
            dst: mac,
            src: eg.mac,
        },
    )
    .is_none()
    {
        return m.drop(p, reasons::TRUNCATED);
    }
    m.count(reasons::ICMP_FORWARDED, p.len() as u64);
    output::leave(p, eg)
}

#[inline(always)]
fn translate<P: Packet>(p: &mut P, w: &Work, inner_l4: usize) -> Result<(), u32> {
    let outer = &w.outer;
    let inner = outer.l4().wrapping_add(ICMP_LEN);
    let quoted = quoted_ends(p, outer.v6, inner, inner_l4).ok_or(reasons::TRUNCATED)?;
    let ends = &w.ends;
    let addresses = rewrite::address_delta(&quoted.src, &ends.src, outer.v6)
        .plus(rewrite::address_delta(&quoted.dst, &ends.dst, outer.v6));
    let ports = rewrite::port_delta(quoted.ports.src, ends.ports.src)
        .plus(rewrite::port_delta(quoted.ports.dst, ends.ports.dst));
    let mut delta = addresses.plus(ports);

    if outer.v6 {
        p.put(
            inner.wrapping_add(ADDRS6_OFF),
            Addrs6 {
                src: ends.src,
                dst: ends.dst,
            },
        )
        .ok_or(reasons::TRUNCATED)?;
        delta = delta
            .plus(rewrite::address_delta(&outer.src, &ends.dst, true))
            .plus(rewrite::address_delta(&outer.dst, &ends.src, true));
    } else {
        let off = inner.wrapping_add(SUMMED4_OFF);
        let old = p.view::<U16>(off).ok_or(reasons::TRUNCATED)?.get();
        let new = csum::update(old, addresses);
        let summed = Summed4 {
            csum: U16::new(new),
            src: crate::wire::unmapped(&ends.src),
            dst: crate::wire::unmapped(&ends.dst),
        };
        p.put(off, summed).ok_or(reasons::TRUNCATED)?;
        delta = delta.word(new).minus(old);
    }

    p.put(inner_l4, ends.ports).ok_or(reasons::TRUNCATED)?;
    delta = delta.plus(quoted_csum(p, w, inner_l4, addresses.plus(ports))?);

    let off = outer.l4().wrapping_add(2);
    let old = p.view::<U16>(off).ok_or(reasons::TRUNCATED)?.get();
    p.put(off, U16::new(csum::update(old, delta)))
        .ok_or(reasons::TRUNCATED)?;
    rewrite::l3(p, outer, &ends.dst, &ends.src)
}

#[inline(always)]
fn quoted_ends<P: Packet>(p: &P, v6: bool, inner: usize, inner_l4: usize) -> Option<rewrite::Ends> {
    let ports = *p.view::<Ports>(inner_l4)?;
    if v6 {
        let a = p.view::<Addrs6>(inner.wrapping_add(ADDRS6_OFF))?;
        return Some(rewrite::Ends {
            src: a.src,
            dst: a.dst,
            ports,
        });
    }
    let a = p.view::<Summed4>(inner.wrapping_add(SUMMED4_OFF))?;
    Some(rewrite::Ends {
        src: mapped(a.src),
        dst: mapped(a.dst),
        ports,
    })
}

/// Corrects the quoted transport checksum, if the quotation reaches that far; the change that this makes to the sum of the text.
#[inline(always)]
fn quoted_csum<P: Packet>(p: &mut P, w: &Work, inner_l4: usize, delta: Sum) -> Result<Sum, u32> {
    let udp = w.h.proto == proto::UDP;
    let off = inner_l4.wrapping_add(if udp { UDP_CSUM } else { TCP_CSUM });
    let end = w.outer.link.l3().wrapping_add(usize::from(w.outer.bytes));
    if off.wrapping_add(2) > end {
        return Ok(Sum(0));
    }
    let Some(old) = p.view::<U16>(off).map(|csum| csum.get()) else {
        return Ok(Sum(0));
    };
    if udp && old == 0 && !w.outer.v6 {
        return Ok(Sum(0));
    }
    let new = rewrite::transport_csum(udp, old, delta);
    p.put(off, U16::new(new)).ok_or(reasons::TRUNCATED)?;
    Ok(Sum(0).word(new).minus(old))
}

/// Answers an echo request in place.
#[inline(always)]
pub fn echo<P: Packet, M: Maps>(p: &mut P, m: &M, h: &Parsed) -> Verdict {
    if answer_echo(p, h).is_none() {
        return m.drop(p, reasons::TRUNCATED);
    }
    m.count(reasons::ECHO_ANSWERED, p.len() as u64);
    output::back(p, m)
}

#[inline(always)]
fn answer_echo<P: Packet>(p: &mut P, h: &Parsed) -> Option<()> {
    let Macs { dst, src } = *p.view::<Macs>(0)?;
    p.put(0, Macs { dst: src, src: dst })?;
    let old = *p.view::<Icmp>(h.l4())?;
    let kind = if h.v6 {
        icmp6::ECHO_REPLY
    } else {
        icmp::ECHO_REPLY
    };
    let delta = Sum(0)
        .word(u16::from_be_bytes([kind, old.code]))
        .minus(u16::from_be_bytes([old.kind, old.code]));
    let csum = U16::new(csum::update(old.csum.get(), delta));
    p.put(h.l4(), Icmp { kind, csum, ..old })?;
    if h.v6 {
        let ip = *p.view::<Ipv6>(h.link.l3())?;
        return p.put(
            h.link.l3(),
            Ipv6 {
                hops: TTL,
                src: ip.dst,
                dst: ip.src,
                ..ip
            },
        );
    }
    let ip = *p.view::<Ipv4>(h.link.l3())?;
    let delta = Sum(0)
        .word(u16::from_be_bytes([TTL, ip.proto]))
        .minus(u16::from_be_bytes([ip.ttl, ip.proto]));
    let csum = U16::new(csum::update(ip.csum.get(), delta));
    p.put(
        h.link.l3(),
        Ipv4 {
            ttl: TTL,
            csum,
            src: ip.dst,
            dst: ip.src,
            ..ip
        },
    )
}
