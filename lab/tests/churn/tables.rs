//! What the tables must say, computed apart from any node: who serves a flow, and whose slot has changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use fairlead_abi::flow::FlowKey;
use fairlead_logic::hash;
use fairlead_xdp_lb::maglev::{self, Member};

/// TCP, IANA.
pub(crate) const TCP: u8 = 6;
/// TCP port of the lab's servers.
const SERVER_PORT: u16 = 8080;

/// A client's end and the frontend it dials.
pub(crate) type Flow = (SocketAddr, SocketAddr);

/// Both families' tables after each change of the backends, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    size: u32,
    sets: Vec<[Vec<u16>; 2]>,
}

impl History {
    /// Begins with servers `bN` for each N of `servers`.
    pub(crate) fn new(size: u32, servers: &[u16]) -> Self {
        let sets = Vec::new();
        let mut history = Self { size, sets };
        history.change(servers);
        history
    }

    /// Another set of servers.
    pub(crate) fn change(&mut self, servers: &[u16]) {
        self.sets
            .push([false, true].map(|is_v6| table(servers, is_v6, self.size)));
    }

    /// The server that a new flow gets now.
    pub(crate) fn server(&self, flow: Flow) -> u16 {
        let now = self.sets.last().expect("there is always a first set");
        now[family(flow)][self.slot(flow)]
    }

    /// The server that a flow without an entry is taken to have: what its slot gave before its first change.
    pub(crate) fn first_server(&self, flow: Flow) -> u16 {
        self.sets[0][family(flow)][self.slot(flow)]
    }

    /// Whether the slot of this flow has ever changed.
    pub(crate) fn has_changed(&self, flow: Flow) -> bool {
        let slot = self.slot(flow);
        let gave: BTreeSet<u16> = self.sets.iter().map(|s| s[family(flow)][slot]).collect();
        gave.len() > 1
    }

    fn slot(&self, (client, frontend): Flow) -> usize {
        let (from, to) = (client.port(), frontend.port());
        let hash = match client.ip() {
            IpAddr::V4(ip) => hash::flow_hash4(ip.into(), from, to, TCP),
            IpAddr::V6(ip) => hash::flow_hash6(&ip.octets(), from, to, TCP),
        };
        hash::slot(hash, self.size) as usize
    }
}

/// A flow as a node remembers it.
pub(crate) fn flow(key: &FlowKey) -> Flow {
    let address = |octets: [u8; 16], port: [u8; 2]| {
        let ip = Ipv6Addr::from(octets).to_canonical();
        SocketAddr::new(ip, u16::from_be_bytes(port))
    };
    (
        address(key.client, key.client_port),
        address(key.vip, key.vip_port),
    )
}

/// The address of server `bN` in the topology.
pub(crate) fn address(server: u16, is_v6: bool) -> IpAddr {
    let text = if is_v6 {
        format!("fd10::2{server}")
    } else {
        format!("10.10.0.2{server}")
    };
    text.parse().expect("servers have one digit")
}

fn table(servers: &[u16], is_v6: bool, size: u32) -> Vec<u16> {
    let member = |server: &u16| Member {
        identity: SocketAddr::new(address(*server, is_v6), SERVER_PORT),
        index: *server,
    };
    let members: Vec<Member> = servers.iter().map(member).collect();
    maglev::build(&members, size).expect("six servers fit any table")
}

fn family((client, _): Flow) -> usize {
    usize::from(client.is_ipv6())
}
