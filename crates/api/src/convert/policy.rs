//! Pools and L2 policies.

use std::net::IpAddr;

use fairlead_model::{
    IpRange, L2Policy, Labels, Pool, PoolBlock, Preference, Requirement, Selector, ServiceName,
};
use ipnet::IpNet;
use kube::ResourceExt as _;

use super::{ConvertError, Problem, selector};
use crate::names::annotation::PREFER_NODES;
use crate::{
    AddressReservation, CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool, lb_ip_pool::Block,
};

/// As in Kubernetes' preferred scheduling terms.
const MAX_WEIGHT: u32 = 100;

/// A pool. What cannot be read is in `bad_blocks` and `selector`; the readable blocks are in force.
pub fn pool(object: &CiliumLoadBalancerIPPool) -> Pool {
    let (mut blocks, mut bad_blocks) = (Vec::new(), Vec::new());
    for (idx, given) in object.spec.blocks.iter().flatten().enumerate() {
        match block(idx, given) {
            Ok(block) => blocks.push(block),
            Err(e) => bad_blocks.push((e.field, e.problem.to_string())),
        }
    }
    let allow_first_last = match object.spec.allow_first_last_ips.as_deref() {
        None | Some("" | "Yes") => true,
        Some("No") => false,
        Some(other) => {
            let field = "spec.allowFirstLastIPs".to_owned();
            bad_blocks.push((field, format!("`{other}` is neither `Yes` nor `No`")));
            true
        }
    };
    Pool {
        name: object.name_any(),
        created: object
            .creation_timestamp()
            .map_or(i64::MAX, |time| time.0.as_second()),
        blocks,
        bad_blocks,
        allow_first_last,
        disabled: object.spec.disabled,
        selector: selector(
            "spec.serviceSelector",
            object.spec.service_selector.as_ref(),
        )
        .map_err(|e| e.to_string()),
    }
}

/// What a reservation says: its readable ranges, the Service they are for, and what is wrong with the rest. Where the Service
/// cannot be read the addresses are kept all the same, for nobody.
pub fn reservation(
    object: &AddressReservation,
) -> (Vec<IpRange>, Option<ServiceName>, Vec<ConvertError>) {
    let (mut ranges, mut problems) = (Vec::new(), Vec::new());
    for (idx, given) in object.spec.blocks.iter().flatten().enumerate() {
        match block(idx, given) {
            Ok(block) => ranges.push(block.range),
            Err(e) => problems.push(e),
        }
    }
    let service = object.spec.service.as_ref().and_then(|given| {
        let name = ServiceName::new(&given.namespace, &given.name);
        name.map_err(|e| problems.push(ConvertError::new("spec.service", e)))
            .ok()
    });
    (ranges, service, problems)
}

fn block(idx: usize, given: &Block) -> Result<PoolBlock, ConvertError> {
    let field = |name: &str| format!("spec.blocks[{idx}].{name}");
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    if let Some(cidr) = text(&given.cidr) {
        let prefix =
            prefix(&cidr).ok_or_else(|| ConvertError::new(field("cidr"), Problem::Prefix(cidr)))?;
        refuse_mapped(&field("cidr"), prefix.addr())?;
        return Ok(PoolBlock {
            range: IpRange::from_prefix(prefix),
            is_prefix: true,
        });
    }
    let address = |name: &str, text: String| -> Result<IpAddr, ConvertError> {
        let ip: IpAddr = text
            .parse()
            .map_err(|_not_an_address| ConvertError::new(field(name), Problem::Address(text)))?;
        refuse_mapped(&field(name), ip)?;
        Ok(ip)
    };
    let start = text(&given.start).ok_or_else(|| {
        let remedy = "a block needs `cidr`, or `start` and optionally `stop`";
        ConvertError::new(field("start"), Problem::Missing(remedy))
    })?;
    let start = address("start", start)?;
    let stop = text(&given.stop).map_or(Ok(start), |stop| address("stop", stop))?;
    let range = IpRange::new(start, stop).map_err(|e| ConvertError::new(field("stop"), e))?;
    Ok(PoolBlock {
        range,
        is_prefix: false,
    })
}

/// Strict, unlike `IpNet`'s own parser: `010.0.0.0/8` passes the schema and could mean 8 or 10.
fn prefix(text: &str) -> Option<IpNet> {
    let (address, len) = text.split_once('/')?;
    IpNet::new(address.parse().ok()?, len.parse().ok()?).ok()
}

/// The API server refuses such addresses in a Service, so a pool of them could only ever fail.
fn refuse_mapped(field: &str, ip: IpAddr) -> Result<(), ConvertError> {
    match ip {
        IpAddr::V6(six) if six.to_ipv4_mapped().is_some() => {
            let text = six.to_string();
            Err(ConvertError::new(field, Problem::MappedAddress(text)))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

/// Preferences as the annotation states them: `LABEL=VALUE:WEIGHT` or `LABEL:WEIGHT`, separated by commas.
///
/// # Errors
/// The first entry that is none, in words for a condition.
fn preferences(text: Option<&String>) -> Result<Vec<Preference>, String> {
    let entries = text.map(String::as_str).unwrap_or_default().split(',');
    let entries = entries.map(str::trim).filter(|entry| !entry.is_empty());
    let read = |entry: &str| {
        let bad = |why: String| {
            format!("{PREFER_NODES}: `{entry}`: {why}; write LABEL=VALUE:WEIGHT or LABEL:WEIGHT")
        };
        let (label, weight) = entry
            .rsplit_once(':')
            .ok_or_else(|| bad("it has no weight".to_owned()))?;
        let weight: u32 = weight
            .parse()
            .ok()
            .filter(|weight| (1..=MAX_WEIGHT).contains(weight))
            .ok_or_else(|| bad(format!("the weight is no number from 1 to {MAX_WEIGHT}")))?;
        let requirement = match label.split_once('=') {
            Some((key, value)) => Requirement::new(key, "In", &[value.to_owned()]),
            None => Requirement::new(label, "Exists", &[]),
        };
        let requirement = requirement.map_err(|e| bad(e.to_string()))?;
        let nodes = Selector::new(Labels::new(), vec![requirement]);
        Ok(Preference { nodes, weight })
    };
    entries.map(read).collect()
}

/// An L2 announcement policy. Selectors that cannot be read are messages for its conditions.
pub fn l2_policy(object: &CiliumL2AnnouncementPolicy) -> L2Policy {
    let spec = &object.spec;
    L2Policy {
        name: object.name_any(),
        node_selector: selector("spec.nodeSelector", spec.node_selector.as_ref())
            .map_err(|e| e.to_string()),
        service_selector: selector("spec.serviceSelector", spec.service_selector.as_ref())
            .map_err(|e| e.to_string()),
        interfaces: spec.interfaces.clone().unwrap_or_default(),
        preferred: preferences(object.annotations().get(PREFER_NODES)),
        load_balancer_ips: spec.load_balancer_ips.unwrap_or_default(),
        external_ips: spec.external_ips.unwrap_or_default(),
    }
}
