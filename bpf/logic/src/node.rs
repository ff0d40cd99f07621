//! `lb_node`: ICMP to the node's own address.
//!
//! An error may be about a packet that we have sent from that address: a translated request, which is for `icmp_snat`, or an encapsulated one,
//! which is for [`tunnel`]. Everything else is the host's.

use fairlead_abi::{flow::NODE_PORT_MIN, maps::slots, reasons};

use crate::{
    Maps, Packet, Verdict, icmp,
    parse::{self, Part},
    quote,
    snat::Work,
    tunnel,
    wire::{Eth, Icmp, addr_eq},
};

/// Decides about an ICMP packet to the address of the interface that received it.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    match p.view::<Eth>(0) {
        Some(eth) => w.src_mac = eth.src,
        None => return Verdict::Pass,
    }
    if !parse::parse_into(p, &mut w.h) {
        return Verdict::Pass;
    }
    let h = &w.h;
    if h.fault != reasons::NONE || h.part != Part::Whole || !h.is_icmp() {
        return Verdict::Pass;
    }
    match p.view::<Icmp>(h.l4()) {
        Some(message) if icmp::is_error(h.v6, message.kind) => {}
        _ => return Verdict::Pass,
    }
    w.outer = w.h;
    if quote::read(p, w).is_some() {
        // What was sent by a socket of the host has another port.
        return if addr_eq(&w.h.src, &w.outer.dst)
            && u16::from_be_bytes(w.h.ports.src) >= NODE_PORT_MIN
        {
            Verdict::Tail(slots::ICMP_SNAT)
        } else {
            Verdict::Pass
        };
    }
    tunnel::error(p, m, w)
}

#[cfg(test)]
mod tests;
