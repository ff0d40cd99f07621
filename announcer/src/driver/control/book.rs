//! What the heartbeat thread reported, kept until a newer row replaces it or its table is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use fairlead_model::{MacAddr, Vip};
use fairlead_observe::{l2::L2Event, timestamp::Timestamp};
use fairlead_rt::clock;
use tracing::{info, warn};

use crate::{
    BootTime,
    driver::thread::Report,
    ownership::{GroupReport, PeerReport, State, Table, VipReport},
    policy::Plan,
    status::{HISTORY, History, L2Status, Names, PeerStatus, VipStatus, sentence},
};

/// A peer's row outlives its last heartbeat by so much.
const REMEMBER_PEERS: Duration = Duration::from_mins(10);

/// Everything reported, by deadline cell.
#[derive(Debug, Default)]
pub(super) struct Book {
    groups: BTreeMap<(u16, Vip), (GroupReport, SystemTime)>,
    vips: BTreeMap<(u16, Vip), VipReport>,
    peers: BTreeMap<(u16, MacAddr), (PeerReport, SystemTime)>,
    twins: BTreeMap<u16, MacAddr>,
    /// Changes of owner or state, not yet shown.
    changes: Vec<(u16, Vip, GroupReport, SystemTime)>,
    /// Conflicts that began, not yet counted.
    n_conflicts: u64,
    /// Group key of each address in the table that the thread has installed.
    installed: BTreeMap<u16, BTreeMap<Vip, Vip>>,
    /// The same of tables on their way, with their numbers.
    pending: Vec<(u16, u64, BTreeMap<Vip, Vip>)>,
}

impl Book {
    /// `names` are for the log.
    pub(super) fn take(&mut self, report: Report, names: &Names) {
        match report {
            Report::Group { cell, key, report } => {
                let since = wall(report.since);
                log(key, &report, names);
                let before = self.groups.insert((cell, key), (report, since));
                let what = |report: &GroupReport| (report.state, report.owner);
                let is_change = before.is_none_or(|(before, _)| what(&before) != what(&report));
                // Asking the wire is no change of anything yet.
                if is_change && report.state != State::Probing {
                    let vips = self.vips_of(cell, key);
                    let rows = vips.into_iter().map(|vip| (cell, vip, report, since));
                    self.changes.extend(rows);
                }
            }
            Report::Vip { cell, vip, report } => {
                if self.is_known(cell, vip) {
                    let before = self.vips.insert((cell, vip), report);
                    let before = before.and_then(|before| before.conflict);
                    if before.is_none() && report.conflict.is_some() {
                        self.n_conflicts += 1;
                    }
                    log_conflict(vip, before, &report);
                }
            }
            Report::Peer { cell, report } => {
                let heard = wall(report.last_heard);
                self.peers.insert((cell, report.mac), (report, heard));
            }
            Report::Twin { cell, mac } => {
                if self.twins.insert(cell, mac) != Some(mac) {
                    warn!(%mac, "another machine heartbeats under this node's name: give it another");
                }
            }
            Report::Retired(memory) => drop(memory),
        }
    }

    /// A row about an address of a former table may arrive late. Before the first table, all are adopted ones.
    fn is_known(&self, cell: u16, vip: Vip) -> bool {
        let is_pending = self
            .pending
            .iter()
            .any(|(of, _, table)| *of == cell && table.contains_key(&vip));
        is_pending
            || self
                .installed
                .get(&cell)
                .is_none_or(|table| table.contains_key(&vip))
    }

    /// A table is on its way to the thread.
    pub(super) fn expect(&mut self, cell: u16, number: u64, table: &Table) {
        let keys = table
            .groups()
            .flat_map(|(key, vips)| vips.into_iter().map(move |vip| (vip, key)))
            .collect();
        self.pending.push((cell, number, keys));
    }

    /// Tables that the thread has installed: addresses that they do not have are let go of.
    pub(super) fn settle(&mut self, counts: impl Iterator<Item = (u16, u64)>) {
        for (cell, count) in counts {
            while let Some(at) = self
                .pending
                .iter()
                .position(|(of, number, _)| *of == cell && *number <= count)
            {
                let (_, _, keys) = self.pending.remove(at);
                self.vips
                    .retain(|(of, vip), _| *of != cell || keys.contains_key(vip));
                let live: BTreeSet<Vip> = keys.values().copied().collect();
                self.groups
                    .retain(|(of, key), _| *of != cell || live.contains(key));
                self.installed.insert(cell, keys);
            }
        }
    }

    /// Peers that were silent for [`REMEMBER_PEERS`] are shown no more. One that never counted as heard stays while the thread knows it:
    /// it tells of a path that works one way only.
    pub(super) fn prune(&mut self, now: BootTime) {
        self.peers.retain(|_, (report, _)| {
            report.last_heard == BootTime::ZERO || now.since(report.last_heard) < REMEMBER_PEERS
        });
    }

    /// The interface is gone.
    pub(super) fn forget(&mut self, cell: u16) {
        self.groups.retain(|(of, _), _| *of != cell);
        self.vips.retain(|(of, _), _| *of != cell);
        self.peers.retain(|(of, _), _| *of != cell);
        self.pending.retain(|(of, ..)| *of != cell);
        self.installed.remove(&cell);
        self.twins.remove(&cell);
    }

    /// The addresses of a group, by the table that the thread has or will have.
    fn vips_of(&self, cell: u16, key: Vip) -> Vec<Vip> {
        let pending = self.pending.iter().filter(|(of, ..)| *of == cell);
        let tables = pending.map(|(.., table)| table).rev();
        let mut tables = tables.chain(self.installed.get(&cell));
        let of = |table: &BTreeMap<Vip, Vip>| {
            let vips = table.iter().filter(|(_, of)| **of == key);
            vips.map(|(vip, _)| *vip).collect::<Vec<Vip>>()
        };
        let found = tables.find_map(|table| Some(of(table)).filter(|vips| !vips.is_empty()));
        found.unwrap_or_else(|| vec![key])
    }

    /// Adds what changed since the last call; false if nothing did.
    pub(super) fn tell(
        &mut self,
        history: &mut History,
        interfaces: &[String],
        names: &Names,
    ) -> bool {
        let is_news = !self.changes.is_empty();
        for (cell, vip, report, since) in std::mem::take(&mut self.changes) {
            let interface = interfaces.get(usize::from(cell)).cloned();
            let owner = report.owner.map(|node| names.of(node));
            let since_epoch = since
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            history.push_back(L2Event {
                number: history.back().map_or(1, |last| last.number + 1),
                at: Timestamp::from_system(since),
                millis: u16::try_from(since_epoch.subsec_millis()).unwrap_or(999),
                vip,
                interface: interface.unwrap_or_default(),
                state: report.state.as_str().to_owned(),
                why: sentence(report.state, &report.why, owner.as_deref(), names),
                owner,
                epoch: report.epoch,
            });
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        is_news
    }

    /// Conflicts that began since the last call, and addresses in conflict now.
    pub(super) fn conflicts(&mut self) -> (u64, i64) {
        let now = self.vips.values().filter(|vip| vip.conflict.is_some());
        let now = i64::try_from(now.count()).unwrap_or(i64::MAX);
        (std::mem::take(&mut self.n_conflicts), now)
    }

    pub(super) fn n_owned(&self) -> i64 {
        let owned = self
            .groups
            .values()
            .filter(|(r, _)| matches!(r.state, State::Owner | State::HandingOver));
        i64::try_from(owned.count()).unwrap_or(i64::MAX)
    }

    /// What people and other features see. Interfaces and policies are the caller's.
    pub(super) fn status(
        &self,
        interfaces: &[String],
        plan: &Plan,
        names: &Names,
        ifindex_of: impl Fn(u16) -> Option<u32>,
    ) -> L2Status {
        let mut status = L2Status::default();
        for (cell, name) in (0u16..).zip(interfaces) {
            self.add_vips(cell, name, plan, names, &mut status);
        }
        for ((cell, _), (report, heard)) in &self.peers {
            let Some(name) = interfaces.get(usize::from(*cell)) else {
                continue;
            };
            let peer = PeerStatus {
                node: names.of(report.node),
                last_heard: *heard,
                is_alive: report.is_alive,
                is_settled: report.is_settled,
                is_leaving: report.is_leaving,
            };
            status.peers.insert((name.clone(), report.mac), peer);
        }
        for ((cell, vip), report) in &self.vips {
            if report.is_held {
                status.held.insert(*vip);
            }
            if let (Some(mac), Some(ifindex)) = (report.handoff, ifindex_of(*cell)) {
                status.handoff.insert(*vip, (mac, ifindex));
            }
        }
        status
    }

    /// Rows of every address wanted on an interface, and of adopted ones before anything is wanted.
    fn add_vips(
        &self,
        cell: u16,
        interface: &str,
        plan: &Plan,
        names: &Names,
        status: &mut L2Status,
    ) {
        let wanted = plan.wanted.get(interface);
        let services = |vip: &Vip| {
            let services = wanted.and_then(|wanted| wanted.services.get(vip));
            services.cloned().unwrap_or_default()
        };
        let keys = self.installed.get(&cell);
        let rows: BTreeSet<Vip> = match keys {
            Some(keys) => keys.keys().copied().collect(),
            None => self
                .groups
                .keys()
                .filter(|(of, _)| *of == cell)
                .map(|(_, key)| *key)
                .collect(),
        };
        for vip in rows {
            let key = keys.and_then(|keys| keys.get(&vip)).unwrap_or(&vip);
            let Some((report, since)) = self.groups.get(&(cell, *key)) else {
                continue;
            };
            let owner = report.owner.map(|node| names.of(node));
            let row = VipStatus {
                services: services(&vip),
                is_self: matches!(report.state, State::Owner | State::HandingOver),
                since: *since,
                epoch: report.epoch,
                state: report.state.as_str(),
                why: sentence(report.state, &report.why, owner.as_deref(), names),
                owner,
                conflict: self.vips.get(&(cell, vip)).and_then(|v| v.conflict),
            };
            status.vips.insert((vip, interface.to_owned()), row);
        }
    }
}

/// A change of ownership is news; waiting is not.
fn log(key: Vip, report: &GroupReport, names: &Names) {
    let owner = report.owner.map(|node| names.of(node));
    let why = sentence(report.state, &report.why, owner.as_deref(), names);
    match report.state {
        State::Owner => info!(vip = %key, epoch = report.epoch, reason = %why, "owner"),
        state => tracing::debug!(vip = %key, state = state.as_str(), reason = %why, "ownership"),
    }
}

/// A stranger that shows up is news, whether the address is owned or not.
fn log_conflict(vip: Vip, before: Option<MacAddr>, report: &VipReport) {
    if let Some(mac) = report.conflict
        && before != Some(mac)
    {
        warn!(%vip, %mac, "a stranger answers for an address of ours");
    }
}

/// The wall clock's reading at a point of boot time, to the millisecond.
fn wall(at: BootTime) -> SystemTime {
    let ago = BootTime::from_nanos(clock::boottime_ns()).since(at);
    let wall = clock::wall()
        .checked_sub(ago)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let since_epoch = wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let whole = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    SystemTime::UNIX_EPOCH + Duration::from_millis(whole)
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use fairlead_model::MacAddr;

    use super::{Book, History, REMEMBER_PEERS};
    use crate::{
        BootTime,
        driver::thread::Report,
        ownership::{GroupReport, GroupSpec, PeerReport, State, Table, Why, order::NodeId},
        status::Names,
    };

    #[test]
    fn the_history_names_every_address_of_a_group_and_no_change_twice() {
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut book = Book::default();
        let spec = |vips: &[u8]| GroupSpec {
            vips: vips.iter().map(|n| (ip(*n), true)).collect(),
            eligible: vec![NodeId(1)],
            weights: Vec::new(),
            lease_holder: None,
        };
        book.expect(0, 1, &Table::new(&[spec(&[1, 2]), spec(&[3])]));
        let report = |state, owner, why| GroupReport {
            state,
            owner,
            epoch: 4,
            since: BootTime::ZERO,
            why,
        };
        let owner = Some(NodeId(1));
        for report in [
            report(State::Unowned, None, Why::Listening),
            report(State::Unowned, None, Why::StandingBy(0)),
            report(State::Probing, None, Why::Probing),
            report(State::Owner, owner, Why::First),
        ] {
            let (cell, key) = (0, ip(1));
            book.take(Report::Group { cell, key, report }, &Names::default());
        }
        let mut history = History::new();
        let interfaces = ["lan0".to_owned()];
        assert!(book.tell(&mut history, &interfaces, &Names::default()));
        let rows: Vec<_> = history
            .iter()
            .map(|e| (e.number, e.vip, e.state.as_str()))
            .collect();
        let unowned = State::Unowned.as_str();
        let owned = State::Owner.as_str();
        assert_eq!(
            rows,
            [
                (1, ip(1), unowned),
                (2, ip(2), unowned),
                (3, ip(1), owned),
                (4, ip(2), owned)
            ]
        );
        assert!(history.iter().all(|event| event.interface == "lan0"));
        assert!(!book.tell(&mut history, &interfaces, &Names::default()));
    }

    #[test]
    fn a_peer_silent_for_ten_minutes_is_shown_no_more() {
        let heard = BootTime::from_nanos(1_000_000_000);
        let mut book = Book::default();
        for (n, last_heard) in [(1, heard), (2, BootTime::ZERO)] {
            let report = PeerReport {
                node: NodeId(n),
                mac: MacAddr([2, 0, 0, 0, 0, u8::try_from(n).unwrap()]),
                last_heard,
                is_alive: false,
                is_settled: false,
                is_leaving: false,
            };
            book.take(Report::Peer { cell: 0, report }, &Names::default());
        }
        let shown = |book: &Book| {
            book.peers
                .values()
                .map(|(r, _)| r.node.0)
                .collect::<Vec<_>>()
        };
        book.prune(heard + REMEMBER_PEERS.saturating_sub(Duration::from_millis(1)));
        assert_eq!(shown(&book), [1, 2]);
        book.prune(heard + REMEMBER_PEERS);
        assert_eq!(
            shown(&book),
            [2],
            "one that was never heard is not silent since then"
        );
    }
}
