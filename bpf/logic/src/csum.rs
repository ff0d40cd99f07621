//! Internet checksums: sums of big-endian 16-bit words in ones' complement.
//!
//! A [`Sum`] is folded and not inverted; numbers are host order. Replacing `old` by `new` in a checksummed text is
//! `csum = !(!csum + !old + new)`.
//!
//! # Source
//! RFC 1071, RFC 1624 equation 3, RFC 8200 8.1.

use crate::{Packet, wire::mac_word};

/// A ones' complement sum in the making; 64 bits hold any sum of a packet's words.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(pub u64);

impl Sum {
    /// Adds one word.
    #[inline(always)]
    pub const fn word(self, w: u16) -> Self {
        Self(self.0.wrapping_add(w as u64))
    }

    /// Takes one word away, by adding its complement.
    #[inline(always)]
    pub const fn minus(self, w: u16) -> Self {
        self.word(!w)
    }

    /// Adds four bytes as two words.
    #[inline(always)]
    pub const fn bytes4(self, b: [u8; 4]) -> Self {
        let w = u32::from_be_bytes(b);
        Self(
            self.0
                .wrapping_add((w >> 16) as u64)
                .wrapping_add((w & 0xffff) as u64),
        )
    }

    /// Adds six bytes as three words.
    #[inline(always)]
    pub const fn bytes6(self, b: [u8; 6]) -> Self {
        let w = mac_word(b).swap_bytes() >> 16;
        Self(
            self.0
                .wrapping_add(w >> 32)
                .wrapping_add((w >> 16) & 0xffff)
                .wrapping_add(w & 0xffff),
        )
    }

    /// Adds sixteen bytes as eight words.
    #[inline(always)]
    pub const fn bytes16(self, b: &[u8; 16]) -> Self {
        let [a, b1, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *b;
        self.bytes4([a, b1, c, d])
            .bytes4([e, f, g, h])
            .bytes4([i, j, k, l])
            .bytes4([m, n, o, p])
    }

    /// Adds another sum.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Takes another sum away.
    #[inline(always)]
    pub const fn less(self, other: Self) -> Self {
        self.minus(other.fold())
    }

    /// The sum in 16 bits.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let s = (self.0 & 0xffff_ffff).wrapping_add(self.0 >> 32);
        let s = (s & 0xffff).wrapping_add(s >> 16);
        let s = (s & 0xffff).wrapping_add(s >> 16);
        let s = (s & 0xffff).wrapping_add(s >> 16);
        (s & 0xffff) as u16
    }

    /// The checksum field for a text with this sum.
    #[inline(always)]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

/// Updates a checksum after the text's sum has changed by `delta`.
#[inline(always)]
pub const fn update(csum: u16, delta: Sum) -> u16 {
    delta.word(!csum).finish()
}

/// Sum of the IPv6 pseudo header (RFC 8200 8.1); `len` in host order.
#[inline(always)]
pub const fn pseudo6(src: &[u8; 16], dst: &[u8; 16], len: u16, proto: u8) -> Sum {
    Sum(0)
        .bytes16(src)
        .bytes16(dst)
        .word(len)
        .word(proto as u16)
}

/// Sum of `words` 16-bit words of the packet from `off` on; `None` when the packet ends before.
///
/// # Complexity
/// `MAX` iterations at most; longer texts are refused.
#[inline(always)]
pub fn words<P: Packet, const MAX: usize>(p: &P, off: usize, words: usize) -> Option<Sum> {
    let mut sum = Sum(0);
    if words > MAX {
        return None;
    }
    for i in 0..MAX {
        if i >= words {
            break;
        }
        let w = p.view::<[u8; 2]>(off.wrapping_add(i.wrapping_mul(2)))?;
        sum = sum.word(u16::from_be_bytes(*w));
    }
    Some(sum)
}

#[cfg(test)]
mod tests;
