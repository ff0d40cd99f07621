//! What goes beyond Cilium: pools by name, priorities, reservations, refusals, sticky addresses, whole sets.

use fairlead_model::{IpRange, Protocol, ServiceName};

use super::labelled;
use crate::alloc::{
    Family, FamilyPolicy, Former, InUse, InUseKind, ReservationInput,
    world::{World, ip},
};

const IN_USE: &str = "fairlead.io/PoolInUse";

fn range(first: &str, last: &str) -> IpRange {
    IpRange::new(ip(first), ip(last)).unwrap()
}

fn reserve(w: &mut World, name: &str, first: &str, last: &str, service: Option<&str>) {
    let created = i64::try_from(w.inputs.reservations.len()).unwrap();
    w.inputs.reservations.push(ReservationInput {
        name: name.to_owned(),
        created,
        generation: Some(1),
        ranges: vec![range(first, last)],
        problems: Vec::new(),
        service: service.map(|name| ServiceName::new("shop", name).unwrap()),
        conditions: std::collections::BTreeMap::new(),
    });
}

fn reserved(w: &World, name: &str) -> String {
    let mut each = w.inputs.reservations.iter();
    let found = each.find(|r| r.name == name).unwrap();
    let c = &found.conditions["fairlead.io/Reserved"];
    format!("{} {} {}", c.status, c.reason, c.message)
        .trim_end()
        .to_owned()
}

fn uses(kind: InUseKind, first: &str, last: &str) -> InUse {
    InUse {
        range: range(first, last),
        kind,
        owner: "node n1".to_owned(),
    }
}

#[test]
fn a_service_may_name_its_pool() {
    let mut w = World::default();
    w.pool("one", &["192.0.2.0/24"]);
    w.pool("two", &["198.51.100.0/24"]);
    w.pool("blue", &["203.0.113.0/24"]).selector = Ok(labelled("color", "blue"));
    for (name, pools) in [
        ("a", vec!["two"]),
        ("b", vec!["absent"]),
        ("c", vec!["blue"]),
    ] {
        w.service(name).pools = pools.into_iter().map(str::to_owned).collect();
    }
    let asks = w.service("asks");
    asks.pools = vec!["two".to_owned()];
    asks.requested = vec![ip("192.0.2.7")];
    w.settle();
    assert_eq!(w.shows("a"), "198.51.100.0 satisfied");
    assert_eq!(w.shows("b"), " no_pool");
    assert_eq!(
        w.message("b"),
        "annotation fairlead.io/ip-pool names pool absent, which does not exist"
    );
    assert_eq!(
        w.shows("c"),
        " no_pool",
        "a name does not replace the selector"
    );
    assert_eq!(w.shows("asks"), " pool_selector_mismatch");
    assert_eq!(
        w.message("asks"),
        "192.0.2.7 lies in pool one, which annotation fairlead.io/ip-pool does not name"
    );
    w.edit("a").pools = vec!["one".to_owned()];
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied", "another name moves it");
    w.edit("a").pools = vec!["one".to_owned(), "two".to_owned()];
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied", "one more does not");
    // A sharer that names another pool does not join.
    w.sharer("k1", "k", 80);
    w.sharer("k2", "k", 81).pools = vec!["two".to_owned()];
    w.settle();
    assert_eq!(w.shows("k1"), "192.0.2.1 satisfied");
    assert_eq!(w.shows("k2"), "198.51.100.0 satisfied");
}

#[test]
fn a_higher_priority_is_searched_first_and_moves_nobody() {
    let mut w = World::default();
    w.pool("old", &["192.0.2.0/30"]);
    w.pool("new", &["198.51.100.0/32"]);
    w.service("a");
    w.settle();
    w.inputs.pools[1].priority = 10;
    for name in ["b", "c"] {
        w.service(name);
    }
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("b"), "198.51.100.0 satisfied");
    assert_eq!(w.shows("c"), "192.0.2.1 satisfied");
    // Conflicts are still lost by the younger.
    w.pool("greedy", &["192.0.2.0/24"]);
    w.inputs.pools[2].priority = 100;
    w.settle();
    assert!(w.pool_shows("greedy", super::CONFLICT).starts_with("True"));
}

#[test]
fn reserved_addresses_go_to_their_service_or_to_nobody() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/29"]);
    w.service("early");
    w.settle();
    reserve(&mut w, "nobody", "192.0.2.0", "192.0.2.2", None);
    reserve(&mut w, "web", "192.0.2.5", "192.0.2.6", Some("web"));
    w.service("a");
    w.service("asks").requested = vec![ip("192.0.2.5")];
    w.service("asks2").requested = vec![ip("192.0.2.1")];
    w.settle();
    assert_eq!(w.shows("early"), "192.0.2.0 satisfied", "a holder keeps it");
    assert_eq!(w.shows("a"), "192.0.2.3 satisfied");
    assert_eq!(w.shows("asks"), " already_allocated");
    assert_eq!(
        w.message("asks"),
        "192.0.2.5 is reserved by AddressReservation web"
    );
    assert_eq!(w.shows("asks2"), " already_allocated");
    assert_eq!(
        reserved(&w, "nobody"),
        "False held_by_others held: 192.0.2.0 by shop/early"
    );
    assert_eq!(reserved(&w, "web"), "True reserved");
    // Reserved ones count as used, each once: three and two of five, and .3.
    assert_eq!(w.pool_shows("p", "cilium.io/IPsUsed"), "Unknown noreason 6");
    w.service("web");
    w.settle();
    assert_eq!(w.shows("web"), "192.0.2.5 satisfied", "it need not ask");
    assert_eq!(reserved(&w, "web"), "True held held: 192.0.2.5 by shop/web");
    w.delete("early");
    w.service("late");
    w.settle();
    assert_eq!(
        w.shows("late"),
        "192.0.2.4 satisfied",
        "once it is gone, nobody gets it"
    );
    assert_eq!(reserved(&w, "nobody"), "True reserved");
    w.inputs.reservations.clear();
    w.service("last");
    w.settle();
    assert_eq!(
        w.shows("asks2"),
        "192.0.2.1 satisfied",
        "who asked gets it first"
    );
    assert_eq!(w.shows("last"), "192.0.2.0 satisfied");
}

#[test]
fn a_reservation_that_cannot_be_read_says_so_and_keeps_the_rest() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    reserve(&mut w, "odd", "192.0.2.0", "192.0.2.0", None);
    w.inputs.reservations[0].problems = vec![(
        "spec.blocks[1].start".into(),
        "`x` is not an address".into(),
    )];
    w.service("a");
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.1 satisfied");
    assert_eq!(
        reserved(&w, "odd"),
        "False invalid_spec spec.blocks[1].start: `x` is not an address"
    );
}

#[test]
fn blocks_with_addresses_of_the_cluster_are_refused() {
    let mut w = World::default();
    w.pool(
        "p",
        &[
            "192.0.2.0/24",
            "198.51.100.0/30",
            "203.0.113.0/24",
            "10.0.0.0/30",
        ],
    );
    w.service("before").requested = vec![ip("192.0.2.9")];
    w.settle();
    w.inputs.in_use = vec![
        uses(InUseKind::Node, "192.0.2.10", "192.0.2.10"),
        uses(InUseKind::Gateway, "198.51.100.1", "198.51.100.1"),
        uses(InUseKind::Pod, "203.0.0.0", "203.0.255.255"),
    ];
    w.service("a");
    w.service("asks").requested = vec![ip("192.0.2.20")];
    w.settle();
    assert_eq!(
        w.shows("before"),
        "192.0.2.9 satisfied",
        "nobody loses anything"
    );
    assert_eq!(w.shows("a"), "10.0.0.0 satisfied", "the good block serves");
    assert_eq!(w.shows("asks"), " no_pool");
    assert_eq!(
        w.message("asks"),
        "the blocks of pool p that could serve are refused: see its conditions"
    );
    assert_eq!(
        w.pool_shows("p", IN_USE),
        "True address_in_use spec.blocks[0]: 192.0.2.0 - 192.0.2.255 holds 192.0.2.10, node address of node n1; \
         spec.blocks[1]: 198.51.100.0 - 198.51.100.3 holds 198.51.100.1, gateway address of node n1; \
         spec.blocks[2]: 203.0.113.0 - 203.0.113.255 holds 203.0.0.0 - 203.0.255.255, pod address of node n1"
    );
    w.inputs.pools[0].allows = vec![InUseKind::Node, InUseKind::Gateway, InUseKind::Pod];
    w.settle();
    assert_eq!(
        w.shows("asks"),
        "192.0.2.20 satisfied",
        "who knows better says so"
    );
    assert_eq!(w.pool_shows("p", IN_USE), "False resolved");
    let mut w = World::default();
    w.pool("only", &["192.0.2.0/24"]);
    w.inputs.in_use = vec![uses(InUseKind::Node, "192.0.2.1", "192.0.2.1")];
    w.service("a");
    w.settle();
    assert_eq!(w.shows("a"), " no_pool");
    assert_eq!(
        w.message("a"),
        "the blocks of pool only that could serve are refused: see its conditions"
    );
}

#[test]
fn a_service_that_comes_back_gets_its_address_back() {
    let former = |name: &str, address: &str| Former {
        service: ServiceName::new("shop", name).unwrap(),
        ip: ip(address),
    };
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    for name in ["a", "b"] {
        w.service(name);
    }
    w.settle();
    w.delete("a");
    w.inputs.former = vec![former("a", "192.0.2.0")];
    w.service("c");
    w.settle();
    assert_eq!(
        w.shows("c"),
        "192.0.2.2 satisfied",
        "kept back while there is another"
    );
    w.service("a");
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    w.delete("a");
    for name in ["d", "e"] {
        w.service(name);
    }
    w.settle();
    assert_eq!(w.shows("d"), "192.0.2.3 satisfied");
    assert_eq!(
        w.shows("e"),
        "192.0.2.0 satisfied",
        "kept back, not withheld: nobody goes without"
    );
    w.service("a");
    w.settle();
    assert_eq!(w.shows("a"), " out_of_ips");
}

#[test]
fn who_shares_one_address_of_a_set_gets_the_set() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24", "2001:db8::/64"]);
    w.sharer("owner", "k", 80).requested =
        vec![ip("192.0.2.5"), ip("192.0.2.6"), ip("2001:db8::5")];
    w.sharer("generic", "k", 81);
    let both = w.sharer("both", "k", 82);
    both.families = vec![Family::V4, Family::V6];
    both.family_policy = FamilyPolicy::RequireDualStack;
    w.settle();
    assert_eq!(w.shows("generic"), "192.0.2.5,192.0.2.6 satisfied");
    assert_eq!(w.shows("both"), "192.0.2.5,2001:db8::5,192.0.2.6 satisfied");
    // One that comes to the set later is shared as well.
    w.edit("owner").requested.push(ip("192.0.2.7"));
    w.settle();
    assert_eq!(
        w.shows("generic"),
        "192.0.2.5,192.0.2.6,192.0.2.7 satisfied"
    );
}

#[test]
fn of_two_that_hold_one_address_the_older_keeps_it() {
    // What two operators at once may leave behind; neither Service consents to share.
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/29"]);
    w.service("older").ingress = vec![ip("192.0.2.3")];
    w.service("younger").ingress = vec![ip("192.0.2.3")];
    w.settle();
    assert_eq!(w.shows("older"), "192.0.2.3 satisfied");
    assert_eq!(w.shows("younger"), "192.0.2.0 satisfied");
    // Whoever wrote which: an operator that has seen only one of them decides alike.
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/29"]);
    w.service("older");
    w.service("younger");
    w.edit("older").is_load_balancer = false;
    w.settle();
    assert_eq!(w.shows("younger"), "192.0.2.0 satisfied");
    let older = w.edit("older");
    older.is_load_balancer = true;
    older.ingress = vec![ip("192.0.2.0")];
    w.settle();
    assert_eq!(w.shows("older"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("younger"), "192.0.2.1 satisfied");
}

#[test]
fn reserved_addresses_and_sharing_keys_give_a_reason() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/29"]).allow_first_last = false;
    reserve(&mut w, "r", "192.0.2.2", "192.0.2.2", None);
    w.sharer("end", "k", 80).requested = vec![ip("192.0.2.0")];
    w.sharer("kept", "k", 81).requested = vec![ip("192.0.2.2")];
    w.settle();
    assert_eq!(w.shows("end"), " already_allocated");
    assert_eq!(w.shows("kept"), " already_allocated");
    // A key removed, its Service deleted, a new one with that key: the address was freed, and is allocated again.
    w.sharer("old", "k", 80);
    w.settle();
    assert_eq!(w.shows("old"), "192.0.2.1 satisfied");
    w.edit("old").sharing.key.clear();
    w.settle();
    w.delete("old");
    w.sharer("new", "k", 80);
    w.service("other").sharing.ports = vec![(Protocol::Tcp, 80)];
    w.settle();
    assert_eq!(w.shows("new"), "192.0.2.1 satisfied");
    assert_eq!(w.shows("other"), "192.0.2.3 satisfied");
}
