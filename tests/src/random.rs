//! Random frames around a known configuration: well-formed ones of every kind that the programs tell apart, and broken ones.
//!
//! A [`Sketch`] is what proptest shrinks; [`Sketch::frame`] turns it into bytes with valid checksums, which the sketch may then break.

use std::net::IpAddr;

use pnet_packet::util;
use proptest::prelude::*;

/// Hardware address of the interface under test.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The node's own addresses.
pub const NODE4: [u8; 4] = [192, 0, 2, 1];
pub const NODE6: [u8; 16] = [0xfd; 16];
/// Ports of the frontends (`twin`), those that keep state more often, and some without one.
pub const PORTS: [u16; 23] = [
    80, 80, 443, 443, 2000, 81, 82, 83, 83, 83, 84, 84, 84, 85, 85, 86, 86, 87, 88, 89, 22, 30_000,
    61_000,
];
/// Clients; few, so that flows repeat and collide.
const CLIENTS: u8 = 4;
/// Client ports; few for the same reason.
const CLIENT_PORTS: [u16; 4] = [1024, 40_000, 40_001, 65_535];

/// Where a frame is sent at layer 2.
#[derive(Clone, Copy, Debug)]
pub enum Station {
    Own,
    Other,
    Broadcast,
    Heartbeat4,
    Heartbeat6,
}

/// Transport of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp {
        flags: u8,
    },
    Udp {
        without_checksum: bool,
    },
    /// ICMP or ICMPv6 by family; kind 0 is an echo request, others are errors that quote the client's flow.
    Icmp {
        kind: u8,
    },
    Other(u8),
}

/// What stands between the fixed IP header and the transport.
#[derive(Clone, Copy, Debug)]
pub enum Extra {
    None,
    /// IPv4 options or an IPv6 hop-by-hop header, in words of four or units of eight bytes.
    Options(u8),
    /// Offset in units of eight bytes, more to come, which datagram.
    Fragment {
        offset: u16,
        more: bool,
        datagram: u8,
    },
}

/// One frame.
#[derive(Clone, Debug)]
pub enum Sketch {
    /// A packet from a client to an address of ours or to none.
    Packet {
        station: Station,
        tags: u8,
        v6: bool,
        client: u8,
        /// 0..3 are the VIPs of `twin`, [`NODE`] is the node itself, anything else is nobody's.
        vip: u8,
        sport: u16,
        dport: u16,
        transport: Transport,
        extra: Extra,
        payload: u16,
        hops: u8,
        damage: Damage,
    },
    /// What a backend answers to the n-th SNAT record that lives at that time.
    Reply {
        nth: u8,
        flags: u8,
        icmp: bool,
        hops: u8,
        damage: Damage,
    },
    /// Another packet of the client whose record that is.
    Again {
        nth: u8,
        flags: u8,
        hops: u8,
        damage: Damage,
    },
    /// An error about a packet that was wrapped for a backend of the second VIP.
    Tunnel {
        v6: bool,
        client: u8,
        sport: u16,
        dport: u16,
        backend: u8,
        kind: u8,
        mtu: u16,
        /// Bytes quoted.
        quote: u16,
        damage: Damage,
    },
    /// An ARP request or a neighbour solicitation for a VIP.
    Resolve {
        v6: bool,
        vip: u8,
        broadcast: bool,
        damage: Damage,
    },
    /// A heartbeat from one of the peers.
    Heartbeat { v6: bool, peer: u8 },
    /// No protocol at all.
    Noise(Vec<u8>),
}

/// What is broken afterwards.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    None,
    /// The frame ends early.
    Cut(u16),
    /// Bytes follow the packet.
    Trailer(u8),
    /// One byte is another.
    Flip {
        at: u16,
        with: u8,
    },
}

/// Frames, mostly sound.
pub fn sketch() -> impl Strategy<Value = Sketch> {
    prop_oneof![
        30 => packet(),
        8 => (any::<u8>(), tcp_flags(), prop::bool::weighted(0.2), hops(), damage())
            .prop_map(|(nth, flags, icmp, hops, damage)| Sketch::Reply { nth, flags, icmp, hops, damage }),
        8 => (any::<u8>(), tcp_flags(), hops(), damage())
            .prop_map(|(nth, flags, hops, damage)| Sketch::Again { nth, flags, hops, damage }),
        2 => tunnel(),
        2 => (any::<bool>(), 0..4_u8, any::<bool>(), damage())
            .prop_map(|(v6, vip, broadcast, damage)| Sketch::Resolve { v6, vip, broadcast, damage }),
        1 => (any::<bool>(), 0..3_u8).prop_map(|(v6, peer)| Sketch::Heartbeat { v6, peer }),
        1 => prop::collection::vec(any::<u8>(), 14..120).prop_map(Sketch::Noise),
    ]
}

fn packet() -> impl Strategy<Value = Sketch> {
    let station = prop_oneof![
        30 => Just(Station::Own),
        1 => Just(Station::Other),
        1 => Just(Station::Broadcast),
        1 => Just(Station::Heartbeat4),
        1 => Just(Station::Heartbeat6),
    ];
    let addresses = (
        station,
        prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)],
        any::<bool>(),
        0..CLIENTS,
        vips(),
    );
    let ports = (
        prop::sample::select(&CLIENT_PORTS[..]),
        prop::sample::select(&PORTS[..]),
    );
    let payload = prop_oneof![10 => 0..80_u16, 2 => 1300..1500_u16, 1 => 1500..2000_u16];
    let shape = (transport(), extra(), payload, hops(), damage());
    (addresses, ports, shape).prop_map(
        |((station, tags, v6, client, vip), (sport, dport), shape)| {
            let (transport, extra, payload, hops, damage) = shape;
            Sketch::Packet {
                station,
                tags,
                v6,
                client,
                vip,
                sport,
                dport,
                transport,
                extra,
                payload,
                hops,
                damage,
            }
        },
    )
}

fn tunnel() -> impl Strategy<Value = Sketch> {
    let flow = (
        any::<bool>(),
        0..CLIENTS,
        prop::sample::select(&CLIENT_PORTS[..]),
        prop::sample::select(&[82_u16, 82, 84, 87, 81][..]),
    );
    let mtu = prop_oneof![4 => 1300..1500_u16, 1 => 0..1400_u16];
    let quote = prop_oneof![4 => 100..128_u16, 1 => 0..128_u16];
    let error = (
        0..3_u8,
        prop::sample::select(&[1_u8, 1, 1, 2, 3][..]),
        mtu,
        quote,
        damage(),
    );
    (flow, error).prop_map(
        |((v6, client, sport, dport), (backend, kind, mtu, quote, damage))| Sketch::Tunnel {
            v6,
            client,
            sport,
            dport,
            backend,
            kind,
            mtu,
            quote,
            damage,
        },
    )
}

/// In place of a VIP: the node's own address.
pub const NODE: u8 = 4;

/// Mostly the two VIPs that are forwarded.
fn vips() -> impl Strategy<Value = u8> {
    prop_oneof![5 => Just(0_u8), 5 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(NODE)]
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        8 => tcp_flags().prop_map(|flags| Transport::Tcp { flags }),
        8 => prop::bool::weighted(0.1).prop_map(|without_checksum| Transport::Udp { without_checksum }),
        3 => (0..6_u8).prop_map(|kind| Transport::Icmp { kind }),
        1 => any::<u8>().prop_map(Transport::Other),
    ]
}

/// SYN, ACK, FIN, RST and their likely unions.
fn tcp_flags() -> impl Strategy<Value = u8> {
    prop::sample::select(&[2_u8, 16, 16, 24, 17, 4, 20, 18, 0, 3][..])
}

fn extra() -> impl Strategy<Value = Extra> {
    prop_oneof![
        12 => Just(Extra::None),
        2 => (1..=10_u8).prop_map(Extra::Options),
        2 => (prop_oneof![Just(0_u16), Just(3)], any::<bool>(), 0..3_u8)
            .prop_map(|(offset, more, datagram)| Extra::Fragment { offset, more, datagram }),
    ]
}

fn hops() -> impl Strategy<Value = u8> {
    prop_oneof![10 => Just(64_u8), 1 => Just(1), 1 => Just(0), 1 => Just(255)]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        12 => Just(Damage::None),
        1 => (0..100_u16).prop_map(Damage::Cut),
        1 => (1..20_u8).prop_map(Damage::Trailer),
        2 => (0..80_u16, any::<u8>()).prop_map(|(at, with)| Damage::Flip { at, with }),
    ]
}

/// The VIP's address in a family.
pub fn vip(n: u8, v6: bool) -> IpAddr {
    if n == NODE {
        return if v6 { NODE6.into() } else { NODE4.into() };
    }
    if v6 {
        IpAddr::from([0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
    } else {
        IpAddr::from([203, 0, 113, n])
    }
}

fn client(n: u8, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, n])
    } else {
        IpAddr::from([198, 51, 100, n])
    }
}

/// Hardware address of the n-th peer; the first two are known.
pub fn peer_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0x77, n]
}

/// A translated flow, of which another packet is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub vip: IpAddr,
    pub backend: IpAddr,
    pub snat_port: u16,
    pub backend_port: u16,
    pub proto: u8,
    pub client: IpAddr,
    pub client_port: u16,
    pub client_mac: [u8; 6],
    /// What the client dialled.
    pub dialled: IpAddr,
    pub dialled_port: u16,
}

impl Sketch {
    /// The frame; `run` makes identifications of datagrams unique, `record` is what [`Sketch::Reply`] answers to.
    pub fn frame(&self, run: u32, record: Option<Record>) -> Vec<u8> {
        match self {
            Self::Noise(bytes) => bytes.clone(),
            Self::Heartbeat { v6, peer } => heartbeat(*v6, *peer),
            Self::Tunnel { damage, .. } => damage.apply(self.about_tunnel()),
            Self::Resolve {
                v6,
                vip: n,
                broadcast,
                damage,
            } => damage.apply(if *v6 {
                solicitation(vip(*n, true))
            } else {
                arp(vip(*n, false), *broadcast)
            }),
            Self::Reply {
                flags,
                icmp,
                hops,
                damage,
                ..
            } => match record {
                Some(record) => damage.apply(reply(&record, *flags, *icmp, *hops)),
                None => heartbeat(false, 0),
            },
            Self::Again {
                flags,
                hops,
                damage,
                ..
            } => match record {
                Some(record) => damage.apply(again(&record, *flags, *hops)),
                None => heartbeat(true, 0),
            },
            Self::Packet {
                station,
                tags,
                v6,
                client: c,
                vip: n,
                sport,
                dport,
                transport,
                extra,
                payload,
                hops,
                damage,
            } => {
                let (src, dst) = (client(*c, *v6), vip(*n, *v6));
                let (proto, segment) = segment(src, dst, *sport, *dport, *transport, *payload);
                let packet = network(src, dst, proto, *hops, *extra, run, &segment);
                let frame = ethernet(*station, [2, 0, 0, 0, 9, *c], *tags, *v6, &packet);
                damage.apply(frame)
            }
        }
    }
}

impl Sketch {
    /// The error of [`Sketch::Tunnel`].
    fn about_tunnel(&self) -> Vec<u8> {
        let Self::Tunnel {
            v6,
            client: c,
            sport,
            dport,
            backend,
            kind,
            mtu,
            quote,
            ..
        } = *self
        else {
            unreachable!("asked for this kind only");
        };
        let (src, dst) = (client(c, v6), vip(1, v6));
        // As in `twin`: the backends of this port's group.
        let last = backend + if dport == 87 { 64 } else { 0 };
        let backend = if v6 {
            IpAddr::from([0xfd, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
        } else {
            IpAddr::from([192, 0, 2, 100 + last])
        };
        let (proto, inner) = segment(src, dst, sport, dport, Transport::Tcp { flags: 16 }, 20);
        let inner = network(src, dst, proto, 60, Extra::None, 0, &inner);
        let outer = if v6 { 41 } else { 4 };
        let mut quoted = network(vip(NODE, v6), backend, outer, 60, Extra::None, 0, &inner);
        quoted.truncate(usize::from(quote));
        let (kind, code) = match (kind, v6) {
            (1, false) => (3, 4),
            (1, true) => (2, 0),
            (2, false) => (3, 2),
            (2, true) => (1, 0),
            (_, _) => (11, 0),
        };
        let message = [&[kind, code, 0, 0, 0, 0], &mtu.to_be_bytes()[..], &quoted].concat();
        let (from, to) = (client(9, v6), vip(NODE, v6));
        let (proto, message) = if v6 {
            (58, checksummed(from, to, 58, message, 2))
        } else {
            (1, with_checksum(message, 2, 0))
        };
        let packet = network(from, to, proto, 60, Extra::None, 0, &message);
        ethernet(Station::Own, [2, 0, 0, 0, 8, 9], 0, v6, &packet)
    }
}

impl Damage {
    /// The frame with this damage done; never shorter than an Ethernet header.
    pub fn apply(self, mut frame: Vec<u8>) -> Vec<u8> {
        const SHORTEST: usize = 14;
        match self {
            Self::None => {}
            Self::Cut(n) => {
                frame.truncate(frame.len().saturating_sub(usize::from(n)).max(SHORTEST));
            }
            Self::Trailer(n) => frame.extend(std::iter::repeat_n(0xee, usize::from(n))),
            Self::Flip { at, with } => {
                let at = usize::from(at) % frame.len();
                frame[at] = with;
            }
        }
        frame
    }
}

fn ethernet(station: Station, src: [u8; 6], tags: u8, v6: bool, packet: &[u8]) -> Vec<u8> {
    let dst = match station {
        Station::Own => OWN_MAC,
        Station::Other => [2, 0, 0, 0, 0, 0x55],
        Station::Broadcast => [0xff; 6],
        Station::Heartbeat4 => [1, 0, 0x5e, 0, 0, 174],
        Station::Heartbeat6 => [0x33, 0x33, 0, 0, 0x46, 0x4c],
    };
    let mut frame = [dst, src].concat();
    if tags == 2 {
        frame.extend([0x88, 0xa8, 0, 9]);
    }
    if tags >= 1 {
        frame.extend([0x81, 0x00, 0, 5]);
    }
    frame.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    frame.extend(packet);
    frame
}

fn segment(
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
    transport: Transport,
    payload: u16,
) -> (u8, Vec<u8>) {
    let body = vec![0x5a; usize::from(payload)];
    let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    match transport {
        Transport::Tcp { flags } => {
            let header = [
                &ports[..],
                &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 4, 0, 0, 0, 0, 0],
                &body,
            ]
            .concat();
            (6, checksummed(src, dst, 6, header, 16))
        }
        Transport::Udp { without_checksum } => {
            let length = (8 + payload).to_be_bytes();
            let header = [&ports[..], &length, &[0, 0], &body].concat();
            (
                17,
                if without_checksum {
                    header
                } else {
                    checksummed(src, dst, 17, header, 6)
                },
            )
        }
        Transport::Icmp { kind } => icmp(src, dst, sport, dport, kind, &body),
        Transport::Other(proto) => (proto, [&ports[..], &body].concat()),
    }
}

fn icmp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, kind: u8, body: &[u8]) -> (u8, Vec<u8>) {
    let v6 = src.is_ipv6();
    let (kind, code) = match (kind, v6) {
        (0, false) => (8, 0),
        (0, true) => (128, 0),
        (1, false) => (3, 4),
        (1, true) => (2, 0),
        (2, false) => (3, 1),
        (2, true) => (1, 3),
        (3, false) => (11, 0),
        (3, true) => (3, 0),
        (4, _) => (0, 0),
        (_, _) => (200, 7),
    };
    let mut message = vec![kind, code, 0, 0, 0, 1, 0x05, 0x00];
    if kind == 8 || kind == 128 {
        message.extend(body);
    } else {
        // Quotes what the VIP once sent to the client: source and destination the other way round.
        let (_, quoted) = segment(dst, src, dport, sport, Transport::Tcp { flags: 16 }, 20);
        message.extend(network(dst, src, 6, 60, Extra::None, 0, &quoted));
    }
    if v6 {
        (58, checksummed(src, dst, 58, message, 2))
    } else {
        (1, with_checksum(message, 2, 0))
    }
}

/// Writes the checksum with pseudo-header at `at`; a UDP zero goes as all ones.
fn checksummed(src: IpAddr, dst: IpAddr, proto: u8, segment: Vec<u8>, at: usize) -> Vec<u8> {
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let addresses = [octets(src), octets(dst)].concat();
    let words = addresses
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let pseudo =
        words.sum::<u32>() + u32::from(proto) + u32::try_from(segment.len()).expect("small");
    with_checksum(segment, at, pseudo)
}

fn with_checksum(mut bytes: Vec<u8>, at: usize, pseudo: u32) -> Vec<u8> {
    bytes[at..at + 2].copy_from_slice(&[0, 0]);
    let mut sum = pseudo + u32::from(!util::checksum(&bytes, usize::MAX));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded");
    bytes[at..at + 2].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
    bytes
}

fn network(
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    hops: u8,
    extra: Extra,
    run: u32,
    segment: &[u8],
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let options = match extra {
                Extra::Options(n) => usize::from(n.min(10)) * 4,
                _ => 0,
            };
            let (id, fragment) = match extra {
                Extra::Fragment {
                    offset,
                    more,
                    datagram,
                } => (
                    (run << 4 | u32::from(datagram)) & 0xffff,
                    offset | u16::from(more) << 13,
                ),
                // Damage may make a fragment of it: not one of an earlier run's datagram.
                _ => ((run << 4 | 0xf) & 0xffff, 0x4000),
            };
            let length = u16::try_from(20 + options + segment.len()).expect("small");
            let mut header = vec![0x45 + u8::try_from(options / 4).expect("at most ten"), 0x28];
            header.extend(length.to_be_bytes());
            header.extend(u16::try_from(id).expect("masked").to_be_bytes());
            header.extend(fragment.to_be_bytes());
            header.extend([hops, proto, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            header.extend(std::iter::repeat_n(1, options));
            let mut packet = with_checksum(header, 10, 0);
            packet.extend(segment);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (next, extension) = match extra {
                Extra::None => (proto, Vec::new()),
                Extra::Options(n) => {
                    let units = n % 3;
                    let mut header = vec![proto, units, 1, units * 8 + 4];
                    header.resize(usize::from(units) * 8 + 8, 0);
                    (0, header)
                }
                Extra::Fragment {
                    offset,
                    more,
                    datagram,
                } => {
                    let id = (run << 4 | u32::from(datagram)).to_be_bytes();
                    let field = (offset << 3 | u16::from(more)).to_be_bytes();
                    (44, [&[proto, 0], &field[..], &id].concat())
                }
            };
            let length = u16::try_from(extension.len() + segment.len()).expect("small");
            let mut packet = vec![0x62, 0x81, 0x23, 0x45];
            packet.extend(length.to_be_bytes());
            packet.extend([next, hops]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(extension);
            packet.extend(segment);
            packet
        }
        mixed => unreachable!("one family, not {mixed:?}"),
    }
}

fn reply(record: &Record, flags: u8, is_error: bool, hops: u8) -> Vec<u8> {
    let (src, dst) = (record.backend, record.vip);
    let transport = if record.proto == 6 {
        Transport::Tcp { flags }
    } else {
        Transport::Udp {
            without_checksum: false,
        }
    };
    let (proto, segment) = if is_error {
        icmp(src, dst, record.backend_port, record.snat_port, 2, &[])
    } else {
        segment(
            src,
            dst,
            record.backend_port,
            record.snat_port,
            transport,
            30,
        )
    };
    let packet = network(src, dst, proto, hops, Extra::None, 0, &segment);
    ethernet(Station::Own, [2, 0, 0, 0, 8, 1], 0, src.is_ipv6(), &packet)
}

fn again(record: &Record, flags: u8, hops: u8) -> Vec<u8> {
    let (src, dst) = (record.client, record.dialled);
    let transport = if record.proto == 6 {
        Transport::Tcp { flags }
    } else {
        Transport::Udp {
            without_checksum: false,
        }
    };
    let (proto, segment) = segment(
        src,
        dst,
        record.client_port,
        record.dialled_port,
        transport,
        10,
    );
    let packet = network(src, dst, proto, hops, Extra::None, 0, &segment);
    ethernet(Station::Own, record.client_mac, 0, src.is_ipv6(), &packet)
}

fn arp(target: IpAddr, broadcast: bool) -> Vec<u8> {
    let IpAddr::V4(target) = target else {
        unreachable!("ARP is for IPv4")
    };
    let mut frame =
        crate::frame::arp_request([2, 0, 0, 0, 9, 1], [198, 51, 100, 1], target.octets());
    if !broadcast {
        frame[..6].copy_from_slice(&OWN_MAC);
    }
    frame
}

fn solicitation(target: IpAddr) -> Vec<u8> {
    let IpAddr::V6(target) = target else {
        unreachable!("solicitations are for IPv6")
    };
    let tail = &target.octets()[13..];
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(tail);
    let (src, dst) = (client(1, true), IpAddr::from(group));
    let message = [
        &[135, 0, 0, 0, 0, 0, 0, 0][..],
        &target.octets(),
        &[1, 1, 2, 0, 0, 0, 9, 1],
    ]
    .concat();
    let packet = network(
        src,
        dst,
        58,
        255,
        Extra::None,
        0,
        &checksummed(src, dst, 58, message, 2),
    );
    let mut frame = ethernet(Station::Own, [2, 0, 0, 0, 9, 1], 0, true, &packet);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, tail[0], tail[1], tail[2]]);
    frame
}

fn heartbeat(v6: bool, peer: u8) -> Vec<u8> {
    let (station, src, dst) = if v6 {
        (
            Station::Heartbeat6,
            client(2, true),
            IpAddr::from(fairlead_abi::l2::HEARTBEAT_GROUP6),
        )
    } else {
        (
            Station::Heartbeat4,
            client(2, false),
            IpAddr::from(fairlead_abi::l2::HEARTBEAT_GROUP4),
        )
    };
    let port = fairlead_abi::l2::HEARTBEAT_PORT;
    let (proto, segment) = segment(
        src,
        dst,
        port,
        port,
        Transport::Udp {
            without_checksum: false,
        },
        40,
    );
    let hops = if v6 { 255 } else { 1 };
    ethernet(
        station,
        peer_mac(peer),
        0,
        v6,
        &network(src, dst, proto, hops, Extra::None, 0, &segment),
    )
}
