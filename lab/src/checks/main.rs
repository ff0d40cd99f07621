//! What holds in `main.clab.yml` before any load balancer runs: the LAN itself is sound, so that a
//! failure of the main job is a failure of the product.

use std::net::{IpAddr, SocketAddr};

use super::Check;
use crate::error::LabError;
use crate::runner::Lab;
use crate::traffic::ask;
use crate::traffic::requests::{requests, upload};

/// TCP port of the lab's servers.
pub const TCP_PORT: u16 = 8080;
/// UDP port of the lab's servers.
pub const UDP_PORT: u16 = 7007;
/// The servers and their addresses.
pub const SERVERS: [(&str, [&str; 2]); 3] = [
    ("b1", ["10.10.0.21", "fd10::21"]),
    ("b2", ["10.10.0.22", "fd10::22"]),
    ("b3", ["10.10.0.23", "fd10::23"]),
];

/// All checks, cheapest first.
pub fn checks() -> Vec<Check> {
    let mut all = vec![ports_do_not_flood(), snooping_has_a_querier()];
    for node in ["client", "lb1", "lb2"] {
        all.push(offloads_are_set(node));
    }
    for (server, addresses) in SERVERS {
        for address in addresses {
            let address: IpAddr = address.parse().expect("the table above holds addresses");
            all.extend([tcp_reaches(server, address), udp_reaches(server, address)]);
            all.push(upload_reaches(server, address));
        }
    }
    all
}

fn check(
    holds: String,
    missing: impl Fn(&Lab) -> Result<Option<String>, LabError> + 'static,
) -> Check {
    Check {
        holds,
        missing: Box::new(missing),
    }
}

fn ports_do_not_flood() -> Check {
    check(
        "no port of the switch floods unknown unicast".to_owned(),
        |lab| {
            let links = lab.node("switch")?.run(&["bridge", "-d", "link"])?;
            let ports = links.lines().filter(|l| l.contains("master br0")).count();
            let quiet = links.matches(" flood off").count();
            Ok((ports != 6 || quiet != 6)
                .then(|| format!("{quiet} of {ports} ports do not flood:\n{links}")))
        },
    )
}

fn snooping_has_a_querier() -> Check {
    check(
        "the switch snoops multicast and asks for memberships".to_owned(),
        |lab| {
            let bridge = lab
                .node("switch")?
                .run(&["ip", "-d", "link", "show", "br0"])?;
            let set = bridge.contains("mcast_snooping 1") && bridge.contains("mcast_querier 1");
            Ok((!set).then_some(bridge))
        },
    )
}

fn offloads_are_set(node: &'static str) -> Check {
    check(
        format!("{node} has GRO on and transmit checksums off"),
        move |lab| {
            let features = lab.node(node)?.run(&["ethtool", "-k", "eth1"])?;
            let is = |line: &str| features.lines().any(|l| l.trim() == line);
            let set = is("generic-receive-offload: on") && is("tx-checksumming: off");
            Ok((!set).then_some(features))
        },
    )
}

fn tcp_reaches(server: &'static str, address: IpAddr) -> Check {
    check(
        format!("the client reaches {server} at {address} by TCP"),
        move |lab| {
            let target = SocketAddr::new(address, TCP_PORT);
            let outcome = requests(&lab.node("client")?, target, 3)?;
            let right = outcome.spread.get(server) == Some(&3);
            Ok((!right).then(|| format!("{outcome:?}")))
        },
    )
}

fn udp_reaches(server: &'static str, address: IpAddr) -> Check {
    check(
        format!("the client reaches {server} at {address} by UDP"),
        move |lab| {
            let target = SocketAddr::new(address, UDP_PORT);
            let answer = lab.node("client")?.in_netns(|| ask::udp(target))?;
            Ok(match answer {
                Ok(answer) if answer == server => None,
                Ok(answer) => Some(format!("it answers `{answer}`")),
                Err(e) => Some(e.to_string()),
            })
        },
    )
}

fn upload_reaches(server: &'static str, address: IpAddr) -> Check {
    check(
        format!("1 MB from the client arrives whole at {server}, {address}"),
        move |lab| {
            let target = SocketAddr::new(address, TCP_PORT);
            let reached = upload(&lab.node("client")?, target, 1 << 20)?;
            Ok((reached != server).then(|| format!("it arrived at {reached}")))
        },
    )
}
