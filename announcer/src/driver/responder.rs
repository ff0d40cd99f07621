//! The announcer's maps: responder entries, deadline cells, peers. Reading back what a former process left.

use std::net::IpAddr;

use fairlead_abi::l2::{DeadlineCell, L2Entry, L2Key, N_PEER_SLOTS, PeerKey};
use fairlead_datapath::maps::{Insert, L2Maps, MapError};
use fairlead_model::MacAddr;

use crate::{BootTime, ownership::Found};

/// One interface's part of the maps.
#[derive(Debug, Clone)]
pub(super) struct Responder {
    maps: L2Maps,
    ifindex: u32,
    cell: u16,
    pub mac: MacAddr,
}

/// An address as the maps hold it.
fn bytes(vip: IpAddr) -> [u8; 16] {
    match vip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address that the maps hold.
fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

impl Responder {
    pub(super) const fn new(maps: L2Maps, ifindex: u32, cell: u16, mac: MacAddr) -> Self {
        Self {
            maps,
            ifindex,
            cell,
            mac,
        }
    }

    fn key(&self, vip: IpAddr) -> L2Key {
        L2Key {
            addr: bytes(vip),
            ifindex: self.ifindex,
        }
    }

    /// Writes or rewrites an entry; the count of answers stays.
    pub(super) fn program(
        &self,
        vip: IpAddr,
        epoch: u64,
        cell_epoch: u64,
        candidates: u64,
    ) -> Result<(), MapError> {
        let key = self.key(vip);
        let responses = self.maps.entries.get(&key)?.map_or(0, |e| e.responses);
        let entry = L2Entry {
            cell_epoch,
            candidates,
            responses,
            mac: self.mac.0,
            cell: self.cell,
            epoch,
        };
        self.maps.entries.insert(&key, &entry, Insert::Any)
    }

    pub(super) fn unprogram(&self, vip: IpAddr) -> Result<(), MapError> {
        let key = self.key(vip);
        self.maps.entries.remove(&key).map(drop)
    }

    /// Epoch first: entries of a former epoch are silent before the deadline moves.
    pub(super) fn renew(&self, deadline: BootTime, cell_epoch: u64) {
        let cell = u32::from(self.cell);
        let at = std::mem::offset_of!(DeadlineCell, epoch);
        self.maps.cells.store_u64(cell, at, cell_epoch);
        let at = std::mem::offset_of!(DeadlineCell, deadline);
        self.maps.cells.store_u64(cell, at, deadline.nanos());
    }

    pub(super) fn peer(&self, slot: u8, mac: MacAddr) -> Result<(), MapError> {
        let key = PeerKey {
            mac: mac.0,
            cell: self.cell,
        };
        self.maps.peers.insert(&key, &u32::from(slot), Insert::Any)
    }

    pub(super) fn no_peer(&self, mac: MacAddr) -> Result<(), MapError> {
        let key = PeerKey {
            mac: mac.0,
            cell: self.cell,
        };
        self.maps.peers.remove(&key).map(drop)
    }

    /// What still answers on this interface, by the programs' own rule; entries that do not are deleted. Peers are assigned anew.
    pub(super) fn find(&self, now: BootTime) -> Result<Found, MapError> {
        let cell = self.maps.cells.read(u32::from(self.cell));
        let mut found = Found {
            deadline: BootTime::from_nanos(cell.deadline),
            cell_epoch: cell.epoch,
            answering: Vec::new(),
        };
        for (key, entry) in self.maps.entries.entries()? {
            if key.ifindex != self.ifindex {
                continue;
            }
            if entry.cell == self.cell && self.may_answer(&entry, &cell, now) {
                found.answering.push((address(key.addr), entry.epoch));
            } else {
                self.maps.entries.remove(&key)?;
            }
        }
        for (key, _) in self.maps.peers.entries()? {
            if key.cell == self.cell {
                self.maps.peers.remove(&key)?;
            }
        }
        Ok(found)
    }

    /// The rule of `logic::l2::may_answer`.
    fn may_answer(&self, entry: &L2Entry, cell: &DeadlineCell, now: BootTime) -> bool {
        if entry.cell_epoch != cell.epoch {
            return false;
        }
        let first = u32::from(self.cell) * N_PEER_SLOTS;
        let is_heard = |slot: u32| {
            let is_candidate = entry.candidates >> slot & 1 != 0;
            is_candidate && self.maps.peer_seen.read(first + slot).at > cell.deadline
        };
        now.nanos() <= cell.deadline || !(0..N_PEER_SLOTS).any(is_heard)
    }
}

/// Deletes the entries of interfaces on which nothing is announced any more; returns how many.
pub(super) fn sweep(maps: &L2Maps, announcing: &[u32]) -> Result<usize, MapError> {
    let mut n_deleted = 0;
    for (key, _) in maps.entries.entries()? {
        if !announcing.contains(&key.ifindex) {
            maps.entries.remove(&key)?;
            n_deleted += 1;
        }
    }
    Ok(n_deleted)
}

#[cfg(test)]
mod tests {
    use fairlead_abi::l2::{N_PEER_SLOTS, PeerSeen};
    use fairlead_datapath::maps::L2Maps;
    use fairlead_model::MacAddr;

    use super::{Responder, sweep};
    use crate::BootTime;

    fn responder() -> (L2Maps, Responder) {
        let maps = L2Maps::in_memory();
        let responder = Responder::new(maps.clone(), 7, 3, MacAddr([2, 0, 0, 0, 0, 1]));
        (maps, responder)
    }

    #[test]
    fn a_restart_finds_what_still_answers_and_its_epoch() {
        let (maps, responder) = responder();
        let (now, later) = (BootTime::from_nanos(1_000), BootTime::from_nanos(2_000));
        let vip = "192.0.2.1".parse().unwrap();
        responder.renew(now, 4);
        responder.program(vip, 9, 4, 1).unwrap();
        responder
            .program("2001:db8::1".parse().unwrap(), 2, 3, 0)
            .unwrap();
        let found = responder.find(later).unwrap();
        assert_eq!(found.answering, [(vip, 9)]);
        assert_eq!((found.deadline, found.cell_epoch), (now, 4));
        assert_eq!(maps.entries.len().unwrap(), 1, "silent entries are gone");
    }

    #[test]
    fn an_entry_whose_candidate_was_heard_since_the_deadline_is_not_found() {
        let (maps, responder) = responder();
        let vip = "192.0.2.1".parse().unwrap();
        responder.renew(BootTime::from_nanos(1_000), 1);
        responder.program(vip, 1, 1, 1 << 5).unwrap();
        let at = 3 * N_PEER_SLOTS + 5;
        maps.peer_seen.write(at, &PeerSeen { at: 1_500 });
        let found = responder.find(BootTime::from_nanos(2_000)).unwrap();
        assert!(found.answering.is_empty());
    }

    #[test]
    fn rewriting_an_entry_keeps_its_count_of_answers() {
        let (maps, responder) = responder();
        let vip = "192.0.2.1".parse().unwrap();
        responder.program(vip, 1, 1, 0).unwrap();
        let (key, mut entry) = maps.entries.entries().unwrap()[0];
        entry.responses = 42;
        let any = fairlead_datapath::maps::Insert::Any;
        maps.entries.insert(&key, &entry, any).unwrap();
        responder.program(vip, 2, 1, 3).unwrap();
        let (_, entry) = maps.entries.entries().unwrap()[0];
        assert_eq!((entry.responses, entry.epoch), (42, 2));
    }

    #[test]
    fn entries_of_other_interfaces_are_swept() {
        let (maps, responder) = responder();
        responder
            .program("192.0.2.1".parse().unwrap(), 1, 1, 0)
            .unwrap();
        assert_eq!(sweep(&maps, &[7]).unwrap(), 0);
        assert_eq!(sweep(&maps, &[8]).unwrap(), 1);
    }
}
