//! The sockets of one announcing interface: heartbeats by UDP multicast, ARP and neighbour discovery by packet sockets. None ever blocks.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd, IntoRawFd as _},
};

use fairlead_abi::l2::{HEARTBEAT_GROUP4, HEARTBEAT_GROUP6, HEARTBEAT_PORT};
use pnet::datalink::{self, Channel, ChannelType, NetworkInterface};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// Room for the heartbeats of 64 peers that wait while this thread does not run for seconds.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Class selector 6, network control (RFC 4594).
const TOS: u32 = 0xc0;
/// The highest priority that needs no privilege in every queueing discipline.
const PRIORITY: u32 = 6;

/// Why an interface cannot be announced on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Packet sockets need a capability.
    #[error("packet socket on {interface}: not permitted; the agent needs CAP_NET_RAW")]
    NotPermitted {
        /// The interface.
        interface: String,
    },
    /// Neither family has an address from which heartbeats could be sent.
    #[error(
        "{interface} has neither an IPv4 nor an IPv6 address: heartbeats need one, give it an address"
    )]
    NoAddress {
        /// The interface.
        interface: String,
    },
    /// Any other refusal.
    #[error("{what} on {interface}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The interface.
        interface: String,
        /// What the system says.
        source: io::Error,
    },
}

impl SocketError {
    /// The closed word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted { .. } => "NotPermitted",
            Self::NoAddress { .. } => "InterfaceWithoutAddress",
            Self::System { .. } => "SocketFailed",
        }
    }
}

/// Which addresses the interface has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Families {
    pub has_v4: bool,
    pub has_v6: bool,
}

/// Open sockets of one interface.
#[derive(Debug)]
pub(super) struct Sockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
    arp: Socket,
    nd: Socket,
    group4: SockAddr,
    group6: SockAddr,
}

/// Sockets that [`Sockets::fds`] can name.
pub(super) const MAX_FDS: usize = 4;

impl Sockets {
    pub(super) fn open(
        interface: &str,
        ifindex: u32,
        families: Families,
    ) -> Result<Self, SocketError> {
        if !families.has_v4 && !families.has_v6 {
            return Err(SocketError::NoAddress {
                interface: interface.to_owned(),
            });
        }
        let failed = |what| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::PermissionDenied => SocketError::NotPermitted {
                    interface: interface.to_owned(),
                },
                _ => SocketError::System {
                    what,
                    interface: interface.to_owned(),
                    source,
                },
            }
        };
        let v4 = families
            .has_v4
            .then(|| heartbeat4(interface, ifindex))
            .transpose()
            .map_err(failed("IPv4 heartbeat socket"))?;
        let v6 = families
            .has_v6
            .then(|| heartbeat6(interface, ifindex))
            .transpose()
            .map_err(failed("IPv6 heartbeat socket"))?;
        let arp = packet(interface, ETH_P_ARP).map_err(failed("ARP socket"))?;
        let nd = packet(interface, ETH_P_IPV6).map_err(failed("neighbour discovery socket"))?;
        nd.attach_filter(&neighbour_discovery_only())
            .map_err(failed("filter of the neighbour discovery socket"))?;
        let group4 = SocketAddrV4::new(Ipv4Addr::from(HEARTBEAT_GROUP4), HEARTBEAT_PORT);
        let group6 =
            SocketAddrV6::new(Ipv6Addr::from(HEARTBEAT_GROUP6), HEARTBEAT_PORT, 0, ifindex);
        Ok(Self {
            v4,
            v6,
            arp,
            nd,
            group4: SocketAddr::V4(group4).into(),
            group6: SocketAddr::V6(group6).into(),
        })
    }

    /// Sends a heartbeat over each family; the error of the last one that failed if none succeeded.
    pub(super) fn send_heartbeat(&self, datagram: &[u8]) -> io::Result<()> {
        let mut outcome = Err(io::ErrorKind::NotConnected.into());
        let sockets = [(&self.v4, &self.group4), (&self.v6, &self.group6)];
        for (socket, group) in sockets {
            let Some(socket) = socket else {
                continue;
            };
            match socket.send_to(datagram, group) {
                Ok(_) => outcome = Ok(()),
                Err(error) if outcome.is_err() => outcome = Err(error),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Sends a frame as it is.
    pub(super) fn send_frame(&self, frame: &[u8]) -> io::Result<()> {
        self.arp.send(frame).map(drop)
    }

    /// Reads one waiting heartbeat; `None` if there is none.
    pub(super) fn read_heartbeat(&self, buffer: &mut [u8]) -> Option<usize> {
        let sockets = [self.v4.as_ref(), self.v6.as_ref()];
        sockets
            .into_iter()
            .flatten()
            .find_map(|socket| read(socket, buffer))
    }

    /// Reads one waiting ARP or neighbour discovery frame; `None` if there is none.
    pub(super) fn read_frame(&self, buffer: &mut [u8]) -> Option<usize> {
        [&self.arp, &self.nd]
            .into_iter()
            .find_map(|socket| read(socket, buffer))
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let optional = [self.v4.as_ref(), self.v6.as_ref()];
        let all = optional.into_iter().flatten().chain([&self.arp, &self.nd]);
        all.map(AsFd::as_fd)
    }
}

/// Errors of a socket (the interface went down) are read off and count as nothing read.
fn read(mut socket: &Socket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match socket.read(buffer) {
            Ok(n) => return Some(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn heartbeat4(interface: &str, ifindex: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, interface)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, HEARTBEAT_PORT)).into())?;
    let group = Ipv4Addr::from(HEARTBEAT_GROUP4);
    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))?;
    socket.set_multicast_all_v4(false)?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_tos_v4(TOS)?;
    Ok(socket)
}

fn heartbeat6(interface: &str, ifindex: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, interface)?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, HEARTBEAT_PORT)).into())?;
    socket.join_multicast_v6(&Ipv6Addr::from(HEARTBEAT_GROUP6), ifindex)?;
    socket.set_multicast_if_v6(ifindex)?;
    socket.set_multicast_loop_v6(false)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_tclass_v6(TOS)?;
    Ok(socket)
}

fn prepare(socket: &Socket, interface: &str) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_priority(PRIORITY)
}

/// A packet socket for one protocol, bound to the interface by pnet, which knows the address format.
fn packet(interface: &str, protocol: u16) -> io::Result<Socket> {
    // Protocol 0: nothing is received before the socket is bound to the interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_priority(PRIORITY)?;
    let device = named(interface)?;
    let config = datalink::Config {
        channel_type: ChannelType::Layer3(protocol),
        socket_fd: Some(socket.try_clone()?.into_raw_fd()),
        promiscuous: false,
        read_buffer_size: 0,
        write_buffer_size: 0,
        ..datalink::Config::default()
    };
    match datalink::channel(&device, config)? {
        // The channel closes its own descriptor; ours names the same, bound and non-blocking, socket.
        Channel::Ethernet(..) => Ok(socket),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn named(interface: &str) -> io::Result<NetworkInterface> {
    datalink::interfaces()
        .into_iter()
        .find(|device| device.name == interface)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Classic BPF: ICMPv6 solicitations and advertisements, nothing else of the interface's IPv6 traffic.
fn neighbour_discovery_only() -> [SockFilter; 7] {
    /// Load a byte at an absolute offset.
    const LOAD_BYTE: u16 = 0x30;
    /// Jump if equal to a constant.
    const JUMP_EQ: u16 = 0x15;
    /// Return a constant: bytes to keep.
    const RETURN: u16 = 0x06;
    let (next_header, kind) = (14 + 6, 14 + 40);
    [
        SockFilter::new(LOAD_BYTE, 0, 0, next_header),
        SockFilter::new(JUMP_EQ, 0, 4, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, kind),
        SockFilter::new(JUMP_EQ, 1, 0, 135),
        SockFilter::new(JUMP_EQ, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, 256),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
