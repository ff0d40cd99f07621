//! `lb_snat`: address translation that survives a move of the VIP.
//!
//! The source of a request becomes the VIP (or, where a backend's replies would not find that, the node's address on its interface), so that replies return to whoever owns the VIP; its port follows from the client alone
//! (`hash::snat_port`), so that the next owner gives a flow the same port. One record serves both directions and is keyed as the reply
//! arrives. It is half-open in `SNAT_NEW` until the client has answered a reply, then moves to `SNAT`; a flood of first packets therefore
//! only evicts its own kind. In transition the record rules; the flow tables only say under which backend to look for it.

use fairlead_abi::{
    flow::{NODE_PORT_MIN, SnatKey, SnatValue, flow_state},
    l2::PeerKey,
    lb::{FrontendValue, VipState, backend_flags, mode, vip_flags},
    maps::slots,
    reasons,
};

use crate::{
    Insert, Maps, Packet, Table, Verdict, output,
    parse::{self, Parsed, Part},
    rare,
    record::{self, Found},
    rewrite::{self, Ends},
    select::{self, Target},
    transition::{self, NOWHERE},
    wire::{Eth, Macs, Ports, mac_eq, mac_word, proto},
};

/// What is at hand for one packet. The programs keep it outside the stack, which is too small for it. All zero is a valid value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The packet, or the flow that an ICMP error speaks of.
    pub h: Parsed,
    /// The ICMP error itself.
    pub outer: Parsed,
    pub key: SnatKey,
    pub value: SnatValue,
    pub target: Target,
    /// Source that the target sees.
    pub source: [u8; 16],
    pub ends: Ends,
    /// The VIP's, where the packet is addressed to one.
    pub vip: VipState,
    /// The frontend's, where the flow is known to have one.
    pub fe: FrontendValue,
    /// Source of the frame.
    pub src_mac: [u8; 6],
    /// Backends under which a flow's record may be.
    pub candidates: [u16; 3],
    /// What a flow without a record takes.
    pub chosen: u16,
    /// The same once it is found alive, and the port that is free there.
    pub local: u16,
    pub free: [u8; 2],
}

/// No frontend: record 0 is never used.
const NONE: u32 = 0;

/// Decides about a packet to a VIP, request or reply, or about one to the node's own address that may be a reply.
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
    if is_vip {
        if w.vip.flags & vip_flags::PASS_TO_HOST != 0 {
            return Verdict::Pass;
        }
        if w.h.fault != reasons::NONE {
            return m.drop(p, w.h.fault);
        }
        if !w.h.has_ports() {
            return m.drop(p, reasons::UNSUPPORTED_PROTOCOL);
        }
        if !w.h.resolve_ports(m) {
            return m.drop(p, reasons::FRAGMENT);
        }
    } else if !may_be_nodes(m, &mut w.h) {
        return Verdict::Pass;
    }
    w.key = record::reply_key(&w.h);
    let mut index = NONE;
    if is_vip && let Some(found) = select::find(m, w.h.v6, &w.h.dst, w.h.ports.dst, w.h.proto) {
        let Some(fe) = m.frontend(found) else {
            return m.drop(p, reasons::NO_BACKEND);
        };
        w.fe = fe;
        if !record::is_kept(m, &w.fe, &w.key) {
            index = found;
        }
    }
    if index == NONE {
        return reply(p, m, w, is_vip);
    }
    let fe_mode = select::mode(&w.fe);
    if fe_mode == mode::DSR_IPIP || fe_mode == mode::DSR_L2 {
        return Verdict::Tail(slots::RARE);
    }
    request(p, m, w, index)
}

/// Whether a packet to the node's own address may belong to a flow that has this as its source. What is wrong with it is the host's affair.
#[inline(always)]
fn may_be_nodes<M: Maps>(m: &M, h: &mut Parsed) -> bool {
    if h.fault != reasons::NONE || !h.has_ports() {
        return false;
    }
    if h.part != Part::Later && u16::from_be_bytes(h.ports.dst) < NODE_PORT_MIN {
        return false;
    }
    h.resolve_ports(m)
}

/// Finds backend and record of a client's packet. Leaves the backend in `w.target`; the index is [`NOWHERE`] if there is none.
///
/// A record under the former or the present backend of the slot is found without more. A TCP flow that began between two changes has its
/// record under a third one, which only the flow tables name: they are asked (and with `note` told) as for direct return. A record rules over
/// what they say.
#[inline(always)]
pub fn place<M: Maps>(
    m: &M,
    w: &mut Work,
    index: u32,
    now: u64,
    note: bool,
) -> (u16, Found<M::Record>) {
    candidates(m, w, index, note);
    // The candidates are read back from memory: the verifier forgets how they came about, and follows the search once for all of it.
    let w = core::hint::black_box(w);
    let syn = w.h.is_syn();
    let [first, ..] = w.candidates;
    w.local = NOWHERE;
    w.free = [0; 2];
    let mut last = NOWHERE;
    for round in 0..3usize {
        let candidate = w.candidates.get(round).copied().unwrap_or(NOWHERE);
        if candidate == NOWHERE
            || (round != 0 && candidate == first)
            || select::backend_flags(m, w.h.v6, &w.fe, candidate) & backend_flags::ALIVE == 0
        {
            continue;
        }
        if !aim(m, w, candidate) {
            continue;
        }
        last = candidate;
        let found = record::search(m, &w.h, &w.target, &w.source, &mut w.key, now, syn);
        if found.own.is_some() {
            if note && candidate != first && first != NOWHERE && !syn {
                transition::correct(m, index, &w.h, now, candidate);
            }
            return (candidate, found);
        }
        if candidate == w.chosen {
            w.local = candidate;
            w.free = found.port;
        }
    }
    let mut local = w.local;
    if local != NOWHERE && local != last && !aim(m, w, local) {
        local = NOWHERE;
    }
    let none = Found {
        port: w.free,
        own: None,
    };
    (local, none)
}

/// Leaves a backend and the source that it sees in `w`; false: there is no such backend.
#[inline(always)]
fn aim<M: Maps>(m: &M, w: &mut Work, local: u16) -> bool {
    let Some(target) = select::target(m, w.h.v6, &w.fe, local) else {
        return false;
    };
    w.target = target;
    w.source = select::source(m, w.h.v6, &w.h.dst, &w.target);
    true
}

/// Leaves in `w` under which backends the flow's record may be, in the order in which they are asked, and which it takes if it has none.
#[inline(always)]
fn candidates<M: Maps>(m: &M, w: &mut Work, index: u32, note: bool) {
    let slots = transition::slots(m, &w.fe, w.h.flow_hash());
    w.chosen = if note {
        transition::choose_from(m, &w.fe, index, &w.h, slots)
    } else {
        transition::peek_from(m, &w.fe, index, &w.h, slots)
    };
    let first = if w.h.proto == proto::UDP {
        NOWHERE
    } else {
        w.chosen
    };
    w.candidates = [first, slots.previous, slots.current];
}

/// A packet from a client to the frontend in `w.fe`.
#[inline(always)]
fn request<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work, index: u32) -> Verdict {
    let now = m.now();
    let (local, found) = place(m, w, index, now, true);
    if local == NOWHERE {
        return m.drop(p, reasons::NO_BACKEND);
    }
    if u16::from_ne_bytes(found.port) == 0 {
        return m.drop(p, reasons::SNAT_NO_PORT);
    }
    w.key = record::request_key(&w.h, &w.target, &w.source, found.port);
    w.value = SnatValue {
        last_seen: now,
        client: w.h.src,
        vip: w.h.dst,
        client_port: w.h.ports.src,
        vip_port: w.h.ports.dst,
        frontend: index,
        backend: local,
        state: flow_state::NEW,
        client_mac: w.src_mac,
        client_iface: (select::iface_slot(p.ifindex()) & 0xffff) as u16,
        _pad: [0; 4],
    };
    if let Err(reason) = remember(m, w, found.own) {
        return m.drop(p, reason);
    }
    send(p, m, w)
}

/// Sends a request whose record and backend are in `w`. What it needs it takes from there: the verifier then follows it once, whatever way
/// the packet came here.
#[inline(always)]
fn send<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    let w = core::hint::black_box(w);
    let Some(eg) = output::egress(m, w.target.mac, w.target.iface) else {
        return m.drop(p, reasons::NO_NEXT_HOP);
    };
    if u32::from(w.h.bytes) > eg.mtu {
        return output::too_big(m, eg.mtu);
    }
    let ports = Ports {
        src: w.key.snat_port,
        dst: w.target.port,
    };
    w.ends = Ends {
        src: w.source,
        dst: w.target.addr,
        ports,
    };
    if let Err(reason) = rewrite::all(p, &w.h, &w.ends) {
        return output::refuse(p, m, reason);
    }
    if p.put(
        0,
        Macs {
            dst: w.target.mac,
            src: eg.mac,
        },
    )
    .is_none()
    {
        return m.drop(p, reasons::TRUNCATED);
    }
    m.count_frontend(w.value.frontend, u64::from(w.h.bytes));
    output::leave(p, eg)
}

/// Notes a request in its record under `w.key`, which is made or promoted from `w.value` where that is due. `own` is the flow's record if the
/// search has met it.
///
/// # Errors
/// The reason for which the packet has to be dropped.
#[inline(always)]
fn remember<M: Maps>(m: &M, w: &mut Work, own: Option<(M::Record, Table)>) -> Result<(), u32> {
    let Work { h, key, value, .. } = w;
    let (found, table) = match own {
        Some(own) => own,
        None => match begin(m, h, key, value)? {
            Some(others) => others,
            None => return Ok(()),
        },
    };
    let old = m.load(found);
    let mut state = record::after_request(old.state, h);
    if table == Table::Established && state == flow_state::REPLIED && !h.is_syn() {
        // A client's port, used again while its record was there.
        state = flow_state::ESTABLISHED;
    }
    if table == Table::New && old.state == flow_state::REPLIED && !h.is_syn() {
        value.state = if state == flow_state::REPLIED {
            flow_state::ESTABLISHED
        } else {
            state
        };
        if m.put_record(Table::Established, key, value, Insert::NoExist) {
            m.remove_record(Table::New, key);
            return Ok(());
        }
        if m.record(Table::Established, key).is_some() {
            // Another CPU has promoted it a moment ago, with a packet of the same client.
            return Ok(());
        }
        // It stays among the half-open ones, where it lives as long as it is used and not evicted.
        m.count(reasons::SNAT_TABLE_FULL, 0);
    }
    m.touch(found, value.last_seen);
    if state != old.state {
        m.set_state(found, state);
    }
    if !mac_eq(old.client_mac, value.client_mac) || old.client_iface != value.client_iface {
        m.set_client_hop(found, value.client_mac, value.client_iface);
    }
    Ok(())
}

/// Makes the record of a flow that had none. `Some`: another CPU has made it since the search, from another packet of the flow.
///
/// # Errors
/// The reason for which the packet has to be dropped.
#[inline(always)]
fn begin<M: Maps>(
    m: &M,
    h: &Parsed,
    key: &SnatKey,
    value: &mut SnatValue,
) -> Result<Option<(M::Record, Table)>, u32> {
    value.state = record::after_request(flow_state::NEW, h);
    let mut how = Insert::NoExist;
    if let Some((old, table)) = record::find(m, key) {
        if record::is_own(&m.load(old), h) {
            return Ok(Some((old, table)));
        }
        // A record that has ended: its port changes hands.
        if table == Table::Established {
            m.remove_record(Table::Established, key);
        }
        how = Insert::Any;
    }
    if m.put_record(Table::New, key, value, how) {
        return Ok(None);
    }
    match record::find(m, key) {
        Some(found) if record::is_own(&m.load(found.0), h) => Ok(Some(found)),
        // Another client's first packet took the port: the next try finds another.
        Some(_) => Err(reasons::SNAT_NO_PORT),
        None => Err(reasons::SNAT_TABLE_FULL),
    }
}

/// A packet from a backend; its key is in `w.key`. Without a record it may be another owner's, or the host's.
#[inline(always)]
fn reply<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work, is_vip: bool) -> Verdict {
    let Work {
        h,
        key,
        ends,
        src_mac,
        vip,
        ..
    } = w;
    let Some((found, _)) = record::find(m, key) else {
        return if is_vip {
            hand_off(p, m, *src_mac, vip)
        } else {
            Verdict::Pass
        };
    };
    let v = m.load(found);
    let Some(eg) = m
        .iface(u32::from(v.client_iface))
        .filter(|eg| eg.ifindex != 0)
    else {
        return m.drop(p, reasons::NO_NEXT_HOP);
    };
    if u32::from(h.bytes) > eg.mtu {
        return output::too_big(m, eg.mtu);
    }
    m.touch(found, m.now());
    let state = record::after_reply(v.state, h);
    if state != v.state {
        m.set_state(found, state);
    }
    let ports = Ports {
        src: v.vip_port,
        dst: v.client_port,
    };
    *ends = Ends {
        src: v.vip,
        dst: v.client,
        ports,
    };
    if let Err(reason) = rewrite::all(p, h, ends) {
        return output::refuse(p, m, reason);
    }
    if p.put(
        0,
        Macs {
            dst: v.client_mac,
            src: eg.mac,
        },
    )
    .is_none()
    {
        return m.drop(p, reasons::TRUNCATED);
    }
    output::leave(p, eg)
}

/// A reply without a record goes once to the VIP's other owner, whose kernel may have it; never back to a peer that sent it here.
#[inline(always)]
pub fn hand_off<P: Packet, M: Maps>(p: &mut P, m: &M, src_mac: [u8; 6], vip: &VipState) -> Verdict {
    let Some(iface) = m.iface(select::iface_slot(p.ifindex())) else {
        return m.drop(p, reasons::SNAT_NO_RECORD);
    };
    let key = PeerKey {
        mac: src_mac,
        cell: (iface.l2_cell & 0xffff) as u16,
    };
    if mac_word(vip.handoff_mac) == 0 || mac_eq(vip.handoff_mac, src_mac) || m.peer(&key).is_some()
    {
        return m.drop(p, reasons::SNAT_NO_RECORD);
    }
    let Some(eg) = m
        .iface(u32::from(vip.handoff_iface))
        .filter(|eg| eg.ifindex != 0)
    else {
        return m.drop(p, reasons::SNAT_NO_RECORD);
    };
    if p.put(
        0,
        Macs {
            dst: vip.handoff_mac,
            src: eg.mac,
        },
    )
    .is_none()
    {
        return m.drop(p, reasons::TRUNCATED);
    }
    m.count(reasons::SNAT_HANDED_OFF, p.len() as u64);
    output::leave(p, eg)
}

#[cfg(test)]
mod tests;
