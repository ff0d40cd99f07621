//! Addresses: VIPs, ranges, hardware addresses.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// An address owned by a Service.
pub type Vip = IpAddr;

/// Why two addresses are no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// One end is IPv4, the other IPv6.
    #[error("start {start} and stop {stop} are of different families")]
    MixedFamilies {
        /// First address as given.
        start: IpAddr,
        /// Last address as given.
        stop: IpAddr,
    },
    /// Start lies behind stop.
    #[error("start {start} lies after stop {stop}")]
    Reversed {
        /// First address as given.
        start: IpAddr,
        /// Last address as given.
        stop: IpAddr,
    },
}

impl RangeError {
    /// The closed word for conditions, metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MixedFamilies { .. } => "MixedFamilies",
            Self::Reversed { .. } => "ReversedRange",
        }
    }
}

/// An inclusive range of addresses of one family; never empty. Orders by family, then first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

impl IpRange {
    /// # Errors
    /// [`RangeError`] when the families differ or `first` lies after `last`.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::MixedFamilies {
                start: first,
                stop: last,
            });
        }
        if first > last {
            return Err(RangeError::Reversed {
                start: first,
                stop: last,
            });
        }
        Ok(Self { first, last })
    }

    /// Every address of a prefix; host bits are masked away.
    pub fn from_prefix(prefix: IpNet) -> Self {
        let prefix = prefix.trunc();
        Self {
            first: prefix.network(),
            last: prefix.broadcast(),
        }
    }

    /// First address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// Last address, inclusive.
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether `ip` lies inside.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// Whether the ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.first <= other.last
            && other.first <= self.last
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.first, self.last)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{IpRange, RangeError};

    #[test]
    fn ranges_know_their_addresses() {
        let range = IpRange::from_prefix("192.0.2.9/29".parse().unwrap());
        assert_eq!(range.to_string(), "192.0.2.8 - 192.0.2.15");
        assert!(
            range.contains("192.0.2.8".parse().unwrap())
                && !range.contains("192.0.2.16".parse().unwrap())
        );
        assert!(!range.contains("::".parse().unwrap()));
        let other =
            IpRange::new("192.0.2.15".parse().unwrap(), "192.0.2.20".parse().unwrap()).unwrap();
        assert!(range.overlaps(&other));
    }

    #[test]
    fn nonsense_is_refused() {
        let (four, six) = ("192.0.2.9".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(matches!(
            IpRange::new(four, six),
            Err(RangeError::MixedFamilies { .. })
        ));
        assert!(matches!(
            IpRange::new(four, "192.0.2.1".parse().unwrap()),
            Err(RangeError::Reversed { .. })
        ));
    }
}
