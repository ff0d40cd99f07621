//! SNAT records: keys, ports, life.

use fairlead_abi::{
    flow::{
        CLOSED_NS, HALF_CLOSED_NS, HALF_OPEN_NS, SNAT_PROBES, SnatKey, SnatValue, TCP_IDLE_NS,
        UDP_IDLE_NS, flow_state,
    },
    lb::{FrontendValue, backend_flags, frontend_flags},
};

use crate::{
    Maps, Table, hash,
    parse::Parsed,
    select::{self, Target},
    wire::{addr_eq, proto, tcp_flags},
};

/// The key under which a reply finds its record.
#[inline(always)]
pub const fn reply_key(h: &Parsed) -> SnatKey {
    SnatKey {
        vip: h.dst,
        backend: h.src,
        snat_port: h.ports.dst,
        backend_port: h.ports.src,
        proto: h.proto,
        _pad: [0; 3],
    }
}

/// The key of the reply to a packet that an ICMP error quotes.
#[inline(always)]
pub const fn quoted_key(h: &Parsed) -> SnatKey {
    SnatKey {
        vip: h.src,
        backend: h.dst,
        snat_port: h.ports.src,
        backend_port: h.ports.dst,
        proto: h.proto,
        _pad: [0; 3],
    }
}

/// The key of a client's flow to `target` under a SNAT address and port.
#[inline(always)]
pub const fn request_key(
    h: &Parsed,
    target: &Target,
    source: &[u8; 16],
    snat_port: [u8; 2],
) -> SnatKey {
    SnatKey {
        vip: *source,
        backend: target.addr,
        snat_port,
        backend_port: target.port,
        proto: h.proto,
        _pad: [0; 3],
    }
}

/// A record, established or half-open.
#[inline(always)]
pub fn find<M: Maps>(m: &M, key: &SnatKey) -> Option<(M::Record, Table)> {
    match m.record(Table::Established, key) {
        Some(record) => Some((record, Table::Established)),
        None => m.record(Table::New, key).map(|record| (record, Table::New)),
    }
}

/// Whether what seems to concern a frontend belongs to a flow that had the frontend's port before it came.
#[inline(always)]
pub fn is_kept<M: Maps>(m: &M, fe: &FrontendValue, key: &SnatKey) -> bool {
    fe.flags & frontend_flags::ASK_RECORDS != 0 && find(m, key).is_some()
}

/// Whether a record is that of the client's flow.
#[inline(always)]
pub fn is_own(v: &SnatValue, h: &Parsed) -> bool {
    addr_eq(&v.client, &h.src)
        && addr_eq(&v.vip, &h.dst)
        && u16::from_ne_bytes(v.client_port) == u16::from_ne_bytes(h.ports.src)
        && u16::from_ne_bytes(v.vip_port) == u16::from_ne_bytes(h.ports.dst)
}

/// Whether a record has ended: its port may be given to another flow, and sweeps remove it.
#[inline(always)]
pub const fn expired(v: &SnatValue, now: u64, protocol: u8) -> bool {
    let age = now.saturating_sub(v.last_seen);
    match v.state {
        flow_state::NEW | flow_state::REPLIED => age > HALF_OPEN_NS,
        flow_state::CLOSED => age > CLOSED_NS,
        flow_state::FIN_CLIENT | flow_state::FIN_BACKEND => age > HALF_CLOSED_NS,
        _ if protocol == proto::UDP => age > UDP_IDLE_NS,
        _ => age > TCP_IDLE_NS,
    }
}

/// Where a flow's record is, or where it may be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<R> {
    /// The flow's own port, or one that is free, network order; zero = neither.
    pub port: [u8; 2],
    /// The flow's own record, which has `port`.
    pub own: Option<(R, Table)>,
}

/// The SNAT port of try `attempt`, network order.
#[inline(always)]
const fn port(target: &Target, client_port: u16, offset: u32, attempt: u32) -> [u8; 2] {
    if target.flags & backend_flags::NODE_SOURCE == 0 {
        hash::snat_port(client_port, offset, attempt).to_be_bytes()
    } else {
        hash::node_port(client_port, offset, attempt).to_be_bytes()
    }
}

/// Looks for the record of `h`'s flow to `target`, which sees it come from `source`; `eager` takes the first free port (a SYN has no record as a rule). `key` is left with
/// some port.
///
/// A record that is there rules even if its port has become a frontend's since: only new flows keep off such a port.
///
/// # Complexity
/// At most `SNAT_PROBES` ports; the first one as a rule.
#[inline(always)]
pub fn search<M: Maps>(
    m: &M,
    h: &Parsed,
    target: &Target,
    source: &[u8; 16],
    key: &mut SnatKey,
    now: u64,
    eager: bool,
) -> Found<M::Record> {
    let client_port = u16::from_be_bytes(h.ports.src);
    let offset = hash::snat_offset(&h.src, &h.dst, u16::from_be_bytes(h.ports.dst), h.proto);
    *key = request_key(h, target, source, [0; 2]);
    // Two loops that carry nothing from one round to the next: the verifier follows each round once, not once for each history.
    if !eager {
        for attempt in 0..SNAT_PROBES {
            key.snat_port = port(target, client_port, offset, attempt);
            if let Some(own) = find(m, key)
                && is_own(&m.load(own.0), h)
            {
                return Found {
                    port: key.snat_port,
                    own: Some(own),
                };
            }
        }
    }
    for attempt in 0..SNAT_PROBES {
        key.snat_port = port(target, client_port, offset, attempt);
        if let Some(found) = find(m, key) {
            let v = m.load(found.0);
            if is_own(&v, h) {
                return Found {
                    port: key.snat_port,
                    own: Some(found),
                };
            }
            if !expired(&v, now, h.proto) {
                continue;
            }
        }
        if select::find(m, h.v6, source, key.snat_port, h.proto).is_none() {
            return Found {
                port: key.snat_port,
                own: None,
            };
        }
    }
    Found {
        port: [0; 2],
        own: None,
    }
}

/// State after a packet of the client.
#[inline(always)]
pub const fn after_request(state: u16, h: &Parsed) -> u16 {
    if h.proto != proto::TCP {
        return state;
    }
    if h.tcp_flags & tcp_flags::RST != 0 {
        return flow_state::CLOSED;
    }
    let ending = matches!(
        state,
        flow_state::CLOSED | flow_state::FIN_CLIENT | flow_state::FIN_BACKEND
    );
    if h.is_syn() {
        // The client uses its port again.
        return if ending { flow_state::NEW } else { state };
    }
    if h.tcp_flags & tcp_flags::FIN == 0 {
        return state;
    }
    match state {
        flow_state::FIN_BACKEND | flow_state::CLOSED => flow_state::CLOSED,
        _ => flow_state::FIN_CLIENT,
    }
}

/// State after a packet of the backend.
#[inline(always)]
pub const fn after_reply(state: u16, h: &Parsed) -> u16 {
    let replied = if state == flow_state::NEW {
        flow_state::REPLIED
    } else {
        state
    };
    if h.proto != proto::TCP {
        return replied;
    }
    if h.tcp_flags & tcp_flags::RST != 0 {
        return flow_state::CLOSED;
    }
    if h.tcp_flags & tcp_flags::FIN == 0 {
        return replied;
    }
    match state {
        flow_state::FIN_CLIENT | flow_state::CLOSED => flow_state::CLOSED,
        _ => flow_state::FIN_BACKEND,
    }
}
