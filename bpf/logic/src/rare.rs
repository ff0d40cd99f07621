//! `lb_rare`: everything about a VIP that the fast path does not do, but for SNAT and ICMP.
//!
//! Tags, options, extension headers, fragments, transitions, unknown ports; and the peers' heartbeats, whose passing is noted. What is addressed
//! to a VIP leaves forwarded or counted, never for the host, unless forwarding is left to it.

use fairlead_abi::{
    flow::SNAT_PORT_MIN,
    l2::{HEARTBEAT_PORT, N_PEER_SLOTS, PeerKey},
    lb::{FrontendValue, VipState, mode, vip_flags},
    maps::slots,
    reasons,
};

use crate::{
    Maps, Packet, Verdict,
    output::{self, Bill},
    parse::{self, Parsed},
    record, select,
    snat::Work,
    transition,
    wire::{Eth, HEARTBEAT_MAC4, HEARTBEAT_MAC6, Ipv4, Ipv6, mac_eq, proto},
};

/// Decides about a frame that `lb_ingress` did not settle.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    let Some(eth) = p.view::<Eth>(0) else {
        return Verdict::Pass;
    };
    let heard = mac_eq(eth.dst, HEARTBEAT_MAC4) || mac_eq(eth.dst, HEARTBEAT_MAC6);
    w.src_mac = eth.src;
    if !parse::parse_into(p, &mut w.h) {
        return Verdict::Pass;
    }
    if heard {
        heartbeat(p, m, &w.h, w.src_mac);
        return Verdict::Pass;
    }
    let Some(flags) = vip(m, &w.h).map(|state| state.flags) else {
        return Verdict::Pass;
    };
    if flags & vip_flags::PASS_TO_HOST != 0 {
        return Verdict::Pass;
    }
    if w.h.fault != reasons::NONE {
        return m.drop(p, w.h.fault);
    }
    if w.h.is_icmp() {
        return Verdict::Tail(slots::ICMP);
    }
    if !w.h.has_ports() {
        return m.drop(p, reasons::UNSUPPORTED_PROTOCOL);
    }
    if !w.h.resolve_ports(m) {
        return m.drop(p, reasons::FRAGMENT);
    }
    let h = &w.h;
    let Some(index) = select::find(m, h.v6, &h.dst, h.ports.dst, h.proto) else {
        let may_be_reply =
            flags & vip_flags::HAS_SNAT != 0 && u16::from_be_bytes(h.ports.dst) >= SNAT_PORT_MIN;
        return if may_be_reply {
            Verdict::Tail(slots::SNAT)
        } else {
            m.drop(p, reasons::UNKNOWN_PORT)
        };
    };
    let Some(fe) = m.frontend(index) else {
        return m.drop(p, reasons::NO_BACKEND);
    };
    let fe_mode = select::mode(&fe);
    if fe_mode != mode::DSR_IPIP && fe_mode != mode::DSR_L2 {
        return Verdict::Tail(slots::SNAT);
    }
    if record::is_kept(m, &fe, &record::reply_key(h)) {
        return Verdict::Tail(slots::SNAT);
    }
    let local = transition::choose(m, &fe, index, h);
    if local == transition::NOWHERE {
        return m.drop(p, reasons::NO_BACKEND);
    }
    let bill = Bill {
        frontend: index,
        bytes: h.bytes,
    };
    send(p, m, h, &fe, fe_mode, local, bill)
}

/// State of the VIP that the packet is addressed to.
#[inline(always)]
pub fn vip<'m, M: Maps>(m: &'m M, h: &Parsed) -> Option<&'m VipState> {
    m.vip_state(select::find(m, h.v6, &h.dst, [0; 2], 0)?)
}

/// Sends a packet by direct return to backend `local`.
#[inline(always)]
pub fn send<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    h: &Parsed,
    fe: &FrontendValue,
    fe_mode: u64,
    local: u16,
    bill: Bill,
) -> Verdict {
    if fe_mode == mode::DSR_L2 {
        return match select::target(m, h.v6, fe, local) {
            Some(be) => output::dsr_l2(p, m, &h.link, be.mac, be.iface, bill),
            None => m.drop(p, reasons::NO_BACKEND),
        };
    }
    if h.v6 {
        let Some(vtf) = p.view::<Ipv6>(h.link.l3()).map(|ip| ip.vtf) else {
            return m.drop(p, reasons::TRUNCATED);
        };
        return match select::backend6(m, fe, local) {
            Some(be) => output::ip6ip6(p, m, &h.link, be, vtf, bill),
            None => m.drop(p, reasons::NO_BACKEND),
        };
    }
    let Some(tos) = p.view::<Ipv4>(h.link.l3()).map(|ip| ip.tos) else {
        return m.drop(p, reasons::TRUNCATED);
    };
    match select::backend4(m, fe, local) {
        Some(be) => output::ipip(p, m, &h.link, be, tos, bill),
        None => m.drop(p, reasons::NO_BACKEND),
    }
}

/// Notes that a peer was heard on this interface.
#[inline(always)]
fn heartbeat<P: Packet, M: Maps>(p: &P, m: &M, h: &Parsed, src: [u8; 6]) {
    if h.proto != proto::UDP || u16::from_be_bytes(h.ports.dst) != HEARTBEAT_PORT {
        return;
    }
    let Some(iface) = m.iface(select::iface_slot(p.ifindex())) else {
        return;
    };
    let cell = iface.l2_cell;
    let key = PeerKey {
        mac: src,
        cell: (cell & 0xffff) as u16,
    };
    let Some(slot) = m.peer(&key) else { return };
    let index = cell
        .wrapping_mul(N_PEER_SLOTS)
        .wrapping_add(slot % N_PEER_SLOTS);
    m.set_peer_seen(index, m.now());
    m.count(reasons::HEARTBEAT_SEEN, p.len() as u64);
}

#[cfg(test)]
mod tests;
