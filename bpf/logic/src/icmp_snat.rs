//! `lb_icmp_snat`: ICMP errors about translated packets.
//!
//! One about a reply (a router towards the client complains) goes to the backend, one about a request (the backend, or a router towards it) to
//! the client; each in the terms of whom it reaches. A program of its own, because the stack has no room for it beside the rest.
//!
//! # Source
//! RFC 5508 4 (NAT behaviour for ICMP errors).

use fairlead_abi::reasons;

use crate::{
    Maps, Packet, Verdict, output, parse, quote, rare, record, select,
    snat::{self, Work},
    transition::NOWHERE,
    wire::{Eth, Ports, addr_eq},
};

/// Decides about an error that `lb_icmp` or `lb_node` has found to be one, whole and about a packet from the address that it is sent to.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    match p.view::<Eth>(0) {
        Some(eth) => w.src_mac = eth.src,
        None => return Verdict::Pass,
    }
    if !parse::parse_into(p, &mut w.h) {
        return Verdict::Pass;
    }
    let is_vip = match rare::vip(m, &w.h) {
        Some(state) => {
            w.vip = *state;
            true
        }
        None => false,
    };
    w.outer = w.h;
    let Some(inner_l4) = quote::read(p, w) else {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    };
    if w.outer.fault != reasons::NONE || !addr_eq(&w.h.src, &w.outer.dst) {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    // What left as (source, destination) comes back as a reply would with the two exchanged.
    w.key = record::quoted_key(&w.h);
    if !is_vip {
        return to_client(p, m, w, inner_l4, false);
    }
    let h = &w.h;
    let Some(index) = select::find(m, h.v6, &h.src, h.ports.src, h.proto) else {
        return to_client(p, m, w, inner_l4, true);
    };
    let Some(fe) = m.frontend(index) else {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    };
    w.fe = fe;
    if record::is_kept(m, &w.fe, &w.key) {
        return to_client(p, m, w, inner_l4, true);
    }
    w.h.turn();
    to_backend(p, m, w, inner_l4, index)
}

/// SNAT: a router towards the client complains about a reply; the backend hears of it in its own terms.
#[inline(always)]
fn to_backend<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &mut Work,
    inner_l4: usize,
    index: u32,
) -> Verdict {
    let (local, found) = snat::place(m, w, index, m.now(), false);
    if local == NOWHERE || found.own.is_none() {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    let Some(eg) = output::egress(m, w.target.mac, w.target.iface).copied() else {
        return m.drop(p, reasons::NO_NEXT_HOP);
    };
    w.ends.src = w.target.addr;
    w.ends.dst = w.source;
    w.ends.ports = Ports {
        src: w.target.port,
        dst: found.port,
    };
    let mac = w.target.mac;
    quote::forward(p, m, w, inner_l4, &eg, mac)
}

/// SNAT: the backend, or a router towards it, complains about a request, whose key is in `w.key`; the client hears of it in its own terms.
#[inline(always)]
fn to_client<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &mut Work,
    inner_l4: usize,
    is_vip: bool,
) -> Verdict {
    let Some((found, _)) = record::find(m, &w.key) else {
        return if is_vip {
            snat::hand_off(p, m, w.src_mac, &w.vip)
        } else {
            Verdict::Pass
        };
    };
    let v = m.load(found);
    let Some(eg) = m
        .iface(u32::from(v.client_iface))
        .filter(|eg| eg.ifindex != 0)
        .copied()
    else {
        return m.drop(p, reasons::NO_NEXT_HOP);
    };
    w.ends.src = v.client;
    w.ends.dst = v.vip;
    w.ends.ports = Ports {
        src: v.client_port,
        dst: v.vip_port,
    };
    quote::forward(p, m, w, inner_l4, &eg, v.client_mac)
}
