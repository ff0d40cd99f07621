//! Headers as they lie on the wire: unaligned, big-endian, any bits valid.
//!
//! # Source
//! RFC 791, 8200, 9293, 768, 792, 4443, 4861, 826, IEEE 802.1Q.

use fairlead_abi::l2::{HEARTBEAT_GROUP4, HEARTBEAT_GROUP6};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    network_endian::{U16, U32},
};

macro_rules! wire {
    ($($(#[$m:meta])* struct $name:ident { $($(#[$fm:meta])* $field:ident: $t:ty,)+ })+) => {$(
        $(#[$m])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fm])* pub $field: $t,)+ }
    )+};
}

wire! {
    /// Ethernet header without tags.
    struct Eth { dst: [u8; 6], src: [u8; 6], kind: U16, }
    /// The two addresses of an Ethernet header.
    struct Macs { dst: [u8; 6], src: [u8; 6], }
    /// One 802.1Q or 802.1ad tag, from its ethertype on.
    struct Tag { kind: U16, tci: U16, }
    /// IPv4 header without options.
    struct Ipv4 {
        /// Version and header length in words.
        vihl: u8, tos: u8, len: U16, id: U16,
        /// Flags and offset in units of 8 bytes.
        frag: U16,
        ttl: u8, proto: u8, csum: U16, src: [u8; 4], dst: [u8; 4],
    }
    /// IPv6 header.
    struct Ipv6 {
        /// Version, traffic class, flow label.
        vtf: U32, len: U16, next: u8, hops: u8, src: [u8; 16], dst: [u8; 16],
    }
    /// Start of an IPv6 extension header with a length field.
    struct Ext { next: u8, len: u8, }
    /// IPv6 fragment header.
    struct Frag6 {
        next: u8, reserved: u8,
        /// Offset in units of 8 bytes in the high 13 bits; bit 0 = more fragments.
        offset: U16,
        id: U32,
    }
    /// Ports, common to TCP and UDP.
    struct Ports { src: [u8; 2], dst: [u8; 2], }
    /// TCP header without options.
    struct Tcp { ports: Ports, seq: U32, ack: U32, offset: u8, flags: u8, window: U16, csum: U16, urgent: U16, }
    /// UDP header.
    struct Udp { ports: Ports, len: U16, csum: U16, }
    /// ICMP and ICMPv6: type, code, checksum, four bytes of meaning.
    struct Icmp { kind: u8, code: u8, csum: U16, rest: [u8; 4], }
    /// ARP for IPv4 over Ethernet.
    struct Arp {
        hw: U16, proto: U16, hw_len: u8, proto_len: u8, op: U16,
        sender_mac: [u8; 6], sender: [u8; 4], target_mac: [u8; 6], target: [u8; 4],
    }
    /// Neighbour solicitation or advertisement without options.
    struct Neighbour { icmp: Icmp, target: [u8; 16], }
    /// Link-layer address option of neighbour discovery.
    struct LinkOption { kind: u8, len: u8, mac: [u8; 6], }
    /// What the fast path checks at once for IPv4.
    struct Head4 { eth: Eth, ip: Ipv4, ports: Ports, }
    /// What the fast path checks at once for IPv6.
    struct Head6 { eth: Eth, ip: Ipv6, ports: Ports, }
    /// A new Ethernet and IPv4 header, written at once.
    struct Outer4 { eth: Eth, ip: Ipv4, }
    /// A new Ethernet and IPv6 header, written at once.
    struct Outer6 { eth: Eth, ip: Ipv6, }
    /// An ARP frame.
    struct ArpFrame { eth: Eth, arp: Arp, }
}

/// Ethertypes.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers.
pub mod proto {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
    pub const DST_OPTS: u8 = 60;
}

/// TCP flag bits.
pub mod tcp_flags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// ICMP types and codes.
pub mod icmp {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const FRAG_NEEDED: u8 = 4;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// ICMPv6 types.
pub mod icmp6 {
    pub const UNREACHABLE: u8 = 1;
    pub const TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const SOLICIT: u8 = 135;
    pub const ADVERT: u8 = 136;
}

/// "Don't fragment" in [`Ipv4::frag`].
pub const DF: u16 = 0x4000;
/// Any bit that makes an IPv4 packet a fragment: more fragments, or an offset.
pub const FRAG_MASK: u16 = 0x3fff;
/// Ethernet header length.
pub const ETH_LEN: usize = 14;
/// IPv4 header length without options.
pub const IPV4_LEN: usize = 20;
/// IPv6 header length.
pub const IPV6_LEN: usize = 40;
/// Hop limit that proves a neighbour discovery packet to come from this link.
pub const ND_HOPS: u8 = 255;
/// Time to live of headers we originate.
pub const TTL: u8 = 64;

/// Multicast MAC of IPv4 heartbeats (RFC 1112: low 23 bits of the group).
pub const HEARTBEAT_MAC4: [u8; 6] = {
    let [_, b, c, d] = HEARTBEAT_GROUP4;
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
};
/// Multicast MAC of IPv6 heartbeats (RFC 2464: low 32 bits of the group).
pub const HEARTBEAT_MAC6: [u8; 6] = {
    let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] = HEARTBEAT_GROUP6;
    [0x33, 0x33, a, b, c, d]
};
/// The broadcast MAC.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// Compares two MAC addresses without a call.
#[inline(always)]
pub const fn mac_eq(a: [u8; 6], b: [u8; 6]) -> bool {
    mac_word(a) == mac_word(b)
}

/// A MAC address as a number.
#[inline(always)]
pub const fn mac_word(m: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = m;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Compares two IPv6 addresses without a call.
#[inline(always)]
pub const fn addr_eq(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// The 16-byte form of an IPv4 address (RFC 4291 2.5.5.2).
#[inline(always)]
pub const fn mapped(a: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = a;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The IPv4 address in a mapped one.
#[inline(always)]
pub const fn unmapped(a: &[u8; 16]) -> [u8; 4] {
    let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] = *a;
    [a, b, c, d]
}
