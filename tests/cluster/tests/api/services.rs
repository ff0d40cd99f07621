//! What Services have of their own: defaults, validation, addresses and ports, what may not change, and their status.

use serde_json::{Value, json};

use crate::step::{Ask, JSON_PATCH, MERGE, STRATEGIC, Story, delete, get, patch, post, put, story};

pub(crate) fn stories() -> Vec<Story> {
    vec![
        service_types(),
        service_ports(),
        service_addresses(),
        service_changes(),
        service_status(),
    ]
}

const SERVICES: &str = "/api/v1/namespaces/{ns}/services";

fn service(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
}

/// A dry run of making a Service with this spec.
fn spec(spec: Value) -> Ask {
    post(&format!("{SERVICES}?dryRun=All"), &service(&spec))
}

fn ports(ports: Value) -> Ask {
    spec(json!({"ports": ports}))
}

fn service_types() -> Story {
    let one = json!([{"port": 80}]);
    let with = |more: Value| {
        let mut all = json!({"ports": one});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        spec(all)
    };
    story(
        "service-types",
        [
            with(json!({})),
            with(json!({"type": "ClusterIP"})),
            with(json!({"type": "NodePort"})),
            with(json!({"type": "LoadBalancer"})),
            with(json!({"type": "ExternalName"})),
            with(json!({"type": "Other"})),
            spec(json!({"type": "ExternalName", "externalName": "example.com"})),
            spec(json!({"type": "ExternalName", "externalName": "bad_name!"})),
            spec(
                json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "None"}),
            ),
            spec(json!({"type": "LoadBalancer"})),
            spec(json!({"type": "ClusterIP"})),
            spec(json!({"clusterIP": "None"})),
            with(json!({"type": "LoadBalancer", "loadBalancerClass": "io.cilium/l2-announcer"})),
            with(json!({"type": "LoadBalancer", "loadBalancerClass": "bad class!"})),
            with(json!({"type": "ClusterIP", "loadBalancerClass": "io.cilium/l2-announcer"})),
            with(json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.1"})),
            with(
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24", " 198.51.100.0/24 "]}),
            ),
            with(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0"]})),
            with(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.300/24"]})),
            with(json!({"type": "ClusterIP", "loadBalancerSourceRanges": ["192.0.2.0/24"]})),
            with(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false})),
            with(json!({"type": "ClusterIP", "allocateLoadBalancerNodePorts": false})),
            with(json!({"sessionAffinity": "ClientIP"})),
            with(
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            ),
            with(
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            ),
            with(
                json!({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            ),
            with(json!({"sessionAffinity": "Other"})),
            with(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})),
            with(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Other"})),
            with(json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"})),
            with(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30555}),
            ),
            with(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 30556}),
            ),
            with(json!({"internalTrafficPolicy": "Local"})),
            with(json!({"internalTrafficPolicy": "Other"})),
            with(json!({"trafficDistribution": "PreferClose"})),
            with(json!({"trafficDistribution": "Somewhere"})),
            with(json!({"publishNotReadyAddresses": true})),
            with(json!({"selector": {"bad key!": "x"}})),
            with(json!({"selector": {"app": "bad value!"}})),
            with(json!({"externalIPs": ["192.0.2.1"]})),
            with(json!({"externalIPs": ["127.0.0.1"]})),
            with(json!({"externalIPs": ["0.0.0.0"]})),
            with(json!({"externalIPs": ["name"]})),
            with(json!({"externalIPs": ["169.254.1.1", "224.0.0.1"]})),
        ],
    )
}

fn service_ports() -> Story {
    story(
        "service-ports",
        [
            ports(json!([])),
            ports(json!([{}])),
            ports(json!([{"port": 0}])),
            ports(json!([{"port": 65536}])),
            ports(json!([{"port": -1}])),
            ports(json!([{"port": "80"}])),
            ports(json!([{"port": 80.5}])),
            ports(json!([{"port": 80, "protocol": "UDP"}])),
            ports(json!([{"port": 80, "protocol": "SCTP"}])),
            ports(json!([{"port": 80, "protocol": "tcp"}])),
            ports(json!([{"port": 80, "protocol": "ICMP"}])),
            ports(json!([{"port": 80, "targetPort": 0}])),
            ports(json!([{"port": 80, "targetPort": 70000}])),
            ports(json!([{"port": 80, "targetPort": "http"}])),
            ports(json!([{"port": 80, "targetPort": "Bad_Name"}])),
            ports(json!([{"port": 80, "targetPort": "name-that-is-too-long"}])),
            ports(json!([{"port": 80, "name": "http"}, {"port": 443}])),
            ports(json!([{"port": 80, "name": "http"}, {"port": 443, "name": "http"}])),
            ports(json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}])),
            ports(json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}])),
            ports(json!([{"port": 80, "name": "Upper"}])),
            ports(json!([{"port": 80, "name": "-dash"}])),
            ports(json!([{"port": 80, "nodePort": 30080}])),
            spec(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30081}]})),
            spec(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})),
            spec(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 70000}]})),
            spec(
                json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30082}, {"name": "b", "port": 81, "nodePort": 30082}]}),
            ),
            spec(
                json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30082}, {"name": "b", "port": 81, "protocol": "UDP", "nodePort": 30082}]}),
            ),
            ports(json!([{"port": 80, "appProtocol": "kubernetes.io/h2c"}])),
            ports(json!([{"port": 80, "appProtocol": "bad protocol!"}])),
            ports(json!({"port": 80})),
            ports(json!(null)),
        ],
    )
}

fn service_addresses() -> Story {
    let with = |more: Value| {
        let mut all = json!({"ports": [{"port": 80}]});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        spec(all)
    };
    story(
        "service-addresses",
        [
            with(json!({"clusterIP": "10.96.77.7"})),
            with(json!({"clusterIP": "10.97.0.1"})),
            with(json!({"clusterIP": "10.96.0.0"})),
            with(json!({"clusterIP": "name"})),
            with(json!({"clusterIP": "None"})),
            with(json!({"clusterIP": "None", "type": "LoadBalancer"})),
            with(json!({"clusterIP": "10.96.77.8", "clusterIPs": ["10.96.77.9"]})),
            with(json!({"clusterIPs": ["10.96.77.8"]})),
            with(
                json!({"clusterIP": "10.96.77.8", "clusterIPs": ["10.96.77.8", "fd00:10:96::77"]}),
            ),
            with(json!({"clusterIP": "10.96.77.8", "clusterIPs": ["10.96.77.8", "10.96.77.9"]})),
            with(json!({"clusterIP": "010.096.077.008"})),
            with(json!({"ipFamilies": ["IPv4"]})),
            with(json!({"ipFamilies": ["IPv6"]})),
            with(json!({"ipFamilies": ["IPv5"]})),
            with(json!({"ipFamilies": ["IPv4", "IPv6"]})),
            with(json!({"ipFamilies": ["IPv4", "IPv4"]})),
            with(json!({"ipFamilyPolicy": "SingleStack"})),
            with(json!({"ipFamilyPolicy": "PreferDualStack"})),
            with(json!({"ipFamilyPolicy": "RequireDualStack"})),
            with(json!({"ipFamilyPolicy": "Other"})),
            with(json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]})),
            with(json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]})),
            with(json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})),
            with(json!({"clusterIP": "fd00:10:96::99", "ipFamilies": ["IPv4"]})),
            with(json!({"clusterIP": "fd00:10:96::99"})),
            with(json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"})),
            with(json!({"clusterIP": "None", "selector": {"a": "b"}})),
            with(
                json!({"type": "ExternalName", "externalName": "example.com", "ipFamilies": ["IPv4"]}),
            ),
        ],
    )
}

fn service_changes() -> Story {
    let one = format!("{SERVICES}/web");
    let merge = |spec: Value| patch(&one, MERGE, &json!({"spec": spec}));
    story("service-changes", [
        post(SERVICES, &service(&json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "nodePort": 30180}]})))
            .keep("ip", "/spec/clusterIP"),
        merge(json!({"clusterIP": "10.96.1.1"})),
        merge(json!({"clusterIP": ""})),
        merge(json!({"clusterIP": "None"})),
        merge(json!({"clusterIPs": null})),
        merge(json!({"ipFamilies": ["IPv6"]})),
        merge(json!({"ipFamilyPolicy": "RequireDualStack"})),
        merge(json!({"ipFamilyPolicy": "SingleStack"})),
        merge(json!({"loadBalancerClass": "example.com/other"})),
        merge(json!({"externalTrafficPolicy": "Local"})),
        merge(json!({"externalTrafficPolicy": "Cluster"})),
        patch(&one, STRATEGIC, &json!({"spec": {"ports": [{"port": 81, "name": "more"}]}})),
        patch(&one, STRATEGIC, &json!({"spec": {"ports": [{"port": 81, "$patch": "delete"}]}})),
        patch(&one, STRATEGIC, &json!({"spec": {"$setElementOrder/ports": [{"port": 80}], "ports": [{"port": 80, "name": "web"}]}})),
        patch(&one, STRATEGIC, &json!({"spec": {"ports": [{"name": "keyless"}]}})),
        patch(&one, JSON_PATCH, &json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 82}])),
        patch(&one, JSON_PATCH, &json!([{"op": "add", "path": "/spec/ports/-", "value": {"port": 83, "name": "third"}}])),
        merge(json!({"ports": [{"port": 80, "name": "only"}]})),
        merge(json!({"type": "NodePort"})),
        merge(json!({"type": "ClusterIP"})),
        merge(json!({"type": "LoadBalancer"})),
        merge(json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/late"})),
        merge(json!({"type": "ExternalName", "externalName": "example.com"})),
        merge(json!({"type": "ClusterIP", "externalName": null})),
        post(SERVICES, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "same-port"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30181}]}})),
        post(SERVICES, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken-port"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30181}]}})),
        post(SERVICES, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "same-ip"}, "spec": {"clusterIP": "10.96.3.3", "ports": [{"port": 1}]}})),
        post(SERVICES, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken-ip"}, "spec": {"clusterIP": "10.96.3.3", "ports": [{"port": 1}]}})),
        delete(&format!("{SERVICES}/same-ip")),
        post(SERVICES, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken-ip"}, "spec": {"clusterIP": "10.96.3.3", "ports": [{"port": 1}]}})),
        put(&one, &service(&json!({"ports": [{"port": 90}]}))),
    ])
}

fn service_status() -> Story {
    let one = format!("{SERVICES}/web");
    let status = format!("{one}/status");
    let merge = |value: Value| patch(&status, MERGE, &json!({"status": value}));
    let condition = |more: Value| {
        let mut all = json!({"type": "Ready", "status": "True", "reason": "Yes", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        json!({"conditions": [all]})
    };
    story(
        "service-status",
        [
            post(
                SERVICES,
                &service(&json!({"type": "LoadBalancer", "ports": [{"port": 80}]})),
            ),
            get(&status),
            merge(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})),
            get(&one),
            merge(
                json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "2001:db8::1"}]}}),
            ),
            merge(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Other"}]}})),
            merge(json!({"loadBalancer": {"ingress": [{"ip": "name"}]}})),
            merge(json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}})),
            merge(json!({"loadBalancer": {"ingress": [{"hostname": "192.0.2.1"}]}})),
            merge(json!({"loadBalancer": {"ingress": [{}]}})),
            merge(condition(json!({}))),
            merge(condition(json!({"status": "Maybe"}))),
            merge(condition(json!({"reason": "bad reason!"}))),
            merge(condition(json!({"reason": ""}))),
            merge(condition(json!({"type": ""}))),
            merge(condition(json!({"lastTransitionTime": null}))),
            merge(condition(json!({"lastTransitionTime": "yesterday"}))),
            patch(
                &status,
                STRATEGIC,
                &json!({"status": {"conditions": [{"type": "Other", "status": "False", "reason": "No", "message": "m", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}),
            ),
            patch(
                &status,
                MERGE,
                &json!({"spec": {"sessionAffinity": "ClientIP"}, "metadata": {"labels": {"by": "status"}}}),
            ),
            patch(&one, MERGE, &json!({"status": {"loadBalancer": null}})),
            patch(
                &status,
                JSON_PATCH,
                &json!([{"op": "remove", "path": "/status/loadBalancer/ingress"}]),
            ),
            patch(
                &status,
                JSON_PATCH,
                &json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}, {"op": "add", "path": "/status/loadBalancer", "value": {}}]),
            ),
            patch(&one, MERGE, &json!({"spec": {"type": "ClusterIP"}})),
            merge(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})),
        ],
    )
}
