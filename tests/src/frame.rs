//! Frames built by pnet, not by us: what a test sends, and what it expects to come out.

use std::net::IpAddr;

use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{self, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{self, MutableTcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket};

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
}

fn len16(n: usize) -> u16 {
    u16::try_from(n).expect("packets are below 64 KiB")
}

/// A UDP datagram with valid checksums.
///
/// # Panics
///
/// If the two addresses are of different families.
pub fn udp(flow: &Flow, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 8 + payload.len()];
    segment[8..].copy_from_slice(payload);
    let mut header = MutableUdpPacket::new(&mut segment).expect("a full header");
    header.set_source(flow.sport);
    header.set_destination(flow.dport);
    header.set_length(len16(8 + payload.len()));
    let checksum = match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            udp::ipv4_checksum(&header.to_immutable(), &src, &dst)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            udp::ipv6_checksum(&header.to_immutable(), &src, &dst)
        }
        mixed => panic!("one family, not {mixed:?}"),
    };
    header.set_checksum(checksum);
    ip(flow, IpNextHeaderProtocols::Udp, &segment)
}

/// A TCP segment with valid checksums; `flags` as on the wire (SYN 2, RST 4, ACK 16, FIN 1).
///
/// # Panics
///
/// If the two addresses are of different families.
pub fn tcp(flow: &Flow, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20 + payload.len()];
    segment[20..].copy_from_slice(payload);
    let mut header = MutableTcpPacket::new(&mut segment).expect("a full header");
    header.set_source(flow.sport);
    header.set_destination(flow.dport);
    header.set_sequence(0x0102_0304);
    header.set_data_offset(5);
    header.set_flags(flags);
    header.set_window(1024);
    let checksum = match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            tcp::ipv4_checksum(&header.to_immutable(), &src, &dst)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            tcp::ipv6_checksum(&header.to_immutable(), &src, &dst)
        }
        mixed => panic!("one family, not {mixed:?}"),
    };
    header.set_checksum(checksum);
    ip(flow, IpNextHeaderProtocols::Tcp, &segment)
}

/// Any payload in an IP packet of the addresses' family, in an Ethernet frame.
///
/// # Panics
///
/// If the two addresses are of different families.
pub fn ip(flow: &Flow, protocol: IpNextHeaderProtocol, payload: &[u8]) -> Vec<u8> {
    let (kind, packet) = match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = vec![0; 20 + payload.len()];
            bytes[20..].copy_from_slice(payload);
            let mut header = MutableIpv4Packet::new(&mut bytes).expect("a full header");
            header.set_version(4);
            header.set_header_length(5);
            header.set_total_length(len16(20 + payload.len()));
            header.set_ttl(64);
            header.set_next_level_protocol(protocol);
            header.set_source(src);
            header.set_destination(dst);
            let checksum = ipv4::checksum(&header.to_immutable());
            header.set_checksum(checksum);
            (EtherTypes::Ipv4, bytes)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = vec![0; 40 + payload.len()];
            bytes[40..].copy_from_slice(payload);
            let mut header = MutableIpv6Packet::new(&mut bytes).expect("a full header");
            header.set_version(6);
            header.set_payload_length(len16(payload.len()));
            header.set_hop_limit(64);
            header.set_next_header(protocol);
            header.set_source(src);
            header.set_destination(dst);
            (EtherTypes::Ipv6, bytes)
        }
        mixed => panic!("one family, not {mixed:?}"),
    };
    ethernet(flow.src_mac, flow.dst_mac, kind, &packet)
}

/// An Ethernet frame.
pub fn ethernet(src: [u8; 6], dst: [u8; 6], kind: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    frame[14..].copy_from_slice(payload);
    let mut header = MutableEthernetPacket::new(&mut frame).expect("a full header");
    header.set_source(src.into());
    header.set_destination(dst.into());
    header.set_ethertype(kind);
    frame
}

/// An ARP request for `target`, broadcast.
pub fn arp_request(src_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 28];
    let mut arp = MutableArpPacket::new(&mut bytes).expect("a full header");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(src_mac.into());
    arp.set_sender_proto_addr(sender.into());
    arp.set_target_proto_addr(target.into());
    ethernet(src_mac, [0xff; 6], EtherTypes::Arp, &bytes)
}

/// The frame of `inner` (its Ethernet header replaced) inside an outer IP header: IPIP or ip6ip6 as RFC 2003 and RFC 2473 say, DF set for
/// IPv4, traffic class and (IPv6) flow label copied.
///
/// # Panics
///
/// If the two outer addresses are of different families, or `inner` has no IP header.
pub fn encapsulated(
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
    inner: &[u8],
) -> Vec<u8> {
    let packet = &inner[14..];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = vec![0; 20 + packet.len()];
            bytes[20..].copy_from_slice(packet);
            let mut header = MutableIpv4Packet::new(&mut bytes).expect("a full header");
            header.set_version(4);
            header.set_header_length(5);
            header.set_dscp(packet[1] >> 2);
            header.set_ecn(packet[1] & 3);
            header.set_total_length(len16(20 + packet.len()));
            header.set_flags(ipv4::Ipv4Flags::DontFragment);
            header.set_ttl(64);
            header.set_next_level_protocol(IpNextHeaderProtocols::Ipv4);
            header.set_source(src);
            header.set_destination(dst);
            let checksum = ipv4::checksum(&header.to_immutable());
            header.set_checksum(checksum);
            ethernet(src_mac, dst_mac, EtherTypes::Ipv4, &bytes)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = vec![0; 40 + packet.len()];
            bytes[40..].copy_from_slice(packet);
            bytes[..4].copy_from_slice(&packet[..4]);
            let mut header = MutableIpv6Packet::new(&mut bytes).expect("a full header");
            header.set_version(6);
            header.set_payload_length(len16(packet.len()));
            header.set_hop_limit(64);
            header.set_next_header(IpNextHeaderProtocols::Ipv6);
            header.set_source(src);
            header.set_destination(dst);
            ethernet(src_mac, dst_mac, EtherTypes::Ipv6, &bytes)
        }
        mixed => panic!("one family, not {mixed:?}"),
    }
}

/// The answer to [`arp_request`].
pub fn arp_reply(
    src_mac: [u8; 6],
    sender: [u8; 4],
    target_mac: [u8; 6],
    target: [u8; 4],
) -> Vec<u8> {
    let mut frame = arp_request(src_mac, sender, target);
    frame[..6].copy_from_slice(&target_mac);
    let mut arp = MutableArpPacket::new(&mut frame[14..]).expect("a full header");
    arp.set_operation(ArpOperations::Reply);
    arp.set_target_hw_addr(target_mac.into());
    frame
}

/// The frame with other Ethernet addresses.
pub fn with_macs(frame: &[u8], src: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
    [&dst, &src, &frame[12..]].concat()
}

/// The frame with another time to live or hop limit.
pub fn with_hop_limit(frame: &[u8], hops: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[14] >> 4 == 6 {
        frame[21] = hops;
        return frame;
    }
    let mut header = MutableIpv4Packet::new(&mut frame[14..]).expect("a full header");
    header.set_ttl(hops);
    let checksum = ipv4::checksum(&header.to_immutable());
    header.set_checksum(checksum);
    frame
}

/// The source port of an untagged TCP or UDP frame without options.
pub fn source_port(frame: &[u8]) -> Option<u16> {
    let l4 = if frame.get(14)? >> 4 == 6 { 54 } else { 34 };
    Some(u16::from_be_bytes([*frame.get(l4)?, *frame.get(l4 + 1)?]))
}
