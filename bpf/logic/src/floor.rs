//! The benchmark's yardsticks: the least that an encapsulating load balancer can do, and the pieces that are subtracted.
//!
//! [`run`] is stateless Maglev with packed lines and nothing else: no check of the interface, no second bucket, no transition, no MTU, no
//! counter. It reads the same tables as the real program and writes the same bytes.

use fairlead_abi::bench::{BenchFlow, BenchState, FLOOR_SOURCE4, FLOOR_SOURCE6};
use zerocopy::network_endian::U16;

use crate::{
    Maps, Packet, Verdict,
    csum::Sum,
    hash, select,
    wire::{
        DF, ETH_LEN, Eth, FRAG_MASK, Head4, Head6, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Macs, Outer4,
        Outer6, TTL, addr_eq, ethertype, mac_word, proto,
    },
};

/// Encapsulates or passes.
#[inline(always)]
pub fn run<P: Packet, M: Maps>(p: &mut P, m: &M) -> Verdict {
    let Some(eth) = p.view::<Eth>(0) else {
        return Verdict::Pass;
    };
    let done = match eth.kind.get() {
        ethertype::IPV4 => ipv4(p, m),
        ethertype::IPV6 => ipv6(p, m),
        _ => None,
    };
    if done.is_some() {
        Verdict::Tx
    } else {
        Verdict::Pass
    }
}

#[inline(always)]
fn ipv4<P: Packet, M: Maps>(p: &mut P, m: &M) -> Option<()> {
    let h = p.view::<Head4>(0)?;
    let (ip, src) = (h.ip, h.eth.dst);
    let plain = ip.vihl == 0x45 && ip.frag.get() & FRAG_MASK == 0;
    if !plain || (ip.proto != proto::TCP && ip.proto != proto::UDP) {
        return None;
    }
    let (sport, dport) = (
        u16::from_be_bytes(h.ports.src),
        u16::from_be_bytes(h.ports.dst),
    );
    let key = hash::vip_key4(u32::from_be_bytes(ip.dst), dport, ip.proto);
    let [a, b, c, d] = &m.vips4(hash::bucket_pair4(key).0)?.slots;
    let index = if a.key == key {
        a.index
    } else if b.key == key {
        b.index
    } else if c.key == key {
        c.index
    } else if d.key == key {
        d.index
    } else {
        return None;
    };
    let fe = m.frontend(index)?;
    let flow = hash::flow_hash4(u32::from_be_bytes(ip.src), sport, dport, ip.proto);
    let be = select::backend4(m, &fe, select::slot(m, fe.current, flow)?)?;
    let total = ip.len.get().wrapping_add(IPV4_LEN as u16);
    let csum = Sum(u64::from(be.csum))
        .word(u16::from(ip.tos))
        .word(total)
        .word(DF)
        .finish();
    let outer = Outer4 {
        eth: Eth {
            dst: be.mac,
            src,
            kind: U16::new(ethertype::IPV4),
        },
        ip: Ipv4 {
            vihl: 0x45,
            tos: ip.tos,
            len: U16::new(total),
            id: U16::ZERO,
            frag: U16::new(DF),
            ttl: TTL,
            proto: proto::IPIP,
            csum: U16::new(csum),
            src: FLOOR_SOURCE4,
            dst: be.addr,
        },
    };
    p.grow_head(IPV4_LEN as i32)?;
    p.put(0, outer)
}

#[inline(always)]
fn ipv6<P: Packet, M: Maps>(p: &mut P, m: &M) -> Option<()> {
    let h = p.view::<Head6>(0)?;
    let (ip, src) = (h.ip, h.eth.dst);
    if ip.next != proto::TCP && ip.next != proto::UDP {
        return None;
    }
    let (sport, dport) = (
        u16::from_be_bytes(h.ports.src),
        u16::from_be_bytes(h.ports.dst),
    );
    let tag = u64::from(hash::vip_tag6(dport, ip.next));
    let [a, b] = &m
        .vips6(hash::bucket_pair6(&ip.dst, dport, ip.next).0)?
        .slots;
    let word = if a.word & 0xffff_ffff == tag && addr_eq(&a.addr, &ip.dst) {
        a.word
    } else if b.word & 0xffff_ffff == tag && addr_eq(&b.addr, &ip.dst) {
        b.word
    } else {
        return None;
    };
    let fe = m.frontend((word >> 32) as u32)?;
    let flow = hash::flow_hash6(&ip.src, sport, dport, ip.next);
    let be = select::backend6(m, &fe, select::slot(m, fe.current, flow)?)?;
    let outer = Outer6 {
        eth: Eth {
            dst: be.mac,
            src,
            kind: U16::new(ethertype::IPV6),
        },
        ip: Ipv6 {
            vtf: ip.vtf,
            len: U16::new(ip.len.get().wrapping_add(IPV6_LEN as u16)),
            next: proto::IPV6,
            hops: TTL,
            src: FLOOR_SOURCE6,
            dst: be.addr,
        },
    };
    p.grow_head(IPV6_LEN as i32)?;
    p.put(0, outer)
}

/// The generator's maps.
pub trait Bench {
    fn state(&self) -> Option<BenchState>;
    fn set_state(&self, state: &BenchState);
    fn flow(&self, index: u64) -> Option<&BenchFlow>;
}

/// Writes the next flow's frame and goes on to the program under test (slot 0 of `BENCH_PROGS`).
#[inline(always)]
pub fn generate<P: Packet, B: Bench>(p: &mut P, b: &B) -> Verdict {
    match next_frame(p, b) {
        Some(()) => Verdict::Tail(0),
        None => Verdict::Drop,
    }
}

#[inline(always)]
fn next_frame<P: Packet, B: Bench>(p: &mut P, b: &B) -> Option<()> {
    let mut state = b.state()?;
    let moved = (p.len() as i32).wrapping_sub(state.frame_len as i32);
    let sent = if state.grows == 0 {
        let before = Macs::from_eth(&state.eth);
        moved == 0 && mac_word(p.view::<Macs>(0)?.dst) != mac_word(before.dst)
    } else {
        moved == state.grows as i32
    };
    // Before the first repetition the frame is user space's.
    if sent && state.runs != 0 {
        state.forwarded = state.forwarded.wrapping_add(1);
    }
    state.runs = state.runs.wrapping_add(1);
    let index = state.next;
    state.next = index.wrapping_add(1);
    if state.next >= state.flows {
        state.next = 0;
    }
    b.set_state(&state);
    if moved != 0 {
        p.grow_head(0i32.wrapping_sub(moved))?;
    }
    let flow = b.flow(index)?;
    p.put(0, state.eth)?;
    p.put(ETH_LEN, flow.headers)
}

impl Macs {
    #[inline(always)]
    const fn from_eth(eth: &[u8; 14]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, _, _] = *eth;
        Self {
            dst: [a, b, c, d, e, f],
            src: [g, h, i, j, k, l],
        }
    }
}

/// A bare head move, to be subtracted.
#[inline(always)]
pub fn head<P: Packet>(p: &mut P) -> Verdict {
    match p.grow_head(IPV4_LEN as i32) {
        Some(()) => Verdict::Tx,
        None => Verdict::Drop,
    }
}
