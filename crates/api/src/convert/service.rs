//! Services, without their backends.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use fairlead_model::{
    ForwardingMode, LoadBalancerClass, Service, ServiceName, ServicePort, TrafficPolicy, Vip,
    service::TABLE_SIZES,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use kube::ResourceExt as _;

use super::{ConvertError, Converted, Problem, port, protocol};
use crate::names::annotation;

/// Why an address cannot be a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VipError {
    /// `0.0.0.0` or `::`.
    Unspecified,
    /// A group address.
    Multicast,
    /// Addresses of the machine itself.
    Loopback,
    /// `255.255.255.255`.
    Broadcast,
    /// IPv4 in IPv6 form, which the API server refuses.
    Mapped,
}

impl fmt::Display for VipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "it means `no address`",
            Self::Multicast => "it is a multicast group",
            Self::Loopback => "it never leaves the machine",
            Self::Broadcast => "it is the broadcast address",
            Self::Mapped => "it is IPv4 in IPv6 form",
        })
    }
}

/// # Errors
/// Says why no Service can have this address.
pub const fn check_vip(ip: IpAddr) -> Result<Vip, VipError> {
    if ip.is_unspecified() {
        return Err(VipError::Unspecified);
    }
    if ip.is_multicast() {
        return Err(VipError::Multicast);
    }
    if ip.is_loopback() {
        return Err(VipError::Loopback);
    }
    match ip {
        IpAddr::V4(four) if four.is_broadcast() => Err(VipError::Broadcast),
        IpAddr::V6(six) if six.to_ipv4_mapped().is_some() => Err(VipError::Mapped),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(ip),
    }
}

/// A Service without backends; [`super::join`] adds them.
///
/// Cilium's `dsr` means DSR by IPIP here: the dispatch that works across routers without IP options.
///
/// # Errors
/// Only when its name or namespace is none. Everything else that cannot be read is left out and listed.
pub fn service(object: &v1::Service) -> Result<Converted<Service>, ConvertError> {
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let name = ServiceName::new(&namespace, &object.name_any())
        .map_err(|e| ConvertError::new("metadata.name", e))?;
    let mut problems = Vec::new();
    let spec = object.spec.clone().unwrap_or_default();
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    let is_load_balancer = type_ == "LoadBalancer";
    let given = object
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = given
        .iter()
        .filter(|_| is_load_balancer)
        .flat_map(|lb| lb.ingress.iter().flatten())
        .enumerate()
        .filter_map(|(idx, entry)| {
            let ip = entry.ip.clone().filter(|ip| !ip.is_empty())?;
            Some((format!("status.loadBalancer.ingress[{idx}].ip"), ip))
        });
    let load_balancer_ips = vips(ingress, &mut problems);
    let external = spec.external_ips.iter().flatten();
    let external = external
        .filter(|_| type_ != "ExternalName")
        .enumerate()
        .map(|(idx, ip)| (format!("spec.externalIPs[{idx}]"), ip.clone()));
    let external_ips = vips(external, &mut problems);
    let annotations = object.annotations();
    let value = Service {
        name,
        labels: object.labels().clone(),
        is_load_balancer,
        class: LoadBalancerClass::parse(spec.load_balancer_class.as_deref()),
        load_balancer_ips,
        external_ips,
        ports: ports(spec.ports.as_deref().unwrap_or_default(), &mut problems),
        backends: BTreeMap::new(),
        external_traffic_policy: match spec.external_traffic_policy.as_deref() {
            Some("Local") => TrafficPolicy::Local,
            Some(_) | None => TrafficPolicy::Cluster,
        },
        forwarding: forwarding(annotations, &mut problems),
        table_size: table_size(annotations, &mut problems),
        // The API server takes the field for this type only, and keeps it when the type changes.
        source_ranges: spec
            .load_balancer_source_ranges
            .filter(|given| is_load_balancer && !given.is_empty())
            .map(|given| source_ranges(&given, &mut problems)),
        session_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
    };
    Ok(Converted { value, problems })
}

/// Addresses in the order given, each once.
fn vips(
    given: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<ConvertError>,
) -> Vec<Vip> {
    let mut vips = Vec::new();
    for (field, text) in given {
        let Ok(ip) = text.parse::<IpAddr>() else {
            problems.push(ConvertError::new(field, Problem::Address(text)));
            continue;
        };
        match check_vip(ip) {
            Ok(vip) if vips.contains(&vip) => {}
            Ok(vip) => vips.push(vip),
            Err(why) => {
                problems.push(ConvertError::new(field, Problem::UnusableVip { text, why }));
            }
        }
    }
    vips
}

/// Ranges that can be read. One that cannot lets nobody in: leaving out the restriction would let everyone in.
fn source_ranges(given: &[String], problems: &mut Vec<ConvertError>) -> Vec<IpNet> {
    let mut ranges = Vec::with_capacity(given.len());
    for (idx, text) in given.iter().enumerate() {
        match text.trim().parse() {
            Ok(range) => ranges.push(range),
            Err(_) => problems.push(ConvertError::new(
                format!("spec.loadBalancerSourceRanges[{idx}]"),
                Problem::Prefix(text.clone()),
            )),
        }
    }
    ranges
}

fn ports(given: &[v1::ServicePort], problems: &mut Vec<ConvertError>) -> Vec<ServicePort> {
    let mut ports = Vec::with_capacity(given.len());
    for (idx, p) in given.iter().enumerate() {
        let one = || -> Result<ServicePort, ConvertError> {
            Ok(ServicePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(format!("spec.ports[{idx}].protocol"), p.protocol.as_deref())?,
                port: port(format!("spec.ports[{idx}].port"), p.port)?,
                node_port: match p.node_port {
                    None | Some(0) => 0,
                    Some(n) => port(format!("spec.ports[{idx}].nodePort"), n)?,
                },
            })
        };
        match one() {
            Ok(port) => ports.push(port),
            Err(e) => problems.push(e),
        }
    }
    ports
}

fn forwarding(
    annotations: &BTreeMap<String, String>,
    problems: &mut Vec<ConvertError>,
) -> ForwardingMode {
    let mut word = |key: &str, allowed: &'static str, known: &[(&str, ForwardingMode)]| {
        let text = annotations.get(key)?;
        let found = known
            .iter()
            .find(|(word, _)| word == text)
            .map(|(_, mode)| *mode);
        if found.is_none() {
            let field = format!("metadata.annotations[{key}]");
            let text = text.clone();
            problems.push(ConvertError::new(field, Problem::Word { text, allowed }));
        }
        found
    };
    let ours = word(
        annotation::FORWARDING_MODE,
        "auto, snat, dsr-l2, dsr-ipip",
        &[
            ("auto", ForwardingMode::Auto),
            ("snat", ForwardingMode::Snat),
            ("dsr-l2", ForwardingMode::DsrL2),
            ("dsr-ipip", ForwardingMode::DsrIpip),
        ],
    );
    let cilium = word(
        annotation::FORWARDING_MODE_CILIUM,
        "dsr, snat",
        &[
            ("dsr", ForwardingMode::DsrIpip),
            ("snat", ForwardingMode::Snat),
        ],
    );
    ours.or(cilium).unwrap_or_default()
}

fn table_size(
    annotations: &BTreeMap<String, String>,
    problems: &mut Vec<ConvertError>,
) -> Option<u32> {
    let text = annotations.get(annotation::MAGLEV_TABLE_SIZE)?;
    let size = text.parse().ok().filter(|size| TABLE_SIZES.contains(size));
    if size.is_none() {
        problems.push(ConvertError::new(
            format!("metadata.annotations[{}]", annotation::MAGLEV_TABLE_SIZE),
            Problem::Word {
                text: text.clone(),
                allowed: "251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071",
            },
        ));
    }
    size
}
