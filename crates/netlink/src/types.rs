//! What the kernel says about the network, in plain types; conversions from rtnetlink's messages live here too.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_model::MacAddr;
use rtnetlink::packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

/// A network interface.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the kernel states them"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel index, never 0.
    pub index: u32,
    /// Name, as in `ip link`.
    pub name: String,
    /// Hardware address; `None` for interfaces that have none of 6 bytes (loopback has zeros, which is `Some`).
    pub mac: Option<MacAddr>,
    /// Largest L3 packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub is_up: bool,
    /// The wire is there (`IFLA_CARRIER`; `lower_up` where the driver does not say).
    pub has_carrier: bool,
    /// Operational state is `up`, or `unknown` as drivers without the notion say.
    pub is_operational: bool,
    /// Driver kind: `veth`, `bridge`, `bond`, `vlan`; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// Loopback.
    pub is_loopback: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Interface.
    pub ifindex: u32,
    /// The address itself (`IFA_LOCAL` where it differs from the peer's).
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// Not the first of its prefix.
    pub is_secondary: bool,
    /// IPv6 duplicate detection has not ended, or failed.
    pub is_tentative: bool,
    /// The kernel keeps the multicast membership of this group ([`crate::Netlink::join_group`]).
    pub is_autojoin: bool,
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Interface it leaves by.
    pub ifindex: u32,
    /// `None`: the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Source that the kernel would choose.
    pub prefsrc: Option<IpAddr>,
    /// The destination is an address of this node.
    pub is_local: bool,
}

/// State of a neighbour entry (RFC 4861 section 7.3.2; IPv4 uses the same machine).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NudState {
    /// Nothing was asked yet.
    None,
    /// Asked, no answer yet.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Will be probed soon.
    Delay,
    /// Being probed.
    Probe,
    /// No answer.
    Failed,
    /// The interface resolves nothing.
    NoArp,
    /// Set by hand.
    Permanent,
}

impl NudState {
    /// The hardware address may be used.
    pub const fn is_valid(self) -> bool {
        matches!(
            self,
            Self::Reachable
                | Self::Stale
                | Self::Delay
                | Self::Probe
                | Self::NoArp
                | Self::Permanent
        )
    }
}

/// An entry of the ARP or neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface.
    pub ifindex: u32,
    /// Whose address it is.
    pub ip: IpAddr,
    /// `None` while it is not known.
    pub mac: Option<MacAddr>,
    /// State.
    pub state: NudState,
    /// The kernel keeps it fresh on its own (`NTF_EXT_MANAGED`).
    pub is_managed: bool,
}

impl Neighbour {
    /// The hardware address, if it may be used.
    pub fn usable_mac(&self) -> Option<MacAddr> {
        self.mac.filter(|_| self.state.is_valid())
    }
}

/// Who keeps a neighbour entry fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// The kernel (`NTF_EXT_MANAGED`).
    Kernel,
    /// Nobody: the caller must [`crate::Netlink::probe_neighbour`] from time to time.
    Caller,
    /// It was set by hand and stays as it is.
    Static,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone.
    LinkRemoved {
        /// Its index.
        ifindex: u32,
    },
    /// An address was added or changed.
    Address(Address),
    /// An address is gone.
    AddressRemoved(Address),
    /// Some route changed: ask [`crate::Netlink::route_to`] again.
    Route,
    /// A neighbour entry appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour entry is gone.
    NeighbourRemoved {
        /// Interface.
        ifindex: u32,
        /// Its address.
        ip: IpAddr,
    },
    /// Events were lost: read everything again.
    Resync,
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            is_up: flags.contains(LinkFlags::Up),
            has_carrier: flags.contains(LinkFlags::LowerUp),
            is_operational: false,
            kind: None,
            master: None,
            is_loopback: flags.contains(LinkFlags::Loopback),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = mac(bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Carrier(carrier) => link.has_carrier = *carrier != 0,
                LinkAttribute::OperState(state) => {
                    link.is_operational = matches!(state, State::Up | State::Unknown);
                }
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// `None` for a family without IP addresses.
pub(crate) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(Address {
        ifindex: message.header.index,
        ip: local.or(peer)?,
        prefix_len: message.header.prefix_len,
        is_secondary: flags.contains(AddressFlags::Secondary),
        is_tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        is_autojoin: flags.contains(AddressFlags::Mcautojoin),
    })
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// `None` when the answer names no interface.
pub(crate) fn next_hop(message: &RouteMessage) -> Option<NextHop> {
    let mut hop = NextHop {
        ifindex: 0,
        gateway: None,
        prefsrc: None,
        is_local: message.header.kind == RouteType::Local,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => hop.ifindex = *index,
            RouteAttribute::Gateway(address) => hop.gateway = route_address(address),
            // An IPv4 route by an IPv6 gateway (RFC 8950) names it in RTA_VIA.
            RouteAttribute::Via(RouteVia::Inet(ip)) => hop.gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => hop.gateway = Some(IpAddr::V6(*ip)),
            RouteAttribute::PrefSource(address) => hop.prefsrc = route_address(address),
            _ => {}
        }
    }
    (hop.ifindex != 0).then_some(hop)
}

/// `None` for entries of bridges and other families.
pub(crate) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut ip, mut lladdr, mut is_managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(four)) => {
                ip = Some(IpAddr::V4(*four));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(six)) => {
                ip = Some(IpAddr::V6(*six));
            }
            NeighbourAttribute::LinkLocalAddress(bytes) => lladdr = mac(bytes),
            NeighbourAttribute::ExtFlags(flags) => {
                is_managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    Some(Neighbour {
        ifindex: message.header.ifindex,
        ip: ip?,
        mac: lladdr,
        state: nud_state(message.header.state),
        is_managed,
    })
}

fn nud_state(state: NeighbourState) -> NudState {
    match state {
        NeighbourState::Incomplete => NudState::Incomplete,
        NeighbourState::Reachable => NudState::Reachable,
        NeighbourState::Stale => NudState::Stale,
        NeighbourState::Delay => NudState::Delay,
        NeighbourState::Probe => NudState::Probe,
        NeighbourState::Failed => NudState::Failed,
        NeighbourState::Noarp => NudState::NoArp,
        NeighbourState::Permanent => NudState::Permanent,
        _ => NudState::None,
    }
}

/// Addresses by interface, in the kernel's order.
pub fn addresses_by_link(addresses: &[Address]) -> BTreeMap<u32, Vec<&Address>> {
    let mut by_link: BTreeMap<u32, Vec<&Address>> = BTreeMap::new();
    for address in addresses {
        by_link.entry(address.ifindex).or_default().push(address);
    }
    by_link
}
