//! Keeps the reading of the node's network up to date: routes to backends, and neighbours that stay resolved.
//!
//! Packets that XDP sends refresh no neighbour entry, so every next hop is a neighbour that the kernel manages, or that is probed from here.
//! One task: events from the kernel and wishes from the driver come in, a complete [`Network`] goes out by a `watch` channel when it differs
//! from the last one. Nothing queues: a slow reader sees the newest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use fairlead_model::{MacAddr, Vip};
use fairlead_netlink::{
    Address, Event, Events, Link, Neighbour, Netlink, NetlinkError, NextHop, NudState, Upkeep,
};
use fairlead_rt::{CancellationToken, clock};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, warn};

use crate::{
    network::{Hop, HopFailure, Interface, InterfaceConfig, Network},
    ports,
};

/// How long an unanswered question counts as pending; ARP answers within a millisecond on a LAN, and retries after a second.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often neighbours that nobody manages are probed; below the kernel's own reachable time of 15 to 45 s.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// After a failure of the socket or a change that hit a vanished interface, everything is read again this much later.
const RETRY: Duration = Duration::from_secs(1);
/// Routing changes come in bursts: look up once behind them.
const SETTLE: Duration = Duration::from_millis(2);

/// What the driver needs to know about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses of backends.
    pub backends: BTreeSet<IpAddr>,
    /// VIPs, to notice programs of this node that try to reach one.
    pub vips: BTreeSet<Vip>,
}

/// The task.
pub struct Resolver {
    netlink: Netlink,
    configured: Vec<InterfaceConfig>,
    wanted: watch::Receiver<Arc<Wanted>>,
    network: watch::Sender<Arc<Network>>,
}

/// What the kernel said last.
#[derive(Default)]
struct Known {
    links: BTreeMap<u32, Link>,
    addresses: Vec<Address>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// By backend; `None` = no route.
    routes: BTreeMap<IpAddr, Option<NextHop>>,
    /// Next hops that are kept resolved, and since when.
    targets: BTreeMap<(u32, IpAddr), Target>,
    /// Next hops that the kernel does not keep; tried again with each look-up.
    refused: BTreeSet<(u32, IpAddr)>,
    /// Routes may have changed since they were looked up.
    dirty: bool,
    /// See [`Network::has_node_ports`].
    has_node_ports: bool,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    upkeep: Upkeep,
    since: Instant,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver and what it finds.
    pub fn new(
        configured: Vec<InterfaceConfig>,
        wanted: watch::Receiver<Arc<Wanted>>,
    ) -> (Self, watch::Receiver<Arc<Network>>) {
        let (network, found) = watch::channel(Arc::default());
        let resolver = Self {
            netlink: Netlink::new(),
            configured,
            wanted,
            network,
        };
        (resolver, found)
    }

    /// Runs until `stop` fires. Neighbours stay managed when it ends: forwarding goes on without us.
    ///
    /// # Errors
    /// [`NetlinkError::MissingPermission`]; whatever else goes wrong is tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), NetlinkError> {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.follow() => ended,
            };
            match ended {
                Ok(()) => {}
                Err(error @ NetlinkError::MissingPermission { .. }) => return Err(error),
                Err(error) => {
                    warn!(reason = error.reason(), error = %error, "reading the network again");
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// Reads everything, then follows the events. `Ok` when everything has to be read again.
    async fn follow(&mut self) -> Result<(), NetlinkError> {
        let mut events = Events::open()?;
        let mut known = self.read().await?;
        known.dirty = true;
        let mut probe_at = now() + PROBE_EVERY;
        loop {
            if known.dirty {
                self.look_up(&mut known).await?;
            }
            self.publish(&known);
            let wake_at = known.next_verdict().map_or(probe_at, |at| at.min(probe_at));
            tokio::select! {
                event = events.next() => {
                    if !known.note(event?) {
                        return Ok(());
                    }
                    // A burst is one change: take what has come by now.
                    let burst = now() + SETTLE;
                    while let Ok(event) = tokio::time::timeout_at(burst, events.next()).await {
                        if !known.note(event?) {
                            return Ok(());
                        }
                    }
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        // The driver is gone, and the supervisor about to stop us too.
                        std::future::pending::<()>().await;
                    }
                    known.dirty = true;
                }
                () = tokio::time::sleep_until(wake_at) => {
                    if now() >= probe_at {
                        probe_at = now() + PROBE_EVERY;
                        self.probe(&known).await?;
                        known.has_node_ports = ports::are_free();
                        known.dirty |= !known.refused.is_empty();
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<Known, NetlinkError> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let neighbours = self.netlink.neighbours().await?;
        Ok(Known {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses,
            neighbours: neighbours
                .into_iter()
                .map(|n| ((n.ifindex, n.ip), n))
                .collect(),
            ..Known::default()
        })
    }

    /// Looks up the route to every backend and sees to the neighbours that they need.
    async fn look_up(&mut self, known: &mut Known) -> Result<(), NetlinkError> {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        known.dirty = false;
        known.has_node_ports = ports::are_free();
        known.routes.clear();
        let mut needed = BTreeSet::new();
        for ip in &wanted.backends {
            let hop = match self.netlink.route_to(*ip).await {
                Ok(hop) => Some(hop),
                Err(NetlinkError::NoRoute { .. }) => None,
                Err(error) if concerns_all(&error) => return Err(error),
                Err(error) => {
                    debug!(to = %ip, error = %error, "a route that cannot be looked up counts as none");
                    None
                }
            };
            if let Some(hop) = hop
                && !hop.is_local
            {
                needed.insert((hop.ifindex, hop.gateway.unwrap_or(*ip)));
            }
            known.routes.insert(*ip, hop);
        }
        let surplus: Vec<(u32, IpAddr)> = known
            .targets
            .keys()
            .filter(|t| !needed.contains(t))
            .copied()
            .collect();
        for (ifindex, ip) in surplus {
            known.targets.remove(&(ifindex, ip));
            // It may be gone with its interface; then there is nothing to give back.
            if let Err(error) = self.netlink.release_neighbour(ifindex, ip).await {
                debug!(ifindex, error = %error, "a neighbour that nobody needs stays managed");
            }
        }
        known.refused.retain(|target| needed.contains(target));
        for target in needed {
            if known.targets.contains_key(&target) {
                continue;
            }
            match self.keep(target, known).await {
                Ok(()) => {
                    known.refused.remove(&target);
                }
                Err(error) if concerns_all(&error) => return Err(error),
                Err(error) => {
                    if known.refused.insert(target) {
                        let (ifindex, ip) = target;
                        warn!(ifindex, %ip, reason = error.reason(), error = %error, "the kernel does not keep a neighbour resolved; trying again");
                    }
                }
            }
        }
        Ok(())
    }

    /// Has a neighbour kept resolved.
    async fn keep(&self, target: (u32, IpAddr), known: &mut Known) -> Result<(), NetlinkError> {
        let (ifindex, ip) = target;
        let upkeep = self.netlink.manage_neighbour(ifindex, ip).await?;
        let entry = self.netlink.neighbour_entry(ifindex, ip).await?;
        let since = now();
        known.targets.insert(target, Target { upkeep, since });
        if let Some(entry) = entry {
            known.neighbours.insert(target, entry);
        }
        Ok(())
    }

    async fn probe(&self, known: &Known) -> Result<(), NetlinkError> {
        for ((ifindex, ip), target) in &known.targets {
            if target.upkeep != Upkeep::Caller {
                continue;
            }
            match self.netlink.probe_neighbour(*ifindex, *ip).await {
                Ok(()) => {}
                Err(error) if concerns_all(&error) => return Err(error),
                Err(error) => debug!(ifindex, error = %error, "a neighbour was not probed"),
            }
        }
        Ok(())
    }

    fn publish(&self, known: &Known) {
        let wanted = Arc::clone(&self.wanted.borrow());
        let network = known.network(&self.configured, &wanted);
        self.network.send_if_modified(|last| {
            let differs = **last != network;
            if differs {
                *last = Arc::new(network);
            }
            differs
        });
    }
}

// === impl Known ===

impl Known {
    /// `false`: everything has to be read again.
    fn note(&mut self, event: Event) -> bool {
        match event {
            Event::Resync => return false,
            Event::Link(link) => {
                self.links.insert(link.index, link);
            }
            Event::LinkRemoved { ifindex } => {
                self.links.remove(&ifindex);
                // Its neighbours went with it; another may come under the same index.
                self.neighbours.retain(|(index, _), _| *index != ifindex);
                self.targets.retain(|(index, _), _| *index != ifindex);
            }
            Event::Address(address) => {
                let is_same = |a: &Address| a.ifindex == address.ifindex && a.ip == address.ip;
                match self.addresses.iter_mut().find(|a| is_same(a)) {
                    Some(known) => *known = address,
                    None => self.addresses.push(address),
                }
            }
            Event::AddressRemoved(address) => {
                let is_same = |a: &Address| a.ifindex == address.ifindex && a.ip == address.ip;
                self.addresses.retain(|a| !is_same(a));
            }
            Event::Route => {}
            Event::Neighbour(neighbour) => {
                self.neighbours
                    .insert((neighbour.ifindex, neighbour.ip), neighbour);
                return true;
            }
            Event::NeighbourRemoved { ifindex, ip } => {
                self.neighbours.remove(&(ifindex, ip));
                // Whoever removed it, it is needed: make it anew with the next look-up.
                if self.targets.remove(&(ifindex, ip)).is_none() {
                    return true;
                }
            }
        }
        self.dirty = true;
        true
    }

    /// When the next pending hop is given up.
    fn next_verdict(&self) -> Option<Instant> {
        let pending = self
            .targets
            .iter()
            .filter(|(key, _)| self.mac(key).is_none());
        let ends = pending.map(|(_, target)| target.since + PATIENCE);
        ends.filter(|end| *end > now()).min()
    }

    fn mac(&self, key: &(u32, IpAddr)) -> Option<MacAddr> {
        self.neighbours.get(key).and_then(Neighbour::usable_mac)
    }

    fn hop(&self, ip: IpAddr) -> Hop {
        let Some(route) = self.routes.get(&ip) else {
            return Hop::Pending;
        };
        let Some(route) = route else {
            return Hop::Unresolved(HopFailure::NoRoute);
        };
        if route.is_local {
            return Hop::Local;
        }
        let next = route.gateway.unwrap_or(ip);
        let key = (route.ifindex, next);
        if let Some(mac) = self.mac(&key) {
            return Hop::Resolved {
                ifindex: route.ifindex,
                mac,
                is_on_link: route.gateway.is_none(),
            };
        }
        if self.refused.contains(&key) {
            return Hop::Unresolved(HopFailure::Refused(next));
        }
        let has_failed = self
            .neighbours
            .get(&key)
            .is_some_and(|n| n.state == NudState::Failed);
        let is_fresh = self
            .targets
            .get(&key)
            .is_some_and(|t| now() < t.since + PATIENCE);
        if is_fresh && !has_failed {
            Hop::Pending
        } else {
            Hop::Unresolved(HopFailure::NoAnswer(next))
        }
    }

    fn network(&self, configured: &[InterfaceConfig], wanted: &Wanted) -> Network {
        let hops: BTreeMap<IpAddr, Hop> = wanted
            .backends
            .iter()
            .map(|ip| (*ip, self.hop(*ip)))
            .collect();
        let routes = self.routes.values().flatten();
        let mut needed: BTreeSet<u32> = routes
            .filter(|hop| !hop.is_local)
            .map(|hop| hop.ifindex)
            .collect();
        let by_name = |link: &&Link| configured.iter().any(|c| c.name == link.name);
        needed.extend(self.links.values().filter(by_name).map(|link| link.index));
        let interfaces = needed
            .into_iter()
            .filter_map(|index| self.interface(index).map(|interface| (index, interface)))
            .collect();
        let is_unanswered = |vip: &&Vip| {
            self.neighbours.values().any(|n| {
                n.ip == **vip && matches!(n.state, NudState::Incomplete | NudState::Failed)
            })
        };
        Network {
            interfaces,
            hops,
            has_node_ports: self.has_node_ports,
            unanswered_vips: wanted.vips.iter().filter(is_unanswered).copied().collect(),
        }
    }

    fn interface(&self, index: u32) -> Option<Interface> {
        let link = self.links.get(&index)?;
        let mine = || {
            self.addresses
                .iter()
                .filter(move |a| a.ifindex == index && !a.ip.is_multicast())
        };
        let four = |a: &Address| match a.ip {
            IpAddr::V4(ip) if !a.is_secondary => Some(ip),
            _ => None,
        };
        let six = |a: &Address| match a.ip {
            IpAddr::V6(ip) if !a.is_tentative && !ip.is_unicast_link_local() => Some(ip),
            _ => None,
        };
        let addr4: Option<Ipv4Addr> = mine().find_map(four);
        let addr6: Option<Ipv6Addr> = mine().find_map(six);
        Some(Interface {
            index,
            name: link.name.clone(),
            mac: link.mac.unwrap_or_default(),
            is_veth: link.kind.as_deref() == Some("veth"),
            mtu: link.mtu,
            addr4,
            addr6,
        })
    }
}

/// Whether nothing else can be asked either; other errors are about what was asked.
const fn concerns_all(error: &NetlinkError) -> bool {
    matches!(
        error,
        NetlinkError::MissingPermission { .. }
            | NetlinkError::Socket { .. }
            | NetlinkError::Timeout { .. }
    )
}

fn now() -> Instant {
    Instant::from_std(clock::now())
}

#[cfg(test)]
mod tests;
