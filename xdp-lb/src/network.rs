//! What the node's network looks like to the planner: interfaces and next hops.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fairlead_abi::lb::{Iface, N_IFACES, iface_flags};
use fairlead_logic::select::iface_slot;
use fairlead_model::MacAddr;

/// An interface that the load balancer works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Name, as in `ip link`.
    pub name: String,
    /// Packets that arrive here are forwarded.
    pub forward: bool,
    /// VIPs are announced here.
    pub announce: bool,
}

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// Largest L3 packet.
    pub mtu: u32,
    /// Primary IPv4 address.
    pub addr4: Option<Ipv4Addr>,
    /// First usable global IPv6 address.
    pub addr6: Option<Ipv6Addr>,
    /// One end of a veth pair (`fairlead_netlink::Link::kind`): frames go back by redirect there.
    pub is_veth: bool,
}

/// Where packets to a backend go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Asked for a moment ago: wait for the answer.
    Pending,
    /// Known.
    Resolved {
        /// Interface.
        ifindex: u32,
        /// Of the backend, or of the gateway that leads there.
        mac: MacAddr,
        /// The backend itself is on the link.
        is_on_link: bool,
    },
    /// Nobody answers, or no route leads there.
    Unresolved(HopFailure),
    /// The address is one of this node.
    Local,
}

/// Why a next hop is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HopFailure {
    /// The routing table leads nowhere.
    NoRoute,
    /// Nobody answers for this address.
    NoAnswer(IpAddr),
    /// The kernel refuses to keep an entry for this address.
    Refused(IpAddr),
}

/// One reading of the node's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// By index: those of the configuration and those that lead to backends.
    pub interfaces: BTreeMap<u32, Interface>,
    /// By backend address.
    pub hops: BTreeMap<IpAddr, Hop>,
    /// The kernel gives no socket a port of those that SNAT takes of this node's addresses.
    pub has_node_ports: bool,
    /// VIPs that a program on this node tried to reach and nobody answered for.
    pub unanswered_vips: BTreeSet<IpAddr>,
}

impl Network {
    /// Rows of `IFACES`, and interfaces that got none because an earlier one has the slot.
    ///
    /// A deadline cell is the position of an announcing interface among the announcing ones of `configured`.
    pub fn rows(&self, configured: &[InterfaceConfig]) -> (BTreeMap<u32, Iface>, BTreeSet<u32>) {
        let (mut rows, mut refused) = (BTreeMap::new(), BTreeSet::new());
        // Configured interfaces come first: they matter more than one that merely leads somewhere.
        let is_configured = |i: &&Interface| configured.iter().any(|c| c.name == i.name);
        let (first, rest): (Vec<_>, Vec<_>) = self.interfaces.values().partition(is_configured);
        for interface in first.into_iter().chain(rest) {
            let slot = iface_slot(interface.index);
            debug_assert!(slot < N_IFACES);
            match rows.entry(slot) {
                Entry::Vacant(free) => {
                    free.insert(row(interface, configured));
                }
                Entry::Occupied(_) => {
                    refused.insert(interface.index);
                }
            }
        }
        (rows, refused)
    }

    /// Whether VIPs are announced on this interface.
    pub fn is_announcing(&self, ifindex: u32, configured: &[InterfaceConfig]) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|interface| {
            configured
                .iter()
                .any(|c| c.announce && c.name == interface.name)
        })
    }

    /// Whether packets that arrive on this interface are ours to look at.
    pub fn is_forwarding(&self, ifindex: u32, configured: &[InterfaceConfig]) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|interface| {
            configured
                .iter()
                .any(|c| c.forward && c.name == interface.name)
        })
    }
}

fn row(interface: &Interface, configured: &[InterfaceConfig]) -> Iface {
    let config = configured.iter().find(|c| c.name == interface.name);
    let mut flags = 0;
    if config.is_some_and(|c| c.forward) {
        flags |= iface_flags::FORWARD;
    }
    if config.is_some_and(|c| c.announce) {
        flags |= iface_flags::ANNOUNCE;
    }
    if interface.is_veth {
        flags |= iface_flags::REDIRECT_BACK;
    }
    let mut announcing = configured.iter().filter(|c| c.announce);
    let cell = announcing.position(|c| c.name == interface.name);
    Iface {
        ifindex: interface.index,
        mtu: interface.mtu,
        mac: interface.mac.0,
        flags,
        addr4: interface.addr4.map_or([0; 4], |ip| ip.octets()),
        l2_cell: cell.map_or(0, |cell| {
            u32::try_from(cell).expect("interfaces are far fewer than 2^32")
        }),
        addr6: interface.addr6.map_or([0; 16], |ip| ip.octets()),
    }
}
