#![expect(
    clippy::needless_pass_by_value,
    reason = "literals read better than references to them"
)]

use serde_json::{Value, json};

use super::*;
use crate::store::Key;

struct Cluster {
    allocated: Allocated,
}

impl Cluster {
    fn new(cidrs: &[&str]) -> Self {
        let cidrs: Vec<ipnet::IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        Self {
            allocated: Allocated::new(&cidrs).unwrap(),
        }
    }

    fn dual() -> Self {
        Self::new(&["10.96.0.0/24", "fd00:96::/112"])
    }

    fn try_admit(&self, spec: &Value, old: Option<&Value>) -> Result<Value, Vec<String>> {
        let mut service =
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        let mut causes = Vec::new();
        admit(&mut service, old, &self.allocated, &mut causes);
        if causes.is_empty() {
            Ok(service)
        } else {
            Err(causes
                .into_iter()
                .map(|cause| format!("{}: {}", cause.field, cause.message))
                .collect())
        }
    }

    fn admit(&self, spec: Value, old: Option<&Value>) -> Value {
        self.try_admit(&spec, old).unwrap()
    }

    fn refuse(&self, spec: Value) -> Vec<String> {
        self.try_admit(&spec, None).unwrap_err()
    }

    /// Another Service holds these.
    fn occupy(&mut self, spec: Value) {
        let key = Key {
            resource: "services".into(),
            namespace: "default".into(),
            name: "other".into(),
        };
        self.allocated
            .replace(&key, None, Some(&json!({"spec": spec})));
    }
}

#[test]
fn a_bare_service_gets_what_kubernetes_gives_it() {
    let mut service = Cluster::dual().admit(
        json!({"ports": [{"port": 80}], "selector": {"app": "web"}}),
        None,
    );
    let ip = service["spec"]["clusterIP"].take();
    assert!(ip.as_str().unwrap().starts_with("10.96.0."), "{ip}");
    assert_eq!(service["spec"]["clusterIPs"].take(), json!([ip]));
    assert_eq!(
        service["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "selector": {"app": "web"},
            "clusterIP": null, "clusterIPs": null,
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
}

#[test]
fn a_load_balancer_gets_node_ports_unless_it_declines() {
    let cluster = Cluster::dual();
    let service = cluster.admit(
        json!({"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": "http"}]}),
        None,
    );
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(service["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");

    let without = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    assert_eq!(
        cluster.admit(without, None)["spec"]["ports"][0].get("nodePort"),
        None
    );

    let local =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let local = cluster.admit(local, None);
    let check = local["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert_ne!(Some(check), local["spec"]["ports"][0]["nodePort"].as_u64());
}

#[test]
fn both_families_when_asked_and_present() {
    let dual = json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]});
    let service = Cluster::dual().admit(dual.clone(), None);
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(
        service["spec"]["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00:96::")
    );

    let single = Cluster::new(&["10.96.0.0/24"]);
    assert_eq!(
        single.admit(dual, None)["spec"]["ipFamilies"],
        json!(["IPv4"])
    );
    assert_eq!(
        single.refuse(json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]})),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        ]
    );
    assert_eq!(
        single.refuse(json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]})),
        ["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"]
    );
    let six = Cluster::dual().admit(
        json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]}),
        None,
    );
    assert_eq!(six["spec"]["ipFamilyPolicy"], "SingleStack");
    assert!(
        six["spec"]["clusterIP"]
            .as_str()
            .unwrap()
            .starts_with("fd00:96::")
    );
}

#[test]
fn headless_and_external_names_take_no_address() {
    let cluster = Cluster::dual();
    let headless = cluster.admit(json!({"clusterIP": "None", "selector": {"a": "b"}}), None);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4"]));
    let external = cluster.admit(
        json!({"type": "ExternalName", "externalName": "a.example"}),
        None,
    );
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert_eq!(external["spec"].get("ipFamilies"), None);
}

#[test]
fn an_update_keeps_what_was_handed_out() {
    let cluster = Cluster::dual();
    let spec = json!({"type": "LoadBalancer", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443}]});
    let old = cluster.admit(spec, None);
    // A manifest that names neither address nor node ports, with its ports in another order.
    let again = json!({"type": "LoadBalancer", "ports": [{"name": "b", "port": 443}, {"name": "a", "port": 8080}]});
    let new = cluster.admit(again, Some(&old));
    assert_eq!(new["spec"]["clusterIPs"], old["spec"]["clusterIPs"]);
    assert_eq!(
        new["spec"]["ports"][0]["nodePort"],
        old["spec"]["ports"][1]["nodePort"]
    );
    assert_eq!(
        new["spec"]["ports"][1]["nodePort"],
        old["spec"]["ports"][0]["nodePort"]
    );

    let mut to_cluster_ip = old["spec"].clone();
    to_cluster_ip["type"] = json!("ClusterIP");
    let plain = cluster.admit(to_cluster_ip, Some(&old));
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
    assert_eq!(plain["spec"].get("allocateLoadBalancerNodePorts"), None);
    assert_eq!(plain["spec"]["clusterIP"], old["spec"]["clusterIP"]);
}

#[test]
fn a_second_family_comes_and_goes() {
    let cluster = Cluster::dual();
    let old = cluster.admit(json!({"ports": [{"port": 80}]}), None);
    let mut both = old["spec"].clone();
    both["ipFamilyPolicy"] = json!("PreferDualStack");
    let both = cluster.admit(both, Some(&old));
    assert_eq!(both["spec"]["clusterIPs"][0], old["spec"]["clusterIP"]);
    assert_eq!(both["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    let mut one = both["spec"].clone();
    one["ipFamilyPolicy"] = json!("SingleStack");
    let one = cluster.admit(one, Some(&both));
    assert_eq!(one["spec"]["clusterIPs"], old["spec"]["clusterIPs"]);
    assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn bad_services_are_refused_by_field() {
    let mut cluster = Cluster::dual();
    cluster.occupy(json!({"clusterIPs": ["10.96.0.9"], "ports": [{"port": 1, "nodePort": 30080, "protocol": "TCP"}]}));
    let port = |port: Value| json!({"type": "NodePort", "ports": [port]});
    for (spec, wanted) in [
        (json!({}), "spec.ports: Required value"),
        (
            port(json!({"port": 70000})),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (port(json!({})), "spec.ports[0].port: Required value"),
        (
            port(json!({"port": 80, "protocol": "ICMP"})),
            "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            port(json!({"port": 80, "targetPort": 0.5})),
            "spec.ports[0].targetPort: Invalid value: 0.5: must be between 1 and 65535, inclusive",
        ),
        (
            port(json!({"port": 80, "targetPort": "UP"})),
            "spec.ports[0].targetPort: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            port(json!({"port": 80, "nodePort": 80})),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            port(json!({"port": 80, "nodePort": 30080})),
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30081}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"port": 81}]}),
            "spec.ports[1].name: Required value",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": failed to allocate IP 10.96.0.9: provided IP is already allocated",
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "10.1.1.1"}),
            "spec.clusterIPs[0]: Invalid value: \"10.1.1.1\": failed to allocate IP 10.1.1.1: the provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "nonsense"}),
            "spec.clusterIPs[0]: Invalid value: \"nonsense\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"type": "LoadBalancer", "ports": [{"port": 80}], "clusterIP": "None"}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services",
        ),
        (
            json!({"ports": [{"port": 80}], "type": "Loadbalancer"}),
            "spec.type: Unsupported value: \"Loadbalancer\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"ports": [{"port": 80}], "loadBalancerClass": "a/b"}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0"]}),
            "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
        ),
        (
            json!({"type": "ExternalName"}),
            "spec.externalName: Required value",
        ),
        (
            json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be unspecified or in the loopback range",
        ),
    ] {
        assert_eq!(cluster.refuse(spec.clone()), [wanted], "{spec}");
    }
    let selector = cluster.refuse(json!({"ports": [{"port": 80}], "selector": {"a b": "c d"}}));
    assert!(
        selector
            .iter()
            .all(|cause| cause.starts_with("spec.selector: Invalid value:")),
        "{selector:?}"
    );
    assert_eq!(selector.len(), 2);
}

#[test]
fn addresses_do_not_change_once_set() {
    let cluster = Cluster::dual();
    let old = cluster.admit(
        json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.20"}),
        None,
    );
    let mut spec = old["spec"].clone();
    spec["clusterIP"] = json!("10.96.0.21");
    assert_eq!(
        cluster.try_admit(&spec, Some(&old)).unwrap_err(),
        ["spec.clusterIPs[0]: Invalid value: \"10.96.0.21\": may not change once set"]
    );
    let lb = json!({"type": "LoadBalancer", "loadBalancerClass": "a/b", "ports": [{"port": 80}]});
    let old = cluster.admit(lb, None);
    let mut spec = old["spec"].clone();
    spec["loadBalancerClass"] = json!("c/d");
    assert_eq!(
        cluster.try_admit(&spec, Some(&old)).unwrap_err(),
        ["spec.loadBalancerClass: Invalid value: \"c/d\": may not change once set"]
    );
}
