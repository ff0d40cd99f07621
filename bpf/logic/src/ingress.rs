//! `lb_ingress`: the fast path.
//!
//! Frames that are not for this NIC are left alone. A packet of the common shape to a frontend of the common kind leaves here with two
//! reads of the tables and no flow table touched; anything else about a VIP leaves by tail call. Nothing addressed to a VIP passes to the
//! host, unless forwarding is left to it.

use fairlead_abi::{
    flow::{NODE_PORT_MIN, SNAT_PORT_MIN},
    lb::{Iface, frontend_flags, iface_flags, mode, vip_flags},
    maps::slots,
    reasons,
};

use crate::{
    Maps, Packet, Verdict, hash,
    output::{self, Bill, Link},
    select,
    wire::{
        BROADCAST, ETH_LEN, Eth, FRAG_MASK, HEARTBEAT_MAC4, HEARTBEAT_MAC6, Head4, Head6, IPV4_LEN,
        IPV6_LEN, Icmp, Ipv4, Ipv6, ND_HOPS, ethertype, icmp6, mac_eq, mapped, proto,
    },
};

/// Decides about a frame as it arrives.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M) -> Verdict {
    let ifindex = p.ifindex();
    let Some(iface) = m.iface(select::iface_slot(ifindex)) else {
        return Verdict::Pass;
    };
    if iface.ifindex != ifindex {
        return Verdict::Pass;
    }
    let Some(eth) = p.view::<Eth>(0) else {
        return Verdict::Pass;
    };
    let kind = eth.kind.get();
    if !mac_eq(eth.dst, iface.mac) {
        return not_for_us(p, m, iface);
    }
    if kind == ethertype::ARP {
        return announcing(iface, slots::L2);
    }
    if iface.flags & iface_flags::FORWARD == 0 {
        return if kind == ethertype::IPV6 && is_solicitation(p) {
            announcing(iface, slots::L2)
        } else {
            Verdict::Pass
        };
    }
    match kind {
        ethertype::IPV4 => ipv4(p, m),
        ethertype::IPV6 => ipv6(p, m, iface),
        ethertype::VLAN | ethertype::QINQ => Verdict::Tail(slots::RARE),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn announcing(iface: &Iface, slot: u32) -> Verdict {
    if iface.flags & iface_flags::ANNOUNCE == 0 {
        Verdict::Pass
    } else {
        Verdict::Tail(slot)
    }
}

/// Broadcasts and groups: ARP, neighbour discovery and heartbeats concern us; flooded unicast does not.
#[inline(always)]
fn not_for_us<P: Packet, M: Maps>(p: &P, m: &M, iface: &Iface) -> Verdict {
    let Some(eth) = p.view::<Eth>(0) else {
        return Verdict::Pass;
    };
    if eth.dst.first().is_none_or(|first| first & 1 == 0) {
        m.count(reasons::NOT_OUR_MAC, p.len() as u64);
        return Verdict::Pass;
    }
    let kind = eth.kind.get();
    if kind == ethertype::ARP && mac_eq(eth.dst, BROADCAST) {
        return announcing(iface, slots::L2);
    }
    if mac_eq(eth.dst, HEARTBEAT_MAC4) || mac_eq(eth.dst, HEARTBEAT_MAC6) {
        return announcing(iface, slots::RARE);
    }
    if kind == ethertype::IPV6 && is_solicitation(p) {
        return announcing(iface, slots::L2);
    }
    Verdict::Pass
}

#[inline(always)]
fn is_solicitation<P: Packet>(p: &P) -> bool {
    p.view::<Ipv6>(ETH_LEN)
        .is_some_and(|ip| ip.next == proto::ICMPV6)
        && p.view::<Icmp>(ETH_LEN.wrapping_add(IPV6_LEN))
            .is_some_and(|icmp| icmp.kind == icmp6::SOLICIT)
}

#[inline(always)]
fn ipv4<P: Packet, M: Maps>(p: &mut P, m: &M) -> Verdict {
    let Some(h) = p.view::<Head4>(0) else {
        return short4(p, m);
    };
    let ip = h.ip;
    let common = ip.vihl == 0x45 && ip.frag.get() & FRAG_MASK == 0;
    if !common || (ip.proto != proto::TCP && ip.proto != proto::UDP) {
        return to_vip4(p, m, ip.dst, ip.proto, 0);
    }
    let (client, vip) = (u32::from_be_bytes(ip.src), u32::from_be_bytes(ip.dst));
    let (sport, dport) = (
        u16::from_be_bytes(h.ports.src),
        u16::from_be_bytes(h.ports.dst),
    );
    let Some(index) = select::find4(m, vip, dport, ip.proto) else {
        return to_vip4(p, m, ip.dst, ip.proto, dport);
    };
    let Some(fe) = m.frontend(index) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let fe_mode = select::mode(&fe);
    if fe_mode != mode::DSR_IPIP && fe_mode != mode::DSR_L2
        || fe.flags & frontend_flags::ASK_RECORDS != 0
    {
        return Verdict::Tail(slots::SNAT);
    }
    let bytes = ip.len.get();
    if fe.flags & frontend_flags::IN_TRANSITION != 0
        || usize::from(bytes) > p.len().wrapping_sub(ETH_LEN)
        || usize::from(bytes) < IPV4_LEN
    {
        return Verdict::Tail(slots::RARE);
    }
    let flow = hash::flow_hash4(client, sport, dport, ip.proto);
    let Some(local) = select::slot(m, fe.current, flow) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let Some(be) = select::backend4(m, &fe, local) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let bill = Bill {
        frontend: index,
        bytes,
    };
    if fe_mode == mode::DSR_IPIP {
        output::ipip(p, m, &Link::PLAIN, be, ip.tos, bill)
    } else {
        output::dsr_l2(p, m, &Link::PLAIN, be.mac, be.iface, bill)
    }
}

/// Too short for TCP or UDP; the slow way says what is wrong with it.
#[inline(always)]
fn short4<P: Packet, M: Maps>(p: &P, m: &M) -> Verdict {
    match p.view::<Ipv4>(ETH_LEN) {
        Some(ip) => to_vip4(p, m, ip.dst, ip.proto, 0),
        None => Verdict::Pass,
    }
}

/// A packet that is no plain packet to a frontend: whose business is it? `port` 0 = not known.
#[inline(always)]
fn to_vip4<P: Packet, M: Maps>(p: &P, m: &M, dst: [u8; 4], protocol: u8, port: u16) -> Verdict {
    match select::find4(m, u32::from_be_bytes(dst), 0, 0) {
        Some(index) => to_vip(m, index, protocol == proto::ICMP, port),
        None if is_hosts(protocol, port) => Verdict::Pass,
        None => to_node(p, m, false, &mapped(dst), protocol),
    }
}

/// Whether a packet that is for no VIP is surely the host's: no ICMP, nor to a port that flows of ours may have.
#[inline(always)]
const fn is_hosts(protocol: u8, port: u16) -> bool {
    match protocol {
        proto::TCP | proto::UDP => port != 0 && port < NODE_PORT_MIN,
        proto::ICMP | proto::ICMPV6 | proto::FRAGMENT => false,
        _ => true,
    }
}

/// What is addressed to the node itself may belong to flows that have its address as their source; else it passes.
#[inline(always)]
fn to_node<P: Packet, M: Maps>(p: &P, m: &M, v6: bool, dst: &[u8; 16], protocol: u8) -> Verdict {
    if !select::is_own(p, m, v6, dst) {
        Verdict::Pass
    } else if protocol == if v6 { proto::ICMPV6 } else { proto::ICMP } {
        Verdict::Tail(slots::NODE)
    } else {
        Verdict::Tail(slots::SNAT)
    }
}

#[inline(always)]
fn to_vip<M: Maps>(m: &M, vip: u32, icmp: bool, port: u16) -> Verdict {
    let flags = m.vip_state(vip).map_or(0, |state| state.flags);
    if flags & vip_flags::PASS_TO_HOST != 0 {
        Verdict::Pass
    } else if icmp {
        Verdict::Tail(slots::ICMP)
    } else if flags & vip_flags::HAS_SNAT != 0 && port >= SNAT_PORT_MIN {
        Verdict::Tail(slots::SNAT)
    } else {
        Verdict::Tail(slots::RARE)
    }
}

#[inline(always)]
fn ipv6<P: Packet, M: Maps>(p: &mut P, m: &M, iface: &Iface) -> Verdict {
    let Some(h) = p.view::<Head6>(0) else {
        return short6(p, m);
    };
    let ip = h.ip;
    if ip.next != proto::TCP && ip.next != proto::UDP {
        // With another hop limit it came from elsewhere and solicits nothing (RFC 4861 7.1.1).
        if ip.next == proto::ICMPV6 && ip.hops == ND_HOPS && is_solicitation(p) {
            return announcing(iface, slots::L2);
        }
        return to_vip6(p, m, &ip.dst, ip.next, 0);
    }
    let (sport, dport) = (
        u16::from_be_bytes(h.ports.src),
        u16::from_be_bytes(h.ports.dst),
    );
    let Some(index) = select::find6(m, &ip.dst, dport, ip.next) else {
        return to_vip6(p, m, &ip.dst, ip.next, dport);
    };
    let Some(fe) = m.frontend(index) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let fe_mode = select::mode(&fe);
    if fe_mode != mode::DSR_IPIP && fe_mode != mode::DSR_L2
        || fe.flags & frontend_flags::ASK_RECORDS != 0
    {
        return Verdict::Tail(slots::SNAT);
    }
    let bytes = ip.len.get().saturating_add(IPV6_LEN as u16);
    if fe.flags & frontend_flags::IN_TRANSITION != 0
        || usize::from(bytes) > p.len().wrapping_sub(ETH_LEN)
    {
        return Verdict::Tail(slots::RARE);
    }
    let flow = hash::flow_hash6(&ip.src, sport, dport, ip.next);
    let Some(local) = select::slot(m, fe.current, flow) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let Some(be) = select::backend6(m, &fe, local) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let bill = Bill {
        frontend: index,
        bytes,
    };
    if fe_mode == mode::DSR_IPIP {
        output::ip6ip6(p, m, &Link::PLAIN, be, ip.vtf, bill)
    } else {
        output::dsr_l2(p, m, &Link::PLAIN, be.mac, be.iface, bill)
    }
}

#[inline(always)]
fn short6<P: Packet, M: Maps>(p: &P, m: &M) -> Verdict {
    match p.view::<Ipv6>(ETH_LEN) {
        Some(ip) => to_vip6(p, m, &ip.dst, ip.next, 0),
        None => Verdict::Pass,
    }
}

#[inline(always)]
fn to_vip6<P: Packet, M: Maps>(p: &P, m: &M, dst: &[u8; 16], protocol: u8, port: u16) -> Verdict {
    match select::find6(m, dst, 0, 0) {
        Some(index) => to_vip(m, index, protocol == proto::ICMPV6, port),
        None if is_hosts(protocol, port) => Verdict::Pass,
        None => to_node(p, m, true, dst, protocol),
    }
}

#[cfg(test)]
mod tests;
