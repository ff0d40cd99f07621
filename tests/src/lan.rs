//! A small LAN: nodes on one bridge, as a real switch would connect them.
//!
//! The bridge floods nothing it does not know, and veth ends are set so that XDP_TX reaches them and checksums are complete.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::netns::Netns;

/// Nodes `1..=n` with `10.77.0.<n>/24` and `fd77::<n>/64` on `eth0`.
#[derive(Debug)]
pub struct Lan {
    switch: Netns,
    nodes: BTreeMap<u8, Netns>,
}

/// One node's place on the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub addr4: [u8; 4],
    pub addr6: [u8; 16],
}

impl Lan {
    /// Builds a LAN of `n` nodes.
    pub fn new(n: u8) -> anyhow::Result<Self> {
        let switch = Netns::new("sw")?;
        switch.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
        switch.run(&["ip", "link", "set", "br0", "up"])?;
        let mut lan = Self {
            switch,
            nodes: BTreeMap::new(),
        };
        for node in 1..=n {
            lan.add_node(node)?;
        }
        lan.introduce()?;
        Ok(lan)
    }

    fn add_node(&mut self, n: u8) -> anyhow::Result<()> {
        let node = Netns::new(&format!("n{n}"))?;
        let (port, name) = (format!("p{n}"), node.name().to_owned());
        let sw = &self.switch;
        sw.run(&[
            "ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ])?;
        sw.run(&["ip", "link", "set", &port, "master", "br0", "up"])?;
        // Generic receive offload makes the end poll: XDP_TX and redirect into a veth need that of its peer.
        sw.run(&["ethtool", "-K", &port, "gro", "on", "tx", "off"])?;
        node.run(&["ethtool", "-K", "eth0", "gro", "on", "tx", "off"])?;
        node.run(&[
            "ip",
            "addr",
            "add",
            &format!("10.77.0.{n}/24"),
            "dev",
            "eth0",
        ])?;
        node.run(&[
            "ip",
            "addr",
            "add",
            &format!("fd77::{n:x}/64"),
            "dev",
            "eth0",
            "nodad",
        ])?;
        node.run(&["ip", "link", "set", "eth0", "up"])?;
        self.nodes.insert(n, node);
        Ok(())
    }

    /// Gives every node every other's MAC, so that no test waits for discovery.
    fn introduce(&self) -> anyhow::Result<()> {
        let stations: BTreeMap<u8, Station> = self
            .nodes
            .keys()
            .map(|n| Ok((*n, self.station(*n)?)))
            .collect::<anyhow::Result<_>>()?;
        for (n, node) in &self.nodes {
            for (m, station) in stations.iter().filter(|(m, _)| *m != n) {
                let mac = mac_text(station.mac);
                for addr in [format!("10.77.0.{m}"), format!("fd77::{m:x}")] {
                    node.run(&[
                        "ip",
                        "neigh",
                        "replace",
                        &addr,
                        "lladdr",
                        &mac,
                        "dev",
                        "eth0",
                        "nud",
                        "permanent",
                    ])?;
                }
            }
            let port = format!("p{n}");
            let mac = mac_text(stations[n].mac);
            self.switch.run(&[
                "bridge", "fdb", "replace", &mac, "dev", &port, "master", "static",
            ])?;
        }
        Ok(())
    }

    /// The node's namespace.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn node(&self, n: u8) -> &Netns {
        &self.nodes[&n]
    }

    /// The switch's namespace; node `n` is on its port `p<n>`.
    pub const fn switch(&self) -> &Netns {
        &self.switch
    }

    /// Where a node is.
    pub fn station(&self, n: u8) -> anyhow::Result<Station> {
        let node = self.node(n);
        let mac = read_mac(node)?;
        let ifindex = node.enter(|| fairlead_datapath::netdev::ifindex("eth0"))??;
        let mut addr6 = [0; 16];
        addr6[..2].copy_from_slice(&[0xfd, 0x77]);
        addr6[15] = n;
        Ok(Station {
            ifindex,
            mac,
            addr4: [10, 77, 0, n],
            addr6,
        })
    }

    /// Routes a VIP of node `from` to the MAC of node `to`, without discovery.
    pub fn point_vip(&self, from: u8, to: u8, vip: &str) -> anyhow::Result<()> {
        let mac = mac_text(self.station(to)?.mac);
        let node = self.node(from);
        let prefix = if vip.contains(':') {
            format!("{vip}/128")
        } else {
            format!("{vip}/32")
        };
        node.run(&["ip", "route", "replace", &prefix, "dev", "eth0"])?;
        node.run(&[
            "ip",
            "neigh",
            "replace",
            vip,
            "lladdr",
            &mac,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])?;
        Ok(())
    }

    /// Lets a server hold a VIP itself, silently.
    pub fn hold_vip(&self, n: u8, vip: &str) -> anyhow::Result<()> {
        let node = self.node(n);
        for setting in [
            "all/arp_ignore=1",
            "all/arp_announce=2",
            "all/rp_filter=0",
            "eth0/rp_filter=0",
        ] {
            node.run(&["sysctl", "-qw", &format!("net/ipv4/conf/{setting}")])?;
        }
        let prefix = if vip.contains(':') {
            format!("{vip}/128")
        } else {
            format!("{vip}/32")
        };
        let mut command = vec!["ip", "addr", "add", &prefix, "dev", "lo"];
        if vip.contains(':') {
            command.push("nodad");
        }
        node.run(&command).map(drop)
    }
}

fn read_mac(node: &Netns) -> anyhow::Result<[u8; 6]> {
    let text = node.run(&["ip", "-o", "link", "show", "dev", "eth0"])?;
    let mac = text
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .context("no MAC address")?;
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(part, 16).context("a MAC address")?;
    }
    Ok(bytes)
}

/// `02:00:..` form.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
