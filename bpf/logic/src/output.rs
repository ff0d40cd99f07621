//! Sending a packet to its backend: MAC rewrite and encapsulation.
//!
//! The inner time to live stays as it is in both direct-return modes: the client's packet has not been routed, the backend is its
//! destination. SNAT, which does route, is in `snat`.

use fairlead_abi::{
    lb::{Backend4, Backend6, Iface, iface_flags},
    maps::slots,
    reasons,
};
use zerocopy::{
    Immutable, IntoBytes, Unaligned,
    network_endian::{U16, U32},
};

use crate::{
    Maps, Packet, Verdict,
    csum::Sum,
    select,
    wire::{
        DF, ETH_LEN, Eth, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Macs, Outer4, Outer6, TTL, Tag,
        ethertype, mac_word, proto,
    },
};

/// In place of an MTU: the packet's time to live ended here.
pub const LIFE_ENDED: u32 = 0;

/// The link layer of a received frame: its length and the tags that have to survive a new header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// 14, 18 or 22. A byte, because the verifier takes its bounds from the load when it lies in a map.
    pub n: u8,
    pub tags: [Tag; 2],
}

impl Link {
    /// No tag.
    pub const PLAIN: Self = Self {
        n: ETH_LEN as u8,
        tags: [Tag {
            kind: U16::ZERO,
            tci: U16::ZERO,
        }; 2],
    };

    /// Offset of the L3 header.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.n as usize
    }
}

/// What is counted when the packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// Record in `FE_STATS`.
    pub frontend: u32,
    /// L3 length as received.
    pub bytes: u16,
}

/// The interface behind a backend, if backend and interface are usable.
#[inline(always)]
pub fn egress<M: Maps>(m: &M, mac: [u8; 6], iface: u8) -> Option<&Iface> {
    let eg = m.iface(u32::from(iface))?;
    if eg.ifindex == 0 || mac_word(mac) == 0 {
        None
    } else {
        Some(eg)
    }
}

/// Leaves through `eg`: the same interface by XDP_TX where its driver sends at once, any other by redirect.
#[inline(always)]
pub fn leave<P: Packet>(p: &P, eg: &Iface) -> Verdict {
    if eg.ifindex == p.ifindex() && eg.flags & iface_flags::REDIRECT_BACK == 0 {
        Verdict::Tx
    } else {
        Verdict::Redirect(eg.ifindex)
    }
}

/// Leaves the way it came.
#[inline(always)]
pub fn back<P: Packet, M: Maps>(p: &P, m: &M) -> Verdict {
    match m.iface(select::iface_slot(p.ifindex())) {
        Some(iface) if iface.ifindex == p.ifindex() => leave(p, iface),
        _ => Verdict::Tx,
    }
}

/// A tagged frame belongs to another segment than `eg`, unless it leaves where it came from.
#[inline(always)]
fn crosses_vlan<P: Packet>(p: &P, link: &Link, eg: &Iface) -> bool {
    link.l3() != ETH_LEN && eg.ifindex != p.ifindex()
}

/// The packet does not fit: `lb_icmp` tells the sender that `mtu` bytes would.
#[inline(always)]
pub fn too_big<M: Maps>(m: &M, mtu: u32) -> Verdict {
    m.set_mtu(mtu);
    Verdict::Tail(slots::ICMP)
}

/// The packet cannot be translated for this reason; the sender hears of it where it ought to.
#[inline(always)]
pub fn refuse<P: Packet, M: Maps>(p: &P, m: &M, reason: u32) -> Verdict {
    if reason == reasons::TTL_EXPIRED {
        m.set_mtu(LIFE_ENDED);
        return Verdict::Tail(slots::ICMP);
    }
    m.drop(p, reason)
}

/// An outer header.
trait Outer: IntoBytes + Immutable + Unaligned + Copy {
    /// Its ethertype.
    const KIND: u16;
    /// With the Ethernet header before it, to be written at once.
    type Framed: IntoBytes + Immutable + Unaligned + Copy;

    fn framed(self, eth: Eth) -> Self::Framed;
}

impl Outer for Ipv4 {
    const KIND: u16 = ethertype::IPV4;
    type Framed = Outer4;

    #[inline(always)]
    fn framed(self, eth: Eth) -> Outer4 {
        Outer4 { eth, ip: self }
    }
}

impl Outer for Ipv6 {
    const KIND: u16 = ethertype::IPV6;
    type Framed = Outer6;

    #[inline(always)]
    fn framed(self, eth: Eth) -> Outer6 {
        Outer6 { eth, ip: self }
    }
}

/// The interface behind a backend, if the packet can leave there with `header` bytes more.
///
/// # Errors
/// What becomes of the packet if not.
#[inline(always)]
fn way<'m, P: Packet, M: Maps>(
    p: &P,
    m: &'m M,
    link: &Link,
    (mac, iface): ([u8; 6], u8),
    bill: Bill,
    header: usize,
) -> Result<&'m Iface, Verdict> {
    let Some(eg) = egress(m, mac, iface) else {
        return Err(m.drop(p, reasons::NO_NEXT_HOP));
    };
    if crosses_vlan(p, link, eg) {
        return Err(m.drop(p, reasons::VLAN_MISMATCH));
    }
    let total = u32::from(bill.bytes).wrapping_add(header as u32);
    if total > eg.mtu || total > 0xffff {
        return Err(too_big(m, eg.mtu.saturating_sub(header as u32)));
    }
    Ok(eg)
}

/// DSR by MAC rewrite; the packet stays as it is from L3 on.
#[inline(always)]
pub fn dsr_l2<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    link: &Link,
    mac: [u8; 6],
    iface: u8,
    bill: Bill,
) -> Verdict {
    let eg = match way(p, m, link, (mac, iface), bill, 0) {
        Ok(eg) => eg,
        Err(verdict) => return verdict,
    };
    let macs = Macs {
        dst: mac,
        src: eg.mac,
    };
    if p.put(0, macs).is_none() {
        return m.drop(p, reasons::TRUNCATED);
    }
    m.count_frontend(bill.frontend, u64::from(bill.bytes));
    leave(p, eg)
}

/// DSR by IPIP (RFC 2003): DF set, identification 0 (RFC 6864 allows it then), type of service copied.
#[inline(always)]
pub fn ipip<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    link: &Link,
    be: &Backend4,
    tos: u8,
    bill: Bill,
) -> Verdict {
    let eg = match way(p, m, link, (be.mac, be.iface), bill, IPV4_LEN) {
        Ok(eg) => eg,
        Err(verdict) => return verdict,
    };
    let total = bill.bytes.wrapping_add(IPV4_LEN as u16);
    let csum = Sum(u64::from(be.csum))
        .word(u16::from(tos))
        .word(total)
        .word(DF)
        .finish();
    let ip = Ipv4 {
        vihl: 0x45,
        tos,
        len: U16::new(total),
        id: U16::ZERO,
        frag: U16::new(DF),
        ttl: TTL,
        proto: proto::IPIP,
        csum: U16::new(csum),
        src: eg.addr4,
        dst: be.addr,
    };
    wrap(p, m, link, eg, be.mac, ip, bill)
}

/// DSR by ip6ip6 (RFC 2473); traffic class and flow label copied, so that the path spreads flows as before.
#[inline(always)]
pub fn ip6ip6<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    link: &Link,
    be: &Backend6,
    vtf: U32,
    bill: Bill,
) -> Verdict {
    let eg = match way(p, m, link, (be.mac, be.iface), bill, IPV6_LEN) {
        Ok(eg) => eg,
        Err(verdict) => return verdict,
    };
    let ip = Ipv6 {
        vtf,
        len: U16::new(bill.bytes),
        next: proto::IPV6,
        hops: TTL,
        src: eg.addr6,
        dst: be.addr,
    };
    wrap(p, m, link, eg, be.mac, ip, bill)
}

/// Writes an outer header and a new link layer in front of the packet, and sends it.
#[inline(always)]
fn wrap<P: Packet, M: Maps, H: Outer>(
    p: &mut P,
    m: &M,
    link: &Link,
    eg: &Iface,
    mac: [u8; 6],
    ip: H,
    bill: Bill,
) -> Verdict {
    if p.grow_head(size_of::<H>() as i32).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    let macs = Macs {
        dst: mac,
        src: eg.mac,
    };
    let done = if link.l3() == ETH_LEN {
        let eth = Eth {
            dst: macs.dst,
            src: macs.src,
            kind: U16::new(H::KIND),
        };
        p.put(0, ip.framed(eth))
    } else {
        put_tagged(p, link, macs, H::KIND).and_then(|()| p.put(link.l3(), ip))
    };
    if done.is_none() {
        return m.drop(p, reasons::TRUNCATED);
    }
    m.count_frontend(bill.frontend, u64::from(bill.bytes));
    leave(p, eg)
}

/// Writes addresses, tags and ethertype at the frame's start.
#[inline(always)]
pub fn put_tagged<P: Packet>(p: &mut P, link: &Link, macs: Macs, kind: u16) -> Option<()> {
    let [outer, inner] = link.tags;
    p.put(0, macs)?;
    if link.l3() > ETH_LEN {
        p.put(12, outer)?;
    }
    if link.l3() > ETH_LEN.wrapping_add(4) {
        p.put(16, inner)?;
    }
    p.put(link.l3().wrapping_sub(2), U16::new(kind))
}
