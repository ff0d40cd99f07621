//! The routers of this machine: addresses that no Service should get.
//!
//! Read once at start from the routing tables that the kernel shows as text. In a pod they are the pod's own; on a node or an
//! appliance they are the LAN's. What other nodes know stands in their annotation `fairlead.io/gateways`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every gateway of the main tables, each once.
pub fn own() -> Vec<IpAddr> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let mut found = four(&read("/proc/net/route"));
    found.extend(six(&read("/proc/net/ipv6_route")));
    found.sort_unstable();
    found.dedup();
    found
}

/// # Source
/// proc(5), `/proc/net/route`: the third column is the gateway, hexadecimal in the machine's byte order.
fn four(text: &str) -> Vec<IpAddr> {
    let column = |line: &str| {
        let bits = u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()?;
        let ip = Ipv4Addr::from(bits.to_ne_bytes());
        (!ip.is_unspecified()).then_some(IpAddr::V4(ip))
    };
    text.lines().skip(1).filter_map(column).collect()
}

/// # Source
/// Linux, `rt6_info_route` in `net/ipv6/route.c`: the fifth column is the next hop, 32 hexadecimal digits. Routers are mostly
/// link-local; those cannot be in a pool and do no harm here.
fn six(text: &str) -> Vec<IpAddr> {
    let column = |line: &str| {
        let bits = u128::from_str_radix(line.split_whitespace().nth(4)?, 16).ok()?;
        let ip = Ipv6Addr::from_bits(bits);
        (!ip.is_unspecified()).then_some(IpAddr::V6(ip))
    };
    text.lines().filter_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::{four, six};

    #[test]
    #[cfg(target_endian = "little")]
    fn gateways_are_read_from_the_kernels_tables() {
        let text = "Iface\tDestination\tGateway \tFlags\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(
            four(text),
            ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
        );
        let text = "20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n";
        assert_eq!(
            six(text),
            ["2001:db8::1".parse::<std::net::IpAddr>().unwrap()]
        );
        assert!(four("").is_empty() && six("nonsense\n").is_empty());
    }
}
