//! What Cilium's own tests cover (specification 1.10, by its numbers) and the IPAM list of MetalLB, Calico and PureLB
//! (peers, 5.2), as far as `tests.rs` does not play it already.

use super::labelled;
use crate::alloc::{
    Family, FamilyPolicy,
    world::{World, block, ip},
};

const USED: &str = "cilium.io/IPsUsed";

#[test]
fn s2_a_family_is_switched_and_switched_back() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24", "2001:db8::/64"]);
    w.service("a");
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    w.edit("a").families = vec![Family::V6];
    w.settle();
    assert_eq!(w.shows("a"), "2001:db8:: satisfied");
    assert_eq!(
        w.pool_shows("p", USED),
        "Unknown noreason 1",
        "the other was released"
    );
    w.edit("a").families = vec![Family::V4];
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
}

#[test]
fn s3_a_sharer_is_deleted_and_added_again() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    w.sharer("a", "k", 80);
    w.sharer("b", "k", 81);
    w.settle();
    w.delete("a");
    w.settle();
    assert_eq!(w.shows("b"), "192.0.2.0 satisfied");
    w.sharer("a", "k", 80);
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    // A key added to a live Service: it keeps what it has, and others find it there.
    w.service("live");
    w.settle();
    assert_eq!(w.shows("live"), "192.0.2.1 satisfied");
    w.edit("live").sharing.key = "l".to_owned();
    w.sharer("joins", "l", 81);
    w.settle();
    assert_eq!(w.shows("live"), "192.0.2.1 satisfied");
    assert_eq!(w.shows("joins"), "192.0.2.1 satisfied");
}

#[test]
fn s5_nobody_moves_in_a_full_pool_and_who_was_satisfied_comes_first() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    // The list begins with those that have nothing; the last two share one address.
    for name in ["n1", "n2"] {
        w.service(name);
    }
    for (name, address) in [
        ("h1", "192.0.2.3"),
        ("h2", "192.0.2.1"),
        ("h3", "192.0.2.0"),
    ] {
        w.service(name).ingress = vec![ip(address)];
    }
    for (name, port) in [("s1", 80), ("s2", 81)] {
        w.sharer(name, "k", port).ingress = vec![ip("192.0.2.2")];
    }
    w.settle();
    for (name, address) in [("h1", 3), ("h2", 1), ("h3", 0), ("s1", 2), ("s2", 2)] {
        assert_eq!(w.shows(name), format!("192.0.2.{address} satisfied"));
    }
    assert_eq!(w.shows("n1"), " out_of_ips");
    // Half satisfied ones come after whole ones, whatever their age.
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/29"]);
    let half = w.service("half");
    half.ingress = vec![ip("192.0.2.1")];
    half.requested = vec![ip("192.0.2.1"), ip("192.0.2.2")];
    w.service("whole").ingress = vec![ip("192.0.2.1")];
    w.settle();
    assert_eq!(w.shows("whole"), "192.0.2.1 satisfied");
    assert_eq!(w.shows("half"), "192.0.2.2 already_allocated");
}

#[test]
fn s6_labels_and_names_select_and_a_lost_label_loses_the_address() {
    let mut w = World::default();
    w.pool("blue", &["192.0.2.0/30"]).selector = Ok(labelled("color", "blue"));
    w.pool("named", &["198.51.100.0/30"]).selector =
        Ok(labelled("io.kubernetes.service.name", "web"));
    w.service("a").labels = [("color".to_owned(), "blue".to_owned())].into();
    w.service("web").labels = [("io.kubernetes.service.name".to_owned(), "web".to_owned())].into();
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("web"), "198.51.100.0 satisfied");
    w.edit("a").labels.clear();
    w.settle();
    assert_eq!(w.shows("a"), " no_pool");
}

#[test]
fn s10_requests_and_sharing_together() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    for (name, key, port, address) in [
        ("a1", "a", 80, "192.0.2.10"),
        ("a2", "a", 81, "192.0.2.10"),
        ("b1", "b", 80, "192.0.2.20"),
        ("b2", "b", 81, "192.0.2.20"),
    ] {
        w.sharer(name, key, port).requested = vec![ip(address)];
    }
    w.sharer("generic", "a", 82);
    w.settle();
    for (name, address) in [
        ("a1", 10),
        ("a2", 10),
        ("b1", 20),
        ("b2", 20),
        ("generic", 10),
    ] {
        assert_eq!(
            w.shows(name),
            format!("192.0.2.{address} satisfied"),
            "{name}"
        );
    }
    // All members move to another address, one after the other.
    for name in ["a1", "a2"] {
        w.edit(name).requested = vec![ip("192.0.2.30")];
        w.settle();
    }
    assert_eq!(w.shows("a1"), "192.0.2.30 satisfied");
    assert_eq!(w.shows("a2"), "192.0.2.30 satisfied");
    assert_eq!(
        w.shows("generic"),
        "192.0.2.10 satisfied",
        "nobody who has an address is moved to join"
    );
}

#[test]
fn s11_pools_come_go_and_change() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30", "198.51.100.0/30"]);
    for n in 0..8 {
        w.service(&format!("s{n}"));
    }
    w.service("s8");
    w.settle();
    assert_eq!(w.shows("s4"), "198.51.100.0 satisfied");
    assert_eq!(w.shows("s8"), " out_of_ips");
    // A block is deleted: its holders wait.
    w.edit_pool("p").blocks.pop();
    w.settle();
    assert_eq!(w.shows("s4"), " out_of_ips");
    assert_eq!(w.pool_shows("p", USED), "Unknown noreason 4");
    // A pool is added: they are served, and who has an address stays.
    w.pool("q", &["203.0.113.0/29"]);
    w.settle();
    assert_eq!(w.shows("s0"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("s8"), "203.0.113.4 satisfied");
    // A wider selector moves nobody, a shrunk block only those outside.
    w.edit_pool("q").selector = Ok(labelled("color", "blue"));
    w.settle();
    assert_eq!(w.shows("s8"), " out_of_ips");
    w.edit_pool("q").selector = Ok(fairlead_model::Selector::default());
    w.settle();
    assert_eq!(w.shows("s8"), "203.0.113.4 satisfied");
    w.edit_pool("q").blocks = vec![block("203.0.113.2-203.0.113.6")];
    w.settle();
    assert_eq!(w.shows("s8"), "203.0.113.4 satisfied");
    assert_eq!(w.pool_shows("q", USED), "Unknown noreason 5");
    // Deleted: other pools serve if they can.
    w.remove_pool("q");
    w.edit_pool("p").blocks = vec![block("192.0.2.0/28")];
    w.settle();
    assert_eq!(w.shows("s0"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("s8"), "192.0.2.8 satisfied");
}

#[test]
fn a_disabled_pool_and_a_changed_block_are_as_each_alone() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.service("a");
    w.settle();
    let pool = w.edit_pool("p");
    pool.disabled = true;
    pool.blocks = vec![block("192.0.2.0/29")];
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    w.restart();
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.0 satisfied",
        "a restart takes it from nobody"
    );
}

#[test]
fn peers_dual_stack_follows_the_pools() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    let service = w.service("a");
    service.family_policy = FamilyPolicy::PreferDualStack;
    service.families = vec![Family::V4, Family::V6];
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.0 no_pool",
        "what can be given is given"
    );
    w.edit_pool("p").blocks.push(block("2001:db8::/64"));
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.0,2001:db8:: satisfied",
        "the second comes when the pool can"
    );
    w.pool("other", &["198.51.100.0/24", "2001:db8:1::/64"]);
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.0,2001:db8:: satisfied",
        "it does not jump"
    );
    w.edit_pool("p").blocks.remove(0);
    w.settle();
    assert_eq!(
        w.shows("a"),
        "2001:db8::,198.51.100.0 satisfied",
        "only the lost family moves"
    );
    // Single stack becomes dual stack.
    w.service("b");
    w.settle();
    assert_eq!(w.shows("b"), "198.51.100.1 satisfied");
    let service = w.edit("b");
    service.family_policy = FamilyPolicy::RequireDualStack;
    service.families = vec![Family::V4, Family::V6];
    w.settle();
    assert_eq!(w.shows("b"), "198.51.100.1,2001:db8::1 satisfied");
}

#[test]
fn peers_an_edited_request_moves_and_a_freed_address_is_used() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.1/32", "192.0.2.2/32"]);
    w.service("a").requested = vec![ip("192.0.2.1")];
    w.service("b");
    w.service("waits");
    w.settle();
    assert_eq!(w.shows("waits"), " out_of_ips");
    w.edit("b").is_load_balancer = false;
    w.settle();
    assert_eq!(w.shows("b"), " -");
    assert_eq!(w.shows("waits"), "192.0.2.2 satisfied");
    w.delete("waits");
    w.edit("a").requested = vec![ip("192.0.2.2")];
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.2 satisfied");
}

#[test]
fn s13_ranges_overlap_if_they_share_an_address() {
    for (one, two, is_conflict) in [
        ("192.0.2.0/30", "192.0.2.4/30", false),
        ("192.0.2.0/30", "192.0.2.3-192.0.2.9", true),
        ("192.0.2.0/24", "192.0.2.7/32", true),
        ("192.0.2.7/32", "192.0.2.0/24", true),
        ("192.0.2.0/30", "192.0.2.0/30", true),
        ("192.0.2.0-192.0.2.9", "192.0.2.10-192.0.2.12", false),
        ("2001:db8::/64", "2001:db8:0:1::/64", false),
        (
            "2001:db8::/64",
            "2001:db8::ffff:ffff:ffff:ffff-2001:db8:0:1::",
            true,
        ),
        ("0.0.0.0/0", "::/0", false),
        ("::/0", "2001:db8::1-2001:db8::1", true),
    ] {
        let mut w = World::default();
        w.pool("a", &[one]);
        w.pool("b", &[two]);
        w.settle();
        assert_eq!(w.pool_shows("a", super::CONFLICT), "False resolved");
        let shown = w.pool_shows("b", super::CONFLICT);
        assert_eq!(
            shown.starts_with("True cidr_overlap"),
            is_conflict,
            "{one} {two}: {shown}"
        );
    }
}

#[test]
fn pools_of_a_thousand_blocks_that_all_overlap_cost_no_more() {
    let mut w = World::default();
    let blocks: Vec<String> = (0..1000)
        .map(|n| format!("10.{}.{}.0/22", n / 256, n % 256))
        .collect();
    let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
    for n in 0..40 {
        w.pool(&format!("p{n}"), &blocks);
    }
    w.service("a");
    let plan = crate::alloc::plan(&w.inputs);
    assert_eq!(plan.n_conflicting, 40, "the first overlaps itself");
    assert_eq!(plan.n_unsatisfied, 1);
}
