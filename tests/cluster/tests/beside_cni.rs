//! Beside another CNI, on a real control plane, with the ConfigMap of `deploy/plain`: addresses are announced, packets pass to rules as
//! kube-proxy writes them, and what its kube-proxy or somebody's XDP program spoils is said on the Service.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use fairlead_cluster::{
    repository,
    site::{Program, Site},
};
use fairlead_lab::{
    drive::{INTERFACE, NODES, SERVICE, view::NodeView},
    traffic::requests::requests,
};
use serde_json::Value;

/// Short, so that a test need not wait for the defaults.
const ELECTION: [(&str, &str); 3] = [
    ("leader-election-lease-duration", "3s"),
    ("leader-election-renew-deadline", "2s"),
    ("leader-election-retry-period", "500ms"),
];
/// The servers of the example, in both families.
const BACKENDS: [[&str; 3]; 2] = [
    ["10.10.0.21", "10.10.0.22", "10.10.0.23"],
    ["fd10::21", "fd10::22", "fd10::23"],
];
/// Where the other program pins.
const OTHER_PINS: &str = "/sys/fs/bpf/other";

/// The ConfigMap of the manifests as kubelet would mount it, with other values for some keys.
fn mounted(site: &Site, name: &str, other: &[(&str, &str)]) -> PathBuf {
    let file = repository()
        .join("deploy/plain/config.yaml")
        .display()
        .to_string();
    let as_json = ["create", "--dry-run=client", "-o", "json", "-f", &file];
    let object: Value = serde_json::from_str(&site.plane.kubectl(&as_json).unwrap()).unwrap();
    let data = object["data"].as_object().unwrap();
    let mut keys: BTreeMap<&str, &str> = data
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
        .collect();
    keys.extend(ELECTION);
    keys.extend(other.iter().copied());
    let folder = site.plane.path(name);
    fs::create_dir_all(&folder).unwrap();
    for (key, value) in keys {
        fs::write(folder.join(key), value).unwrap();
    }
    folder
}

fn start(site: &mut Site, node: &'static str, program: Program, config: &Path) {
    let config = config.display().to_string();
    site.start(node, program, &["--config-dir", &config])
        .unwrap();
}

/// Status and reason of a condition of the Service.
fn condition(site: &Site, type_: &str) -> anyhow::Result<(String, String)> {
    let (_, name) = SERVICE.split_once('/').expect("a namespace and a name");
    let text = site.plane.kubectl(&["get", "svc", name, "-o", "json"])?;
    let service: Value = serde_json::from_str(&text)?;
    let all = service["status"]["conditions"].as_array();
    let found = all
        .into_iter()
        .flatten()
        .find(|c| c["type"] == format!("fairlead.io/{type_}"));
    let found = found.with_context(|| format!("no condition {type_} in {}", service["status"]))?;
    let word = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((word("status"), word("reason")))
}

fn wait_for(site: &mut Site, type_: &str, status: &str, reason: &str) {
    let what = format!("{type_} is {status}: {reason}");
    site.wait(&what, |site| {
        let found = condition(site, type_)?;
        ensure!(found == (status.to_owned(), reason.to_owned()), "{found:?}");
        Ok(())
    })
    .unwrap();
}

/// What kube-proxy writes in mode nftables, in short: destination translation to a random backend, and masquerading of what it marked.
fn kube_proxy(vips: &[IpAddr]) -> String {
    let mut rules = String::from(
        "table inet kube-proxy {\n counter dialled {}\n\
         chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n\
         chain postrouting { type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade fully-random; }\n",
    );
    let mut services = String::new();
    for (n, (vip, backends)) in vips.iter().zip(BACKENDS).enumerate() {
        let family = if vip.is_ipv4() { "ip" } else { "ip6" };
        for (m, backend) in backends.iter().enumerate() {
            let to = if vip.is_ipv4() {
                format!("{backend}:8080")
            } else {
                format!("[{backend}]:8080")
            };
            let dnat = format!("meta l4proto tcp dnat {family} to {to};");
            writeln!(rules, " chain endpoint-{n}-{m} {{ {dnat} }}").unwrap();
        }
        let choice = format!(
            "numgen random mod 3 vmap {{ 0 : goto endpoint-{n}-0, 1 : goto endpoint-{n}-1, 2 : goto endpoint-{n}-2 }};"
        );
        let external = format!("counter name dialled; jump mark-for-masquerade; {choice}");
        writeln!(rules, " chain external-{n} {{ {external} }}").unwrap();
        write!(
            services,
            " {family} daddr {vip} tcp dport 80 goto external-{n};"
        )
        .unwrap();
    }
    let hook = "type nat hook prerouting priority dstnat;";
    writeln!(rules, " chain prerouting {{ {hook}{services} }}\n}}").unwrap();
    rules
}

/// Makes a node as a cluster with kube-proxy makes it.
fn start_kube_proxy(site: &Site, node: &str, vips: &[IpAddr]) {
    let machine = site.lab().node(node).unwrap();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        machine
            .in_netns(|| fs::write(format!("/proc/sys/{key}"), "1"))
            .unwrap()
            .unwrap();
    }
    fs::write(
        site.lab().run_dir(node).join("kube-proxy.nft"),
        kube_proxy(vips),
    )
    .unwrap();
    machine
        .run(&["nft", "-f", "/run/fairlead/kube-proxy.nft"])
        .unwrap();
}

/// Packets that began a connection through the rules of a node.
fn dialled(site: &Site, node: &str) -> u64 {
    let machine = site.lab().node(node).unwrap();
    let text = machine
        .run(&["nft", "list", "counter", "inet", "kube-proxy", "dialled"])
        .unwrap();
    let packets = text
        .split("packets ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    packets
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

fn arp_ignore(site: &Site, value: &str) {
    for node in NODES {
        let machine = site.lab().node(node).unwrap();
        let path = "/proc/sys/net/ipv4/conf/all/arp_ignore";
        machine
            .in_netns(|| fs::write(path, value))
            .unwrap()
            .unwrap();
    }
}

/// The node that every agent of `nodes` says is the owner of all VIPs.
fn owner(site: &Site, nodes: &[&'static str], vips: &[IpAddr]) -> anyhow::Result<&'static str> {
    let mut owners = Vec::new();
    for node in nodes {
        let view = NodeView::ask(&site.lab().node(node)?)?;
        for vip in vips {
            let row = view.l2.iter().find(|row| row.vip == *vip);
            let row = row.with_context(|| format!("{node} does not announce {vip}"))?;
            let owner = row.owner.clone();
            owners.push(owner.with_context(|| format!("{vip} on {node}: {}", row.why))?);
        }
        let services = view.services.iter().filter(|s| s.vips.contains(&vips[0]));
        let frontends = services.flat_map(|s| &s.frontends);
        for frontend in frontends {
            ensure!(
                !frontend.is_programmed,
                "{} is forwarded in XDP",
                frontend.frontend
            );
        }
    }
    let first = owners.first().context("nobody was asked")?;
    ensure!(owners.iter().all(|owner| owner == first), "{owners:?}");
    NODES
        .into_iter()
        .find(|node| node == first)
        .context("a node of ours")
}

fn dial(site: &Site, vips: &[IpAddr], count: usize) -> anyhow::Result<()> {
    let client = site.lab().node("client")?;
    for vip in vips {
        let outcome = requests(&client, (*vip, 80).into(), count)?;
        ensure!(outcome.failed == 0, "{vip}: {outcome:?}");
        ensure!(
            count < 30 || outcome.spread.len() == 3,
            "{vip}: {outcome:?}"
        );
    }
    Ok(())
}

#[test]
fn addresses_are_announced_and_kube_proxy_forwards_until_a_setting_says_otherwise() {
    let mut site = Site::up("cni").unwrap();
    // What the manifests hold besides permissions and CRDs is good to a real API server, to the last field.
    for part in ["config", "operator", "agent"] {
        let file = repository().join(format!("deploy/plain/{part}.yaml"));
        let file = file.display().to_string();
        let dry = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &file,
        ];
        site.plane.kubectl(&dry).unwrap();
    }
    let defaults = mounted(&site, "config", &[]);
    // Somebody else's program has the hook on both nodes.
    for node in NODES {
        let other = [
            "fairlead-agent",
            "decap",
            "--vip",
            "10.10.0.99",
            "--sender",
            "10.10.0.98",
            "--interface",
            INTERFACE,
            "--bpffs",
            OTHER_PINS,
        ];
        site.lab().node(node).unwrap().run(&other).unwrap();
        start(&mut site, node, Program::Operator, &defaults);
        start(&mut site, node, Program::Agent, &defaults);
    }
    let examples = repository().join("configs/examples/main");
    site.plane
        .kubectl(&["apply", "-f", &examples.display().to_string()])
        .unwrap();
    wait_for(&mut site, "Announced", "False", "XdpDeviceBusy");
    for node in NODES {
        let cleanup = [
            "fairlead-agent",
            "cleanup",
            "--bpffs",
            OTHER_PINS,
            "--socket",
            "/run/fairlead/nobody.sock",
        ];
        site.lab().node(node).unwrap().run(&cleanup).unwrap();
    }

    // Announced, and forwarded by kube-proxy.
    let ips = [
        "get",
        "svc",
        "web",
        "-o",
        "jsonpath={.status.loadBalancer.ingress[*].ip}",
    ];
    let ips = site.plane.kubectl(&ips).unwrap();
    let mut vips: Vec<IpAddr> = ips.split(' ').map(|ip| ip.parse().unwrap()).collect();
    vips.sort();
    assert_eq!(vips.len(), 2, "{ips}");
    for node in NODES {
        start_kube_proxy(&site, node, &vips);
    }
    let first = site
        .wait("it is announced", |site| {
            let owner = owner(site, &NODES, &vips)?;
            dial(site, &vips, 1)?;
            Ok(owner)
        })
        .unwrap();
    let before = dialled(&site, first);
    dial(&site, &vips, 60).unwrap();
    assert_eq!(
        dialled(&site, first) - before,
        120,
        "every connection takes the rules of the owner"
    );
    wait_for(&mut site, "Announced", "True", "AsItShould");
    wait_for(&mut site, "FlowsSurvive", "False", "ForwardedByKubeProxy");

    // kube-proxy in mode IPVS without strict ARP; this kernel lacks IPVS, and its interface is all that matters here.
    for node in NODES {
        let machine = site.lab().node(node).unwrap();
        machine
            .run(&["ip", "link", "add", "kube-ipvs0", "type", "bridge"])
            .unwrap();
        machine
            .run(&[
                "ip",
                "addr",
                "add",
                &format!("{}/32", vips[0]),
                "dev",
                "kube-ipvs0",
            ])
            .unwrap();
    }
    wait_for(&mut site, "AddressConflict", "True", "KubeProxyAnswersArp");
    arp_ignore(&site, "1");
    wait_for(&mut site, "AddressConflict", "False", "AsItShould");
    dial(&site, &vips, 30).unwrap();

    // The owner dies: the address moves, and the other node's kube-proxy forwards.
    let heir = NODES.into_iter().find(|node| *node != first).unwrap();
    site.kill(first, Program::Agent).unwrap();
    let (switch, port) = site.lab().across(first, INTERFACE).unwrap();
    let switch = site.lab().node(&switch).unwrap();
    switch.run(&["ip", "link", "set", &port, "down"]).unwrap();
    site.wait("the other node announces it", |site| {
        let owner = owner(site, &[heir], &vips)?;
        ensure!(owner == heir, "{owner}");
        dial(site, &vips, 1)
    })
    .unwrap();
    dial(&site, &vips, 30).unwrap();

    // XDP forwarding is a setting.
    site.kill(heir, Program::Agent).unwrap();
    site.lab()
        .node(heir)
        .unwrap()
        .run(&["nft", "delete", "table", "inet", "kube-proxy"])
        .unwrap();
    let forwarding = mounted(
        &site,
        "config-xdp",
        &[("bpf-lb-acceleration", "best-effort")],
    );
    start(&mut site, heir, Program::Agent, &forwarding);
    site.wait("XDP forwards", |site| {
        let view = NodeView::ask(&site.lab().node(heir)?)?;
        let all = view.services.iter().flat_map(|s| &s.frontends);
        ensure!(
            all.clone().count() > 0 && all.clone().all(|f| f.is_programmed),
            "{:?}",
            view.services
        );
        dial(site, &vips, 1)
    })
    .unwrap();
    dial(&site, &vips, 30).unwrap();
    wait_for(&mut site, "FlowsSurvive", "True", "AsItShould");
}
