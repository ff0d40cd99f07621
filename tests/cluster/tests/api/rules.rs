//! What each kind but Services has of its own: defaults, validation, what may not change. Most requests are dry runs, so that they
//! stand alone.

use serde_json::{Value, json};

use crate::step::{Ask, JSON_PATCH, MERGE, STRATEGIC, Story, delete, get, patch, post, put, story};

pub(crate) fn stories() -> Vec<Story> {
    vec![
        slices(),
        slice_changes(),
        config_maps(),
        secrets(),
        leases(),
        nodes(),
        namespaces(),
        events(),
        pools(),
        pool_status(),
        policies(),
        paths(),
    ]
}

fn slice(more: &Value) -> Ask {
    let mut all = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web"},
        "addressType": "IPv4", "endpoints": [], "ports": []});
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    post(
        "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices?dryRun=All",
        &all,
    )
}

fn slices() -> Story {
    let endpoint = |more: Value| {
        let mut all = json!({"addresses": ["192.0.2.1"]});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        slice(&json!({"endpoints": [all]}))
    };
    story(
        "slices",
        [
            slice(&json!({})),
            slice(&json!({"addressType": null})),
            slice(&json!({"addressType": "IPv5"})),
            slice(&json!({"addressType": "IPv6", "endpoints": [{"addresses": ["2001:db8::1"]}]})),
            slice(&json!({"addressType": "IPv6", "endpoints": [{"addresses": ["192.0.2.1"]}]})),
            slice(&json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]})),
            slice(&json!({"addressType": "FQDN", "endpoints": [{"addresses": ["bad_name!"]}]})),
            slice(&json!({"ports": null, "endpoints": null})),
            endpoint(json!({})),
            endpoint(json!({"addresses": []})),
            endpoint(json!({"addresses": ["2001:db8::1"]})),
            endpoint(json!({"addresses": ["127.0.0.1"]})),
            endpoint(json!({"addresses": ["169.254.0.1"]})),
            endpoint(json!({"addresses": ["224.0.0.1"]})),
            endpoint(json!({"addresses": ["0.0.0.0"]})),
            endpoint(json!({"addresses": ["192.0.2.01"]})),
            endpoint(json!({"addresses": ["192.0.2.1", "192.0.2.2"]})),
            endpoint(
                json!({"addresses": (0..101).map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>()}),
            ),
            endpoint(json!({"conditions": {"ready": true, "serving": true, "terminating": false}})),
            endpoint(json!({"hostname": "Bad_Host"})),
            endpoint(json!({"nodeName": "node-1", "zone": "a"})),
            endpoint(json!({"nodeName": "Bad_Node"})),
            endpoint(json!({"hints": {"forZones": [{"name": "a"}]}})),
            endpoint(json!({"hints": {"forZones": [{"name": "a"}, {"name": "a"}]}})),
            endpoint(json!({"targetRef": {"kind": "Pod", "name": "x"}})),
            endpoint(json!({"deprecatedTopology": {"a": "b"}})),
            slice(&json!({"ports": [{}]})),
            slice(&json!({"ports": [{"port": 0}]})),
            slice(&json!({"ports": [{"port": 65536}]})),
            slice(&json!({"ports": [{"port": 80, "protocol": "tcp"}]})),
            slice(&json!({"ports": [{"port": 80, "name": "Bad"}]})),
            slice(&json!({"ports": [{"port": 80}, {"port": 81}]})),
            slice(&json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]})),
            slice(&json!({"ports": [{"port": 80, "appProtocol": "bad one!"}]})),
            slice(
                &json!({"endpoints": (0..1001).map(|n| json!({"addresses": [format!("10.1.{}.{}", n / 250, n % 250)]})).collect::<Vec<_>>()}),
            ),
            slice(
                &json!({"ports": (0..101).map(|n| json!({"port": n + 1, "name": format!("p{n}")})).collect::<Vec<_>>()}),
            ),
        ],
    )
}

fn slice_changes() -> Story {
    let all = "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices";
    let one = format!("{all}/web");
    story(
        "slice-changes",
        [
            post(
                all,
                &json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 80}]}),
            ),
            patch(&one, MERGE, &json!({"addressType": "IPv6"})),
            patch(
                &one,
                MERGE,
                &json!({"addressType": "IPv6", "endpoints": []}),
            ),
            patch(
                &one,
                STRATEGIC,
                &json!({"endpoints": [{"addresses": ["192.0.2.2"]}]}),
            ),
            patch(
                &one,
                JSON_PATCH,
                &json!([{"op": "add", "path": "/endpoints/0/conditions", "value": {"ready": false}}]),
            ),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}}),
            ),
            get(
                "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb",
            ),
        ],
    )
}

fn config_maps() -> Story {
    let all = "/api/v1/namespaces/{ns}/configmaps";
    let one = format!("{all}/m");
    let make = |more: Value| {
        let mut object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    };
    let dry = |more: Value| post(&format!("{all}?dryRun=All"), &make(more));
    story(
        "config-maps",
        [
            dry(json!({})),
            dry(json!({"data": {"bad key!": "x"}})),
            dry(json!({"data": {"..": "x"}})),
            dry(json!({"data": {"a": 1}})),
            dry(json!({"data": {"a": null}})),
            dry(json!({"binaryData": {"a": "AQI="}})),
            dry(json!({"binaryData": {"a": "not base64!"}})),
            dry(json!({"data": {"a": "x"}, "binaryData": {"a": "AQI="}})),
            dry(json!({"data": {"a": "x".repeat(1_048_577)}})),
            post(
                all,
                &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "made-"}, "data": {"a": "1"}}),
            ),
            post(
                all,
                &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "Bad-"}}),
            ),
            post(all, &make(json!({"immutable": true, "data": {"a": "1"}}))),
            patch(&one, MERGE, &json!({"data": {"a": "2"}})),
            patch(&one, MERGE, &json!({"immutable": false})),
            patch(&one, MERGE, &json!({"metadata": {"labels": {"a": "b"}}})),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"annotations": {"a": "x".repeat(262_145)}}}),
            ),
        ],
    )
}

fn secrets() -> Story {
    let all = "/api/v1/namespaces/{ns}/secrets";
    let one = format!("{all}/s");
    let make = |more: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    };
    let dry = |more: Value| post(&format!("{all}?dryRun=All"), &make(more));
    story(
        "secrets",
        [
            dry(json!({})),
            dry(json!({"stringData": {"a": "x"}})),
            dry(json!({"stringData": {"a": "x"}, "data": {"a": "eQ=="}})),
            dry(json!({"data": {"a": "not base64!"}})),
            dry(json!({"data": {"bad key!": "eQ=="}})),
            dry(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eQ=="}})),
            dry(
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eQ==", "tls.key": "eQ=="}}),
            ),
            dry(json!({"type": "kubernetes.io/basic-auth"})),
            dry(json!({"type": "kubernetes.io/ssh-auth"})),
            dry(
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}),
            ),
            dry(
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eQ=="}}),
            ),
            dry(json!({"type": "kubernetes.io/service-account-token"})),
            post(
                all,
                &make(json!({"type": "example.com/own", "stringData": {"a": "x"}})),
            ),
            patch(&one, MERGE, &json!({"type": "Opaque"})),
            patch(&one, MERGE, &json!({"stringData": {"b": "y"}})),
            patch(&one, MERGE, &json!({"data": {"a": null}})),
            get("/api/v1/namespaces/{ns}/secrets?fieldSelector=type%3Dexample.com%2Fown"),
            patch(&one, MERGE, &json!({"immutable": true})),
            patch(&one, MERGE, &json!({"data": {"c": "eQ=="}})),
        ],
    )
}

fn leases() -> Story {
    let all = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases";
    let dry = |spec: Value| {
        let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec});
        post(&format!("{all}?dryRun=All"), &object)
    };
    story(
        "leases",
        [
            dry(json!({})),
            dry(json!(null)),
            dry(json!({"leaseDurationSeconds": 0})),
            dry(json!({"leaseDurationSeconds": -1})),
            dry(json!({"leaseTransitions": -1})),
            dry(json!({"holderIdentity": ""})),
            dry(
                json!({"renewTime": "2024-01-01T00:00:00.000000Z", "acquireTime": "2024-01-01T00:00:00.123456Z"}),
            ),
            dry(json!({"renewTime": "2024-01-01T00:00:00Z"})),
            dry(json!({"renewTime": "soon"})),
            dry(json!({"renewTime": "2024-01-01T01:00:00.000000+01:00"})),
            dry(json!({"strategy": "OldestEmulationVersion"})),
            dry(json!({"preferredHolder": "x"})),
            put(
                &format!("{all}/new"),
                &json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "new"}, "spec": {"holderIdentity": "a"}}),
            ),
            put(
                &format!("{all}/new"),
                &json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "new"}, "spec": {"holderIdentity": "b"}}),
            ),
        ],
    )
}

fn nodes() -> Story {
    let all = "/api/v1/nodes";
    let dry = |more: Value| {
        let mut object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n-rules"}});
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        post(&format!("{all}?dryRun=All"), &object)
    };
    let status = format!("{all}/n-rules/status");
    story(
        "nodes",
        [
            dry(json!({})),
            dry(json!({"spec": {"podCIDR": "10.1.0.0/24"}})),
            dry(json!({"spec": {"podCIDRs": ["10.1.0.0/24", "fd00::/64"]}})),
            dry(json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24"]}})),
            dry(json!({"spec": {"podCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}})),
            dry(json!({"spec": {"podCIDRs": ["nonsense"]}})),
            dry(json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})),
            dry(json!({"spec": {"taints": [{"key": "a", "effect": "Other"}]}})),
            dry(
                json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}}),
            ),
            dry(json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})),
            post(
                all,
                &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n-rules"}}),
            ),
            patch(
                &status,
                MERGE,
                &json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}]}}),
            ),
            patch(
                &status,
                STRATEGIC,
                &json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}}),
            ),
            patch(
                &status,
                STRATEGIC,
                &json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": "2024-01-01T00:00:00Z", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}),
            ),
            get(&format!("{all}/n-rules")).accept(crate::step::TABLE),
            patch(
                &format!("{all}/n-rules"),
                MERGE,
                &json!({"spec": {"podCIDR": "10.3.0.0/24", "podCIDRs": ["10.3.0.0/24"]}}),
            ),
            patch(
                &format!("{all}/n-rules"),
                MERGE,
                &json!({"spec": {"podCIDR": "10.4.0.0/24", "podCIDRs": ["10.4.0.0/24"]}}),
            ),
            patch(
                &format!("{all}/n-rules"),
                MERGE,
                &json!({"spec": {"providerID": "one"}}),
            ),
            patch(
                &format!("{all}/n-rules"),
                MERGE,
                &json!({"spec": {"providerID": "two"}}),
            ),
            delete(&format!("{all}/n-rules")),
        ],
    )
}

fn namespaces() -> Story {
    let make = |name: &str| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        post("/api/v1/namespaces?dryRun=All", &object)
    };
    let into = |namespace: &str| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
        post(
            &format!("/api/v1/namespaces/{namespace}/configmaps"),
            &object,
        )
    };
    story(
        "namespaces",
        [
            make("with.dot"),
            make(&"x".repeat(64)),
            make("kube-system"),
            make("default"),
            get("/api/v1/namespaces/default"),
            get("/api/v1/namespaces/nowhere"),
            into("nowhere"),
            get("/api/v1/namespaces/nowhere/configmaps"),
            get("/api/v1/namespaces/nowhere/configmaps/m"),
            delete("/api/v1/namespaces/default"),
            delete("/api/v1/namespaces/kube-system"),
            delete("/api/v1/namespaces/nowhere"),
            delete("/api/v1/namespaces"),
            patch(
                "/api/v1/namespaces/{ns}",
                MERGE,
                &json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "other"}}}),
            ),
            patch(
                "/api/v1/namespaces/{ns}/status",
                MERGE,
                &json!({"status": {"phase": "Terminating"}}),
            ),
        ],
    )
}

fn events() -> Story {
    let make = |more: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Done", "message": "m", "type": "Normal",
            "involvedObject": {"kind": "Service", "namespace": "{ns}", "name": "web", "apiVersion": "v1"}});
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    };
    let all = "/api/v1/namespaces/{ns}/events";
    let dry = |more: Value| post(&format!("{all}?dryRun=All"), &make(more));
    story(
        "events",
        [
            dry(json!({})),
            dry(
                json!({"involvedObject": {"kind": "Service", "namespace": "elsewhere", "name": "web"}}),
            ),
            dry(json!({"involvedObject": {"kind": "Node", "name": "n"}})),
            dry(json!({"eventTime": "2024-01-01T00:00:00.000000Z"})),
            dry(
                json!({"eventTime": "2024-01-01T00:00:00.000000Z", "reportingComponent": "example.com/us", "reportingInstance": "one", "action": "Did"}),
            ),
            dry(
                json!({"eventTime": "2024-01-01T00:00:00.000000Z", "reportingComponent": "bad one!", "reportingInstance": "one", "action": "Did"}),
            ),
            dry(json!({"type": "Other"})),
            post(
                all,
                &make(json!({"source": {"component": "us"}, "count": 3})),
            ),
            get(&format!("{all}?fieldSelector=involvedObject.name%3Dweb")),
            get(&format!("{all}?fieldSelector=involvedObject.kind%3DPod")),
            get(&format!(
                "{all}?fieldSelector=reason%3DDone%2Ctype%3DNormal"
            )),
            get(&format!(
                "{all}?fieldSelector=involvedObject.name%3Dweb%2CinvolvedObject.namespace%3D{{ns}}%2CinvolvedObject.kind%3DService"
            )),
            get(&format!("{all}?fieldSelector=source%3Dus")),
            get(&format!("{all}?fieldSelector=message%3Dm")),
        ],
    )
}

fn pools() -> Story {
    let all = "/apis/cilium.io/v2/ciliumloadbalancerippools";
    let make = |spec: Value| json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "rules"}, "spec": spec});
    let dry = |spec: Value| post(&format!("{all}?dryRun=All"), &make(spec));
    story(
        "pools",
        [
            dry(json!({})),
            dry(json!(null)),
            dry(json!({"blocks": []})),
            dry(json!({"blocks": [{}]})),
            dry(
                json!({"blocks": [{"cidr": "10.0.0.0/8"}, {"start": "10.0.0.1", "stop": "10.0.0.9"}]}),
            ),
            dry(json!({"blocks": [{"cidr": "10.0.0.0"}]})),
            dry(json!({"blocks": [{"cidr": "nonsense"}]})),
            dry(json!({"blocks": [{"cidr": 7}]})),
            dry(json!({"blocks": {"cidr": "10.0.0.0/8"}})),
            dry(json!({"blocks": "10.0.0.0/8"})),
            dry(json!({"blocks": null})),
            dry(json!({"allowFirstLastIPs": "Yes"})),
            dry(json!({"allowFirstLastIPs": "yes"})),
            dry(json!({"allowFirstLastIPs": true})),
            dry(json!({"disabled": "true"})),
            dry(json!({"disabled": true})),
            dry(json!({"disabled": null})),
            dry(json!({"unknown": 1})),
            dry(json!({"serviceSelector": {"matchLabels": {"a": "b"}}})),
            dry(json!({"serviceSelector": {"matchLabels": {"a": "bad value!"}}})),
            dry(json!({"serviceSelector": {"matchLabels": {"a": "x".repeat(64)}}})),
            dry(
                json!({"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}),
            ),
            dry(
                json!({"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            ),
            dry(json!({"serviceSelector": {"matchExpressions": [{"operator": "Exists"}]}})),
            dry(json!({"serviceSelector": {"matchExpressions": [{"key": "a"}]}})),
            post(
                &format!("{all}?dryRun=All&fieldValidation=Strict"),
                &make(json!({"blocks": [{"cidr": "10.0.0.0/8", "unknown": 1}]})),
            ),
            post(
                &format!("{all}?dryRun=All&fieldValidation=Warn"),
                &make(json!({"blocks": [{"cidr": "10.0.0.0/8", "unknown": 1}], "more": 2})),
            ),
            post(
                "/apis/cilium.io/v2alpha1/ciliumloadbalancerippools?dryRun=All",
                &json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "old"}, "spec": {"blocks": [{"cidr": "10.0.0.0/8"}]}}),
            ),
            post(
                "/apis/cilium.io/v2alpha1/ciliumloadbalancerippools?dryRun=All",
                &make(json!({"blocks": []})),
            ),
            post(all, &make(json!({"blocks": [{"cidr": "203.0.113.0/24"}]}))),
            get("/apis/cilium.io/v2alpha1/ciliumloadbalancerippools/rules"),
            get(&format!("{all}/rules")).accept(crate::step::TABLE),
            patch(
                &format!("{all}/rules"),
                STRATEGIC,
                &json!({"spec": {"disabled": true}}),
            ),
            patch(
                &format!("{all}/rules"),
                MERGE,
                &json!({"spec": {"disabled": null}}),
            ),
            patch(&format!("{all}/rules"), MERGE, &json!({"spec": null})),
            patch(
                &format!("{all}/rules"),
                MERGE,
                &json!({"status": {"conditions": []}}),
            ),
            delete(&format!("{all}/rules")),
        ],
    )
}

fn pool_status() -> Story {
    let all = "/apis/cilium.io/v2/ciliumloadbalancerippools";
    let one = format!("{all}/status-rules");
    let status = format!("{one}/status");
    let condition = |more: Value| {
        let mut all = json!({"type": "cilium.io/IPsAvailable", "status": "Unknown", "reason": "Noop", "message": "254", "lastTransitionTime": "2024-01-01T00:00:00Z"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        patch(&status, MERGE, &json!({"status": {"conditions": [all]}}))
    };
    story(
        "pool-status",
        [
            post(
                all,
                &json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "status-rules"}, "spec": {"blocks": []},
            "status": {"conditions": []}}),
            ),
            get(&status),
            condition(json!({})),
            get(&one).accept(crate::step::TABLE),
            condition(json!({"status": "Maybe"})),
            condition(json!({"reason": ""})),
            condition(json!({"reason": "bad reason!"})),
            condition(json!({"type": null})),
            condition(json!({"lastTransitionTime": "yesterday"})),
            condition(json!({"observedGeneration": -1})),
            condition(json!({"observedGeneration": 1.5})),
            patch(
                &status,
                MERGE,
                &json!({"status": {"conditions": [{"type": "a", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"},
            {"type": "a", "status": "False", "reason": "R", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}),
            ),
            patch(
                &status,
                MERGE,
                &json!({"spec": {"disabled": true}, "metadata": {"labels": {"by": "status"}}, "status": {"conditions": []}}),
            ),
            patch(
                &one,
                MERGE,
                &json!({"spec": {"disabled": true}, "status": {"conditions": null}}),
            ),
            get(&one),
            put(
                &status,
                &json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "status-rules"}, "spec": {"blocks": []}, "status": {"conditions": []}}),
            ),
            delete(&one),
        ],
    )
}

fn policies() -> Story {
    let all = "/apis/cilium.io/v2alpha1/ciliuml2announcementpolicies";
    let dry = |spec: Value| {
        let object = json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumL2AnnouncementPolicy", "metadata": {"name": "rules"}, "spec": spec});
        post(&format!("{all}?dryRun=All"), &object)
    };
    story(
        "policies",
        [
            dry(json!({})),
            dry(json!(null)),
            dry(json!({"interfaces": ["("]})),
            dry(json!({"interfaces": "eth0"})),
            dry(json!({"interfaces": [1]})),
            dry(json!({"externalIPs": "yes"})),
            dry(json!({"nodeSelector": {"matchLabels": {"a": "b"}}})),
            dry(json!({"nodeSelector": {"matchLabels": {"a": 1}}})),
            dry(
                json!({"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}),
            ),
            dry(
                json!({"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}),
            ),
            dry(json!({"serviceSelector": {"matchExpressions": "x"}})),
            dry(json!({"unknown": true})),
            get("/apis/cilium.io/v2/ciliuml2announcementpolicies"),
        ],
    )
}

fn paths() -> Story {
    story(
        "paths",
        [
            get("/api"),
            get("/apis/nothing.example"),
            get("/apis/nothing.example/v1"),
            get("/apis/cilium.io"),
            get("/apis/cilium.io/v2"),
            get("/apis/cilium.io/v2alpha1"),
            get("/apis/cilium.io/v9"),
            get("/api/v1/nothings"),
            get("/api/v1/namespaces/{ns}/nothings/x"),
            get("/api/v2"),
            get("/nothing"),
            get("/healthz"),
            get("/livez"),
            get("/readyz"),
            raw_post("/api/v1/nothings"),
            get("/api/v1/services?limit=0&fieldSelector=metadata.namespace%3D{ns}"),
            get("/apis/discovery.k8s.io/v1/endpointslices?fieldSelector=metadata.namespace%3D{ns}"),
            get("/api/v1/namespaces/{ns}/services/web/proxy"),
        ],
    )
}

fn raw_post(path: &str) -> Ask {
    post(path, &json!({}))
}
