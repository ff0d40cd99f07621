//! Annotations and fields as users write them.

use k8s_openapi::api::core::v1;

use super::{is_same_claim, service};
use crate::alloc::{Family, FamilyPolicy, Namespaces, ServiceInput};

fn read(annotations: &str, spec: &str, status: &str) -> ServiceInput {
    let object: v1::Service = serde_norway::from_str(&format!(
        "{{metadata: {{name: web, namespace: shop, creationTimestamp: '2026-01-02T03:04:05Z', annotations: {{{annotations}}}}}, spec: {{{spec}}}, status: {{{status}}}}}"
    ))
    .unwrap();
    service(&object).unwrap()
}

fn asked(annotations: &str, spec: &str) -> (Vec<String>, Vec<String>) {
    let read = read(annotations, spec, "");
    (
        read.requested.iter().map(ToString::to_string).collect(),
        read.bad_requests,
    )
}

#[test]
fn requests_come_from_the_field_then_the_annotation() {
    let good = |list: &[&str]| {
        (
            list.iter().map(|s| (*s).to_owned()).collect(),
            Vec::<String>::new(),
        )
    };
    assert_eq!(
        asked(
            "lbipam.cilium.io/ips: '192.0.2.2 , 192.0.2.1,192.0.2.2,'",
            "loadBalancerIP: 192.0.2.1"
        ),
        good(&["192.0.2.1", "192.0.2.2"])
    );
    assert_eq!(
        asked("io.cilium/lb-ipam-ips: '192.0.2.2'", ""),
        good(&["192.0.2.2"])
    );
    assert_eq!(
        asked(
            "io.cilium/lb-ipam-ips: '192.0.2.2', lbipam.cilium.io/ips: ''",
            ""
        ),
        good(&[]),
        "the new name hides the old one even when empty"
    );
    assert_eq!(
        asked("lbipam.cilium.io/ips: '192.0.2.300,2001:db8::1'", ""),
        (
            vec!["2001:db8::1".to_owned()],
            vec!["192.0.2.300".to_owned()]
        )
    );
}

#[test]
fn the_rest_of_a_service_is_read() {
    let read = read(
        "lbipam.cilium.io/sharing-key: k, lbipam.cilium.io/sharing-cross-namespace: 'a, b'",
        "type: LoadBalancer, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80}]",
        "loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: Proxy}, {hostname: x}]}, conditions: [
          {type: cilium.io/IPAMRequestSatisfied, status: 'True', reason: satisfied, message: '', lastTransitionTime: '2026-01-02T03:04:05Z'}]",
    );
    assert_eq!(read.families, [Family::V6, Family::V4]);
    assert_eq!(read.family_policy, FamilyPolicy::PreferDualStack);
    assert_eq!(read.sharing.key, "k");
    assert_eq!(
        read.sharing.namespaces,
        Namespaces::Listed(vec!["a".into(), "b".into()])
    );
    assert_eq!(read.ingress.len(), 1);
    assert!(read.has_foreign_entries && read.is_load_balancer);
    assert_eq!(read.condition.as_ref().unwrap().reason, "satisfied");
    assert_eq!(read.labels["io.kubernetes.service.name"], "web");
    assert_eq!(read.created, 1_767_323_045);
    let mut other = read.clone();
    other.ingress.clear();
    other.condition = None;
    assert!(is_same_claim(&read, &other));
    other.sharing.key.clear();
    assert!(!is_same_claim(&read, &other));
}

#[test]
fn a_star_lets_every_namespace_in() {
    let read = read("io.cilium/lb-ipam-sharing-cross-namespace: '*'", "", "");
    assert_eq!(read.sharing.namespaces, Namespaces::All);
}
