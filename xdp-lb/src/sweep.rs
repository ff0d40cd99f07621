//! What flow entries and records say, from time to time; what has ended is removed on the way.
//!
//! [`scan`] reads the tables and needs no state, so that it can run on another thread; [`crate::state::State::fold`] draws the conclusions.

use std::collections::BTreeSet;

use fairlead_abi::flow::{
    CLOSED_NS, FlowKey, FlowValue, HALF_CLOSED_NS, HALF_OPEN_NS, SnatKey, SnatValue, TCP_IDLE_NS,
    flow_state,
};
use fairlead_datapath::{HashMap, LbMaps, MapError};
use fairlead_logic::{Table, hash, record};
use fairlead_model::{Frontend, Protocol};

/// What the state wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Frontend records without a frontend: their entries are removed.
    pub draining: BTreeSet<u32>,
    /// Frontends whose port a live SNAT record may use.
    pub asking: BTreeSet<Frontend>,
}

/// A live flow: whose it is, where its hash lies, which backend it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// Record in `FRONTENDS`.
    pub frontend: u32,
    /// `logic::hash::flow_hash4` or `flow_hash6`.
    pub hash: u32,
    /// Index in the frontend's window.
    pub backend: u16,
}

/// An entry as it was read: a packet since then has changed the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read<K> {
    /// Its key.
    pub key: K,
    /// CLOCK_BOOTTIME ns of the flow's latest packet.
    pub last_seen: u64,
}

/// Sizes of the tables and what was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live entries of `FLOWS`.
    pub flows: usize,
    /// Live entries of `FLOWS_NEW`.
    pub flows_new: usize,
    /// Live records of `SNAT`.
    pub snat: usize,
    /// Live records of `SNAT_NEW`.
    pub snat_new: usize,
    /// Removed because they ended.
    pub expired: usize,
    /// Removed because their frontend is gone.
    pub orphaned: usize,
}

/// One reading of the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// CLOCK_BOOTTIME ns.
    pub started: u64,
    /// Live entries of the flow tables, with their keys and when their flow was last seen.
    pub flows: Vec<(Table, Read<FlowKey>, Fact)>,
    /// Live SNAT records.
    pub records: Vec<Fact>,
    /// Of those asked for: frontends whose port a live record uses.
    pub used_ports: BTreeSet<Frontend>,
    /// For metrics and views.
    pub counts: Counts,
}

/// Reads all four tables and removes what has ended.
///
/// # Complexity
/// One system call for a thousand entries, and one or two for each that is removed. Blocks: run it off the async threads.
///
/// # Errors
/// [`MapError`] of the first table that cannot be read.
pub fn scan(maps: &LbMaps, question: &Question, now: u64) -> Result<Scan, MapError> {
    let mut scan = Scan {
        started: now,
        ..Scan::default()
    };
    for (which, table) in [
        (Table::Established, &maps.flows),
        (Table::New, &maps.flows_new),
    ] {
        let n = scan.flow_table(which, table, question, now)?;
        match which {
            Table::Established => scan.counts.flows = n,
            Table::New => scan.counts.flows_new = n,
        }
    }
    scan.counts.snat = scan.snat_table(&maps.snat, question, now)?;
    scan.counts.snat_new = scan.snat_table(&maps.snat_new, question, now)?;
    Ok(scan)
}

// === impl Scan ===

impl Scan {
    fn flow_table(
        &mut self,
        which: Table,
        table: &HashMap<FlowKey, FlowValue>,
        question: &Question,
        now: u64,
    ) -> Result<usize, MapError> {
        let (mut ended, mut orphans, mut n_live) = (Vec::new(), Vec::new(), 0);
        table.for_each(|key, value| {
            if question.draining.contains(&value.frontend) {
                orphans.push(Read { key, last_seen: 0 });
            } else if flow_ended(&value, now) {
                ended.push(Read {
                    key,
                    last_seen: value.last_seen,
                });
            } else {
                n_live += 1;
                let fact = Fact {
                    frontend: value.frontend,
                    hash: flow_hash(&key.client, key.client_port, key.vip_port, key.proto),
                    backend: value.backend,
                };
                let last_seen = value.last_seen;
                self.flows.push((which, Read { key, last_seen }, fact));
            }
        })?;
        self.counts.expired += ended.len();
        self.counts.orphaned += orphans.len();
        remove_unless_touched(table, &ended, |v| v.last_seen)?;
        remove_unless_touched(table, &orphans, |_| 0)?;
        Ok(n_live)
    }

    fn snat_table(
        &mut self,
        table: &HashMap<SnatKey, SnatValue>,
        question: &Question,
        now: u64,
    ) -> Result<usize, MapError> {
        let (mut ended, mut orphans, mut n_live) = (Vec::new(), Vec::new(), 0);
        table.for_each(|key, value| {
            if question.draining.contains(&value.frontend) {
                orphans.push(Read { key, last_seen: 0 });
            } else if record::expired(&value, now, key.proto) {
                ended.push(Read {
                    key,
                    last_seen: value.last_seen,
                });
            } else {
                n_live += 1;
                self.records.push(Fact {
                    frontend: value.frontend,
                    hash: flow_hash(&value.client, value.client_port, value.vip_port, key.proto),
                    backend: value.backend,
                });
                if !question.asking.is_empty()
                    && let Some(frontend) = reply_destination(&key)
                    && question.asking.contains(&frontend)
                {
                    self.used_ports.insert(frontend);
                }
            }
        })?;
        self.counts.expired += ended.len();
        self.counts.orphaned += orphans.len();
        remove_unless_touched(table, &ended, |v| v.last_seen)?;
        remove_unless_touched(table, &orphans, |_| 0)?;
        Ok(n_live)
    }
}

/// Removes entries, unless a packet has changed them since they were read.
pub(crate) fn remove_unless_touched<K, V>(
    table: &HashMap<K, V>,
    entries: &[Read<K>],
    last_seen: impl Fn(&V) -> u64,
) -> Result<(), MapError>
where
    K: fairlead_datapath::Plain,
    V: fairlead_datapath::Plain,
{
    for Read {
        key,
        last_seen: read,
    } in entries
    {
        if let Some(now) = table.get(key)?
            && last_seen(&now) == *read
        {
            table.remove(key)?;
        }
    }
    Ok(())
}

/// Whether a flow entry has ended; entries of either table, because one that found no room among the established stays with the half-open.
pub const fn flow_ended(value: &FlowValue, now: u64) -> bool {
    let age = now.saturating_sub(value.last_seen);
    match value.state {
        flow_state::NEW => age > HALF_OPEN_NS,
        flow_state::CLOSED => age > CLOSED_NS,
        flow_state::FIN_CLIENT | flow_state::FIN_BACKEND => age > HALF_CLOSED_NS,
        _ => age > TCP_IDLE_NS,
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The hash that chose the slot. Addresses in the 16-byte form, ports in network order.
fn flow_hash(client: &[u8; 16], client_port: [u8; 2], vip_port: [u8; 2], proto: u8) -> u32 {
    let (client_port, vip_port) = (
        u16::from_be_bytes(client_port),
        u16::from_be_bytes(vip_port),
    );
    match std::net::Ipv6Addr::from(*client).to_ipv4_mapped() {
        Some(ip) => hash::flow_hash4(u32::from(ip), client_port, vip_port, proto),
        None => hash::flow_hash6(client, client_port, vip_port, proto),
    }
}

/// The frontend that a reply with this key would seem to be for.
fn reply_destination(key: &SnatKey) -> Option<Frontend> {
    let protocol = match key.proto {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let vip = std::net::Ipv6Addr::from(key.vip);
    Some(Frontend {
        vip: vip.to_ipv4_mapped().map_or_else(|| vip.into(), Into::into),
        protocol,
        port: u16::from_be_bytes(key.snat_port),
    })
}

#[cfg(test)]
mod tests;
