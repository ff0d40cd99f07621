//! What each source becomes, as text.

use serde_json::Value;

use super::{From, Import, kube_vip, metallb, purelb, service_notes};

fn import(from: From, yaml: &str) -> Import {
    let objects: Vec<Value> = yaml
        .split("---\n")
        .map(|doc| serde_norway::from_str(doc).unwrap())
        .collect();
    let mut import = Import::default();
    match from {
        From::Metallb => metallb::translate(&objects, &mut import),
        From::KubeVip => kube_vip::translate(&objects, &mut import),
        From::Purelb => purelb::translate(&objects, &mut import),
    }
    for object in &objects {
        service_notes(from, object, &mut import);
    }
    // Whatever comes out is a manifest that our own types read.
    for object in &import.objects {
        match object["kind"].as_str().unwrap() {
            "CiliumLoadBalancerIPPool" => {
                let pool: fairlead_api::CiliumLoadBalancerIPPool =
                    serde_json::from_value(object.clone()).unwrap();
                let pool = fairlead_api::convert::pool(&pool);
                assert_eq!((pool.bad_blocks, pool.selector.is_ok()), (vec![], true));
            }
            "CiliumL2AnnouncementPolicy" => {
                serde_json::from_value::<fairlead_api::CiliumL2AnnouncementPolicy>(object.clone())
                    .unwrap();
            }
            "AddressReservation" => {
                serde_json::from_value::<fairlead_api::AddressReservation>(object.clone()).unwrap();
            }
            other => panic!("{other}"),
        }
    }
    import
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn spec(import: &Import, name: &str) -> Value {
    let mut each = import
        .objects
        .iter()
        .filter(|o| o["metadata"]["name"] == name);
    each.next().unwrap()["spec"].clone()
}

#[test]
fn metallb_pools_and_advertisements() {
    let found = import(From::Metallb, "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first, namespace: metallb-system}
spec:
  addresses: [192.0.2.0/24, 198.51.100.10-198.51.100.20, 'fc00:f853:0ccd:e799::/124']
  avoidBuggyIPs: true
  serviceAllocation:
    priority: 50
    namespaces: [a, b]
    serviceSelectors: [{matchExpressions: [{key: app, operator: In, values: [bar]}]}]
---
kind: IPAddressPool
metadata: {name: cheap}
spec: {addresses: [203.0.113.0/28], autoAssign: false}
---
kind: L2Advertisement
metadata: {name: l2}
spec: {ipAddressPools: [first], interfaces: [eth0.10], nodeSelectors: [{matchLabels: {rack: a}}, {matchLabels: {rack: b}}]}
---
kind: BGPPeer
metadata: {name: tor}
spec: {}
---
kind: Service
metadata: {name: web, namespace: shop, annotations: {metallb.io/address-pool: cheap, metallb.io/allow-shared-ip: k, metallb.io/other: x}}
");
    assert_eq!(
        spec(&found, "first"),
        parse(
            r#"{"blocks":[{"cidr":"192.0.2.0/24"},{"start":"198.51.100.10","stop":"198.51.100.20"},{"cidr":"fc00:f853:0ccd:e799::/124"}],"serviceSelector":{"matchExpressions":[{"key":"io.kubernetes.service.namespace","operator":"In","values":["a","b"]},{"key":"app","operator":"In","values":["bar"]}]}}"#
        )
    );
    assert_eq!(
        found.objects[0]["metadata"]["annotations"]["fairlead.io/priority"],
        "999950"
    );
    assert_eq!(
        spec(&found, "first-buggy-ips"),
        parse(r#"{"blocks":[{"start":"192.0.2.0"},{"start":"192.0.2.255"}]}"#)
    );
    assert_eq!(
        spec(&found, "cheap"),
        parse(
            r#"{"blocks":[{"cidr":"203.0.113.0/28"}],"serviceSelector":{"matchLabels":{"fairlead.io/ip-pool":"cheap"}}}"#
        )
    );
    assert_eq!(
        spec(&found, "l2-2"),
        parse(
            r#"{"interfaces":["^eth0\\.10$"],"loadBalancerIPs":true,"nodeSelector":{"matchLabels":{"rack":"b"}}}"#
        )
    );
    let text = found.text();
    for said in [
        "# - IPAddressPool cheap has autoAssign: false: pool cheap serves only Services with the label",
        "# - L2Advertisement l2: it is limited to pools (first)",
        "# - BGPPeer tor: BGP is not translated",
        "# - kubectl -n shop annotate service web fairlead.io/ip-pool='cheap'",
        "# - kubectl -n shop annotate service web lbipam.cilium.io/sharing-key='k'",
        "# - Service shop/web: annotation metallb.io/other has no equivalent",
    ] {
        assert!(text.contains(said), "{said} not in\n{text}");
    }
}

#[test]
fn metallbs_former_config_map() {
    let found = import(
        From::Metallb,
        "kind: ConfigMap
metadata: {name: config, namespace: metallb-system}
data:
  config: |
    address-pools:
    - {name: default, protocol: layer2, addresses: [192.0.2.240-192.0.2.250]}
",
    );
    assert_eq!(
        spec(&found, "default"),
        parse(r#"{"blocks":[{"start":"192.0.2.240","stop":"192.0.2.250"}]}"#)
    );
    assert_eq!(
        spec(&found, "metallb"),
        parse(r#"{"loadBalancerIPs":true}"#)
    );
}

#[test]
fn kube_vips_config_map_and_daemon_set() {
    let found = import(From::KubeVip, "kind: ConfigMap
metadata: {name: kubevip, namespace: kube-system}
data:
  cidr-global: 192.0.2.0/28
  range-dev: 198.51.100.1-198.51.100.9,198.51.100.20-198.51.100.22
  cidr-dhcp: 0.0.0.0/32
  skip-end-ips-in-cidr: 'true'
  search-order-dev: desc
---
kind: DaemonSet
metadata: {name: kube-vip-ds}
spec: {template: {spec: {containers: [{env: [{name: vip_arp, value: 'true'}, {name: svc_enable, value: 'true'}, {name: vip_interface, value: eth1}, {name: cp_enable, value: 'true'}]}]}}}
");
    assert_eq!(
        spec(&found, "kube-vip-global"),
        parse(
            r#"{"allowFirstLastIPs":"No","blocks":[{"cidr":"192.0.2.0/28"}],"serviceSelector":{"matchExpressions":[{"key":"io.kubernetes.service.namespace","operator":"NotIn","values":["dev","dhcp"]}]}}"#
        )
    );
    assert_eq!(
        spec(&found, "kube-vip-dev"),
        parse(
            r#"{"allowFirstLastIPs":"No","blocks":[{"start":"198.51.100.1","stop":"198.51.100.9"},{"start":"198.51.100.20","stop":"198.51.100.22"}],"serviceSelector":{"matchExpressions":[{"key":"io.kubernetes.service.namespace","operator":"In","values":["dev"]}]}}"#
        )
    );
    assert_eq!(
        spec(&found, "kube-vip"),
        parse(r#"{"interfaces":["^eth1$"],"loadBalancerIPs":true}"#)
    );
    let text = found.text();
    for said in [
        "asks DHCP",
        "search-order-dev=desc has no equivalent",
        "cp_enable",
    ] {
        assert!(text.contains(said), "{said} not in\n{text}");
    }
}

#[test]
fn purelbs_groups_and_agent() {
    let found = import(From::Purelb, "apiVersion: purelb.io/v1
kind: ServiceGroup
metadata: {name: default}
spec: {local: {v4pool: {subnet: 192.0.2.0/24, pool: 192.0.2.10-192.0.2.20, aggregation: default}, v6pool: {subnet: 2001:db8::/64, pool: '2001:db8::/120', aggregation: /128}}}
---
kind: ServiceGroup
metadata: {name: other}
spec: {local: {subnet: 198.51.100.0/24, pool: 198.51.100.0/28, aggregation: default}}
---
kind: ServiceGroup
metadata: {name: box}
spec: {netbox: {url: 'http://netbox'}}
---
kind: LBNodeAgent
metadata: {name: default}
spec: {local: {localint: default, sendgarp: false}}
");
    assert_eq!(
        spec(&found, "default"),
        parse(
            r#"{"blocks":[{"start":"192.0.2.10","stop":"192.0.2.20"},{"cidr":"2001:db8::/120"}]}"#
        )
    );
    assert_eq!(
        spec(&found, "other"),
        parse(
            r#"{"blocks":[{"cidr":"198.51.100.0/28"}],"serviceSelector":{"matchLabels":{"fairlead.io/ip-pool":"other"}}}"#
        )
    );
    let text = found.text();
    for said in ["aggregation /128", "Netbox", "sendgarp", "need BGP"] {
        assert!(text.contains(said), "{said} not in\n{text}");
    }
}
