use serde_json::{Value, json};

use super::*;
use crate::drive::NODES;

fn frontend(vip: &str, protocol: &str, port: u16) -> Value {
    let backend = json!({
        "addr": "10.10.0.21", "port": 8080, "state": "Active", "node": null, "mode": "snat",
        "next_hop": "02:00:00:00:00:01", "interface": "eth1", "problem": null,
    });
    json!({
        "frontend": format!("{vip}:{port}/{protocol}"), "vip": vip, "protocol": protocol,
        "port": port, "mode": "auto", "is_programmed": true, "table_size": 16381,
        "packets": 0, "bytes": 0, "drops": 0, "backends": [backend],
    })
}

/// What `node` says when all is well and lb1 owns both VIPs.
fn view(node: &str) -> [Value; 3] {
    let peer = if node == "lb1" { "lb2" } else { "lb1" };
    let status = json!({
        "node": node, "version": "0", "started": "2026-01-01T00:00:00Z",
        "api": {"server": "https://10.10.0.11:6443", "is_connected": true, "since": null, "error": null},
        "generation": {"seen": 1, "programmed": 1},
        "n_services": 1, "n_vips": 2, "n_owned": 0, "interfaces": [],
        "peers": [{"node": peer, "interface": "eth1", "state": "Alive", "last_heard_ms": 7}],
        "problems": [], "reasons": [],
    });
    let vips = ["fd10::c0:0", "10.10.0.192"];
    let frontends: Vec<Value> = vips
        .iter()
        .flat_map(|v| [frontend(v, "TCP", 80), frontend(v, "UDP", 7)])
        .collect();
    let services = json!([{
        "namespace": "default", "name": "web", "vips": vips, "owner": "lb1",
        "frontends": frontends, "conditions": [],
    }]);
    let row = |vip: &str| {
        json!({
            "vip": vip, "service": "default/web", "owner": "lb1", "is_self": node == "lb1",
            "interface": "eth1", "since": null, "epoch": 1,
            "state": if node == "lb1" { "Owner" } else { "Standby" },
            "why": format!("as {node} sees it"),
        })
    };
    [status, services, json!(vips.map(row))]
}

fn views(change: impl Fn(&str, &mut [Value; 3])) -> Vec<NodeView> {
    NODES
        .iter()
        .map(|node| {
            let mut all = view(node);
            change(node, &mut all);
            let [status, services, l2] = all;
            NodeView {
                node: (*node).to_owned(),
                status: serde_json::from_value(status).unwrap(),
                services: serde_json::from_value(services).unwrap(),
                l2: serde_json::from_value(l2).unwrap(),
            }
        })
        .collect()
}

fn missing(change: impl Fn(&str, &mut [Value; 3])) -> String {
    agreed("default/web", &views(change)).expect_err("something is missing")
}

#[test]
fn nodes_that_agree_give_frontends_owner_and_the_owners_reason() {
    let (frontends, owner, why) = agreed("default/web", &views(|_, _| {})).unwrap();
    assert_eq!((owner.as_str(), why.as_str()), ("lb1", "as lb1 sees it"));
    assert_eq!((frontends.tcp_port, frontends.udp_port), (80, 7));
    assert!(!frontends.returns_direct);
    assert!(frontends.vips[0].is_ipv4() && frontends.vips[1].is_ipv6());
    let shares: Vec<usize> = frontends.divide(5).map(|(_, n)| n).collect();
    assert_eq!(shares, [3, 2]);
}

#[test]
fn two_owners_are_not_ready() {
    let error = missing(|node, view| {
        if node == "lb2" {
            view[2][0]["owner"] = json!("lb2");
            view[2][0]["is_self"] = json!(true);
        }
    });
    assert!(error.starts_with("owners differ"), "{error}");
}

#[test]
fn what_one_node_lacks_is_named() {
    let on_lb2 = |change: fn(&mut [Value; 3])| {
        missing(move |node, view| {
            if node == "lb2" {
                change(view);
            }
        })
    };
    let error = on_lb2(|v| v[0]["peers"] = json!([]));
    assert_eq!(error, "lb2 sees lb1 as absent");
    let error = on_lb2(|v| v[0]["peers"][0]["state"] = json!("Suspect"));
    assert_eq!(error, "lb2 sees lb1 as Suspect");
    let error = on_lb2(|v| v[1] = json!([]));
    assert_eq!(error, "lb2 knows no Service default/web");
    let error = on_lb2(|v| v[1][0]["vips"] = json!(["10.10.0.192"]));
    assert_eq!(error, "default/web has 1 of 2 addresses on lb2");
    let error = on_lb2(|v| v[1][0]["frontends"][1]["is_programmed"] = json!(false));
    assert!(
        error.starts_with("lb2 has fd10::c0:0:7/UDP programmed: false"),
        "{error}"
    );
    let error = on_lb2(|v| v[1][0]["frontends"][0]["backends"][0]["next_hop"] = json!(null));
    assert!(error.contains("0 of 1 backends serve"), "{error}");
    let error = on_lb2(|v| v[1][0]["frontends"].as_array_mut().unwrap().truncate(3));
    assert_eq!(error, "default/web lacks a UDP frontend on lb2");
    let error = on_lb2(|v| v[2][1]["owner"] = json!(null));
    assert_eq!(error, "lb2 knows no owner of 10.10.0.192");
}
