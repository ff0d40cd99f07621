//! Real sockets accept what the programs send: UDP and TCP, IPv4 and IPv6, every mode, through a bridge.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use fairlead_abi::lb::{Iface, SlotTable, VipState, iface_flags, mode, vip_flags};
use fairlead_datapath::{
    Acceleration, Datapath, DatapathConfig, DatapathError, Decap, Insert, netdev,
};
use fairlead_logic::host::octets;
use fairlead_tests::fill::{self, FrontendSpec};
use fairlead_tests::lan::{Lan, Station};
use fairlead_tests::pins::PinDir;
use fairlead_tests::require_root;

const CLIENT: u8 = 1;
const BALANCER: u8 = 2;
const SERVER: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// One VIP with one frontend for UDP and one for TCP.
#[derive(Clone, Copy, Debug)]
struct Case {
    vip: &'static str,
    mode: u64,
    port: u16,
}

const CASES: [Case; 6] = [
    Case {
        vip: "10.77.0.200",
        mode: mode::SNAT,
        port: 7001,
    },
    Case {
        vip: "10.77.9.2",
        mode: mode::DSR_L2,
        port: 7002,
    },
    Case {
        vip: "10.77.9.3",
        mode: mode::DSR_IPIP,
        port: 7003,
    },
    Case {
        vip: "fd77::200",
        mode: mode::SNAT,
        port: 7004,
    },
    Case {
        vip: "fd77:9::2",
        mode: mode::DSR_L2,
        port: 7005,
    },
    Case {
        vip: "fd77:9::3",
        mode: mode::DSR_IPIP,
        port: 7006,
    },
];

impl Case {
    fn vip(self) -> IpAddr {
        self.vip.parse().unwrap()
    }

    /// Where the server listens: its own address, or the VIP that it holds.
    fn listener(self) -> SocketAddr {
        let own = if self.vip().is_ipv4() {
            "10.77.0.3"
        } else {
            "fd77::3"
        };
        let addr = if self.mode == mode::SNAT {
            own.parse().unwrap()
        } else {
            self.vip()
        };
        SocketAddr::new(addr, self.port)
    }
}

fn iface(station: &Station, flags: u16) -> Iface {
    Iface {
        ifindex: station.ifindex,
        mtu: 1500,
        mac: station.mac,
        flags: flags | iface_flags::REDIRECT_BACK,
        addr4: station.addr4,
        l2_cell: 0,
        addr6: station.addr6,
    }
}

fn balance(lan: &Lan, pins: &PinDir) -> Datapath {
    let (own, server) = (lan.station(BALANCER).unwrap(), lan.station(SERVER).unwrap());
    let mut datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let lb = datapath.lb();
    fill::iface(lb, &iface(&own, iface_flags::FORWARD));
    let slot = u8::try_from(own.ifindex & 0xff).unwrap();
    let current = fill::slots(lb, 0, &[0; 251]);
    for (n, case) in (1_u32..).zip(CASES) {
        fill::backend4(lb, n, server.addr4, case.port, server.mac, slot, own.addr4);
        fill::backend6(lb, n, server.addr6, case.port, server.mac, slot);
        let flags = if case.mode == mode::SNAT {
            vip_flags::HAS_SNAT
        } else {
            0
        };
        fill::vip(
            lb,
            case.vip(),
            n,
            &VipState {
                flags,
                ..VipState::default()
            },
        )
        .unwrap();
        for proto in [6, 17] {
            let spec = FrontendSpec {
                vip: case.vip(),
                port: case.port,
                proto,
                index: index(n, proto),
                vip_state: n,
                mode: case.mode,
                current,
                previous: SlotTable::default(),
                flags: 0,
                backend_base: n,
                n_backends: 1,
                udp_previous_until: 0,
            };
            fill::frontend(lb, &spec).unwrap();
        }
    }
    lan.node(BALANCER)
        .enter(|| datapath.attach(own.ifindex, Acceleration::Native))
        .unwrap()
        .unwrap();
    datapath
}

fn index(n: u32, proto: u8) -> u32 {
    n * 2 + u32::from(proto == 17)
}

fn decapsulate(lan: &Lan, pins: &PinDir) -> Decap {
    let (own, balancer) = (lan.station(SERVER).unwrap(), lan.station(BALANCER).unwrap());
    let mut decap = Decap::open(pins.path()).unwrap();
    decap
        .maps()
        .ifaces
        .write(own.ifindex & 0xff, &iface(&own, 0));
    for case in CASES.iter().filter(|case| case.mode == mode::DSR_IPIP) {
        decap
            .maps()
            .vips
            .insert(&octets(case.vip()), &1, Insert::Any)
            .unwrap();
    }
    for sender in [octets(IpAddr::from(balancer.addr4)), balancer.addr6] {
        decap
            .maps()
            .senders
            .insert(&sender, &1, Insert::Any)
            .unwrap();
    }
    let attach = || {
        let ifindex = netdev::ifindex("eth0")?;
        decap.attach(ifindex, Acceleration::Native)?;
        Ok::<_, DatapathError>(())
    };
    lan.node(SERVER).enter(attach).unwrap().unwrap();
    decap
}

#[test]
fn sockets_talk_through_every_mode() {
    require_root();
    let lan = Lan::new(3).unwrap();
    for case in CASES {
        lan.point_vip(CLIENT, BALANCER, case.vip).unwrap();
        if case.mode == mode::SNAT {
            lan.point_vip(SERVER, BALANCER, case.vip).unwrap();
        } else {
            lan.hold_vip(SERVER, case.vip).unwrap();
        }
    }
    let (pins, decap_pins) = (PinDir::new(), PinDir::new());
    let datapath = balance(&lan, &pins);
    let _decap = decapsulate(&lan, &decap_pins);
    for (n, case) in (1_u32..).zip(CASES) {
        udp(&lan, case);
        let counted = datapath.lb().fe_stats.sum(index(n, 17)).unwrap();
        assert_eq!(
            counted.packets, 10,
            "{case:?}: the counter is not the packets on the wire"
        );
        tcp(&lan, case);
        assert!(
            datapath.lb().fe_stats.sum(index(n, 6)).unwrap().packets > 10,
            "{case:?}"
        );
    }
}

fn udp(lan: &Lan, case: Case) {
    let server = lan
        .node(SERVER)
        .enter(|| UdpSocket::bind(case.listener()))
        .unwrap()
        .unwrap();
    let any = if case.vip().is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let client = lan
        .node(CLIENT)
        .enter(|| UdpSocket::bind(any))
        .unwrap()
        .unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client
        .connect(SocketAddr::new(case.vip(), case.port))
        .unwrap();
    for n in 0..10_u8 {
        let mut buffer = [0; 64];
        client.send(&[n; 33]).unwrap();
        let (length, peer) = server
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("{case:?}: no request: {e}"));
        assert_eq!(&buffer[..length], &[n; 33]);
        if case.mode == mode::SNAT {
            assert_eq!(peer.ip(), case.vip(), "the server sees the VIP");
        }
        server.send_to(&[n + 100; 21], peer).unwrap();
        let length = client
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("{case:?}: no answer: {e}"));
        assert_eq!(&buffer[..length], &[n + 100; 21]);
    }
}

fn tcp(lan: &Lan, case: Case) {
    const LENGTH: usize = 256 * 1024;
    let server = lan
        .node(SERVER)
        .enter(|| TcpListener::bind(case.listener()))
        .unwrap()
        .unwrap();
    let target = SocketAddr::new(case.vip(), case.port);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let (mut stream, _) = server.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(b"thanks").unwrap();
            received
        });
        let connect = || TcpStream::connect_timeout(&target, PATIENCE);
        let mut client = match lan.node(CLIENT).enter(connect).unwrap() {
            Ok(client) => client,
            Err(error) => {
                // Lets the server's thread end, so that the reason is seen.
                drop(
                    lan.node(SERVER)
                        .enter(|| TcpStream::connect(case.listener())),
                );
                panic!("{case:?}: connect: {error}");
            }
        };
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent: Vec<u8> = (0..=250).cycle().take(LENGTH).collect();
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client
            .read_to_end(&mut answer)
            .unwrap_or_else(|e| panic!("{case:?}: no answer: {e}"));
        assert_eq!(answer, b"thanks", "{case:?}");
        assert_eq!(served.join().unwrap(), sent, "{case:?}");
    });
}
