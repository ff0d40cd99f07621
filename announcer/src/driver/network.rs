//! What the kernel says about an announcing interface, as the heartbeat thread needs it.

use std::net::IpAddr;

use fairlead_model::MacAddr;
use fairlead_netlink::{Address, Link, Neighbour, Netlink, NetlinkError};

use super::{sockets::Families, thread::Network};
use crate::frames::{Sender, solicited_node};

/// Stations that are asked for a sign of life.
const MAX_WITNESSES: usize = 16;
/// Addresses of documentation (RFC 5737, RFC 3849): only a default route leads there.
const BEYOND: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The kernel's state at one moment.
pub(super) struct Kernel {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    neighbours: Vec<Neighbour>,
    /// Interface and address of the default gateways.
    gateways: Vec<(u32, IpAddr)>,
}

impl Kernel {
    pub(super) async fn ask(netlink: &Netlink) -> Result<Self, NetlinkError> {
        let mut gateways = Vec::new();
        for beyond in BEYOND {
            // No default route is no fault.
            if let Ok(hop) = netlink.route_to(beyond).await {
                gateways.extend(hop.gateway.map(|gateway| (hop.ifindex, gateway)));
            }
        }
        Ok(Self {
            links: netlink.links().await?,
            addresses: netlink.addresses().await?,
            neighbours: netlink.neighbours().await?,
            gateways,
        })
    }

    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = &Address> {
        let own = move |a: &&Address| a.ifindex == ifindex && !a.ip.is_multicast();
        self.addresses.iter().filter(own)
    }

    /// The bridge or bond whose port an interface is. A VRF takes no frames away from its members.
    pub(super) fn master(&self, link: &Link) -> Option<String> {
        let index = link.master?;
        let master = self.links.iter().find(|of| of.index == index)?;
        (master.kind.as_deref() != Some("vrf")).then(|| master.name.clone())
    }

    /// Families over which heartbeats can be sent: IPv4 needs an address, IPv6 a usable link-local one.
    pub(super) fn families(&self, ifindex: u32) -> Families {
        Families {
            has_v4: self.addresses_of(ifindex).any(|a| a.ip.is_ipv4()),
            has_v6: self.link_local(ifindex).is_some(),
        }
    }

    fn link_local(&self, ifindex: u32) -> Option<std::net::Ipv6Addr> {
        self.addresses_of(ifindex).find_map(|a| match a.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() && !a.is_tentative => Some(ip),
            _ => None,
        })
    }

    /// Whom to ask what. `known` are addresses of other nodes and backends; those on the link are witnesses, with what the kernel knows.
    pub(super) fn network(&self, ifindex: u32, mac: MacAddr, known: &[IpAddr]) -> Network {
        let gateways: Vec<IpAddr> = self
            .gateways
            .iter()
            .filter(|(at, _)| *at == ifindex)
            .map(|(_, gateway)| *gateway)
            .collect();
        let neighbours = self
            .neighbours
            .iter()
            .filter(|n| n.ifindex == ifindex && n.usable_mac().is_some() && !n.ip.is_multicast())
            .map(|n| n.ip);
        let is_own = |ip: &IpAddr| self.addresses.iter().any(|a| a.ip == *ip);
        let on_link = known.iter().copied().filter(|ip| {
            self.addresses_of(ifindex)
                .any(|a| has_prefix(*ip, a.ip, a.prefix_len))
        });
        let mut witnesses: Vec<IpAddr> = Vec::new();
        for ip in neighbours.chain(on_link) {
            let is_news = !witnesses.contains(&ip) && !gateways.contains(&ip) && !is_own(&ip);
            if is_news && witnesses.len() < MAX_WITNESSES {
                witnesses.push(ip);
            }
        }
        Network {
            sender: Sender {
                mac,
                link_local: self.link_local(ifindex),
            },
            gateways,
            witnesses,
        }
    }

    /// Whether the kernel itself is a member of a group on an interface, as [`Netlink::join_group`] makes it.
    pub(super) fn is_joined(&self, ifindex: u32, group: IpAddr) -> bool {
        let is_it = |a: &Address| a.ifindex == ifindex && a.is_autojoin && a.ip == group;
        self.addresses.iter().any(is_it)
    }

    /// Solicited-node groups that the kernel holds for us on an interface.
    pub(super) fn joined_groups(&self, ifindex: u32) -> impl Iterator<Item = IpAddr> {
        let ours = move |a: &&Address| {
            let IpAddr::V6(ip) = a.ip else {
                return false;
            };
            a.ifindex == ifindex && a.is_autojoin && ip == solicited_node(ip)
        };
        self.addresses.iter().filter(ours).map(|a| a.ip)
    }
}

/// Whether `ip` lies in the prefix of `of`.
fn has_prefix(ip: IpAddr, of: IpAddr, len: u8) -> bool {
    let differing = |bits: u32| u32::from(len) <= bits;
    match (ip, of) {
        (IpAddr::V4(a), IpAddr::V4(b)) => differing((u32::from(a) ^ u32::from(b)).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            differing((u128::from(a) ^ u128::from(b)).leading_zeros())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::has_prefix;

    #[test]
    fn prefixes_decide_what_is_on_the_link() {
        let on = |a: &str, b: &str, len| has_prefix(a.parse().unwrap(), b.parse().unwrap(), len);
        assert!(on("192.0.2.77", "192.0.2.1", 24));
        assert!(!on("192.0.3.77", "192.0.2.1", 24));
        assert!(on("192.0.2.1", "192.0.2.1", 32));
        assert!(on("2001:db8::9", "2001:db8::1", 64));
        assert!(!on("2001:db8::9", "192.0.2.1", 0));
    }
}
