//! ARP and neighbour discovery frames: questions, announcements, and reading what others say.
//!
//! Frames are built in place and never allocated. An ARP probe carries sender address 0.0.0.0 and a DAD solicitation the unspecified source,
//! so that neither disturbs any cache.
//!
//! # Source
//! RFC 826, RFC 5227 (2.1.1 probe, 2.3 announcement), RFC 4861 (4.3, 4.4, 7.2.6), RFC 4862 5.4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_model::MacAddr;
use pnet::util::MacAddr as Mac;
use pnet_packet::{
    Packet as _,
    arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket},
    ethernet::{EtherType, EtherTypes, EthernetPacket, MutableEthernetPacket},
    icmpv6::{
        self, Icmpv6Packet, Icmpv6Types,
        ndp::{
            MutableNdpOptionPacket, MutableNeighborAdvertPacket, MutableNeighborSolicitPacket,
            NdpOptionPacket, NdpOptionType, NdpOptionTypes, NeighborAdvertPacket,
            NeighborSolicitPacket,
        },
    },
    ip::IpNextHeaderProtocols,
    ipv6::{Ipv6Packet, MutableIpv6Packet},
};

use crate::ownership::Frame;

/// Longest frame built here: neighbour discovery with one option.
const MAX_LEN: usize = ETH + IPV6 + ND + OPTION;
const ETH: usize = 14;
const ARP: usize = 28;
const IPV6: usize = 40;
const ND: usize = 24;
const OPTION: usize = 8;
/// Proves that a packet comes from this link.
const HOPS: u8 = 255;
/// `O` of an advertisement: replace what you know.
const OVERRIDE: u8 = 0x20;

/// A frame ready to be sent.
#[derive(Clone, Copy)]
pub struct FrameBytes {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl FrameBytes {
    const fn new(len: usize) -> Self {
        Self {
            bytes: [0; MAX_LEN],
            len,
        }
    }

    /// From the Ethernet header to the last byte, without padding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Who asks: the interface's addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sender {
    /// Hardware address.
    pub mac: MacAddr,
    /// Link-local address, if there is one.
    pub link_local: Option<Ipv6Addr>,
}

/// Asks who has `target`: everybody, or the one station `to`.
pub fn probe(sender: &Sender, target: IpAddr, to: Option<MacAddr>) -> FrameBytes {
    match target {
        IpAddr::V4(ip) => {
            let dst = to.map_or_else(Mac::broadcast, mac);
            let asked = (Mac::zero(), ip);
            arp(
                sender,
                dst,
                ArpOperations::Request,
                Ipv4Addr::UNSPECIFIED,
                asked,
            )
        }
        IpAddr::V6(ip) => solicitation(sender, ip, to),
    }
}

/// Tells everybody that `vip` is here: for IPv4 a request and a reply (Linux ignores some of either), for IPv6 an advertisement.
pub fn announcement(sender: &Sender, vip: IpAddr) -> [Option<FrameBytes>; 2] {
    let here = mac(sender.mac);
    match vip {
        IpAddr::V4(ip) => {
            let build =
                |operation, target| arp(sender, Mac::broadcast(), operation, ip, (target, ip));
            [
                Some(build(ArpOperations::Request, Mac::zero())),
                Some(build(ArpOperations::Reply, here)),
            ]
        }
        IpAddr::V6(ip) => [Some(advertisement(sender, ip)), None],
    }
}

/// The group that solicitations for `ip` go to.
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// What an ARP or neighbour discovery frame of another station says, as far as ownership cares. Frames of other kinds, malformed ones and
/// those with a wrong hop limit still prove that somebody is there.
pub fn parse(frame: &[u8]) -> Option<Frame> {
    let eth = EthernetPacket::new(frame)?;
    let source = MacAddr(eth.get_source().octets());
    let mut seen = Frame {
        mac: source,
        claims: None,
        probes: None,
    };
    match eth.get_ethertype() {
        EtherTypes::Arp => read_arp(eth.payload(), &mut seen),
        EtherTypes::Ipv6 => read_nd(eth.payload(), &mut seen),
        _ => None,
    }
    .unwrap_or(());
    Some(seen)
}

fn read_arp(payload: &[u8], seen: &mut Frame) -> Option<()> {
    let arp = ArpPacket::new(payload)?;
    let is_ipv4 = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && (arp.get_hw_addr_len(), arp.get_proto_addr_len()) == (6, 4);
    if !is_ipv4 {
        return None;
    }
    // The sender's own word counts, also behind a bridge that rewrites Ethernet headers.
    seen.mac = MacAddr(arp.get_sender_hw_addr().octets());
    let sender = arp.get_sender_proto_addr();
    if !sender.is_unspecified() {
        seen.claims = Some(IpAddr::V4(sender));
    } else if arp.get_operation() == ArpOperations::Request {
        seen.probes = Some(IpAddr::V4(arp.get_target_proto_addr()));
    }
    Some(())
}

fn read_nd(payload: &[u8], seen: &mut Frame) -> Option<()> {
    let ip = Ipv6Packet::new(payload)?;
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 || ip.get_hop_limit() != HOPS {
        return None;
    }
    let length = usize::from(ip.get_payload_length());
    let body = payload.get(IPV6..)?.get(..length)?;
    let icmp = Icmpv6Packet::new(body)?;
    if icmpv6::checksum(&icmp, &ip.get_source(), &ip.get_destination()) != icmp.get_checksum() {
        return None;
    }
    match icmp.get_icmpv6_type() {
        Icmpv6Types::NeighborSolicit if ip.get_source().is_unspecified() => {
            let solicit = NeighborSolicitPacket::new(body)?;
            seen.probes = Some(IpAddr::V6(solicit.get_target_addr()));
        }
        Icmpv6Types::NeighborAdvert => {
            let advert = NeighborAdvertPacket::new(body)?;
            seen.claims = Some(IpAddr::V6(advert.get_target_addr()));
            if let Some(target) = target_option(body.get(ND..)?) {
                seen.mac = target;
            }
        }
        _ => {}
    }
    Some(())
}

/// The target link-layer address among an advertisement's options.
fn target_option(mut options: &[u8]) -> Option<MacAddr> {
    loop {
        let option = NdpOptionPacket::new(options)?;
        let length = usize::from(option.get_length()) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        if option.get_option_type() == NdpOptionTypes::TargetLLAddr && length == OPTION {
            let mac = options.get(2..OPTION)?.try_into().ok()?;
            return Some(MacAddr(mac));
        }
        options = options.get(length..)?;
    }
}

const fn mac(mac: MacAddr) -> Mac {
    let [a, b, c, d, e, f] = mac.0;
    Mac(a, b, c, d, e, f)
}

fn ethernet(frame: &mut FrameBytes, dst: Mac, src: Mac, kind: EtherType) {
    let mut eth =
        MutableEthernetPacket::new(&mut frame.bytes).expect("the buffer holds the longest frame");
    eth.set_destination(dst);
    eth.set_source(src);
    eth.set_ethertype(kind);
}

fn arp(
    sender: &Sender,
    dst: Mac,
    operation: ArpOperation,
    from: Ipv4Addr,
    (target_mac, target): (Mac, Ipv4Addr),
) -> FrameBytes {
    let mut frame = FrameBytes::new(ETH + ARP);
    ethernet(&mut frame, dst, mac(sender.mac), EtherTypes::Arp);
    let mut arp =
        MutableArpPacket::new(&mut frame.bytes[ETH..]).expect("the buffer holds the longest frame");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(operation);
    arp.set_sender_hw_addr(mac(sender.mac));
    arp.set_sender_proto_addr(from);
    arp.set_target_hw_addr(target_mac);
    arp.set_target_proto_addr(target);
    frame
}

/// To everybody in DAD form; to one station from the link-local address, which a unicast question needs.
fn solicitation(sender: &Sender, target: Ipv6Addr, to: Option<MacAddr>) -> FrameBytes {
    let unicast = to.zip(sender.link_local);
    let (dst_mac, src, dst) = unicast.map_or_else(
        || {
            let group = solicited_node(target);
            (multicast_mac(group), Ipv6Addr::UNSPECIFIED, group)
        },
        |(to, link_local)| (mac(to), link_local, target),
    );
    let with_option = unicast.is_some();
    let body = ND + if with_option { OPTION } else { 0 };
    let mut frame = FrameBytes::new(ETH + IPV6 + body);
    ethernet(&mut frame, dst_mac, mac(sender.mac), EtherTypes::Ipv6);
    ipv6(&mut frame, body, src, dst);
    let start = ETH + IPV6;
    let mut solicit = MutableNeighborSolicitPacket::new(&mut frame.bytes[start..start + ND])
        .expect("the buffer holds the longest frame");
    solicit.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    solicit.set_target_addr(target);
    if with_option {
        option(&mut frame, NdpOptionTypes::SourceLLAddr, sender.mac);
    }
    seal(&mut frame, body, &src, &dst);
    frame
}

/// Unsolicited, to all nodes.
fn advertisement(sender: &Sender, vip: Ipv6Addr) -> FrameBytes {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let body = ND + OPTION;
    let mut frame = FrameBytes::new(ETH + IPV6 + body);
    let dst_mac = multicast_mac(all_nodes);
    ethernet(&mut frame, dst_mac, mac(sender.mac), EtherTypes::Ipv6);
    ipv6(&mut frame, body, vip, all_nodes);
    let start = ETH + IPV6;
    let mut advert = MutableNeighborAdvertPacket::new(&mut frame.bytes[start..start + ND])
        .expect("the buffer holds the longest frame");
    advert.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
    advert.set_flags(OVERRIDE);
    advert.set_target_addr(vip);
    option(&mut frame, NdpOptionTypes::TargetLLAddr, sender.mac);
    seal(&mut frame, body, &vip, &all_nodes);
    frame
}

fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac(0x33, 0x33, a, b, c, d)
}

fn ipv6(frame: &mut FrameBytes, payload: usize, src: Ipv6Addr, dst: Ipv6Addr) {
    let mut ip = MutableIpv6Packet::new(&mut frame.bytes[ETH..])
        .expect("the buffer holds the longest frame");
    ip.set_version(6);
    ip.set_payload_length(u16::try_from(payload).expect("far below 65,536"));
    ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
    ip.set_hop_limit(HOPS);
    ip.set_source(src);
    ip.set_destination(dst);
}

fn option(frame: &mut FrameBytes, kind: NdpOptionType, mac: MacAddr) {
    let start = ETH + IPV6 + ND;
    let mut option = MutableNdpOptionPacket::new(&mut frame.bytes[start..start + OPTION])
        .expect("the buffer holds the longest frame");
    option.set_option_type(kind);
    option.set_length(1);
    frame.bytes[start + 2..start + OPTION].copy_from_slice(&mac.0);
}

fn seal(frame: &mut FrameBytes, body: usize, src: &Ipv6Addr, dst: &Ipv6Addr) {
    let start = ETH + IPV6;
    let sum = Icmpv6Packet::new(&frame.bytes[start..start + body])
        .map(|icmp| icmpv6::checksum(&icmp, src, dst))
        .expect("the buffer holds the longest frame");
    frame.bytes[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests;
