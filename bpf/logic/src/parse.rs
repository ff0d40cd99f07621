//! The slow, complete parser: 0-2 VLAN tags, IPv4 options, IPv6 extension headers, fragments.
//!
//! Used by every program behind a tail call. It gives addresses even when something further in is wrong, so that the caller can first ask
//! whether the packet is any of its business.

use fairlead_abi::{
    flow::{FragKey, FragValue},
    reasons,
};
use zerocopy::network_endian::U16;

use crate::{
    Maps, Packet, hash,
    output::Link,
    wire::{
        ETH_LEN, Eth, FRAG_MASK, Frag6, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Ports, Tag, ethertype,
        mapped, proto, tcp_flags, unmapped,
    },
};

/// IPv6 extension headers that are stepped over.
const MAX_EXT: usize = 6;
/// Longest chain of extension headers; RFC 8883 lets a node refuse longer ones.
const MAX_EXT_LEN: usize = 256;
/// Offset of an IPv4 fragment, in units of 8 bytes.
const OFFSET_MASK: u16 = 0x1fff;
/// Offset of the flags in a TCP header.
const TCP_FLAGS_OFF: usize = 13;

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Whole,
    /// It has the ports, more follows.
    First,
    /// It has no ports.
    Later,
}

/// A packet's headers. All zero is a valid value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub link: Link,
    pub v6: bool,
    /// IPv4 in its mapped form.
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub proto: u8,
    /// Zero until known ([`Parsed::resolve_ports`] for later fragments).
    pub ports: Ports,
    /// Zero unless the packet has a TCP header.
    pub tcp_flags: u8,
    /// Offset of the transport header, or of a later fragment's data.
    pub l4: u16,
    /// L3 length as the header says.
    pub bytes: u16,
    pub part: Part,
    pub frag_id: u32,
    /// Why the packet cannot be served ([`reasons::NONE`] if it can).
    pub fault: u32,
}

/// Parses an IP packet; `None` if it is none.
#[inline(always)]
pub fn parse<P: Packet>(p: &P) -> Option<Parsed> {
    let mut h = Parsed::default();
    parse_into(p, &mut h).then_some(h)
}

/// The same in place; false if it is no IP packet.
#[inline(always)]
pub fn parse_into<P: Packet>(p: &P, h: &mut Parsed) -> bool {
    let Some((link, kind)) = link(p) else {
        return false;
    };
    h.link = link;
    h.ports = Ports::default();
    h.tcp_flags = 0;
    h.part = Part::Whole;
    h.frag_id = 0;
    h.fault = reasons::NONE;
    match kind {
        ethertype::IPV4 => ipv4(p, h).is_some(),
        ethertype::IPV6 => ipv6(p, h).is_some(),
        _ => false,
    }
}

/// The link layer, and the ethertype behind it.
#[inline(always)]
pub fn link<P: Packet>(p: &P) -> Option<(Link, u16)> {
    let eth = p.view::<Eth>(0)?;
    let mut link = Link::PLAIN;
    let mut kind = eth.kind;
    if is_tag(kind) {
        let (tag, inner) = tag(p, kind, ETH_LEN)?;
        link = Link {
            n: 18,
            tags: [tag, Tag::default()],
        };
        kind = inner;
        if is_tag(kind) {
            let (second, inner) = self::tag(p, kind, 18)?;
            link = Link {
                n: 22,
                tags: [tag, second],
            };
            kind = inner;
        }
    }
    Some((link, kind.get()))
}

#[inline(always)]
fn is_tag(kind: U16) -> bool {
    kind.get() == ethertype::VLAN || kind.get() == ethertype::QINQ
}

/// The tag whose TCI lies at `off`, and the ethertype behind it.
#[inline(always)]
fn tag<P: Packet>(p: &P, kind: U16, off: usize) -> Option<(Tag, U16)> {
    let [tci, inner] = *p.view::<[U16; 2]>(off)?;
    Some((Tag { kind, tci }, inner))
}

#[inline(always)]
fn ipv4<P: Packet>(p: &P, h: &mut Parsed) -> Option<()> {
    let ip = p.view::<Ipv4>(h.link.l3())?;
    let vihl = ip.vihl;
    let header = usize::from(vihl & 0xf).wrapping_mul(4);
    let bytes = ip.len.get();
    let frag = ip.frag.get() & FRAG_MASK;
    h.v6 = false;
    h.src = mapped(ip.src);
    h.dst = mapped(ip.dst);
    h.proto = ip.proto;
    h.l4 = (h.link.l3().wrapping_add(header) & 0xffff) as u16;
    h.bytes = bytes;
    h.part = if frag == 0 {
        Part::Whole
    } else if frag & OFFSET_MASK == 0 {
        Part::First
    } else {
        Part::Later
    };
    h.frag_id = u32::from(ip.id.get());
    if vihl >> 4 != 4 || header < IPV4_LEN || usize::from(bytes) < header {
        h.fault = reasons::MALFORMED;
    } else if usize::from(bytes) > p.len().wrapping_sub(h.link.l3()) {
        h.fault = reasons::TRUNCATED;
    } else {
        transport(p, h);
    }
    Some(())
}

#[inline(always)]
fn ipv6<P: Packet>(p: &P, h: &mut Parsed) -> Option<()> {
    let ip = p.view::<Ipv6>(h.link.l3())?;
    let version = ip.vtf.get() >> 28;
    let bytes = ip.len.get().saturating_add(IPV6_LEN as u16);
    h.v6 = true;
    h.src = ip.src;
    h.dst = ip.dst;
    h.proto = ip.next;
    h.l4 = (h.link.l3().wrapping_add(IPV6_LEN) & 0xffff) as u16;
    h.bytes = bytes;
    if version != 6 {
        h.fault = reasons::MALFORMED;
    } else if usize::from(bytes) > p.len().wrapping_sub(h.link.l3()) {
        h.fault = reasons::TRUNCATED;
    } else {
        extensions(p, h);
        if h.fault == reasons::NONE {
            transport(p, h);
        }
    }
    Some(())
}

/// Steps over extension headers (RFC 8200 4).
#[inline(always)]
fn extensions<P: Packet>(p: &P, h: &mut Parsed) {
    let first = h.l4();
    let mut ext = 0usize;
    let mut next = h.proto;
    for _ in 0..MAX_EXT {
        let off = first.wrapping_add(ext);
        match next {
            proto::HOP_BY_HOP | proto::DST_OPTS | proto::ROUTING => {
                let Some(header) = p.view::<[u8; 4]>(off) else {
                    h.fault = reasons::TRUNCATED;
                    return;
                };
                let [after, len, _, segments_left] = *header;
                if next == proto::ROUTING && segments_left != 0 {
                    // The destination is not the last one: nothing for a load balancer.
                    h.fault = reasons::UNSUPPORTED_PROTOCOL;
                    return;
                }
                next = after;
                ext = ext.wrapping_add(usize::from(len).wrapping_add(1).wrapping_mul(8));
            }
            proto::FRAGMENT => {
                let Some(frag) = p.view::<Frag6>(off) else {
                    h.fault = reasons::TRUNCATED;
                    return;
                };
                next = frag.next;
                h.frag_id = frag.id.get();
                let offset = frag.offset.get();
                h.part = if offset & 0xfff8 != 0 {
                    Part::Later
                } else if offset & 1 != 0 {
                    Part::First
                } else {
                    Part::Whole
                };
                ext = ext.wrapping_add(size_of::<Frag6>());
                if h.part == Part::Later {
                    break;
                }
            }
            _ => break,
        }
        if ext > MAX_EXT_LEN {
            h.fault = reasons::UNSUPPORTED_PROTOCOL;
            return;
        }
    }
    h.proto = next;
    h.l4 = (first.wrapping_add(ext) & 0xffff) as u16;
}

#[inline(always)]
fn transport<P: Packet>(p: &P, h: &mut Parsed) {
    if h.part == Part::Later || (h.proto != proto::TCP && h.proto != proto::UDP) {
        return;
    }
    let Some(ports) = p.view::<Ports>(h.l4()) else {
        h.fault = reasons::TRUNCATED;
        return;
    };
    h.ports = *ports;
    if h.proto == proto::TCP {
        match p.view::<u8>(h.l4().wrapping_add(TCP_FLAGS_OFF)) {
            Some(flags) => h.tcp_flags = *flags,
            None => h.fault = reasons::TRUNCATED,
        }
    }
}

impl Parsed {
    /// Offset of the transport header, or of a later fragment's data.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        // The mask changes nothing (`MAX_EXT_LEN` bounds the offset); the verifier takes its bound from it, where this lies in a map.
        (self.l4 & 0x3ff) as usize
    }

    /// Remembers a first fragment's ports, finds a later one's. False: the first fragment was not seen here.
    #[inline(always)]
    pub fn resolve_ports<M: Maps>(&mut self, m: &M) -> bool {
        if self.part == Part::Whole {
            return true;
        }
        let key = FragKey {
            src: self.src,
            dst: self.dst,
            id: self.frag_id,
            proto: self.proto,
            _pad: [0; 3],
        };
        if self.part == Part::First {
            let Ports { src, dst } = self.ports;
            m.put_fragment(
                &key,
                &FragValue {
                    src_port: src,
                    dst_port: dst,
                },
            );
            return true;
        }
        let Some(found) = m.fragment(&key) else {
            return false;
        };
        self.ports = Ports {
            src: found.src_port,
            dst: found.dst_port,
        };
        true
    }

    /// Hash of the flow that a client's packet belongs to.
    #[inline(always)]
    pub fn flow_hash(&self) -> u32 {
        flow_hash(
            self.v6,
            &self.src,
            self.ports.src,
            self.ports.dst,
            self.proto,
        )
    }

    /// Exchanges the two ends.
    #[inline(always)]
    pub fn turn(&mut self) {
        core::mem::swap(&mut self.src, &mut self.dst);
        self.ports = Ports {
            src: self.ports.dst,
            dst: self.ports.src,
        };
    }

    /// Whether the packet opens a TCP connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.proto == proto::TCP
            && self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }

    /// Whether the protocol has ports that we serve.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        self.proto == proto::TCP || self.proto == proto::UDP
    }

    /// Whether the protocol is the family's ICMP.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.proto == if self.v6 { proto::ICMPV6 } else { proto::ICMP }
    }
}

/// Hash of a client's flow, whatever the family.
#[inline(always)]
pub fn flow_hash(
    v6: bool,
    client: &[u8; 16],
    client_port: [u8; 2],
    vip_port: [u8; 2],
    proto: u8,
) -> u32 {
    let (client_port, vip_port) = (
        u16::from_be_bytes(client_port),
        u16::from_be_bytes(vip_port),
    );
    if v6 {
        hash::flow_hash6(client, client_port, vip_port, proto)
    } else {
        hash::flow_hash4(
            u32::from_be_bytes(unmapped(client)),
            client_port,
            vip_port,
            proto,
        )
    }
}

#[cfg(test)]
mod tests;
