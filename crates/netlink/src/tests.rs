//! Each test lives in network namespaces of its own; it needs root and says so.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth, new_connection};

use crate::{Event, Events, Netlink, NetlinkError, NudState, Upkeep};

const PATIENCE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Moves the calling thread into a namespace of its own and runs `test` there.
fn isolated<T>(test: impl AsyncFnOnce() -> T) -> T {
    unshare(CloneFlags::CLONE_NEWNET).expect("tests of this crate need root (CLONE_NEWNET)");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test())
}

async fn with_handle<F: Future<Output = Result<(), rtnetlink::Error>>>(
    work: impl FnOnce(rtnetlink::Handle) -> F,
) {
    let (connection, handle, _rest) = new_connection().unwrap();
    tokio::select! {
        biased;
        result = work(handle) => result.unwrap(),
        () = connection => panic!("connection ended"),
    }
}

async fn veth(a: &'static str, b: &'static str) {
    with_handle(|h| async move {
        h.link()
            .add(LinkVeth::new(a, b).up().build())
            .execute()
            .await
    })
    .await;
}

async fn up(name: &str) -> u32 {
    let index = Netlink::new().link(name).await.unwrap().index;
    let message = LinkUnspec::new_with_index(index).up().build();
    with_handle(|h| async move { h.link().change(message).execute().await }).await;
    index
}

/// A station at the other end of a veth, in a namespace of its own, until dropped.
struct Station {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Station {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the station ends without a panic");
        }
    }
}

/// Moves `port` into a new namespace and gives it `addresses`.
async fn station(port: &'static str, addresses: &'static [(&'static str, u8)]) -> Station {
    let (ns_tx, ns_rx) = mpsc::channel::<OwnedFd>();
    let (go_tx, go_rx) = mpsc::channel::<()>();
    let (ready_tx, ready_rx) = mpsc::channel::<()>();
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        isolated(async || {
            let ns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            ns_tx.send(ns.into()).unwrap();
            go_rx.recv().unwrap();
            let index = up(port).await;
            for (address, prefix_len) in addresses {
                let netlink = Netlink::new();
                netlink
                    .add_address(index, ip(address), *prefix_len)
                    .await
                    .unwrap();
            }
            ready_tx.send(()).unwrap();
            // The sender is dropped when the test ends: an error is the signal.
            stopped.recv().unwrap_err();
        });
    });
    let ns = ns_rx.recv().unwrap();
    let index = Netlink::new().link(port).await.unwrap().index;
    let message = LinkUnspec::new_with_index(index)
        .setns_by_fd(ns.as_raw_fd())
        .build();
    with_handle(|h| async move { h.link().change(message).execute().await }).await;
    go_tx.send(()).unwrap();
    ready_rx.recv().unwrap();
    Station {
        stop: Some(stop),
        thread: Some(thread),
    }
}

/// Polls until `check` answers or patience ends.
async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if let Some(found) = check().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within {PATIENCE:?}: {what}");
}

async fn event_where(events: &mut Events, want: impl Fn(&Event) -> bool) -> Event {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let event = events.next().await.unwrap();
            if want(&event) {
                return event;
            }
        }
    })
    .await
    .expect("the event arrives")
}

#[test]
fn links_and_addresses_are_as_made() {
    isolated(async || {
        veth("uplink", "far").await;
        let netlink = Netlink::new();
        let before = netlink.link("uplink").await.unwrap();
        assert!(!before.has_carrier, "{before:?}: the far end is down");
        let index = up("uplink").await;
        up("far").await;
        let link = eventually("carrier", async || {
            let link = netlink.link("uplink").await.unwrap();
            link.has_carrier.then_some(link)
        })
        .await;
        assert_eq!((link.kind.as_deref(), link.mtu), (Some("veth"), 1500));
        assert!(link.mac.is_some() && link.is_up && !link.is_loopback && link.master.is_none());

        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        netlink
            .add_address(index, ip("192.0.2.2"), 24)
            .await
            .unwrap();
        let mine: Vec<_> = netlink.addresses().await.unwrap();
        let mine: Vec<_> = mine
            .iter()
            .filter(|a| a.ifindex == index && a.ip.is_ipv4())
            .map(|a| (a.ip, a.prefix_len, a.is_secondary))
            .collect();
        let want = [(ip("192.0.2.1"), 24, false), (ip("192.0.2.2"), 24, true)];
        assert_eq!(mine, want);
        netlink
            .remove_address(index, ip("192.0.2.2"), 24)
            .await
            .unwrap();
        netlink
            .remove_address(index, ip("192.0.2.2"), 24)
            .await
            .unwrap();
        let left = netlink.addresses().await.unwrap();
        assert!(left.iter().all(|a| a.ip != ip("192.0.2.2")));
    });
}

#[test]
fn a_wrong_name_is_answered_with_the_right_ones() {
    isolated(async || {
        veth("uplink", "far").await;
        let error = Netlink::new().link("eth7").await.unwrap_err();
        assert_eq!(error.reason(), "InterfaceNotFound");
        let text = error.to_string();
        assert!(
            text.contains("\"eth7\"") && text.contains("lo, far, uplink"),
            "{text}"
        );
    });
}

#[test]
fn an_interface_that_is_gone_is_named() {
    isolated(async || {
        let error = Netlink::new()
            .add_address(4711, ip("192.0.2.1"), 24)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "InterfaceGone");
        assert!(error.to_string().contains("4711"));
    });
}

#[test]
fn routes_tell_gateway_link_and_self() {
    isolated(async || {
        veth("uplink", "far").await;
        let index = up("uplink").await;
        let far = up("far").await;
        let netlink = Netlink::new();
        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        netlink
            .add_address(far, ip("198.51.100.1"), 24)
            .await
            .unwrap();
        netlink
            .add_address(index, ip("2001:db8::1"), 64)
            .await
            .unwrap();
        let gateway = rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .gateway("192.0.2.254".parse().unwrap())
            .build();
        with_handle(|h| async move { h.route().add(gateway).execute().await }).await;

        let on_link = netlink.route_to(ip("192.0.2.9")).await.unwrap();
        assert_eq!((on_link.ifindex, on_link.gateway), (index, None));
        assert_eq!(on_link.prefsrc, Some(ip("192.0.2.1")));
        let away = netlink.route_to(ip("203.0.113.5")).await.unwrap();
        assert_eq!(away.gateway, Some(ip("192.0.2.254")));
        let own = netlink.route_to(ip("198.51.100.1")).await.unwrap();
        assert!(own.is_local && !away.is_local);
        let six = netlink.route_to(ip("2001:db8::9")).await.unwrap();
        assert_eq!((six.ifindex, six.gateway), (index, None));
        let nowhere = netlink.route_to(ip("2001:db8:ffff::9")).await.unwrap_err();
        assert_eq!(nowhere.reason(), "NoRoute");
    });
}

#[test]
fn a_managed_neighbour_resolves_without_traffic_and_can_be_released() {
    isolated(async || {
        veth("uplink", "port").await;
        let _far = station("port", &[("192.0.2.9", 24), ("2001:db8::9", 64)]).await;
        let index = up("uplink").await;
        let netlink = Netlink::new();
        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        netlink
            .add_address(index, ip("2001:db8::1"), 64)
            .await
            .unwrap();
        for far in [ip("192.0.2.9"), ip("2001:db8::9")] {
            assert_eq!(netlink.neighbour(index, far).await.unwrap(), None);
            let upkeep = netlink.manage_neighbour(index, far).await.unwrap();
            assert_eq!(upkeep, Upkeep::Kernel);
            let again = netlink.manage_neighbour(index, far).await.unwrap();
            assert_eq!(again, Upkeep::Kernel);
            eventually("resolved", async || {
                let found = netlink.neighbour(index, far).await.unwrap();
                found.filter(|(_, state)| state.is_valid())
            })
            .await;
            let all = netlink.neighbours().await.unwrap();
            assert!(all.iter().any(|n| n.ip == far && n.is_managed));
            netlink.release_neighbour(index, far).await.unwrap();
            netlink.release_neighbour(index, far).await.unwrap();
            let entry = netlink.neighbour_entry(index, far).await.unwrap();
            assert!(entry.is_none_or(|n| !n.is_managed));
        }
    });
}

#[test]
fn a_probe_asks_once_and_a_static_entry_stays_static() {
    isolated(async || {
        veth("uplink", "port").await;
        let _far = station("port", &[("192.0.2.9", 24)]).await;
        let index = up("uplink").await;
        let netlink = Netlink::new();
        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        netlink
            .probe_neighbour(index, ip("192.0.2.9"))
            .await
            .unwrap();
        eventually("probed", async || {
            let found = netlink.neighbour(index, ip("192.0.2.9")).await.unwrap();
            found.filter(|(_, state)| state.is_valid())
        })
        .await;

        with_handle(|h| async move {
            h.neighbours()
                .add(index, ip("192.0.2.77"))
                .link_local_address(&[2, 0, 0, 0, 0, 7])
                .execute()
                .await
        })
        .await;
        let upkeep = netlink.manage_neighbour(index, ip("192.0.2.77")).await;
        assert_eq!(upkeep.unwrap(), Upkeep::Static);
        let (_, state) = netlink
            .neighbour(index, ip("192.0.2.77"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(state, NudState::Permanent);
    });
}

#[test]
fn events_follow_links_addresses_routes_and_neighbours() {
    isolated(async || {
        let mut events = Events::open().unwrap();
        veth("uplink", "port").await;
        event_where(
            &mut events,
            |e| matches!(e, Event::Link(l) if l.name == "uplink"),
        )
        .await;
        let far = station("port", &[("192.0.2.9", 24)]).await;
        let index = up("uplink").await;
        let netlink = Netlink::new();
        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        event_where(
            &mut events,
            |e| matches!(e, Event::Address(a) if a.ip == ip("192.0.2.1")),
        )
        .await;
        event_where(&mut events, |e| matches!(e, Event::Route)).await;
        netlink
            .manage_neighbour(index, ip("192.0.2.9"))
            .await
            .unwrap();
        event_where(
            &mut events,
            |e| matches!(e, Event::Neighbour(n) if n.ip == ip("192.0.2.9") && n.usable_mac().is_some()),
        )
        .await;
        netlink
            .release_neighbour(index, ip("192.0.2.9"))
            .await
            .unwrap();
        event_where(
            &mut events,
            |e| matches!(e, Event::NeighbourRemoved { ip: gone, .. } if *gone == ip("192.0.2.9")),
        )
        .await;
        // The far end's namespace goes, and its veth with it, and with that ours.
        drop(far);
        event_where(
            &mut events,
            |e| matches!(e, Event::LinkRemoved { ifindex } if *ifindex == index),
        )
        .await;
    });
}

#[test]
fn a_reader_that_falls_behind_is_told_to_resync() {
    isolated(async || {
        let mut events = Events::open().unwrap();
        veth("uplink", "far").await;
        let index = up("uplink").await;
        let netlink = Netlink::new();
        for n in 0..600_u16 {
            let [hi, lo] = n.to_be_bytes();
            let address = IpAddr::from([10, 1, hi, lo]);
            netlink.add_address(index, address, 32).await.unwrap();
        }
        event_where(&mut events, |e| *e == Event::Resync).await;
        // And it goes on listening.
        netlink
            .add_address(index, ip("192.0.2.1"), 24)
            .await
            .unwrap();
        event_where(
            &mut events,
            |e| matches!(e, Event::Address(a) if a.ip == ip("192.0.2.1")),
        )
        .await;
    });
}

#[test]
fn a_group_joined_is_held_by_the_kernel() {
    isolated(async || {
        veth("uplink", "far").await;
        let index = up("uplink").await;
        let netlink = Netlink::new();
        let groups = [ip("ff02::1:ff00:42"), ip("239.1.2.3")];
        for group in groups {
            netlink.join_group(index, group).await.unwrap();
            netlink.join_group(index, group).await.unwrap();
        }
        let held = |text: &str, group: &str| {
            text.lines()
                .any(|line| line.contains("uplink") && line.contains(group))
        };
        let igmp6 = || std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
        let igmp = || std::fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
        assert!(
            held(&igmp6(), "ff0200000000000000000001ff000042"),
            "{}",
            igmp6()
        );
        // /proc/net/igmp prints groups in memory order, one per line below its device.
        assert!(igmp().contains("030201EF"), "{}", igmp());
        let joined = netlink.addresses().await.unwrap();
        let joined: Vec<_> = joined
            .iter()
            .filter(|a| a.is_autojoin)
            .map(|a| a.ip)
            .collect();
        assert!(groups.iter().all(|g| joined.contains(g)), "{joined:?}");
        for group in groups {
            netlink.leave_group(index, group).await.unwrap();
            netlink.leave_group(index, group).await.unwrap();
        }
        assert!(!held(&igmp6(), "ff0200000000000000000001ff000042"));
        assert!(!igmp().contains("030201EF"));
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if nix::unistd::Uid::effective().is_root() {
        // The same test once more as a user without rights; the copy is readable for everyone.
        let copy = std::env::temp_dir().join(format!("fairlead-netlink-{}", std::process::id()));
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let output = std::process::Command::new(&copy)
            .args([
                "--exact",
                "tests::without_the_capability_the_error_names_it",
            ])
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output();
        std::fs::remove_file(&copy).unwrap();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let netlink = Netlink::new();
        assert!(
            !netlink.links().await.unwrap().is_empty(),
            "reading needs no right"
        );
        let error = netlink
            .add_address(1, ip("192.0.2.1"), 32)
            .await
            .unwrap_err();
        assert!(
            matches!(error, NetlinkError::MissingPermission { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("CAP_NET_ADMIN"));
    });
}
