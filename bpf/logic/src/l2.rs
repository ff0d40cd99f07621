//! `l2_respond`: ARP and neighbour discovery for VIPs.
//!
//! Only what names an entry of `L2_ENTRIES` on this interface is answered, and only while the entry may answer: until its deadline, and beyond
//! it as long as none of its candidates was heard since. Everything else, gratuitous ARP and advertisements of others included, passes to the
//! host, where user space watches for conflicts.
//!
//! # Source
//! RFC 826, RFC 5227 (probes carry sender 0 and are answered), RFC 4861 7.1.1 and 7.2.4, RFC 4862 5.4.

use fairlead_abi::{
    l2::{L2Entry, L2Key, N_PEER_SLOTS},
    reasons,
};
use zerocopy::network_endian::{U16, U32};

use crate::{
    Maps, Packet, Verdict, csum,
    csum::Sum,
    output,
    snat::Work,
    wire::{
        Arp, ArpFrame, ETH_LEN, Eth, Ext, IPV6_LEN, Icmp, Ipv6, LinkOption, ND_HOPS, Neighbour,
        ethertype, icmp6, mac_word, mapped, proto,
    },
};

/// Longest solicitation whose checksum is verified; longer ones are left to the host.
const ND_MAX_WORDS: usize = 40;
/// Options of a solicitation that are looked at.
const ND_MAX_OPTIONS: usize = 4;
/// Length of an advertisement with its option.
const ADVERT_LEN: usize = 86;
/// Where neighbour discovery begins.
const ND_OFF: usize = ETH_LEN + IPV6_LEN;
/// Option type: source link-layer address.
const SOURCE_LINK: u8 = 1;
/// Option type: target link-layer address.
const TARGET_LINK: u8 = 2;
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Decides about a frame that `lb_ingress` took for ARP or a solicitation.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    match p.view::<Eth>(0).map(|eth| eth.kind.get()) {
        Some(ethertype::ARP) => arp(p, m),
        Some(ethertype::IPV6) => solicitation(p, m, w),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn arp<P: Packet, M: Maps>(p: &mut P, m: &M) -> Verdict {
    let Some(ArpFrame { arp, .. }) = p.view::<ArpFrame>(0).copied() else {
        return Verdict::Pass;
    };
    let ethernet_ipv4 = arp.hw.get() == 1
        && arp.proto.get() == ethertype::IPV4
        && arp.hw_len == 6
        && arp.proto_len == 4;
    let gratuitous = u32::from_ne_bytes(arp.sender) == u32::from_ne_bytes(arp.target);
    if !ethernet_ipv4 || arp.op.get() != 1 || gratuitous || !is_station(arp.sender_mac) {
        return Verdict::Pass;
    }
    let key = L2Key {
        addr: mapped(arp.target),
        ifindex: p.ifindex(),
    };
    let Some(entry) = m.l2_entry(&key) else {
        return Verdict::Pass;
    };
    if !may_answer(m, &entry) {
        m.count(reasons::L2_SILENT, p.len() as u64);
        return Verdict::Pass;
    }
    let eth = Eth {
        dst: arp.sender_mac,
        src: entry.mac,
        kind: U16::new(ethertype::ARP),
    };
    let reply = Arp {
        op: U16::new(2),
        sender_mac: entry.mac,
        sender: arp.target,
        target_mac: arp.sender_mac,
        target: arp.sender,
        ..arp
    };
    if p.put(0, ArpFrame { eth, arp: reply }).is_none() {
        return Verdict::Pass;
    }
    answered(p, m, &key)
}

#[inline(always)]
fn answered<P: Packet, M: Maps>(p: &P, m: &M, key: &L2Key) -> Verdict {
    m.count_response(key);
    m.count(reasons::L2_ANSWERED, p.len() as u64);
    output::back(p, m)
}

/// Whether a MAC can be a station's: not zero, no group.
#[inline(always)]
const fn is_station(mac: [u8; 6]) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && mac_word(mac) != 0
}

/// The deadline rule (design: a killed agent goes on answering if it is alone, a hung one falls silent).
#[inline(always)]
pub fn may_answer<M: Maps>(m: &M, entry: &L2Entry) -> bool {
    let cell_index = u32::from(entry.cell);
    let Some(cell) = m.l2_cell(cell_index) else {
        return false;
    };
    if cell.epoch != entry.cell_epoch {
        return false;
    }
    if m.now() <= cell.deadline {
        return true;
    }
    let first = cell_index.wrapping_mul(N_PEER_SLOTS);
    for slot in 0..N_PEER_SLOTS {
        if (entry.candidates >> slot) & 1 != 0
            && m.peer_seen(first.wrapping_add(slot)) > cell.deadline
        {
            return false;
        }
    }
    true
}

#[inline(always)]
fn solicitation<P: Packet, M: Maps>(p: &mut P, m: &M, w: &mut Work) -> Verdict {
    let Some(nd) = p.view::<Neighbour>(ND_OFF) else {
        return Verdict::Pass;
    };
    if nd.icmp.kind != icmp6::SOLICIT {
        return Verdict::Pass;
    }
    // In terms of the answer: `src` is the target.
    w.h.src = nd.target;
    let key = L2Key {
        addr: w.h.src,
        ifindex: p.ifindex(),
    };
    let Some(entry) = m.l2_entry(&key) else {
        return Verdict::Pass;
    };
    let Some(detecting) = is_sound(p, w) else {
        m.count(reasons::MALFORMED, p.len() as u64);
        return Verdict::Pass;
    };
    if !may_answer(m, &entry) {
        m.count(reasons::L2_SILENT, p.len() as u64);
        return Verdict::Pass;
    }
    let grow = (ADVERT_LEN as i32).wrapping_sub(p.len() as i32);
    if grow != 0 && p.grow_tail(grow).is_none() {
        m.count(reasons::ADJUST_FAILED, p.len() as u64);
        return Verdict::Pass;
    }
    if put_advert(p, w, entry.mac, !detecting).is_none() {
        return m.drop(p, reasons::ADJUST_FAILED);
    }
    answered(p, m, &key)
}

/// Whether a real NIC would take the frame: a group frame only for the target's solicited-node group.
#[inline(always)]
fn addressed_to(dst: [u8; 6], target: &[u8; 16]) -> bool {
    let [first, ..] = dst;
    let [.., x, y, z] = *target;
    first & 1 == 0 || mac_word(dst) == mac_word([0x33, 0x33, 0xff, x, y, z])
}

/// RFC 4861 7.1.1, for a solicitation of `w.h.src`: whether it detects duplicates (its source is unspecified), or `None` if it is not sound.
/// Leaves in `w.h.dst` and `w.src_mac` to whom the answer goes.
#[inline(always)]
fn is_sound<P: Packet>(p: &P, w: &mut Work) -> Option<bool> {
    let eth = p.view::<Eth>(0)?;
    let ip = p.view::<Ipv6>(ETH_LEN)?;
    let code = p.view::<Neighbour>(ND_OFF)?.icmp.code;
    let detecting = u128::from_ne_bytes(ip.src) == 0;
    if !addressed_to(eth.dst, &w.h.src)
        || !is_station(eth.src)
        || ip.hops != ND_HOPS
        || ip.next != proto::ICMPV6
        || code != 0
    {
        return None;
    }
    (w.src_mac, w.h.dst) = if detecting {
        (ALL_NODES_MAC, ALL_NODES)
    } else {
        (eth.src, ip.src)
    };
    let len = usize::from(ip.len.get());
    let fixed = size_of::<Neighbour>();
    // Options come in units of 8 bytes, so a valid solicitation has an even length.
    if len < fixed || len & 7 != 0 {
        return None;
    }
    let pseudo = csum::pseudo6(&ip.src, &ip.dst, ip.len.get(), proto::ICMPV6);
    let text = csum::words::<P, ND_MAX_WORDS>(p, ND_OFF, len >> 1)?;
    if pseudo.plus(text).finish() != 0 {
        return None;
    }
    let mut off = fixed;
    for _ in 0..ND_MAX_OPTIONS {
        if off >= len {
            break;
        }
        let option = p.view::<Ext>(ND_OFF.wrapping_add(off & 0xff))?;
        if option.len == 0 || (detecting && option.next == SOURCE_LINK) {
            return None;
        }
        off = off.wrapping_add(usize::from(option.len).wrapping_mul(8));
    }
    // Beyond the end: the last option claims more than there is.
    (off == len).then_some(detecting)
}

/// Writes an advertisement of `mac` for `w.h.src` to `w.h.dst`, override set, router not (RFC 4861 4.4). In pieces, because the stack has no
/// room for the whole.
#[inline(always)]
fn put_advert<P: Packet>(p: &mut P, w: &Work, mac: [u8; 6], solicited: bool) -> Option<()> {
    let flags = if solicited { 0x60 } else { 0x20 };
    let text_len = size_of::<Neighbour>().wrapping_add(size_of::<LinkOption>()) as u16;
    let eth = Eth {
        dst: w.src_mac,
        src: mac,
        kind: U16::new(ethertype::IPV6),
    };
    p.put(0, eth)?;
    let ip = Ipv6 {
        vtf: U32::new(0x6000_0000),
        len: U16::new(text_len),
        next: proto::ICMPV6,
        hops: ND_HOPS,
        src: w.h.src,
        dst: w.h.dst,
    };
    p.put(ETH_LEN, ip)?;
    let option = LinkOption {
        kind: TARGET_LINK,
        len: 1,
        mac,
    };
    p.put(ND_OFF.wrapping_add(size_of::<Neighbour>()), option)?;
    let sum = csum::pseudo6(&w.h.src, &w.h.dst, text_len, proto::ICMPV6)
        .word(u16::from_be_bytes([icmp6::ADVERT, 0]))
        .word(u16::from_be_bytes([flags, 0]))
        .plus(Sum(0).bytes16(&w.h.src))
        .word(u16::from_be_bytes([TARGET_LINK, 1]))
        .bytes6(mac);
    let icmp = Icmp {
        kind: icmp6::ADVERT,
        code: 0,
        csum: U16::new(sum.finish()),
        rest: [flags, 0, 0, 0],
    };
    p.put(
        ND_OFF,
        Neighbour {
            icmp,
            target: w.h.src,
        },
    )
}

#[cfg(test)]
mod tests;
