//! The table as a whole, and what users of Cilium bring along.

use std::collections::{BTreeMap, BTreeSet};

use super::{IGNORE, Reader, Treatment, judge, page, rows, treatment};

fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn what_is_missing_is_refused_by_name_with_a_remedy_all_at_once() {
    let map = keys(&[
        ("kube-proxy-replacement", "true"),
        ("bpf-lb-algorithm", "random"),
        ("bpf-lb-mode", "snat"),
        ("enable-egress-gateway", "false"),
        ("enable-hubble", "true"),
        ("enable-warp-drive", "true"),
    ]);
    let refused = judge(Reader::Agent, &map).unwrap_err();
    assert_eq!(
        refused.refusals,
        [
            "bpf-lb-algorithm is `random`: every table here is a Maglev table: set maglev",
            "enable-warp-drive: no such key here: remove it, or name it in fairlead-ignore-keys if it may be ignored",
            "kube-proxy-replacement is `true`: kube-proxy stays and serves cluster IPs and node ports: set false",
        ]
    );
    assert_eq!(refused.reason(), "UnsupportedSetting");
}

#[test]
fn what_is_ignored_says_why() {
    let map = keys(&[
        ("ipam", "cluster-pool"),
        ("hubble-listen-address", ":4244"),
        ("enable-lb-ipam", "true"),
        ("enable-warp-drive", "true"),
        ("kube-proxy-replacement", "true"),
        (IGNORE, "enable-warp-drive, kube-proxy-replacement"),
    ]);
    let ignored: BTreeMap<_, _> = judge(Reader::Agent, &map).unwrap().into_iter().collect();
    assert!(ignored["ipam"].contains("CNI") && ignored["hubble-listen-address"].contains("flows"));
    assert!(
        !ignored.contains_key("enable-lb-ipam"),
        "the operator reads it"
    );
    assert_eq!(
        ignored["enable-warp-drive"],
        "named in fairlead-ignore-keys"
    );
    assert_eq!(ignored.len(), 4, "{ignored:?}");
    let by_operator = judge(Reader::Operator, &map).unwrap();
    assert!(by_operator.iter().all(|(key, _)| key != "enable-lb-ipam"));
}

#[test]
fn bgp_is_refused_by_who_would_have_to_speak_it() {
    let map = keys(&[("enable-bgp-control-plane", "true")]);
    assert!(judge(Reader::Operator, &map).is_ok());
    let refused = judge(Reader::Agent, &map).unwrap_err();
    assert!(
        refused.to_string().contains("BGP is not spoken"),
        "{refused}"
    );
}

/// What Cilium 1.18's chart writes with its own default values, as far as it concerns more than names and times.
#[test]
fn of_cilium_s_own_defaults_only_what_differs_here_is_refused() {
    let defaults = keys(&[
        (
            "agent-not-ready-taint-key",
            "node.cilium.io/agent-not-ready",
        ),
        ("auto-direct-node-routes", "false"),
        ("bpf-lb-acceleration", "disabled"),
        ("bpf-lb-algorithm-annotation", "false"),
        ("bpf-lb-external-clusterip", "false"),
        ("bpf-lb-map-max", "65536"),
        ("bpf-lb-mode-annotation", "false"),
        ("bpf-lb-sock", "false"),
        ("bpf-lb-source-range-all-types", "false"),
        ("bpf-map-dynamic-size-ratio", "0.0025"),
        ("bpf-policy-map-max", "16384"),
        ("bpf-root", "/sys/fs/bpf"),
        ("cluster-id", "0"),
        ("cluster-name", "default"),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/8"),
        ("cni-exclusive", "true"),
        ("custom-cni-conf", "false"),
        ("datapath-mode", "veth"),
        ("debug", "false"),
        ("default-lb-service-ipam", "lbipam"),
        ("enable-auto-protect-node-port-range", "true"),
        ("enable-bgp-control-plane", "false"),
        ("enable-hubble", "true"),
        ("enable-ipv4", "true"),
        ("enable-ipv6", "false"),
        ("enable-k8s-networkpolicy", "true"),
        ("enable-l2-neigh-discovery", "false"),
        ("enable-l7-proxy", "true"),
        ("enable-lb-ipam", "true"),
        ("enable-local-redirect-policy", "false"),
        ("enable-node-port", "false"),
        ("enable-sctp", "false"),
        ("enable-svc-source-range-check", "true"),
        ("enable-vtep", "false"),
        ("envoy-keep-cap-netbindservice", "false"),
        ("identity-allocation-mode", "crd"),
        ("ipam", "cluster-pool"),
        ("kube-proxy-replacement", "false"),
        ("mesh-auth-enabled", "true"),
        ("monitor-aggregation", "medium"),
        ("operator-prometheus-serve-addr", ":9963"),
        ("routing-mode", "tunnel"),
        ("service-no-backend-response", "reject"),
        ("tofqdns-min-ttl", "0"),
        ("tunnel-protocol", "vxlan"),
        (
            "write-cni-conf-when-ready",
            "/host/etc/cni/net.d/05-cilium.conflist",
        ),
    ]);
    for reader in [Reader::Agent, Reader::Operator] {
        let refused = judge(reader, &defaults).unwrap_err().refusals;
        let [only] = &refused[..] else {
            panic!("{refused:?}")
        };
        assert!(only.starts_with("service-no-backend-response is `reject`"));
    }
}

#[test]
fn no_row_hides_another_and_every_reason_is_a_clause() {
    let mut seen = BTreeSet::new();
    for row in rows() {
        assert!(seen.insert(row.key), "{} is there twice", row.key);
        let first = rows().find(|r| r.is_about(row.key)).map(|r| r.key);
        assert_eq!(first, Some(row.key), "an earlier row hides it");
        for treatment in [row.agent, row.operator] {
            let text = match treatment {
                Treatment::Read => continue,
                Treatment::Ignored(why) => why,
                Treatment::Refused { remedy, .. } => remedy,
            };
            assert!(
                !text.is_empty() && !text.ends_with('.'),
                "{}: {text}",
                row.key
            );
        }
    }
    assert!(treatment(Reader::Agent, "bpf-lb-service-map-max").is_some());
    assert_eq!(
        page().lines().filter(|l| l.starts_with("| `")).count(),
        seen.len()
    );
}
