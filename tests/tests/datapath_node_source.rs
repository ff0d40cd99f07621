//! A backend behind a second interface, whose network knows no way to the VIP: it sees the node's address there, and its replies come back.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use fairlead_abi::flow::NODE_PORT_MIN;
use fairlead_abi::lb::{Iface, SlotTable, VipState, backend_flags, iface_flags, mode, vip_flags};
use fairlead_abi::reasons;
use fairlead_datapath::{Acceleration, Datapath, DatapathConfig, LbMaps, netdev};
use fairlead_tests::fill::{self, FrontendSpec};
use fairlead_tests::netns::Netns;
use fairlead_tests::pins::PinDir;
use fairlead_tests::require_root;

const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 7100;

/// One family's addresses: VIP, the balancer towards the client and towards the server, the server.
struct Family {
    vip: &'static str,
    near: &'static str,
    far: &'static str,
    server: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        vip: "10.78.0.200",
        near: "10.78.0.2",
        far: "10.78.1.2",
        server: "10.78.1.3",
    },
    Family {
        vip: "fd78::200",
        near: "fd78::2",
        far: "fd78:1::2",
        server: "fd78:1::3",
    },
];

/// A client, a load balancer with two interfaces, a server that has no route but its own link.
struct Site {
    client: Netns,
    balancer: Netns,
    server: Netns,
}

impl Site {
    fn new() -> Self {
        let (client, balancer, server) = (
            Netns::new("nc").unwrap(),
            Netns::new("nb").unwrap(),
            Netns::new("ns").unwrap(),
        );
        link(&client, &balancer, "eth0");
        link(&server, &balancer, "eth1");
        address(&client, "eth0", &["10.78.0.1/24", "fd78::1/64"]);
        address(&balancer, "eth0", &["10.78.0.2/24", "fd78::2/64"]);
        address(&balancer, "eth1", &["10.78.1.2/24", "fd78:1::2/64"]);
        address(&server, "eth0", &["10.78.1.3/24", "fd78:1::3/64"]);
        let mac = |netns: &Netns, name| netns.enter(|| mac_of(name)).unwrap();
        let own = mac(&balancer, "eth0");
        for family in &FAMILIES {
            neighbour(&client, "eth0", family.vip, own);
            neighbour(&server, "eth0", family.far, mac(&balancer, "eth1"));
            neighbour(&balancer, "eth1", family.server, mac(&server, "eth0"));
        }
        Self {
            client,
            balancer,
            server,
        }
    }
}

/// A veth pair from `eth0` of `node` to `name` of the balancer.
fn link(node: &Netns, balancer: &Netns, name: &str) {
    let peer = balancer.name();
    node.run(&[
        "ip", "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", peer,
    ])
    .unwrap();
    for (netns, name) in [(node, "eth0"), (balancer, name)] {
        // A redirect into a veth needs its peer's NAPI; checksums have to be complete.
        netns
            .run(&["ethtool", "-K", name, "gro", "on", "tx", "off"])
            .unwrap();
        netns.run(&["ip", "link", "set", name, "up"]).unwrap();
    }
}

fn address(netns: &Netns, name: &str, addresses: &[&str]) {
    for address in addresses {
        let mut command = vec!["ip", "addr", "add", address, "dev", name];
        if address.contains(':') {
            command.push("nodad");
        }
        netns.run(&command).unwrap();
    }
}

fn neighbour(netns: &Netns, name: &str, ip: &str, mac: [u8; 6]) {
    let mac = fairlead_tests::lan::mac_text(mac);
    netns
        .run(&[
            "ip",
            "neigh",
            "replace",
            ip,
            "lladdr",
            &mac,
            "dev",
            name,
            "nud",
            "permanent",
        ])
        .unwrap();
}

fn mac_of(name: &str) -> [u8; 6] {
    let text = std::process::Command::new("ip")
        .args(["-o", "link", "show", "dev", name])
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let mac = text.split_whitespace().skip_while(|w| *w != "link/ether");
    let bytes = mac.skip(1).flat_map(|mac| mac.split(':'));
    let bytes: Vec<u8> = bytes
        .map_while(|byte| u8::from_str_radix(byte, 16).ok())
        .take(6)
        .collect();
    bytes.try_into().unwrap()
}

fn octets4(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

fn octets6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

/// Fills the maps and attaches to both interfaces.
fn balance(site: &Site, pins: &PinDir) -> Datapath {
    let mut datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let lb = datapath.lb();
    let [four, six] = &FAMILIES;
    let mut indices = Vec::new();
    for (name, flags, addr4, addr6) in [
        ("eth0", iface_flags::ANNOUNCE, four.near, six.near),
        ("eth1", 0, four.far, six.far),
    ] {
        let (ifindex, mac) = site
            .balancer
            .enter(|| (netdev::ifindex(name).unwrap(), mac_of(name)))
            .unwrap();
        fill::iface(
            lb,
            &Iface {
                ifindex,
                mtu: 1500,
                mac,
                flags: flags | iface_flags::FORWARD | iface_flags::REDIRECT_BACK,
                addr4: octets4(addr4),
                l2_cell: 0,
                addr6: octets6(addr6),
            },
        );
        indices.push(ifindex);
    }
    serve(site, lb, indices[1]);
    site.balancer
        .enter(|| {
            for ifindex in indices {
                datapath.attach(ifindex, Acceleration::Native).unwrap();
            }
        })
        .unwrap();
    datapath
}

/// Writes the frontends and their one backend, behind the interface `ifindex`.
fn serve(site: &Site, lb: &LbMaps, ifindex: u32) {
    let [four, six] = &FAMILIES;
    let slot = u8::try_from(ifindex & 0xff).unwrap();
    let mac = site.server.enter(|| mac_of("eth0")).unwrap();
    fill::backend4(
        lb,
        1,
        octets4(four.server),
        PORT,
        mac,
        slot,
        octets4(four.far),
    );
    fill::backend6(lb, 1, octets6(six.server), PORT, mac, slot);
    let (mut be4, mut be6) = (lb.backends4.read(1), lb.backends6.read(1));
    be4.flags |= backend_flags::NODE_SOURCE;
    be6.flags |= backend_flags::NODE_SOURCE;
    lb.backends4.write(1, &be4);
    lb.backends6.write(1, &be6);
    let current = fill::slots(lb, 0, &[0; 251]);
    let state = VipState {
        flags: vip_flags::HAS_SNAT,
        ..VipState::default()
    };
    for (n, family) in (1_u32..).zip(&FAMILIES) {
        let vip = family.vip.parse().unwrap();
        fill::vip(lb, vip, n, &state).unwrap();
        for proto in [6, 17] {
            let spec = FrontendSpec {
                vip,
                port: 80,
                proto,
                index: n * 2 + u32::from(proto == 17),
                vip_state: n,
                mode: mode::SNAT,
                current,
                previous: SlotTable::default(),
                flags: 0,
                backend_base: 1,
                n_backends: 1,
                udp_previous_until: 0,
            };
            fill::frontend(lb, &spec).unwrap();
        }
    }
}

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse::<IpAddr>().unwrap(), port)
}

#[test]
fn a_server_without_a_route_to_the_vip_answers_through_the_node() {
    require_root();
    let (site, pins) = (Site::new(), PinDir::new());
    let datapath = balance(&site, &pins);
    for (n, family) in (1_u32..).zip(&FAMILIES) {
        udp(&site, family);
        let counted = datapath.lb().fe_stats.sum(n * 2 + 1).unwrap();
        assert_eq!(counted.packets, 10, "the packets on the wire");
        tcp(&site, family);
        a_closed_port(&site, family);
        the_host_itself(&site, family);
    }
    let seen = |reason| datapath.lb().reasons.sum(reason).unwrap().packets;
    assert_eq!(seen(reasons::SNAT_NO_RECORD), 0);
    assert_eq!(seen(reasons::ICMP_FORWARDED), 2);
}

fn udp(site: &Site, family: &Family) {
    let bind = |netns: &Netns, to: SocketAddr| {
        let socket = netns.enter(|| UdpSocket::bind(to)).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let server = bind(&site.server, at(family.server, PORT));
    let any = if family.vip.contains(':') {
        "::"
    } else {
        "0.0.0.0"
    };
    let client = bind(&site.client, at(any, 0));
    client.connect(at(family.vip, 80)).unwrap();
    let mut buffer = [0; 4000];
    for n in 0..10_u8 {
        client.send(&[n; 33]).unwrap();
        let (length, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], &[n; 33]);
        assert_eq!(peer.ip(), family.far.parse::<IpAddr>().unwrap());
        assert!(peer.port() >= NODE_PORT_MIN, "{peer}");
        // The last answer comes in fragments.
        let answer = vec![n + 100; if n == 9 { 3000 } else { 21 }];
        server.send_to(&answer, peer).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length], answer);
    }
}

fn tcp(site: &Site, family: &Family) {
    const LENGTH: usize = 256 * 1024;
    let listen = || TcpListener::bind(at(family.server, PORT));
    let server = site.server.enter(listen).unwrap().unwrap();
    let connect = || TcpStream::connect_timeout(&at(family.vip, 80), PATIENCE);
    let mut client = site.client.enter(connect).unwrap().unwrap();
    let (mut accepted, peer) = server.accept().unwrap();
    assert_eq!(peer.ip(), family.far.parse::<IpAddr>().unwrap());
    for stream in [&client, &accepted] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let sent: Vec<u8> = (0..=250).cycle().take(LENGTH).collect();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut received = Vec::new();
            accepted.read_to_end(&mut received).unwrap();
            accepted.write_all(b"thanks").unwrap();
            drop(accepted);
            received
        });
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"thanks");
        assert!(served.join().unwrap() == sent);
    });
}

/// Nobody listens: the server's ICMP error goes to the node's address, and the client's socket hears of it.
fn a_closed_port(site: &Site, family: &Family) {
    let any = if family.vip.contains(':') {
        "::"
    } else {
        "0.0.0.0"
    };
    let bind = || UdpSocket::bind(at(any, 0));
    let client = site.client.enter(bind).unwrap().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(at(family.vip, 80)).unwrap();
    client.send(b"anybody?").unwrap();
    let error = client.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// The balancer's own sockets: a connection to that very server and port, and a listener among the ports that flows have.
fn the_host_itself(site: &Site, family: &Family) {
    let listen =
        |netns: &Netns, to: SocketAddr| netns.enter(|| TcpListener::bind(to)).unwrap().unwrap();
    let server = listen(&site.server, at(family.server, PORT));
    let own = listen(&site.balancer, at(family.far, NODE_PORT_MIN + 7));
    let talk = |from: &Netns, to: SocketAddr, listener: &TcpListener| {
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let mut stream = from.enter(connect).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"hello").unwrap();
        drop(accepted);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"hello");
    };
    talk(&site.balancer, at(family.server, PORT), &server);
    talk(&site.server, at(family.far, NODE_PORT_MIN + 7), &own);
}
