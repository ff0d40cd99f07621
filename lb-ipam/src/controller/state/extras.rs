//! What LB-IPAM can do without: reservations, what is remembered about pools, and what the cluster itself uses.

use std::{collections::BTreeSet, net::IpAddr};

use fairlead_api::{
    AddressReservation, IPPoolUsage, convert,
    names::annotation,
    watch::table::{Read, Table},
};
use fairlead_model::IpRange;
use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use kube::{ResourceExt as _, api::DynamicObject, runtime::watcher::Event};

use super::{Extra, is_newer, read};
use crate::{
    alloc::{InUse, InUseKind, ReservationInput},
    request,
};

/// A reservation as read; without an object if it does not fit its type: it is reported, not written.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    object: Option<AddressReservation>,
    input: ReservationInput,
}

/// The extra lists.
#[derive(Debug, Default)]
pub(super) struct Extras {
    reservations: Table<Record>,
    usages: Table<IPPoolUsage>,
    nodes: Table<Vec<InUse>>,
    gateways: Vec<InUse>,
    absent: BTreeSet<Extra>,
}

impl Extras {
    pub(super) fn set_absent(&mut self, which: Extra) {
        self.absent.insert(which);
    }

    pub(super) fn is_absent(&self, which: Extra) -> bool {
        self.absent.contains(&which)
    }

    /// Whether each list was whole once, or cannot be had.
    pub(super) fn are_complete(&self) -> bool {
        [
            (Extra::Reservations, self.reservations.is_complete()),
            (Extra::Usages, self.usages.is_complete()),
            (Extra::Nodes, self.nodes.is_complete()),
        ]
        .into_iter()
        .all(|(which, is_complete)| is_complete || self.is_absent(which))
    }

    /// Names of reservations that changed.
    pub(super) fn take_reservations(&mut self, event: Event<DynamicObject>) -> Vec<String> {
        let event = read(event, |o| self.read_reservation(o));
        let changed = self.reservations.apply(event);
        if self.reservations.is_complete() {
            self.absent.remove(&Extra::Reservations);
        }
        changed.into_iter().map(|(key, _)| bare(&key)).collect()
    }

    fn read_reservation(&self, object: &DynamicObject) -> Read<Record> {
        let live = self.reservations.get(&format!("/{}", object.name_any()));
        let live_meta = live.and_then(|l| l.object.as_ref()).map(|o| &o.metadata);
        if live_meta.is_some_and(|live| is_newer(live, &object.metadata)) {
            return Ok(live.cloned());
        }
        match convert::typed::<AddressReservation>(object) {
            Ok(typed) => Ok(Some(record(typed))),
            Err(error) => {
                let name = object.name_any();
                tracing::warn!(reason = error.reason(), %error, "cannot read AddressReservation {name}");
                // What was reserved stays reserved.
                Err(())
            }
        }
    }

    pub(super) fn reservation(&self, name: &str) -> Option<ReservationInput> {
        let record = self.reservations.get(&format!("/{name}"));
        record.map(|r| r.input.clone())
    }

    pub(super) fn reservation_object(&self, name: &str) -> Option<&AddressReservation> {
        self.reservations.get(&format!("/{name}"))?.object.as_ref()
    }

    pub(super) fn put_reservation(&mut self, object: AddressReservation) {
        let key = format!("/{}", object.name_any());
        let live = self.reservations.get(&key).and_then(|r| r.object.as_ref());
        if !live.is_some_and(|live| is_newer(&live.metadata, &object.metadata)) {
            self.reservations.update(&key, record(object));
        }
    }

    /// Names of pools about which something else is remembered.
    pub(super) fn take_usages(&mut self, event: Event<DynamicObject>) -> Vec<String> {
        let event = read(event, |o| {
            let live = self.usages.get(&format!("/{}", o.name_any()));
            if live.is_some_and(|live| is_newer(&live.metadata, &o.metadata)) {
                return Ok(live.cloned());
            }
            // One that cannot be read is written anew.
            Ok(convert::typed::<IPPoolUsage>(o).ok())
        });
        let changed = self.usages.apply(event);
        if self.usages.is_complete() {
            self.absent.remove(&Extra::Usages);
        }
        changed.into_iter().map(|(key, _)| bare(&key)).collect()
    }

    pub(super) fn usage(&self, name: &str) -> Option<&IPPoolUsage> {
        self.usages.get(&format!("/{name}"))
    }

    pub(super) fn put_usage(&mut self, name: &str, object: Option<IPPoolUsage>) {
        let key = format!("/{name}");
        let live = self.usages.get(&key);
        let is_old =
            |o: &IPPoolUsage| live.is_some_and(|live| is_newer(&live.metadata, &o.metadata));
        let event = match object {
            Some(object) if is_old(&object) => return,
            Some(object) => Event::Apply((key, Ok(Some(object)))),
            None => Event::Delete((key, Ok(None))),
        };
        self.usages.apply(event);
    }

    /// What the cluster itself uses, if that changed.
    pub(super) fn take_nodes(&mut self, event: Event<v1::Node>) -> Option<Vec<InUse>> {
        let event = read(event, |o| Ok(Some(in_use(o))));
        let is_changed = !self.nodes.apply(event).is_empty();
        if self.nodes.is_complete() {
            self.absent.remove(&Extra::Nodes);
        }
        is_changed.then(|| self.in_use())
    }

    /// Routers that no Node names; returns what the cluster itself uses.
    pub(super) fn set_gateways(&mut self, gateways: &[IpAddr]) -> Vec<InUse> {
        let ranges = gateways.iter().filter_map(|ip| IpRange::new(*ip, *ip).ok());
        self.gateways = ranges
            .map(|range| InUse {
                range,
                kind: InUseKind::Gateway,
                owner: "the operator's machine".to_owned(),
            })
            .collect();
        self.in_use()
    }

    fn in_use(&self) -> Vec<InUse> {
        let of_nodes = self.nodes.iter().flatten();
        let mut all: Vec<InUse> = of_nodes.chain(&self.gateways).cloned().collect();
        all.sort();
        all
    }
}

fn bare(key: &str) -> String {
    key.trim_start_matches('/').to_owned()
}

fn record(mut object: AddressReservation) -> Record {
    object.metadata.managed_fields = None;
    let input = request::reservation(&object);
    Record {
        object: Some(object),
        input,
    }
}

/// A node's own addresses, the routers that its agent names, and the prefixes of its pods.
pub fn in_use(node: &v1::Node) -> Vec<InUse> {
    let owner = format!("node {}", node.name_any());
    let one = |text: &str| {
        let ip: IpAddr = text.trim().parse().ok()?;
        IpRange::new(ip, ip).ok()
    };
    let status = node.status.iter();
    let addresses = status
        .flat_map(|s| s.addresses.iter().flatten())
        .filter(|a| a.type_ == "InternalIP" || a.type_ == "ExternalIP")
        .filter_map(|a| Some((one(&a.address)?, InUseKind::Node)));
    let gateways = node.annotations().get(annotation::NODE_GATEWAYS);
    let gateways = gateways.iter().flat_map(|text| text.split(','));
    let gateways = gateways.filter_map(|text| Some((one(text)?, InUseKind::Gateway)));
    let spec = node.spec.iter();
    let pods = spec.flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
    let pods = pods.filter_map(|text| {
        let prefix: IpNet = text.parse().ok()?;
        Some((IpRange::from_prefix(prefix), InUseKind::Pod))
    });
    let all: BTreeSet<(IpRange, InUseKind)> = addresses.chain(gateways).chain(pods).collect();
    all.into_iter()
        .map(|(range, kind)| InUse {
            range,
            kind,
            owner: owner.clone(),
        })
        .collect()
}
