//! API objects → what people are shown ([`fairlead_observe`]). Pure; used by the agent and, without one, by the CLI.

use std::collections::BTreeMap;

use fairlead_model::{BackendState, L2Policy, LoadBalancerClass, Service, ServiceName, Snapshot};
use fairlead_observe::{
    ConditionView, IpPoolRow, L2Row, Timestamp,
    explain::{Facts, PolicyFacts, ServiceFacts},
};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt as _;

use crate::{CiliumLoadBalancerIPPool, condition, lb_ip_pool::Block, names};

/// Whole seconds of an API time.
pub fn timestamp(time: &Time) -> Timestamp {
    Timestamp(time.0.as_second())
}

/// In the order of the object.
pub fn conditions(given: &[Condition]) -> Vec<ConditionView> {
    let view = |c: &Condition| ConditionView {
        type_: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
    };
    given.iter().map(view).collect()
}

/// A pool with the operator's counts.
pub fn ip_pool_row(pool: &CiliumLoadBalancerIPPool) -> IpPoolRow {
    let status = pool.status.as_ref();
    let conditions = status.map(|s| s.conditions.as_slice()).unwrap_or_default();
    let count = |type_| condition::find(conditions, type_).map(|c| c.message.clone());
    let conflict = condition::find(conditions, names::condition::POOL_CONFLICT)
        .or_else(|| condition::find(conditions, names::condition::POOL_INVALID))
        .filter(|c| c.status == condition::Status::True.as_str());
    IpPoolRow {
        name: pool.name_any(),
        blocks: pool.spec.blocks.iter().flatten().map(block).collect(),
        total: count(names::condition::IPS_TOTAL),
        available: count(names::condition::IPS_AVAILABLE),
        used: count(names::condition::IPS_USED),
        is_disabled: pool.spec.disabled,
        conflict: conflict.map(|c| c.message.clone()),
        created: pool.creation_timestamp().as_ref().map(timestamp),
    }
}

fn block(block: &Block) -> String {
    match (&block.cidr, &block.start, &block.stop) {
        (Some(cidr), _, _) => cidr.clone(),
        (None, Some(start), Some(stop)) => format!("{start} - {stop}"),
        (None, Some(start), None) => start.clone(),
        (None, None, stop) => format!("? - {}", stop.as_deref().unwrap_or("?")),
    }
}

/// The Service's VIPs as its L2 Lease tells of them: the owner by name only, for want of an agent to ask.
pub fn lease_rows(service: &Service, leases: &BTreeMap<String, Lease>) -> Vec<L2Row> {
    let lease = leases.get(&names::lease_name(&service.name));
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let owner = spec
        .and_then(|spec| spec.holder_identity.clone())
        .filter(|h| !h.is_empty());
    let since = spec
        .and_then(|spec| spec.acquire_time.as_ref())
        .map(|t| Timestamp(t.0.as_second()));
    let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    let row = |vip| L2Row {
        vip,
        service: service.name.to_string(),
        owner: owner.clone(),
        is_self: false,
        interface: None,
        since: since.filter(|_| owner.is_some()),
        epoch: u64::try_from(transitions).unwrap_or(0),
        state: if owner.is_some() { "Owner" } else { "None" }.to_owned(),
        why: "as its Lease says".to_owned(),
        conflict: None,
    };
    service.vips().into_iter().map(row).collect()
}

/// What the API server knows about one Service; [`Facts::local`] is left to the agent.
pub fn facts(
    name: &ServiceName,
    object: Option<&v1::Service>,
    snapshot: &Snapshot,
    pools: Option<Vec<String>>,
    l2: Vec<L2Row>,
) -> Facts {
    let service = snapshot.services.get(name);
    let policies = snapshot.l2_policies.values().map(|policy| {
        let is_selected = service.is_some_and(|service| selects(policy, service));
        policy_facts(policy, is_selected, snapshot)
    });
    Facts {
        service_name: name.to_string(),
        service: object.map(|object| service_facts(object, service)),
        pools,
        policies: policies.collect(),
        l2,
        local: None,
    }
}

/// Whether the policy announces an address that the Service has or will have.
pub fn selects(policy: &L2Policy, service: &Service) -> bool {
    let is_ours = matches!(
        service.class,
        LoadBalancerClass::Unset | LoadBalancerClass::L2Announcer
    );
    let by_load_balancer = policy.load_balancer_ips && service.is_load_balancer;
    let by_external = policy.external_ips && !service.external_ips.is_empty();
    let by_label = policy
        .service_selector
        .as_ref()
        .is_ok_and(|selector| selector.matches(&service.selector_labels()));
    is_ours && by_label && (by_load_balancer || by_external)
}

fn policy_facts(policy: &L2Policy, selects_service: bool, snapshot: &Snapshot) -> PolicyFacts {
    let nodes = match &policy.node_selector {
        Ok(selector) => snapshot
            .nodes
            .values()
            .filter(|node| !node.is_excluded && selector.matches(&node.labels))
            .map(|node| node.name.to_string())
            .collect(),
        Err(_) => Vec::new(),
    };
    let problem = policy
        .node_selector
        .as_ref()
        .err()
        .or_else(|| policy.service_selector.as_ref().err());
    PolicyFacts {
        name: policy.name.clone(),
        selects_service,
        nodes,
        problem: problem.cloned(),
    }
}

fn service_facts(object: &v1::Service, service: Option<&Service>) -> ServiceFacts {
    let spec = object.spec.as_ref();
    let class = spec.and_then(|s| s.load_balancer_class.clone());
    let backends = service.iter().flat_map(|s| s.backends.values().flatten());
    let (mut active, mut all) = (0, 0);
    for backend in backends {
        all += 1;
        active += usize::from(backend.state == BackendState::Active);
    }
    let given = object.status.as_ref().and_then(|s| s.conditions.as_deref());
    ServiceFacts {
        type_name: spec
            .and_then(|s| s.type_.clone())
            .unwrap_or_else(|| "ClusterIP".to_owned()),
        is_our_class: !matches!(
            LoadBalancerClass::parse(class.as_deref()),
            LoadBalancerClass::Other(_)
        ),
        class,
        vips: service.map(Service::vips).unwrap_or_default(),
        conditions: conditions(given.unwrap_or_default()),
        n_backends: (active, all),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{ip_pool_row, lease_rows};
    use crate::{CiliumLoadBalancerIPPool, convert};

    #[test]
    fn a_pool_shows_its_blocks_and_counts() {
        let pool: CiliumLoadBalancerIPPool = serde_json::from_value(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool",
            "metadata": {"name": "blue"},
            "spec": {"blocks": [{"cidr": "192.0.2.0/28"}, {"start": "192.0.2.20", "stop": "192.0.2.30"}, {"start": "192.0.2.40"}]},
            "status": {"conditions": [{
                "type": "cilium.io/IPsUsed", "status": "Unknown", "reason": "noreason", "message": "3",
                "lastTransitionTime": "2026-11-21T14:30:00Z"
            }]}
        }))
        .unwrap();
        let row = ip_pool_row(&pool);
        assert_eq!(
            row.blocks,
            ["192.0.2.0/28", "192.0.2.20 - 192.0.2.30", "192.0.2.40"]
        );
        assert_eq!(
            (row.used.as_deref(), row.total, row.conflict),
            (Some("3"), None, None)
        );
    }

    #[test]
    fn a_lease_names_the_owner_of_every_vip() {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}
        }))
        .unwrap();
        let service = convert::service(&object).unwrap().value;
        assert!(
            lease_rows(&service, &[].into())
                .iter()
                .all(|row| row.owner.is_none())
        );
        let lease = serde_json::from_value(json!({
            "metadata": {"name": "cilium-l2announce-shop-web"},
            "spec": {"holderIdentity": "lb1", "acquireTime": "2026-11-21T14:30:00.000000Z"}
        }))
        .unwrap();
        let rows = lease_rows(
            &service,
            &[("cilium-l2announce-shop-web".to_owned(), lease)].into(),
        );
        let owners: Vec<_> = rows.iter().map(|row| row.owner.as_deref()).collect();
        assert_eq!(owners, [Some("lb1"), Some("lb1")]);
        assert_eq!(rows[0].since.unwrap().to_string(), "2026-11-21T14:30:00Z");
    }
}
