//! The load balancer and the announcer as views see them: their reports, and the maps for what only those know.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fairlead_abi::{
    lb::{N_IFACES, backend_flags, mode},
    reasons,
};
use fairlead_announcer::{
    History, MoveRequest,
    status::{L2Status, VipStatus},
};
use fairlead_api::watch::Problems;
use fairlead_datapath::{L2Maps, LbMaps};
use fairlead_model::{
    Backend, BackendState, ForwardingMode, Frontend, Generation, MacAddr, NodeName, Service,
};
use fairlead_observe::{
    BackendView, FrontendView, InterfaceView, L2Row, PeerView, ReasonView, Timestamp,
};
use fairlead_rt::clock;
use fairlead_xdp_lb::{engine::Programmed, problem::Problem};
use tokio::sync::{mpsc, oneshot, watch};

/// How long a move may take: offers are made for half a second each.
const MOVE: Duration = Duration::from_secs(2);

/// The load balancer.
pub struct LbPart {
    /// Its maps.
    pub maps: LbMaps,
    /// What is in them.
    pub programmed: watch::Receiver<Arc<Programmed>>,
    /// What of the API cannot be read.
    pub unreadable: watch::Receiver<Problems>,
}

impl LbPart {
    /// The newest generation that is in the kernel; `None` before the first.
    pub fn programmed(&self) -> Option<Generation> {
        let generation = self.programmed.borrow().generation;
        (generation != Generation::default()).then_some(generation)
    }

    /// What it found, in order.
    pub fn problems(&self) -> Vec<Problem> {
        self.programmed.borrow().problems.clone()
    }

    /// What of the API cannot be read.
    pub fn unreadable(&self) -> Problems {
        Arc::clone(&self.unreadable.borrow())
    }

    /// The datapath's reason counters that are not zero.
    pub fn reasons(&self) -> Vec<ReasonView> {
        let counted = reasons::ALL.iter().skip(1).filter_map(|reason| {
            let packets = self.maps.reasons.sum(reason.number).ok()?.packets;
            (packets > 0).then(|| ReasonView {
                reason: reason.label.to_owned(),
                packets,
                meaning: reason.sentence.to_owned(),
            })
        });
        counted.collect()
    }

    /// The frontends of a Service, with next hops and counters read from the maps.
    pub fn frontends(&self, service: &Service, interfaces: &[InterfaceView]) -> Vec<FrontendView> {
        let programmed = Arc::clone(&self.programmed.borrow());
        let views = service.frontends().map(|(frontend, backends)| {
            self.frontend(service, frontend, &backends, &programmed, interfaces)
        });
        views.collect()
    }

    fn frontend(
        &self,
        service: &Service,
        frontend: Frontend,
        backends: &[&Backend],
        programmed: &Programmed,
        interfaces: &[InterfaceView],
    ) -> FrontendView {
        let info = programmed.frontends.get(&frontend);
        let counter = info.and_then(|info| self.maps.fe_stats.sum(info.record).ok());
        let counter = counter.unwrap_or_default();
        let records = info.map(|info| self.records(info.record, frontend.vip.is_ipv4()));
        let records = records.unwrap_or_default();
        let mode = info.map(|info| mode_name(info.mode));
        let backend_view = |backend: &&Backend| {
            let identity = SocketAddr::new(backend.addr, backend.port);
            let record = records.get(&identity);
            let problem = programmed.problems.iter().find(|p| {
                p.backend == Some(identity) && p.frontend.is_none_or(|of| of == frontend)
            });
            BackendView {
                addr: backend.addr,
                port: backend.port,
                state: state_name(backend.state).to_owned(),
                node: backend.node.as_ref().map(ToString::to_string),
                mode: mode.map(str::to_owned),
                next_hop: record.and_then(|r| r.mac).map(|mac| mac.to_string()),
                interface: record.map(|r| interface_name(r.ifindex, interfaces)),
                problem: problem.map(|p| p.message.clone()),
            }
        };
        FrontendView {
            frontend: frontend.to_string(),
            vip: frontend.vip,
            protocol: frontend.protocol.to_string(),
            port: frontend.port,
            mode: mode
                .unwrap_or_else(|| wanted_name(service.forwarding))
                .to_owned(),
            is_programmed: info.is_some() && !programmed.held.contains(&frontend),
            table_size: info.map(|info| info.table_size),
            packets: counter.packets,
            bytes: counter.bytes,
            backends: backends.iter().map(backend_view).collect(),
        }
    }

    /// The living backend records of a frontend.
    fn records(&self, frontend: u32, is_v4: bool) -> BTreeMap<SocketAddr, Record> {
        let value = self.maps.frontends.read(frontend);
        let window = value.backend_base..value.backend_base.saturating_add(value.n_backends);
        let mut records = BTreeMap::new();
        for index in window {
            let (ip, port, mac, slot, flags) = if is_v4 {
                let record = self.maps.backends4.read(index);
                (
                    IpAddr::from(record.addr),
                    record.port,
                    record.mac,
                    record.iface,
                    record.flags,
                )
            } else {
                let record = self.maps.backends6.read(index);
                (
                    IpAddr::from(record.addr),
                    record.port,
                    record.mac,
                    record.iface,
                    record.flags,
                )
            };
            if flags & backend_flags::ALIVE == 0 {
                continue;
            }
            let identity = SocketAddr::new(ip, u16::from_be_bytes(port));
            let record = Record {
                mac: (mac != [0; 6]).then_some(MacAddr(mac)),
                ifindex: self
                    .maps
                    .ifaces
                    .read(u32::from(slot) & (N_IFACES - 1))
                    .ifindex,
            };
            records.insert(identity, record);
        }
        records
    }
}

struct Record {
    mac: Option<MacAddr>,
    ifindex: u32,
}

fn mode_name(number: u64) -> &'static str {
    match number {
        mode::DSR_L2 => "dsr-l2",
        mode::DSR_IPIP => "dsr-ipip",
        _ => "snat",
    }
}

const fn wanted_name(mode: ForwardingMode) -> &'static str {
    match mode {
        ForwardingMode::Auto => "auto",
        ForwardingMode::Snat => "snat",
        ForwardingMode::DsrL2 => "dsr-l2",
        ForwardingMode::DsrIpip => "dsr-ipip",
    }
}

const fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "Active",
        BackendState::Terminating => "Terminating",
        BackendState::NotReady => "NotReady",
    }
}

fn interface_name(ifindex: u32, interfaces: &[InterfaceView]) -> String {
    let known = interfaces
        .iter()
        .find(|interface| interface.ifindex == ifindex);
    known.map_or_else(
        || format!("index {ifindex}"),
        |interface| interface.name.clone(),
    )
}

/// The announcer.
pub struct L2Part {
    /// Its maps.
    pub maps: L2Maps,
    /// Its report.
    pub status: watch::Receiver<Arc<L2Status>>,
    /// Changes of owners.
    pub history: watch::Receiver<History>,
    /// How it is asked to move an address; `None` before it runs.
    pub moves: watch::Receiver<Option<mpsc::Sender<MoveRequest>>>,
}

impl L2Part {
    /// One row per VIP and interface, in order.
    pub fn rows(&self) -> Vec<L2Row> {
        let status = Arc::clone(&self.status.borrow());
        let rows = status.vips.iter().flat_map(|((vip, interface), row)| {
            let services = row.services.iter().map(ToString::to_string);
            services.map(move |service| l2_row(*vip, interface, service, row))
        });
        rows.collect()
    }

    /// Has the announcer hand an address to another node, and waits until that owns it.
    ///
    /// # Errors
    /// The closed word and the sentence for people.
    ///
    /// # Cancel safety
    /// The address may have moved.
    pub async fn move_to(&self, vip: IpAddr, to: NodeName) -> Result<(), (&'static str, String)> {
        let elsewhere = || {
            let status = Arc::clone(&self.status.borrow());
            let mut rows = status.vips.iter().filter(|((of, _), _)| *of == vip);
            rows.find_map(|(_, row)| row.owner.clone().filter(|_| !row.is_self))
        };
        let (answer, answered) = oneshot::channel();
        let moves = self.moves.borrow().clone();
        let request = MoveRequest {
            vip,
            to: to.clone(),
            answer,
        };
        let sent = match moves {
            Some(moves) => moves.try_send(request).is_ok(),
            None => false,
        };
        let starting = || {
            (
                "Starting",
                "the announcer is starting: try again".to_owned(),
            )
        };
        if !sent {
            return Err(starting());
        }
        let outcome = tokio::time::timeout(MOVE, answered).await;
        if let Err(error) = outcome.ok().and_then(Result::ok).ok_or_else(starting)? {
            let owner = elsewhere().map(|owner| format!("; {owner} owns it"));
            let why = format!("{vip}: {error}{}", owner.unwrap_or_default());
            return Err((error.reason(), why));
        }
        let mut status = self.status.clone();
        let is_there = |status: &Arc<L2Status>| {
            let mut rows = status.vips.iter().filter(|((of, _), _)| *of == vip);
            rows.any(|(_, row)| row.owner.as_deref() == Some(to.as_str()))
        };
        let took = tokio::time::timeout(MOVE, status.wait_for(is_there)).await;
        match took {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err((
                "NotTaken",
                format!(
                    "{vip}: {to} did not take it within {} s: it may not serve it, or see `fairlead l2 list` there",
                    MOVE.as_secs()
                ),
            )),
        }
    }

    /// Peers, by interface and name.
    pub fn peers(&self) -> Vec<PeerView> {
        let now = clock::wall();
        let status = Arc::clone(&self.status.borrow());
        let mut peers: Vec<PeerView> = status
            .peers
            .iter()
            .map(|((interface, _mac), peer)| {
                let silence = now.duration_since(peer.last_heard).unwrap_or_default();
                PeerView {
                    node: peer.node.clone(),
                    interface: interface.clone(),
                    state: match (peer.is_alive, peer.is_leaving, peer.is_settled) {
                        (false, ..) => "Silent",
                        (true, true, _) => "Leaving",
                        (true, false, false) => "Settling",
                        (true, false, true) => "Alive",
                    }
                    .to_owned(),
                    last_heard_ms: u64::try_from(silence.as_millis()).ok(),
                }
            })
            .collect();
        peers.sort_by(|a, b| (&a.interface, &a.node).cmp(&(&b.interface, &b.node)));
        peers
    }

    /// VIPs with a responder entry whose deadline lies ahead.
    pub fn answering(&self) -> Vec<IpAddr> {
        let now = clock::boottime_ns();
        let Ok(entries) = self.maps.entries.entries() else {
            return Vec::new();
        };
        let live = entries.into_iter().filter(|(_, entry)| {
            let cell = self.maps.cells.read(u32::from(entry.cell));
            cell.epoch == entry.cell_epoch && now <= cell.deadline
        });
        live.map(|(key, _)| IpAddr::from(key.addr).to_canonical())
            .collect()
    }
}

fn l2_row(vip: IpAddr, interface: &str, service: String, row: &VipStatus) -> L2Row {
    L2Row {
        vip,
        service,
        owner: row.owner.clone(),
        is_self: row.is_self,
        interface: Some(interface.to_owned()),
        since: Some(Timestamp::from_system(row.since)),
        epoch: row.epoch,
        state: row.state.to_owned(),
        why: row.why.clone(),
        conflict: row.conflict.map(|mac| mac.to_string()),
    }
}
