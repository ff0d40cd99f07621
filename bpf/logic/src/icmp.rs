//! `lb_icmp`: ICMP to VIPs, and the errors that we send because a packet does not fit.
//!
//! An error belongs to the flow whose packet it quotes. One about a packet from VIP to client goes to the backend that serves the flow; one
//! about a translated request goes to the client. What belongs to no flow is dropped and counted.
//!
//! # Source
//! RFC 792, 1191, 1812 4.3.2, 4443, 5508 (NAT behaviour for ICMP), 8201.

use fairlead_abi::{
    lb::{FrontendValue, VipState, mode, vip_flags},
    reasons,
};

use crate::{
    Maps, Packet, Verdict,
    output::{self, Bill},
    parse::{self, Part},
    quote, rare, record, select,
    snat::{self, Work},
    too_big,
    transition::{self, NOWHERE},
    wire::{Eth, Icmp, Ports, addr_eq, icmp, icmp6},
};

/// Decides about an ICMP packet to a VIP, or answers a packet that does not fit.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    match p.view::<Eth>(0) {
        Some(eth) => w.src_mac = eth.src,
        None => return Verdict::Pass,
    }
    if !parse::parse_into(p, &mut w.h) {
        return Verdict::Pass;
    }
    if !w.h.is_icmp() {
        return too_big::answer(p, m, &w.h);
    }
    let Some(state) = rare::vip(m, &w.h).copied() else {
        return Verdict::Pass;
    };
    if state.flags & vip_flags::PASS_TO_HOST != 0 {
        return Verdict::Pass;
    }
    if w.h.fault != reasons::NONE {
        return m.drop(p, w.h.fault);
    }
    if w.h.part != Part::Whole {
        return m.drop(p, reasons::FRAGMENT);
    }
    let Some(kind) = p.view::<Icmp>(w.h.l4()).map(|icmp| icmp.kind) else {
        return m.drop(p, reasons::TRUNCATED);
    };
    if kind == (if w.h.v6 { icmp6::ECHO } else { icmp::ECHO })
        && state.flags & vip_flags::ANSWER_ECHO != 0
    {
        return quote::echo(p, m, &w.h);
    }
    if !is_error(w.h.v6, kind) {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    error(p, m, w, &state)
}

#[inline(always)]
const fn is_error(v6: bool, kind: u8) -> bool {
    if v6 {
        kind >= icmp6::UNREACHABLE && kind <= icmp6::PARAMETER_PROBLEM
    } else {
        matches!(
            kind,
            icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM
        )
    }
}

/// An error that quotes a packet whose source is the VIP.
#[inline(always)]
fn error<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work, state: &VipState) -> Verdict {
    w.outer = w.h;
    let Some(inner_l4) = quote::read(p, w) else {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    };
    // `w.h` is now the quoted packet, as it left the VIP.
    if !addr_eq(&w.h.src, &w.outer.dst) {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    let h = &w.h;
    let Some(index) = select::find(m, h.v6, &h.src, h.ports.src, h.proto) else {
        return to_client(p, m, w, inner_l4, state);
    };
    let Some(fe) = m.frontend(index) else {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    };
    // From here on `w.h` is the flow as the client sends it.
    let h = &mut w.h;
    core::mem::swap(&mut h.src, &mut h.dst);
    h.ports = Ports {
        src: h.ports.dst,
        dst: h.ports.src,
    };
    let fe_mode = select::mode(&fe);
    if fe_mode == mode::DSR_IPIP || fe_mode == mode::DSR_L2 {
        return to_holder(p, m, w, &fe, index, fe_mode);
    }
    to_backend(p, m, w, inner_l4, &fe)
}

/// Direct return: the backend holds the VIP and gets the error as it is.
#[inline(always)]
fn to_holder<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &Work,
    fe: &FrontendValue,
    index: u32,
    fe_mode: u64,
) -> Verdict {
    let local = transition::peek(m, fe, index, &w.h);
    if local == NOWHERE {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    // Frontend 0 is never used: errors are not the frontend's packets.
    let bill = Bill {
        frontend: 0,
        bytes: w.outer.bytes,
    };
    let verdict = rare::send(p, m, &w.outer, fe, fe_mode, local, bill);
    match verdict {
        // No error about an error (RFC 1122 3.2.2).
        Verdict::Tail(_) => m.drop(p, reasons::TOO_BIG_UNANSWERED),
        Verdict::Tx | Verdict::Redirect(_) => {
            m.count(reasons::ICMP_FORWARDED, p.len() as u64);
            verdict
        }
        Verdict::Pass | Verdict::Drop => verdict,
    }
}

/// SNAT: a router towards the client complains about a reply; the backend hears of it in its own terms.
#[inline(always)]
fn to_backend<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &mut Work,
    inner_l4: usize,
    fe: &FrontendValue,
) -> Verdict {
    let (local, found) = snat::place(m, w, fe, m.now());
    if local == NOWHERE || !found.own {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    let Some(eg) = output::egress(m, w.target.mac, w.target.iface).copied() else {
        return m.drop(p, reasons::NO_NEXT_HOP);
    };
    w.ends.src = w.target.addr;
    w.ends.dst = w.h.dst;
    w.ends.ports = Ports {
        src: w.target.port,
        dst: found.port,
    };
    let mac = w.target.mac;
    quote::forward(p, m, w, inner_l4, &eg, mac)
}

/// SNAT: the backend, or a router towards it, complains about a request; the client hears of it in its own terms.
#[inline(always)]
fn to_client<P: Packet, M: Maps>(
    p: &mut P,
    m: &M,
    w: &mut Work,
    inner_l4: usize,
    state: &VipState,
) -> Verdict {
    // What left the VIP as (source, destination) comes back as a reply would with the two exchanged.
    w.key = fairlead_abi::flow::SnatKey {
        vip: w.h.src,
        backend: w.h.dst,
        snat_port: w.h.ports.src,
        backend_port: w.h.ports.dst,
        proto: w.h.proto,
        _pad: [0; 3],
    };
    let Some((found, _)) = record::find(m, &w.key) else {
        return snat::hand_off(p, m, w.src_mac, state);
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

#[cfg(test)]
mod tests;
