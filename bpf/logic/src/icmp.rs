//! `lb_icmp`: ICMP to VIPs, and the errors that we send because a packet does not fit or has lived too long.
//!
//! An error belongs to the flow whose packet it quotes, and goes to the backend that serves the flow; errors about translated packets are for
//! `icmp_snat`. What belongs to no flow is dropped and counted.
//!
//! # Source
//! RFC 792, 1191, 1812 4.3.2, 4443, 5508 (NAT behaviour for ICMP), 8201.

use fairlead_abi::{
    lb::{FrontendValue, mode, vip_flags},
    maps::slots,
    reasons,
};

use crate::{
    Maps, Packet, Verdict,
    output::Bill,
    parse::{self, Part},
    quote, rare, record, refusal, select,
    snat::Work,
    transition::{self, NOWHERE},
    wire::{Icmp, addr_eq, icmp, icmp6},
};

/// Decides about an ICMP packet to a VIP, or answers a packet that cannot go on.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    if !parse::parse_into(p, &mut w.h) {
        return Verdict::Pass;
    }
    if !w.h.is_icmp() {
        return refusal::answer(p, m, &w.h);
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
    error(p, m, w)
}

/// Whether a message of this type quotes the packet that it is about.
#[inline(always)]
pub const fn is_error(v6: bool, kind: u8) -> bool {
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
fn error<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    w.outer = w.h;
    if quote::read(p, w).is_none() {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    // `w.h` is now the quoted packet, as it left the VIP.
    if !addr_eq(&w.h.src, &w.outer.dst) {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    }
    let h = &w.h;
    let Some(index) = select::find(m, h.v6, &h.src, h.ports.src, h.proto) else {
        return Verdict::Tail(slots::ICMP_SNAT);
    };
    let Some(fe) = m.frontend(index) else {
        return m.drop(p, reasons::ICMP_UNMATCHED);
    };
    let fe_mode = select::mode(&fe);
    if fe_mode != mode::DSR_IPIP && fe_mode != mode::DSR_L2
        || record::is_kept(m, &fe, &record::quoted_key(h))
    {
        return Verdict::Tail(slots::ICMP_SNAT);
    }
    w.h.turn();
    to_holder(p, m, w, &fe, index, fe_mode)
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

#[cfg(test)]
mod tests;
