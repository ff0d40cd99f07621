//! Whether the ports that SNAT takes of the node's own addresses are left alone by the kernel.

use std::{fs, ops::RangeInclusive};

use fairlead_abi::flow::{NODE_PORT_MIN, NODE_PORTS};

const GIVEN_OUT: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports that SNAT takes of a node's address.
pub const NODE_RANGE: RangeInclusive<u16> = {
    assert!(NODE_PORT_MIN as u32 + NODE_PORTS == 1 << 16);
    NODE_PORT_MIN..=u16::MAX
};

/// Whether the kernel gives none of them to sockets; `false` if it does not say. The setting counts for IPv6, too.
///
/// # Source
/// Linux Documentation/networking/ip-sysctl.rst, `ip_local_port_range` and `ip_local_reserved_ports`.
pub fn are_free() -> bool {
    let Ok(given_out) = fs::read_to_string(GIVEN_OUT) else {
        return false;
    };
    let reserved = fs::read_to_string(RESERVED).unwrap_or_default();
    are_apart(&given_out, &reserved)
}

/// `given_out` is a lowest and a highest port, `reserved` a list of ports and ranges that are left out of it.
fn are_apart(given_out: &str, reserved: &str) -> bool {
    let mut words = given_out.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (words.next(), words.next()) else {
        return false;
    };
    let reserved: Vec<RangeInclusive<u16>> = reserved.trim().split(',').filter_map(range).collect();
    NODE_RANGE
        .filter(|port| (low..=high).contains(port))
        .all(|port| reserved.iter().any(|range| range.contains(&port)))
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some(low.parse().ok()?..=high.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::are_apart;

    #[test]
    fn the_ranges_must_be_apart_or_the_ports_reserved() {
        for (given_out, reserved, want) in [
            ("32768\t60999\n", "\n", true),
            ("1024 65535", "", false),
            ("32768 61000", "", false),
            ("32768 61000", "61000", true),
            ("1024 65535", "8080,61000-65535", true),
            ("1024 65535", "61000-63000,63001-65535", true),
            ("1024 65535", "61000-63000,63002-65535", false),
            ("1024 65535", "61001-65535", false),
            ("65535 65535", "", false),
            ("", "", false),
            ("32768", "", false),
            ("many few", "", false),
        ] {
            assert_eq!(
                are_apart(given_out, reserved),
                want,
                "{given_out} {reserved}"
            );
        }
    }
}
