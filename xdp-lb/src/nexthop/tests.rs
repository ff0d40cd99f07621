use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use fairlead_model::MacAddr;
use fairlead_rt::CancellationToken;
use tokio::sync::watch;

use super::{Resolver, Wanted};
use crate::{
    lan::{PATIENCE, ip, on_a_lan},
    network::{Hop, HopFailure, InterfaceConfig, Network},
};

const STATION: &[&str] = &[
    "link set port address 02:00:00:00:00:99",
    "addr add 192.0.2.9/24 dev port",
    "addr add 2001:db8::9/64 dev port nodad",
];
const ITS_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn eth0() -> Vec<InterfaceConfig> {
    vec![InterfaceConfig {
        name: "eth0".into(),
        forward: true,
        announce: true,
    }]
}

fn wanted(backends: &[&str], vips: &[&str]) -> Arc<Wanted> {
    let set = |all: &[&str]| all.iter().map(|a| addr(a)).collect::<BTreeSet<_>>();
    Arc::new(Wanted {
        backends: set(backends),
        vips: set(vips),
    })
}

/// Runs a resolver beside `test`.
async fn with_resolver(
    first: Arc<Wanted>,
    test: impl AsyncFnOnce(&watch::Sender<Arc<Wanted>>, &mut watch::Receiver<Arc<Network>>),
) {
    let (wishes, wanted) = watch::channel(first);
    let (resolver, mut network) = Resolver::new(eth0(), wanted);
    let stop = CancellationToken::new();
    tokio::select! {
        ended = resolver.run(stop) => panic!("the resolver ended: {ended:?}"),
        () = test(&wishes, &mut network) => {}
    }
}

async fn until(
    network: &mut watch::Receiver<Arc<Network>>,
    what: impl Fn(&Network) -> bool,
) -> Arc<Network> {
    let found = tokio::time::timeout(PATIENCE, network.wait_for(|now| what(now))).await;
    if let Ok(found) = found {
        return Arc::clone(&found.unwrap());
    }
    drop(found);
    panic!("not in time: {:?}", network.borrow())
}

#[test]
fn backends_resolve_by_link_by_gateway_and_not_at_all() {
    on_a_lan(STATION, async |_| {
        ip("route add 198.51.100.0/24 via 192.0.2.9");
        ip("route add unreachable 203.0.113.0/24");
        let wish = wanted(
            &[
                "192.0.2.9",
                "2001:db8::9",
                "198.51.100.5",
                "192.0.2.77",
                "203.0.113.5",
                "192.0.2.1",
                "10.9.9.9",
            ],
            &[],
        );
        with_resolver(wish, async |_, network| {
            // IPv6 needs a moment: a fresh interface asks nobody before its own address is proven.
            let settled = |n: &Network| {
                let six = n.hops.get(&addr("2001:db8::9"));
                n.hops.len() == 7
                    && !n.hops.values().any(|h| *h == Hop::Pending)
                    && matches!(six, Some(Hop::Resolved { .. }))
            };
            let network = until(network, settled).await;
            let (&ifindex, interface) = network.interfaces.first_key_value().unwrap();
            assert_eq!(network.interfaces.len(), 1);
            assert_eq!((interface.name.as_str(), interface.is_veth), ("eth0", true));
            assert_eq!(interface.addr4, Some("192.0.2.1".parse().unwrap()));
            assert_eq!(interface.addr6, Some("2001:db8::1".parse().unwrap()));
            let resolved = |is_on_link| Hop::Resolved {
                ifindex,
                mac: ITS_MAC,
                is_on_link,
            };
            let hop = |a: &str| network.hops[&addr(a)];
            assert_eq!(hop("192.0.2.9"), resolved(true));
            assert_eq!(hop("2001:db8::9"), resolved(true));
            assert_eq!(hop("198.51.100.5"), resolved(false));
            assert_eq!(
                hop("192.0.2.77"),
                Hop::Unresolved(HopFailure::NoAnswer(addr("192.0.2.77")))
            );
            assert_eq!(hop("203.0.113.5"), Hop::Unresolved(HopFailure::NoRoute));
            assert_eq!(hop("10.9.9.9"), Hop::Unresolved(HopFailure::NoRoute));
            assert_eq!(hop("192.0.2.1"), Hop::Local);
        })
        .await;
    });
}

#[test]
fn a_neighbour_that_the_kernel_refuses_stands_in_nobodys_way() {
    on_a_lan(STATION, async |_| {
        ip("route add 198.51.100.0/24 via inet6 fe80::9 dev eth0");
        // Too small for IPv6: the kernel takes no IPv6 neighbour here any more.
        ip("link set eth0 mtu 1200");
        let wish = wanted(&["192.0.2.9", "192.0.2.77", "198.51.100.5"], &[]);
        with_resolver(wish, async |wishes, network| {
            let refused = Hop::Unresolved(HopFailure::Refused(addr("fe80::9")));
            let is_resolved =
                |n: &Network, a| matches!(n.hops.get(&addr(a)), Some(Hop::Resolved { .. }));
            let settled = |n: &Network| {
                is_resolved(n, "192.0.2.9") && n.hops.get(&addr("198.51.100.5")) == Some(&refused)
            };
            until(network, settled).await;
            // What is asked for later is looked up as well.
            wishes
                .send(wanted(&["192.0.2.9", "198.51.100.5", "203.0.113.5"], &[]))
                .unwrap();
            ip("route add 203.0.113.0/24 via 192.0.2.9");
            until(network, |n| settled(n) && is_resolved(n, "203.0.113.5")).await;
            // The obstacle goes: nobody has to say so.
            ip("link set eth0 mtu 1500");
            until(network, |n| {
                n.hops.get(&addr("198.51.100.5")) != Some(&refused)
            })
            .await;
        })
        .await;
    });
}

#[test]
fn changes_of_routes_addresses_and_neighbours_are_followed() {
    on_a_lan(STATION, async |_| {
        with_resolver(wanted(&["192.0.2.9", "198.51.100.5"], &[]), async |wishes, network| {
            let direct = addr("192.0.2.9");
            let routed = addr("198.51.100.5");
            let is_resolved = |n: &Network, a| matches!(n.hops.get(&a), Some(Hop::Resolved { .. }));
            until(network, |n| is_resolved(n, direct)).await;
            until(network, |n| n.hops.get(&routed) == Some(&Hop::Unresolved(HopFailure::NoRoute))).await;
            ip("route add 198.51.100.0/24 via 192.0.2.9");
            until(network, |n| is_resolved(n, routed)).await;
            // Somebody removes the entry: it is needed and comes back.
            ip("neigh del 192.0.2.9 dev eth0");
            until(network, |n| is_resolved(n, direct) && is_resolved(n, routed)).await;
            // The server is replaced by one with another card.
            ip("neigh replace 192.0.2.9 lladdr 02:00:00:00:00:aa dev eth0 nud reachable");
            let new = |n: &Network| matches!(n.hops.get(&direct), Some(Hop::Resolved { mac, .. }) if mac.0[5] == 0xaa);
            until(network, new).await;
            // A backend more, one less.
            wishes.send(wanted(&["2001:db8::9"], &[])).unwrap();
            until(network, |n| n.hops.len() == 1 && is_resolved(n, addr("2001:db8::9"))).await;
            ip("link set eth0 mtu 1400");
            until(network, |n| n.interfaces.values().all(|i| i.mtu == 1400)).await;
        })
        .await;
    });
}

#[test]
fn a_program_here_that_wants_a_vip_is_noticed() {
    on_a_lan(STATION, async |_| {
        with_resolver(
            wanted(&["192.0.2.9"], &["192.0.2.10"]),
            async |_, network| {
                until(network, |n| n.hops.len() == 1).await;
                assert!(network.borrow().unanswered_vips.is_empty());
                let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
                socket.send_to(b"anyone?", "192.0.2.10:80").unwrap();
                until(network, |n| n.unanswered_vips.contains(&addr("192.0.2.10"))).await;
            },
        )
        .await;
    });
}
