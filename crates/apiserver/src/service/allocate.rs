//! Which cluster IPs and node ports are taken, and handing out free ones.
//!
//! Invariant: the index is a function of the Services alone: every staged change of a Service replaces what the old one held
//! by what the new one holds, and undoing the change undoes that. So it can neither leak nor drift.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::defaults::{has_health_port, has_node_ports, is_headless};
use crate::config::OpenError;
use crate::object::{self, text};
use crate::status::Cause;
use crate::store::Key;

/// Kubernetes' default `--service-node-port-range`.
pub(crate) const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// An address family as `spec.ipFamilies` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    pub(crate) const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Cluster IPs and node ports in use.
#[derive(Debug, Clone)]
pub(crate) struct Allocated {
    /// The primary family first.
    cidrs: Vec<IpNet>,
    ips: HashMap<IpAddr, Holder>,
    /// One protocol may use a port that another uses, but never twice the same.
    ports: HashMap<(u16, String), Holder>,
}

type Holder = (String, String);

impl Allocated {
    pub(crate) fn new(cidrs: &[IpNet]) -> Result<Self, OpenError> {
        let bad = |cidr: &IpNet, detail| {
            Err(OpenError::ServiceCidr {
                cidr: *cidr,
                detail,
            })
        };
        for (n, cidr) in cidrs.iter().enumerate() {
            let family = Family::of(cidr.addr());
            if cidrs[..n]
                .iter()
                .any(|other| Family::of(other.addr()) == family)
            {
                return bad(
                    cidr,
                    "there is another one of this family; give at most one of each",
                );
            }
            let hosts = cidr.max_prefix_len() - cidr.prefix_len();
            if hosts < 3 {
                return bad(cidr, "must hold at least 8 addresses");
            }
            if hosts > 64 {
                return bad(cidr, "must not be shorter than /64");
            }
        }
        if cidrs.is_empty() {
            return Err(OpenError::NoServiceCidr);
        }
        let cidrs = cidrs.iter().map(IpNet::trunc).collect();
        Ok(Self {
            cidrs,
            ips: HashMap::new(),
            ports: HashMap::new(),
        })
    }

    /// The families that have a prefix, primary first.
    pub(crate) fn families(&self) -> Vec<Family> {
        self.cidrs
            .iter()
            .map(|cidr| Family::of(cidr.addr()))
            .collect()
    }

    pub(crate) fn cidr(&self, family: Family) -> Option<IpNet> {
        self.cidrs
            .iter()
            .copied()
            .find(|cidr| Family::of(cidr.addr()) == family)
    }

    /// A Service changed (or anything else, which holds nothing).
    pub(crate) fn replace(&mut self, key: &Key, before: Option<&Value>, after: Option<&Value>) {
        if &*key.resource != "services" {
            return;
        }
        let holder = (key.namespace.clone(), key.name.clone());
        if let Some(service) = before {
            for ip in ips_of(service) {
                if self.ips.get(&ip) == Some(&holder) {
                    self.ips.remove(&ip);
                }
            }
            for port in ports_of(service) {
                if self.ports.get(&port) == Some(&holder) {
                    self.ports.remove(&port);
                }
            }
        }
        if let Some(service) = after {
            self.ips
                .extend(ips_of(service).into_iter().map(|ip| (ip, holder.clone())));
            self.ports.extend(
                ports_of(service)
                    .into_iter()
                    .map(|port| (port, holder.clone())),
            );
        }
    }

    /// Whether someone other than `me` (namespace, name) holds `ip`.
    pub(crate) fn ip_taken(&self, ip: IpAddr, me: (&str, &str)) -> bool {
        self.ips
            .get(&ip)
            .is_some_and(|holder| (holder.0.as_str(), holder.1.as_str()) != me)
    }

    /// Whether someone other than `me` holds the node port.
    pub(crate) fn port_taken(&self, port: u16, protocol: &str, me: (&str, &str)) -> bool {
        let holder = self.ports.get(&(port, protocol.to_owned()));
        holder.is_some_and(|holder| (holder.0.as_str(), holder.1.as_str()) != me)
    }

    /// A free cluster IP: from a random start, so that a new Service does not at once get the address of one just deleted,
    /// which clients may still have in their caches.
    pub(crate) fn free_ip(&self, family: Family) -> Option<IpAddr> {
        let cidr = self.cidr(family)?;
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let size: u128 = 1 << host_bits;
        // Without the network's own address and the last one (IPv4's broadcast).
        let usable = size - 2;
        let base = number(cidr.network());
        let start = rand::random::<u128>() % usable;
        let tries = usable.min(self.ips.len() as u128 + 1);
        (0..tries)
            .map(|n| address(base + 1 + (start + n) % usable, family))
            .find(|ip| !self.ips.contains_key(ip))
    }

    /// A free node port, from a random start for the same reason. `staged` are ports that the same Service is to have.
    pub(crate) fn free_port(&self, protocol: &str, staged: &[u16]) -> Option<u16> {
        let n_ports = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let start = rand::random::<u16>() % n_ports;
        // A port is given to one Service only, whatever the protocol, unless it asks for the same number itself.
        (0..n_ports)
            .map(|n| NODE_PORTS.start() + (start + n) % n_ports)
            .find(|port| {
                !staged.contains(port)
                    && !self.ports.contains_key(&(*port, protocol.to_owned()))
                    && ["TCP", "UDP", "SCTP"]
                        .iter()
                        .all(|p| !self.ports.contains_key(&(*port, (*p).to_owned())))
            })
    }
}

/// Gives a Service what it lacks: cluster IPs for its families, node ports, a health check port. What it asks for itself was
/// checked before.
pub(super) fn hand_out(new: &mut Value, allocated: &Allocated, causes: &mut Vec<Cause>) {
    if text(new, "/spec/type") != "ExternalName" && !is_headless(new) {
        let mut ips = object::list(new, "/spec/clusterIPs").to_vec();
        let families: Vec<Family> = object::list(new, "/spec/ipFamilies")
            .iter()
            .filter_map(|word| Family::parse(word.as_str()?))
            .collect();
        for family in families.iter().skip(ips.len()) {
            let Some(ip) = allocated.free_ip(*family) else {
                let detail = format!("no free {} cluster IP: the range is full", family.word());
                causes.push(Cause::invalid("spec.clusterIPs", &json!(ips), &detail));
                return;
            };
            ips.push(json!(ip.to_string()));
        }
        new["spec"]["clusterIP"] = ips.first().cloned().unwrap_or_default();
        new["spec"]["clusterIPs"] = json!(ips);
    }
    let mut staged: Vec<u16> = ports_of(new).into_iter().map(|(port, _)| port).collect();
    let full = "no free node port: the range is full";
    if has_node_ports(new) {
        for (n, port) in new
            .pointer_mut("/spec/ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .enumerate()
        {
            if port.get("nodePort").is_some() {
                continue;
            }
            let protocol = text(port, "/protocol").to_owned();
            match allocated.free_port(&protocol, &staged) {
                Some(free) => {
                    port["nodePort"] = json!(free);
                    staged.push(free);
                }
                None => causes.push(Cause::invalid(
                    &format!("spec.ports[{n}].nodePort"),
                    &json!(0),
                    full,
                )),
            }
        }
    }
    let unset = new["spec"]
        .get("healthCheckNodePort")
        .is_none_or(|port| *port == json!(0));
    if has_health_port(new) && unset {
        match allocated.free_port("TCP", &staged) {
            Some(free) => new["spec"]["healthCheckNodePort"] = json!(free),
            None => causes.push(Cause::invalid("spec.healthCheckNodePort", &json!(0), full)),
        }
    }
}

fn ips_of(service: &Value) -> Vec<IpAddr> {
    let list = object::list(service, "/spec/clusterIPs");
    list.iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect()
}

/// Node ports of a Service with their protocols; the health check's port is TCP.
fn ports_of(service: &Value) -> Vec<(u16, String)> {
    let port = |value: &Value| {
        u16::try_from(value.as_u64()?)
            .ok()
            .filter(|port| *port != 0)
    };
    let ports = object::list(service, "/spec/ports").iter();
    let mut held: Vec<(u16, String)> = ports
        .filter_map(|entry| {
            let protocol = entry
                .get("protocol")
                .and_then(Value::as_str)
                .unwrap_or("TCP");
            Some((port(entry.get("nodePort")?)?, protocol.to_owned()))
        })
        .collect();
    held.extend(
        service
            .pointer("/spec/healthCheckNodePort")
            .and_then(port)
            .map(|port| (port, "TCP".to_owned())),
    );
    held
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let number = u32::try_from(number).expect("within an IPv4 prefix, which ends at 2^32");
            IpAddr::V4(Ipv4Addr::from(number))
        }
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allocated(cidrs: &[&str]) -> Allocated {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        Allocated::new(&cidrs).unwrap()
    }

    fn key(name: &str) -> Key {
        Key {
            resource: "services".into(),
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn service(ip: IpAddr) -> Value {
        json!({"spec": {"clusterIPs": [ip.to_string()]}})
    }

    #[test]
    fn a_prefix_is_used_up_to_its_last_address_and_never_twice() {
        for (cidr, family, usable) in [
            ("10.0.0.0/29", Family::V4, 6),
            ("fd00::/125", Family::V6, 6),
        ] {
            let mut index = allocated(&[cidr]);
            let mut given = Vec::new();
            for n in 0..usable {
                let ip = index.free_ip(family).unwrap();
                assert!(!given.contains(&ip), "{ip} given twice");
                index.replace(&key(&n.to_string()), None, Some(&service(ip)));
                given.push(ip);
            }
            assert_eq!(index.free_ip(family), None);
            index.replace(&key("3"), Some(&service(given[3])), None);
            assert_eq!(index.free_ip(family), Some(given[3]));
        }
    }

    #[test]
    fn undoing_a_change_gives_back_what_it_took() {
        let mut index = allocated(&["10.0.0.0/29"]);
        let (old, new) = (
            service("10.0.0.1".parse().unwrap()),
            service("10.0.0.2".parse().unwrap()),
        );
        index.replace(&key("a"), None, Some(&old));
        index.replace(&key("a"), Some(&old), Some(&new));
        index.replace(&key("a"), Some(&new), Some(&old));
        assert!(index.ip_taken("10.0.0.1".parse().unwrap(), ("default", "b")));
        assert!(!index.ip_taken("10.0.0.2".parse().unwrap(), ("default", "b")));
    }

    #[test]
    fn unusable_prefixes_are_refused() {
        let refuse = |cidrs: &[&str]| {
            let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
            Allocated::new(&cidrs).unwrap_err().reason()
        };
        assert_eq!(refuse(&[]), "ApiBadServiceCidr");
        assert_eq!(refuse(&["10.0.0.0/30"]), "ApiBadServiceCidr");
        assert_eq!(refuse(&["10.0.0.0/16", "10.1.0.0/16"]), "ApiBadServiceCidr");
    }
}
