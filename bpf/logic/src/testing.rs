//! What the tests share: a small network, packet builders, and a checker that does its own sums (pnet's, not ours).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_abi::{
    l2::{DeadlineCell, L2Entry, L2Key},
    lb::{
        Backend4, Backend6, FrontendValue, Iface, VipState, backend_flags, frontend_flags,
        iface_flags, mode, vip_flags,
    },
};
use pnet_packet::{
    Packet as _, icmp, icmpv6,
    ipv4::{self, Ipv4Packet, MutableIpv4Packet},
    ipv6::{Ipv6Packet, MutableIpv6Packet},
    tcp::{self, MutableTcpPacket, TcpPacket},
    udp::{self, MutableUdpPacket, UdpPacket},
};

use crate::{Insert, host::World};

pub(crate) const LB: u32 = 7;
pub(crate) const LB2: u32 = 9;
pub(crate) const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const LB2_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0xc, 1];
pub(crate) const VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
pub(crate) const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN: u8 = 1;
pub(crate) const RST: u8 = 4;
pub(crate) const M: u32 = 251;
pub(crate) const N: u16 = 5;

pub(crate) fn vip(v6: bool) -> IpAddr {
    if v6 { VIP6.into() } else { VIP4.into() }
}

pub(crate) fn client(v6: bool) -> IpAddr {
    if v6 { CLIENT6.into() } else { CLIENT4.into() }
}

pub(crate) fn backend_addr(v6: bool, i: u16) -> IpAddr {
    let low = u8::try_from(i + 1).unwrap();
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, u16::from(low)).into()
    } else {
        Ipv4Addr::new(10, 0, 1, low).into()
    }
}

pub(crate) fn backend_mac(i: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0xb, u8::try_from(i + 1).unwrap()]
}

pub(crate) const BACKEND_PORT: u16 = 8080;

/// A load balancer with two interfaces and one VIP of each family, no frontend.
pub(crate) fn world() -> World {
    let mut w = World::new();
    w.add_iface(Iface {
        ifindex: LB,
        mtu: 1500,
        mac: LB_MAC,
        flags: iface_flags::FORWARD | iface_flags::ANNOUNCE,
        addr4: [10, 0, 0, 1],
        l2_cell: 1,
        addr6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets(),
    });
    w.add_iface(Iface {
        ifindex: LB2,
        mtu: 1400,
        mac: LB2_MAC,
        flags: iface_flags::FORWARD,
        addr4: [10, 9, 0, 1],
        l2_cell: 2,
        addr6: Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1).octets(),
    });
    for (v6, index) in [(false, 1), (true, 2)] {
        assert!(w.add_vip(vip(v6), 0, 0, index));
        w.vip_states.set(
            index,
            VipState {
                flags: vip_flags::HAS_SNAT,
                ..VipState::default()
            },
        );
    }
    w
}

/// A frontend with [`N`] backends, slot i of its table names backend i mod N.
pub(crate) fn frontend(w: &mut World, index: u32, v6: bool, port: u16, proto: u8, fe_mode: u64) {
    assert!(w.add_vip(vip(v6), port, proto, index));
    let slots: Vec<u16> = (0..M).map(|i| u16::try_from(i).unwrap() % N).collect();
    let current = w.set_table(index * 64, &slots);
    let base = index * 16;
    for i in 0..N {
        set_backend(w, v6, base, i, LB as u8);
    }
    w.frontends.set(
        index,
        FrontendValue {
            current,
            flags: fe_mode << frontend_flags::MODE_SHIFT,
            backend_base: base,
            vip: if v6 { 2 } else { 1 },
            n_backends: u32::from(N),
            ..FrontendValue::default()
        },
    );
}

pub(crate) fn set_backend(w: &mut World, v6: bool, base: u32, i: u16, iface: u8) {
    let flags = backend_flags::ALIVE | backend_flags::ACCEPTS_NEW;
    let index = base + u32::from(i);
    match backend_addr(v6, i) {
        IpAddr::V4(addr) => {
            let eg = *w.ifaces.get(u32::from(iface)).unwrap();
            w.backends4.set(
                index,
                Backend4 {
                    addr: addr.octets(),
                    mac: backend_mac(i),
                    csum: outer_sum(eg.addr4, addr.octets()),
                    port: BACKEND_PORT.to_be_bytes(),
                    iface,
                    flags,
                },
            );
        }
        IpAddr::V6(addr) => {
            w.backends6.set(
                index,
                Backend6 {
                    addr: addr.octets(),
                    mac: backend_mac(i),
                    port: BACKEND_PORT.to_be_bytes(),
                    iface,
                    flags,
                    _pad: [0; 6],
                },
            );
        }
    }
}

/// The precomputed sum of `Backend4::csum`, by the definition in the contract.
fn outer_sum(src: [u8; 4], dst: [u8; 4]) -> u16 {
    let words = [
        [0x45, 0],
        [64, 4],
        [src[0], src[1]],
        [src[2], src[3]],
        [dst[0], dst[1]],
        [dst[2], dst[3]],
    ];
    let mut sum: u32 = words
        .iter()
        .map(|w| u32::from(u16::from_be_bytes(*w)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

pub(crate) const MODES: [u64; 3] = [mode::SNAT, mode::DSR_L2, mode::DSR_IPIP];

/// A packet to be built.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) proto: u8,
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) src_mac: [u8; 6],
    pub(crate) dst_mac: [u8; 6],
    pub(crate) no_udp_csum: bool,
}

/// A client's packet to the VIP.
pub(crate) fn from_client(v6: bool, sport: u16, dport: u16, proto: u8, flags: u8) -> Spec {
    Spec {
        src: client(v6),
        dst: vip(v6),
        sport,
        dport,
        proto,
        flags,
        ttl: 61,
        payload: b"hello, fairlead".to_vec(),
        src_mac: CLIENT_MAC,
        dst_mac: LB_MAC,
        no_udp_csum: false,
    }
}

/// The answer of a backend to what it got.
pub(crate) fn answer(got: &Seen, flags: u8) -> Spec {
    Spec {
        src: got.dst,
        dst: got.src,
        sport: got.dport,
        dport: got.sport,
        proto: got.proto,
        flags,
        ttl: 64,
        payload: b"an answer".to_vec(),
        src_mac: got.dst_mac,
        dst_mac: LB_MAC,
        no_udp_csum: false,
    }
}

impl Spec {
    pub(crate) fn transport(&self) -> Vec<u8> {
        let mut l4;
        if self.proto == TCP {
            l4 = vec![0; 20];
            l4.extend(&self.payload);
            let mut t = MutableTcpPacket::new(&mut l4).unwrap();
            t.set_source(self.sport);
            t.set_destination(self.dport);
            t.set_sequence(0x0102_0304);
            t.set_data_offset(5);
            t.set_flags(self.flags);
            t.set_window(512);
            let csum = match (self.src, self.dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp::ipv4_checksum(&t.to_immutable(), &s, &d),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp::ipv6_checksum(&t.to_immutable(), &s, &d),
                _ => panic!("mixed families"),
            };
            t.set_checksum(csum);
        } else {
            l4 = vec![0; 8];
            l4.extend(&self.payload);
            let len = u16::try_from(l4.len()).unwrap();
            let mut u = MutableUdpPacket::new(&mut l4).unwrap();
            u.set_source(self.sport);
            u.set_destination(self.dport);
            u.set_length(len);
            let csum = match (self.src, self.dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => udp::ipv4_checksum(&u.to_immutable(), &s, &d),
                (IpAddr::V6(s), IpAddr::V6(d)) => udp::ipv6_checksum(&u.to_immutable(), &s, &d),
                _ => panic!("mixed families"),
            };
            u.set_checksum(match csum {
                _ if self.no_udp_csum => 0,
                0 => 0xffff,
                sum => sum,
            });
        }
        l4
    }

    /// The IP packet.
    pub(crate) fn l3(&self) -> Vec<u8> {
        ip(self.src, self.dst, self.proto, self.ttl, &self.transport())
    }

    /// The frame.
    pub(crate) fn build(&self) -> Vec<u8> {
        ether(self.src_mac, self.dst_mac, &self.l3())
    }
}

/// An Ethernet frame around an IP packet.
pub(crate) fn ether(src: [u8; 6], dst: [u8; 6], l3: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if l3[0] >> 4 == 6 {
        [0x86, 0xdd]
    } else {
        [8, 0]
    };
    [&dst[..], &src[..], &kind[..], l3].concat()
}

/// An IP packet.
pub(crate) fn ip(src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, l4: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut out = vec![0; 20];
            out.extend(l4);
            let total = u16::try_from(out.len()).unwrap();
            let mut p = MutableIpv4Packet::new(&mut out).unwrap();
            p.set_version(4);
            p.set_header_length(5);
            p.set_dscp(2);
            p.set_total_length(total);
            p.set_identification(0x1234);
            p.set_ttl(ttl);
            p.set_next_level_protocol(pnet_packet::ip::IpNextHeaderProtocol(proto));
            p.set_source(src);
            p.set_destination(dst);
            let csum = ipv4::checksum(&p.to_immutable());
            p.set_checksum(csum);
            out
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut out = vec![0; 40];
            out.extend(l4);
            let len = u16::try_from(l4.len()).unwrap();
            let mut p = MutableIpv6Packet::new(&mut out).unwrap();
            p.set_version(6);
            p.set_traffic_class(8);
            p.set_flow_label(0x54321);
            p.set_payload_length(len);
            p.set_next_header(pnet_packet::ip::IpNextHeaderProtocol(proto));
            p.set_hop_limit(ttl);
            p.set_source(src);
            p.set_destination(dst);
            out
        }
        _ => panic!("mixed families"),
    }
}

/// What an independent reader sees in a frame. Panics if a checksum or a length is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) dst_mac: [u8; 6],
    pub(crate) src_mac: [u8; 6],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) proto: u8,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) l4: Vec<u8>,
}

/// Reads a frame without tags.
pub(crate) fn see(frame: &[u8]) -> Seen {
    let mut seen = see_l3(&frame[14..]);
    seen.dst_mac = frame[..6].try_into().unwrap();
    seen.src_mac = frame[6..12].try_into().unwrap();
    let kind = [frame[12], frame[13]];
    assert_eq!(
        kind,
        if seen.src.is_ipv6() {
            [0x86, 0xdd]
        } else {
            [8, 0]
        }
    );
    seen
}

pub(crate) fn see_l3(l3: &[u8]) -> Seen {
    let (src, dst, ttl, proto, l4): (IpAddr, IpAddr, u8, u8, &[u8]) = if l3[0] >> 4 == 4 {
        let p = Ipv4Packet::new(l3).unwrap();
        assert_eq!(ipv4::checksum(&p), p.get_checksum(), "IPv4 header checksum");
        let total = usize::from(p.get_total_length());
        assert!(total <= l3.len(), "total length {total} of {}", l3.len());
        let header = usize::from(p.get_header_length()) * 4;
        let (src, dst) = (p.get_source().into(), p.get_destination().into());
        (
            src,
            dst,
            p.get_ttl(),
            p.get_next_level_protocol().0,
            &l3[header..total],
        )
    } else {
        let p = Ipv6Packet::new(l3).unwrap();
        let total = 40 + usize::from(p.get_payload_length());
        assert!(total <= l3.len(), "payload length");
        let (src, dst) = (p.get_source().into(), p.get_destination().into());
        (
            src,
            dst,
            p.get_hop_limit(),
            p.get_next_header().0,
            &l3[40..total],
        )
    };
    let (sport, dport, payload) = see_l4(src, dst, proto, l4);
    let (dst_mac, src_mac) = ([0; 6], [0; 6]);
    Seen {
        dst_mac,
        src_mac,
        src,
        dst,
        ttl,
        proto,
        sport,
        dport,
        payload,
        l4: l4.to_vec(),
    }
}

fn see_l4(src: IpAddr, dst: IpAddr, proto: u8, l4: &[u8]) -> (u16, u16, Vec<u8>) {
    match (proto, src, dst) {
        (TCP, _, _) => {
            let t = TcpPacket::new(l4).unwrap();
            let want = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp::ipv4_checksum(&t, &s, &d),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp::ipv6_checksum(&t, &s, &d),
                _ => panic!("mixed families"),
            };
            assert_eq!(t.get_checksum(), want, "TCP checksum");
            (t.get_source(), t.get_destination(), t.payload().to_vec())
        }
        (UDP, _, _) => {
            let u = UdpPacket::new(l4).unwrap();
            let want = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => udp::ipv4_checksum(&u, &s, &d),
                (IpAddr::V6(s), IpAddr::V6(d)) => udp::ipv6_checksum(&u, &s, &d),
                _ => panic!("mixed families"),
            };
            let want = if want == 0 { 0xffff } else { want };
            let none = u.get_checksum() == 0 && src.is_ipv4();
            assert!(none || u.get_checksum() == want, "UDP checksum");
            (u.get_source(), u.get_destination(), u.payload().to_vec())
        }
        (1, _, _) => {
            let p = icmp::IcmpPacket::new(l4).unwrap();
            assert_eq!(icmp::checksum(&p), p.get_checksum(), "ICMP checksum");
            (0, 0, l4.to_vec())
        }
        (58, IpAddr::V6(s), IpAddr::V6(d)) => {
            let p = icmpv6::Icmpv6Packet::new(l4).unwrap();
            assert_eq!(
                icmpv6::checksum(&p, &s, &d),
                p.get_checksum(),
                "ICMPv6 checksum"
            );
            (0, 0, l4.to_vec())
        }
        _ => (0, 0, l4.to_vec()),
    }
}

/// An ICMP message with its checksum.
pub(crate) fn icmp_message(
    src: IpAddr,
    dst: IpAddr,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(rest);
    out.extend(body);
    let csum = match (src, dst) {
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            icmpv6::checksum(&icmpv6::Icmpv6Packet::new(&out).unwrap(), &s, &d)
        }
        _ => icmp::checksum(&icmp::IcmpPacket::new(&out).unwrap()),
    };
    out[2..4].copy_from_slice(&csum.to_be_bytes());
    out
}

/// A responder entry for the VIP on the first interface, with candidates in slots 0 and 5, whose deadline is at 10 s.
pub(crate) fn announce(w: &mut World, v6: bool) -> L2Key {
    let key = L2Key {
        addr: crate::host::octets(vip(v6)),
        ifindex: LB,
    };
    let entry = L2Entry {
        cell_epoch: 3,
        candidates: 0b10_0001,
        responses: 0,
        mac: LB_MAC,
        cell: 1,
        ..L2Entry::default()
    };
    w.l2_entries.insert(key, entry, Insert::Any);
    w.l2_cells.set(
        1,
        DeadlineCell {
            deadline: 10_000_000_000,
            epoch: 3,
        },
    );
    key
}

/// Splits an IPv4 packet without options after `at` bytes of its payload (a multiple of 8).
pub(crate) fn fragments4(l3: &[u8], at: usize) -> [Vec<u8>; 2] {
    let part = |range: std::ops::Range<usize>, frag: u16| {
        let mut out = l3[..20].to_vec();
        out.extend(&l3[20 + range.start..20 + range.end]);
        let total = u16::try_from(out.len()).unwrap();
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[6..8].copy_from_slice(&frag.to_be_bytes());
        out[10..12].fill(0);
        let csum = ipv4::checksum(&Ipv4Packet::new(&out).unwrap());
        out[10..12].copy_from_slice(&csum.to_be_bytes());
        out
    };
    let offset = u16::try_from(at / 8).unwrap();
    [part(0..at, 0x2000), part(at..l3.len() - 20, offset)]
}
