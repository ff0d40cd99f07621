//! Who holds an address, and who may hold it together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Bound,
};

use fairlead_model::{IpRange, ServiceName, TrafficPolicy};

use super::{Namespaces, ServiceInput, pools};

/// Why two Services may not share an address; prints the text that the condition's message ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// The keys differ, or there is none.
    #[error("different sharing key")]
    Key,
    /// One does not let the other's namespace in.
    #[error("different and not permitted namespace")]
    Namespace,
    /// Both want the same port.
    #[error("same port and protocol")]
    Port,
    /// One is `Local`, the other `Cluster`.
    #[error("different ExternalTrafficPolicy")]
    TrafficPolicy,
    /// Both are `Local`, but for different pods.
    #[error("compatible ExternalTrafficPolicy local but selecting different set of pods")]
    Pods,
}

impl Incompatible {
    /// The closed word for metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Key => "DifferentSharingKey",
            Self::Namespace => "NamespaceNotPermitted",
            Self::Port => "SamePort",
            Self::TrafficPolicy => "DifferentTrafficPolicy",
            Self::Pods => "DifferentPods",
        }
    }
}

/// # Errors
/// The first rule of the specification's table (section 1.6) that forbids sharing.
pub fn compatible(a: &ServiceInput, b: &ServiceInput) -> Result<(), Incompatible> {
    let (one, two) = (&a.sharing, &b.sharing);
    if one.key.is_empty() || one.key != two.key {
        return Err(Incompatible::Key);
    }
    let permits = |host: &ServiceInput, guest: &ServiceInput| match &host.sharing.namespaces {
        Namespaces::All => true,
        Namespaces::Listed(list) => list.iter().any(|ns| ns == guest.name.namespace()),
    };
    let is_same = a.name.namespace() == b.name.namespace();
    let is_permitted = permits(a, b) && permits(b, a);
    if !is_same && !is_permitted {
        return Err(Incompatible::Namespace);
    }
    if one.ports.iter().any(|port| two.ports.contains(port)) {
        return Err(Incompatible::Port);
    }
    if one.traffic_policy != two.traffic_policy {
        return Err(Incompatible::TrafficPolicy);
    }
    let is_local = one.traffic_policy == TrafficPolicy::Local;
    if is_local && (one.pods.is_empty() || one.pods != two.pods) {
        return Err(Incompatible::Pods);
    }
    Ok(())
}

/// The addresses that are not free, and whose they are.
#[derive(Debug, Default)]
pub struct Holders<'a> {
    by_ip: BTreeMap<IpAddr, Vec<&'a ServiceInput>>,
    by_key: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    /// Held by somebody we do not serve, or not yet released: taken, and never shared.
    closed: BTreeSet<IpAddr>,
    /// Of `closed`: those that a write under way will free.
    releasing: BTreeSet<IpAddr>,
    /// Who still has a shared address in its status and is about to leave it to the others.
    leaving: BTreeMap<IpAddr, Vec<&'a ServiceInput>>,
    cursors: HashMap<IpRange, Option<IpAddr>>,
}

impl<'a> Holders<'a> {
    /// # Errors
    /// Why `service` may not hold `ip` beside those who do.
    pub fn may_hold(&self, ip: IpAddr, service: &ServiceInput) -> Result<(), Incompatible> {
        if self.closed.contains(&ip) {
            return Err(Incompatible::Key);
        }
        let holding = self.by_ip.get(&ip).into_iter().flatten();
        let leaving = self.leaving.get(&ip).into_iter().flatten();
        holding
            .chain(leaving)
            .filter(|other| other.name != service.name)
            .try_for_each(|other| compatible(other, service))
    }

    /// `service` holds `ip` from now on; the caller has asked [`Self::may_hold`].
    pub fn hold(&mut self, ip: IpAddr, service: &'a ServiceInput) {
        self.by_ip.entry(ip).or_default().push(service);
        let key = service.sharing.key.as_str();
        if !key.is_empty() {
            self.by_key.entry(key).or_default().insert(ip);
        }
    }

    /// Nobody gets this address: a Service that we do not serve has it.
    pub fn close(&mut self, ip: IpAddr) {
        if !self.by_ip.contains_key(&ip) {
            self.closed.insert(ip);
        }
    }

    /// Nobody gets this address before its former holder's status has let it go.
    pub fn close_until_released(&mut self, ip: IpAddr, holder: &'a ServiceInput) {
        match self.by_ip.get(&ip) {
            Some(holding) if holding.iter().any(|h| h.name == holder.name) => {}
            // The others keep it; whoever joins them must also bear the one that has not left yet.
            Some(_) => self.leaving.entry(ip).or_default().push(holder),
            None => {
                self.closed.insert(ip);
                self.releasing.insert(ip);
            }
        }
    }

    /// Whether somebody is about to let the address go.
    pub fn is_releasing(&self, ip: IpAddr) -> bool {
        self.releasing.contains(&ip) || self.leaving.contains_key(&ip)
    }

    /// Every address that will soon be free.
    pub fn releasing(&self) -> impl Iterator<Item = IpAddr> {
        self.releasing.iter().copied()
    }

    /// Whether anybody has the address.
    pub fn is_taken(&self, ip: IpAddr) -> bool {
        self.by_ip.contains_key(&ip) || self.closed.contains(&ip)
    }

    /// Who has the address.
    pub fn of(&self, ip: IpAddr) -> impl Iterator<Item = &ServiceName> {
        self.by_ip.get(&ip).into_iter().flatten().map(|s| &s.name)
    }

    /// Addresses held under the key, ascending.
    pub fn under_key(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        let held = self.by_key.get(key).filter(|_| !key.is_empty());
        held.into_iter().flatten().copied()
    }

    /// Taken addresses inside the range, ascending, each once.
    pub fn within(&self, range: &IpRange) -> impl Iterator<Item = IpAddr> {
        let bounds = (
            Bound::Included(range.first()),
            Bound::Included(range.last()),
        );
        let held = self.by_ip.range(bounds).map(|(ip, _)| *ip);
        held.chain(
            self.closed
                .range(bounds)
                .copied()
                .filter(|ip| !self.by_ip.contains_key(ip)),
        )
    }

    /// Where the search for a free address in this range goes on; `None` = it is full.
    pub(super) fn cursor(&self, range: &IpRange) -> Option<IpAddr> {
        match self.cursors.get(range) {
            Some(at) => *at,
            None => pools::first_usable(range),
        }
    }

    pub(super) fn remember(&mut self, range: &IpRange, at: Option<IpAddr>) {
        self.cursors.insert(*range, at);
    }
}
