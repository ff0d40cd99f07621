//! The scenarios of the specification (sections 1.5 to 1.11), played against an API that takes what we write.

mod beyond;
mod scenarios;

use std::{collections::BTreeMap, net::Ipv4Addr};

use fairlead_api::convert::check_vip;
use fairlead_model::{Labels, LoadBalancerClass, Protocol, Requirement, Selector, TrafficPolicy};

use super::{
    DefaultIpam, Family, FamilyPolicy, Namespaces, Settings, plan,
    world::{World, block, ip},
};

const CONFLICT: &str = "cilium.io/PoolConflict";

fn labelled(key: &str, value: &str) -> Selector {
    Selector::new([(key.to_owned(), value.to_owned())].into(), Vec::new())
}

#[test]
fn services_get_the_lowest_free_address_of_the_oldest_pool() {
    let mut w = World::default();
    w.pool("zz-oldest", &["192.0.2.8-192.0.2.9"]);
    w.pool("aa-younger", &["198.51.100.0/30"]);
    for name in ["a", "b", "c"] {
        w.service(name);
    }
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.8 satisfied");
    assert_eq!(w.shows("b"), "192.0.2.9 satisfied");
    assert_eq!(
        w.shows("c"),
        "198.51.100.0 satisfied",
        "a full pool leads to the next"
    );
    w.delete("a");
    w.service("d");
    w.settle();
    assert_eq!(
        w.shows("d"),
        "192.0.2.8 satisfied",
        "what was freed is the lowest again"
    );
    assert_eq!(
        w.pool_shows("zz-oldest", "cilium.io/IPsAvailable"),
        "Unknown noreason 0"
    );
    assert_eq!(
        w.pool_shows("aa-younger", "cilium.io/IPsUsed"),
        "Unknown noreason 1"
    );
}

#[test]
fn a_full_pool_says_so_and_serves_when_there_is_room() {
    let mut w = World::default();
    w.pool("one", &["192.0.2.1/32"]);
    w.service("a");
    w.service("b");
    w.settle();
    assert_eq!(w.shows("b"), " out_of_ips");
    assert_eq!(w.message("b"), "no free V4 address in 1 matching pools");
    w.delete("a");
    w.settle();
    assert_eq!(w.shows("b"), "192.0.2.1 satisfied");
}

#[test]
fn families_follow_the_policy() {
    use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    let (four, six) = (Family::V4, Family::V6);
    let none: &[Family] = &[];
    let cases: [(FamilyPolicy, &[Family], bool, bool, &str); 12] = [
        (SingleStack, &[four], true, true, "192.0.2.0"),
        (SingleStack, &[six], true, true, "2001:db8::"),
        (SingleStack, &[six, four], true, true, "2001:db8::"),
        (SingleStack, none, true, true, "192.0.2.0"),
        (SingleStack, none, false, true, "2001:db8::"),
        (SingleStack, &[six], true, false, "2001:db8::"),
        (PreferDualStack, &[four], true, true, "192.0.2.0"),
        (
            PreferDualStack,
            &[six, four],
            true,
            true,
            "192.0.2.0,2001:db8::",
        ),
        (PreferDualStack, &[six, four], true, false, "192.0.2.0"),
        (PreferDualStack, none, true, true, "192.0.2.0,2001:db8::"),
        (
            RequireDualStack,
            &[four],
            true,
            true,
            "192.0.2.0,2001:db8::",
        ),
        (RequireDualStack, &[four], false, true, "2001:db8::"),
    ];
    for (policy, families, ipv4, ipv6, wanted) in cases {
        let mut w = World::default();
        w.inputs.settings = Settings {
            ipv4,
            ipv6,
            ..Settings::default()
        };
        w.pool("both", &["192.0.2.0/24", "2001:db8::/64"]);
        let service = w.service("a");
        service.families = families.to_vec();
        service.family_policy = policy;
        w.settle();
        assert_eq!(
            w.shows("a"),
            format!("{wanted} satisfied"),
            "{policy:?} {families:?} {ipv4} {ipv6}"
        );
    }
}

#[test]
fn half_of_a_dual_stack_request_is_kept_and_the_other_half_named() {
    let mut w = World::default();
    w.pool("four", &["192.0.2.0/24"]);
    let service = w.service("a");
    service.families = vec![Family::V4, Family::V6];
    service.family_policy = FamilyPolicy::RequireDualStack;
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 no_pool");
    w.pool("six", &["2001:db8::/64"]);
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0,2001:db8:: satisfied");
    w.edit("a").families = vec![Family::V6];
    w.edit("a").family_policy = FamilyPolicy::SingleStack;
    w.settle();
    assert_eq!(
        w.shows("a"),
        "2001:db8:: satisfied",
        "the other family is released"
    );
}

#[test]
fn requested_addresses_are_given_exactly() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24", "2001:db8::/64"]);
    w.service("early");
    w.service("a").requested = vec![ip("2001:db8::5"), ip("192.0.2.0"), ip("192.0.2.5")];
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.0,192.0.2.5,2001:db8::5 satisfied",
        "IPv4 first, then as asked"
    );
    assert_eq!(
        w.shows("early"),
        "192.0.2.1 satisfied",
        "who names an address is served first"
    );
    w.edit("a").requested = vec![ip("192.0.2.5"), ip("192.0.2.7")];
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.5,192.0.2.7 satisfied",
        "later ones are appended"
    );
    w.edit("a").requested.clear();
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.5,192.0.2.7 satisfied",
        "what is held and fits is kept"
    );
}

#[test]
fn a_refused_request_says_why() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/29"]).allow_first_last = false;
    w.pool("blue", &["198.51.100.0/29"]).selector = Ok(labelled("color", "blue"));
    w.pool("off", &["203.0.113.0/29"]).disabled = true;
    w.service("holder").requested = vec![ip("192.0.2.2")];
    let cases = [
        ("taken", "192.0.2.2", "already_allocated"),
        ("reserved", "192.0.2.7", "already_allocated"),
        ("outside", "10.0.0.1", "no_pool"),
        ("disabled", "203.0.113.1", "no_pool"),
        ("mapped", "::ffff:192.0.2.3", "no_pool"),
        ("unselected", "198.51.100.1", "pool_selector_mismatch"),
    ];
    for (name, wanted, _) in cases {
        w.service(name).requested = vec![ip(wanted)];
    }
    let service = w.service("partly");
    service.requested = vec![ip("192.0.2.4"), ip("10.9.9.9")];
    service.bad_requests = vec!["nonsense".to_owned()];
    w.service("unreadable").bad_requests = vec!["192.0.2".to_owned()];
    w.settle();
    for (name, _, reason) in cases {
        assert_eq!(w.shows(name), format!(" {reason}"), "{name}");
    }
    assert_eq!(w.message("taken"), "192.0.2.2 is held by shop/holder");
    assert_eq!(
        w.shows("partly"),
        "192.0.2.4 invalid_request",
        "what can be given is given"
    );
    assert_eq!(w.shows("unreadable"), " invalid_request");
    assert_eq!(
        w.message("unreadable"),
        "requested `192.0.2`, which is no address"
    );
}

#[test]
fn addresses_that_nobody_can_have_are_never_given() {
    let mut w = World::default();
    w.pool("all4", &["0.0.0.0-0.0.0.1"]);
    w.pool("all6", &["::/126"]);
    for name in ["a", "b"] {
        let service = w.service(name);
        service.family_policy = FamilyPolicy::RequireDualStack;
    }
    w.service("zero").requested = vec![ip("0.0.0.0")];
    w.settle();
    assert_eq!(w.shows("a"), "0.0.0.1,::2 satisfied");
    assert_eq!(w.shows("b"), "::3 out_of_ips");
    assert_eq!(w.shows("zero"), " no_pool");
    let mut w = World::default();
    w.pool(
        "odd",
        &["223.255.255.255-240.0.0.0", "127.0.0.0/8", "::ffff:0:0/95"],
    );
    for name in ["a", "b", "c"] {
        w.service(name);
    }
    w.settle();
    assert_eq!(w.shows("a"), "223.255.255.255 satisfied");
    assert_eq!(
        w.shows("b"),
        "240.0.0.0 satisfied",
        "a whole class is stepped over, not walked through"
    );
    assert_eq!(w.shows("c"), " out_of_ips");
}

#[test]
fn counts_are_exact_beyond_128_bits_and_cost_nothing() {
    let mut w = World::default();
    w.pool("everything", &["::/0"]);
    w.service("a").families = vec![Family::V6];
    w.settle();
    let total = "340282366920938463463374607431768211456";
    assert_eq!(
        w.pool_shows("everything", "cilium.io/IPsTotal"),
        format!("Unknown noreason {total}")
    );
    w.pool("small", &["192.0.2.0/30"]).allow_first_last = false;
    w.service("b");
    w.settle();
    assert_eq!(w.shows("b"), "192.0.2.1 satisfied");
    assert_eq!(
        w.pool_shows("small", "cilium.io/IPsUsed"),
        "Unknown noreason 3"
    );
    assert_eq!(
        w.pool_shows("small", "cilium.io/IPsAvailable"),
        "Unknown noreason 1"
    );
}

#[test]
fn first_and_last_of_prefixes_are_reserved_on_demand() {
    for (blocks, wanted) in [
        (["192.0.2.0/30"], "192.0.2.1 satisfied"),
        (["192.0.2.0/31"], "192.0.2.0 satisfied"),
        (["192.0.2.0/32"], "192.0.2.0 satisfied"),
        (["192.0.2.0-192.0.2.3"], "192.0.2.0 satisfied"),
    ] {
        let mut w = World::default();
        w.pool("p", &blocks).allow_first_last = false;
        w.service("a");
        w.settle();
        assert_eq!(w.shows("a"), wanted, "{blocks:?}");
    }
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.service("a");
    w.settle();
    w.edit_pool("p").allow_first_last = false;
    w.settle();
    assert_eq!(
        w.shows("a"),
        "192.0.2.0 satisfied",
        "a holder keeps a reserved address"
    );
    assert_eq!(w.pool_shows("p", "cilium.io/IPsUsed"), "Unknown noreason 2");
    w.delete("a");
    w.service("b");
    w.settle();
    assert_eq!(
        w.shows("b"),
        "192.0.2.1 satisfied",
        "once it is gone, nobody gets it"
    );
    w.edit_pool("p").allow_first_last = true;
    w.service("c");
    w.settle();
    assert_eq!(w.shows("c"), "192.0.2.0 satisfied");
}

#[test]
fn overlapping_pools_conflict_and_the_younger_gives_out_nothing() {
    let mut w = World::default();
    w.pool("old", &["192.0.2.0/29"]);
    w.service("a");
    w.settle();
    assert_eq!(w.pool_shows("old", CONFLICT), "False resolved");
    w.pool("young", &["198.51.100.0/29", "192.0.2.4/30"])
        .selector = Ok(Selector::default());
    w.service("b").requested = vec![ip("198.51.100.1")];
    w.settle();
    assert_eq!(
        w.pool_shows("young", CONFLICT),
        "True cidr_overlap range 192.0.2.4 - 192.0.2.7 overlaps range 192.0.2.0 - 192.0.2.7 of pool old"
    );
    assert_eq!(w.pool_shows("old", CONFLICT), "False resolved");
    assert_eq!(
        w.shows("b"),
        " no_pool",
        "the whole pool is out, not only the overlap"
    );
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    w.remove_pool("old");
    w.settle();
    assert_eq!(w.pool_shows("young", CONFLICT), "False resolved");
    assert_eq!(w.shows("b"), "198.51.100.1 satisfied");
    assert_eq!(
        w.shows("a"),
        "198.51.100.0 satisfied",
        "its own pool is gone and no other contains it"
    );
}

#[test]
fn a_conflict_takes_nothing_from_anybody() {
    let mut w = World::default();
    w.pool("old", &["192.0.2.0/30"]);
    w.pool("young", &["198.51.100.0/30"]);
    w.service("a").requested = vec![ip("198.51.100.0")];
    w.settle();
    // The older pool grows over the younger: the address is taken whatever the pool.
    w.edit_pool("old").blocks = vec![block("198.51.100.0/30")];
    w.service("b");
    w.settle();
    assert_eq!(
        (w.shows("a").as_str(), w.shows("b").as_str()),
        ("198.51.100.0 satisfied", "198.51.100.1 satisfied")
    );
    w.remove_pool("old");
    w.settle();
    assert_eq!(
        (w.shows("a").as_str(), w.shows("b").as_str()),
        ("198.51.100.0 satisfied", "198.51.100.1 satisfied")
    );
}

#[test]
fn a_pool_may_conflict_with_itself_and_recovers() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30", "192.0.2.0/30"]);
    w.pool("q", &["192.0.2.3-192.0.2.9"]).disabled = true;
    w.service("a");
    w.settle();
    assert!(w.pool_shows("p", CONFLICT).ends_with("of pool p"));
    assert!(
        w.pool_shows("q", CONFLICT).starts_with("True"),
        "disabled pools are compared too"
    );
    assert_eq!(w.shows("a"), " no_pool");
    w.edit_pool("p").blocks.pop();
    w.settle();
    assert_eq!(w.pool_shows("p", CONFLICT), "False resolved");
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
}

#[test]
fn pools_of_one_age_are_ordered_by_name() {
    let mut w = World::default();
    w.pool("b", &["192.0.2.0/30"]);
    w.pool("a", &["192.0.2.0/30"]).created = 0;
    w.inputs.pools[1].pool.created = 0;
    w.settle();
    assert_eq!(w.pool_shows("a", CONFLICT), "False resolved");
    assert!(w.pool_shows("b", CONFLICT).starts_with("True cidr_overlap"));
}

#[test]
fn edits_of_a_pool_move_only_who_must() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    for name in ["a", "b", "c", "d", "e"] {
        w.service(name);
    }
    w.settle();
    assert_eq!(w.shows("e"), " out_of_ips");
    let before = w.n_writes;
    w.edit_pool("p").blocks = vec![block("192.0.2.0/24")];
    w.settle();
    assert_eq!(w.shows("e"), "192.0.2.4 satisfied");
    assert_eq!(w.n_writes, before + 1, "a wider range moves nobody");
    w.edit_pool("p").blocks = vec![block("192.0.2.2-192.0.2.9")];
    w.settle();
    assert_eq!(w.shows("c"), "192.0.2.2 satisfied");
    assert_eq!(w.shows("a"), "192.0.2.5 satisfied");
    assert_eq!(w.n_writes, before + 3, "a narrower one moves those outside");
    w.edit_pool("p").disabled = true;
    w.service("f");
    w.settle();
    assert_eq!(
        (w.shows("a").as_str(), w.shows("f").as_str()),
        ("192.0.2.5 satisfied", " no_pool")
    );
    w.edit_pool("p").disabled = false;
    w.settle();
    assert_eq!(w.shows("f"), "192.0.2.7 satisfied");
}

#[test]
fn selectors_decide_and_an_unreadable_one_takes_nothing() {
    let mut w = World::default();
    w.pool("blue", &["192.0.2.0/30"]).selector = Ok(labelled("color", "blue"));
    w.pool("tenant", &["198.51.100.0/30"]).selector =
        Ok(labelled("io.kubernetes.service.namespace", "tenant"));
    w.service("a").labels = labelled_service("blue", "shop");
    w.service("b").labels = labelled_service("red", "tenant");
    w.service("c").labels = labelled_service("red", "shop");
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("b"), "198.51.100.0 satisfied");
    assert_eq!(w.shows("c"), " no_pool");
    let bad = Requirement::new("color", "In", &[]).unwrap_err();
    w.edit_pool("blue").selector = Err(format!("spec.serviceSelector.matchExpressions[0]: {bad}"));
    w.service("d").labels = labelled_service("blue", "shop");
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("d"), " no_pool");
    assert_eq!(
        w.pool_shows("blue", "fairlead.io/PoolInvalid"),
        "True invalid_spec spec.serviceSelector.matchExpressions[0]: color: In needs at least one value"
    );
    w.edit_pool("blue").selector = Ok(labelled("color", "green"));
    w.settle();
    assert_eq!(
        w.shows("a"),
        " no_pool",
        "no longer selected, no longer held"
    );
    assert_eq!(
        w.pool_shows("blue", "fairlead.io/PoolInvalid"),
        "False resolved"
    );
}

fn labelled_service(color: &str, namespace: &str) -> Labels {
    [
        ("color", color),
        ("io.kubernetes.service.namespace", namespace),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

#[test]
fn a_block_that_cannot_be_read_takes_nothing_and_is_named() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30", "198.51.100.0/30"]);
    w.service("a").requested = vec![ip("198.51.100.2")];
    w.settle();
    let pool = w.edit_pool("p");
    pool.blocks.pop();
    pool.bad_blocks = vec![(
        "spec.blocks[1].cidr".into(),
        "`010.0.0.0/8` is not a prefix".into(),
    )];
    w.service("b");
    w.settle();
    assert_eq!(
        w.shows("a"),
        "198.51.100.2 satisfied",
        "the old block stays in force until the spec is readable"
    );
    assert_eq!(w.shows("b"), "192.0.2.0 satisfied", "the good block serves");
    assert_eq!(
        w.pool_shows("p", "fairlead.io/PoolInvalid"),
        "True invalid_spec spec.blocks[1].cidr: `010.0.0.0/8` is not a prefix"
    );
    w.edit_pool("p").bad_blocks.clear();
    w.settle();
    assert_eq!(w.shows("a"), " no_pool");
}

#[test]
fn sharers_share_and_leave() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    w.sharer("a", "k", 80);
    w.sharer("b", "k", 81);
    w.sharer("c", "k", 80);
    w.sharer("d", "other", 82);
    let udp = w.sharer("e", "k", 0);
    udp.sharing.ports = vec![(Protocol::Udp, 80)];
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("b"), "192.0.2.0 satisfied");
    assert_eq!(
        w.shows("c"),
        "192.0.2.1 satisfied",
        "the port is taken: another group under the key"
    );
    assert_eq!(w.shows("d"), "192.0.2.2 satisfied");
    assert_eq!(
        w.shows("e"),
        "192.0.2.0 satisfied",
        "same port, other protocol"
    );
    w.edit("b").sharing.key = "new".into();
    w.settle();
    assert_eq!(
        w.shows("b"),
        "192.0.2.3 satisfied",
        "who changes the key leaves"
    );
    w.delete("a");
    w.service("f");
    w.settle();
    assert_eq!(
        w.shows("f"),
        "192.0.2.4 satisfied",
        "not free before the last one leaves"
    );
    w.delete("e");
    w.service("g");
    w.settle();
    assert_eq!(w.shows("g"), "192.0.2.0 satisfied");
}

#[test]
fn the_member_that_was_edited_leaves() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    w.sharer("old", "k", 80);
    w.sharer("new", "k", 81);
    w.settle();
    let old = w.edit("old");
    old.sharing.ports = vec![(Protocol::Tcp, 81)];
    old.is_edited = true;
    w.settle();
    assert_eq!(w.shows("new"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("old"), "192.0.2.1 satisfied");
}

#[test]
fn who_joins_a_group_waits_for_the_one_that_must_leave_it() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    w.sharer("first", "k", 80);
    w.sharer("second", "k", 81);
    w.settle();
    // `second` must leave because of its port; `third` has the same one, and asks for the address meanwhile.
    w.edit("second").sharing.ports = vec![(Protocol::Tcp, 80), (Protocol::Tcp, 82)];
    w.sharer("third", "k", 82).requested = vec![ip("192.0.2.0")];
    let plan = plan(&w.inputs);
    let named: Vec<&str> = plan.services.iter().map(|c| c.name.name()).collect();
    assert_eq!(named, ["second"]);
    w.settle();
    assert_eq!(w.shows("third"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("second"), "192.0.2.1 satisfied");
}

#[test]
fn sharing_across_namespaces_takes_both_sides() {
    let listed =
        |names: &[&str]| Namespaces::Listed(names.iter().map(|n| (*n).to_owned()).collect());
    for (one, two, is_shared) in [
        (listed(&["two"]), listed(&["one"]), true),
        (Namespaces::All, listed(&["one"]), true),
        (Namespaces::All, Namespaces::All, true),
        (Namespaces::All, listed(&[]), false),
        (listed(&["three"]), listed(&["one"]), false),
    ] {
        let mut w = World::default();
        w.pool("p", &["192.0.2.0/24"]);
        w.sharer("one/a", "k", 80).sharing.namespaces = one.clone();
        w.sharer("two/b", "k", 81).sharing.namespaces = two.clone();
        w.settle();
        let wanted = if is_shared {
            "192.0.2.0 satisfied"
        } else {
            "192.0.2.1 satisfied"
        };
        assert_eq!(w.shows("b"), wanted, "{one:?} {two:?}");
    }
}

#[test]
fn a_refused_share_ends_with_the_rule_it_breaks() {
    let pods =
        |app: &str| -> BTreeMap<String, String> { [("app".to_owned(), app.to_owned())].into() };
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    let holder = w.sharer("holder", "k", 80);
    holder.requested = vec![ip("192.0.2.9")];
    holder.sharing.traffic_policy = TrafficPolicy::Local;
    holder.sharing.pods = pods("web");
    w.settle();
    let mut ask = |name: &str, key: &str, port: u16, policy: TrafficPolicy, app: &str| {
        let service = w.sharer(name, key, port);
        service.requested = vec![ip("192.0.2.9")];
        service.sharing.traffic_policy = policy;
        service.sharing.pods = pods(app);
    };
    ask("key", "other", 81, TrafficPolicy::Local, "web");
    ask("elsewhere/namespace", "k", 81, TrafficPolicy::Local, "web");
    ask("port", "k", 80, TrafficPolicy::Local, "web");
    ask("policy", "k", 81, TrafficPolicy::Cluster, "web");
    ask("pods", "k", 81, TrafficPolicy::Local, "db");
    ask("good", "k", 81, TrafficPolicy::Local, "web");
    let generic = w.sharer("generic", "k", 82);
    generic.sharing.traffic_policy = TrafficPolicy::Local;
    generic.sharing.pods = pods("web");
    w.settle();
    for (name, text) in [
        ("key", "different sharing key"),
        ("namespace", "different and not permitted namespace"),
        ("port", "same port and protocol"),
        ("policy", "different ExternalTrafficPolicy"),
        (
            "pods",
            "compatible ExternalTrafficPolicy local but selecting different set of pods",
        ),
    ] {
        assert_eq!(w.shows(name), " already_allocated_incompatible_service");
        assert!(w.message(name).ends_with(text), "{}", w.message(name));
    }
    assert_eq!(w.shows("good"), "192.0.2.9 satisfied");
    assert_eq!(
        w.shows("generic"),
        "192.0.2.9 satisfied",
        "joins what another member asked for"
    );
}

#[test]
fn joining_by_key_needs_no_selector_and_lasts_as_long_as_the_group() {
    let mut w = World::default();
    w.pool("blue", &["192.0.2.0/30"]).selector = Ok(labelled("color", "blue"));
    w.sharer("a", "k", 80).labels = labelled_service("blue", "shop");
    w.settle();
    w.edit_pool("blue").disabled = true;
    w.sharer("b", "k", 81);
    w.settle();
    assert_eq!(w.shows("b"), "192.0.2.0 satisfied");
    let writes = w.n_writes;
    w.settle();
    assert_eq!(w.n_writes, writes);
    w.remove_pool("blue");
    w.settle();
    assert_eq!(
        (w.shows("a").as_str(), w.shows("b").as_str()),
        (" no_pool", " no_pool")
    );
}

#[test]
fn what_the_status_holds_is_adopted_at_start() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.service("new");
    w.service("held").ingress = vec![ip("192.0.2.0")];
    w.service("foreign").ingress = vec![ip("10.0.0.1")];
    w.sharer("s1", "k", 80).ingress = vec![ip("192.0.2.3")];
    w.sharer("s2", "k", 81).ingress = vec![ip("192.0.2.3")];
    w.service("late").ingress = vec![ip("192.0.2.3")];
    w.settle();
    assert_eq!(w.shows("held"), "192.0.2.0 satisfied");
    assert_eq!(w.shows("new"), "192.0.2.1 satisfied");
    assert_eq!(
        w.shows("foreign"),
        "192.0.2.2 satisfied",
        "an address outside is replaced"
    );
    assert_eq!(
        (w.shows("s1").as_str(), w.shows("s2").as_str()),
        ("192.0.2.3 satisfied", "192.0.2.3 satisfied")
    );
    assert_eq!(w.shows("late"), " out_of_ips");
    let writes = w.n_writes;
    w.inputs.services.reverse();
    w.settle();
    assert_eq!(w.n_writes, writes, "the order of a list decides nothing");
}

#[test]
fn conditions_wiped_by_hand_come_back() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.service("a");
    w.settle();
    w.edit("a").condition = None;
    w.inputs.pools[0].conditions.clear();
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
    assert_eq!(
        w.pool_shows("p", "cilium.io/IPsTotal"),
        "Unknown noreason 4"
    );
}

#[test]
fn generations_follow_the_counts_but_not_the_conflict() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.settle();
    w.inputs.pools[0].generation = Some(2);
    w.settle();
    let of = |w: &World, type_: &str| w.inputs.pools[0].conditions[type_].observed_generation;
    assert_eq!(
        (of(&w, CONFLICT), of(&w, "cilium.io/IPsTotal")),
        (Some(1), Some(2))
    );
}

#[test]
fn classes_decide_who_serves() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/24"]);
    let classes = [
        ("unset", None),
        ("l2", Some("io.cilium/l2-announcer")),
        ("bgp", Some("io.cilium/bgp-control-plane")),
        ("node", Some("io.cilium/node")),
        ("other", Some("example.com/lb")),
    ];
    for (name, class) in classes {
        w.service(name).class = LoadBalancerClass::parse(class);
    }
    w.edit("other").ingress = vec![ip("192.0.2.0")];
    let mut none = w.clone();
    w.settle();
    let shown: Vec<String> = classes.iter().map(|(name, _)| w.shows(name)).collect();
    assert_eq!(
        shown,
        [
            "192.0.2.1 satisfied",
            "192.0.2.2 satisfied",
            " -",
            " -",
            "192.0.2.0 -"
        ],
        "an address that any Service holds is taken"
    );
    none.inputs.settings.default_ipam = DefaultIpam::None;
    none.inputs.settings.bgp = true;
    none.settle();
    assert_eq!(none.shows("unset"), " -");
    assert_eq!(none.shows("bgp"), "192.0.2.2 satisfied");
}

#[test]
fn a_service_that_is_no_longer_ours_is_cleaned() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.service("a");
    w.settle();
    w.edit("a").is_load_balancer = false;
    w.settle();
    assert_eq!(w.shows("a"), " -");
    w.edit("a").is_load_balancer = true;
    w.settle();
    assert_eq!(w.shows("a"), "192.0.2.0 satisfied");
}

#[test]
fn dormant_before_the_first_pool_and_after_the_last() {
    let mut w = World::default();
    w.service("mine");
    w.service("metallb").ingress = vec![ip("10.0.0.1")];
    w.settle();
    assert_eq!(
        (w.shows("mine").as_str(), w.shows("metallb").as_str()),
        (" -", "10.0.0.1 -")
    );
    w.delete("metallb");
    w.pool("p", &["192.0.2.0/30"]);
    w.settle();
    assert_eq!(w.shows("mine"), "192.0.2.0 satisfied");
    w.remove_pool("p");
    w.settle();
    assert_eq!(
        w.shows("mine"),
        " no_pool",
        "the last pool takes its addresses with it"
    );
    w.edit("mine").ingress = vec![ip("10.0.0.2")];
    w.settle();
    assert_eq!(
        w.shows("mine"),
        "10.0.0.2 no_pool",
        "whoever serves it now is left alone"
    );
    // Half a dual-stack request is ours too, though its condition is False.
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/30"]);
    w.service("half").family_policy = FamilyPolicy::RequireDualStack;
    w.settle();
    assert_eq!(w.shows("half"), "192.0.2.0 no_pool");
    w.remove_pool("p");
    w.settle();
    assert_eq!(w.shows("half"), " no_pool");
    let mut w = World::default();
    w.inputs.settings.report_without_pools = true;
    w.service("mine");
    w.settle();
    assert_eq!(w.shows("mine"), " no_pool");
}

#[test]
fn an_address_is_given_on_only_when_its_holder_let_go() {
    let mut w = World::default();
    w.pool("p", &["192.0.2.0/32", "192.0.2.5/32"]);
    w.service("a").requested = vec![ip("192.0.2.0")];
    w.settle();
    w.edit("a").requested = vec![ip("192.0.2.5")];
    w.service("b");
    let plan = plan(&w.inputs);
    let named: Vec<&str> = plan.services.iter().map(|c| c.name.name()).collect();
    assert_eq!(
        named,
        ["a"],
        "b waits for a's write and is not told `out_of_ips` meanwhile"
    );
    w.settle();
    assert_eq!(
        (w.shows("a").as_str(), w.shows("b").as_str()),
        ("192.0.2.5 satisfied", "192.0.2.0 satisfied")
    );
    // Two that swap release both first.
    w.edit("a").requested = vec![ip("192.0.2.0")];
    w.edit("b").requested = vec![ip("192.0.2.5")];
    w.settle();
    assert_eq!(
        (w.shows("a").as_str(), w.shows("b").as_str()),
        ("192.0.2.0 satisfied", "192.0.2.5 satisfied")
    );
}

#[test]
fn every_address_without_use_is_known_to_both_rules() {
    for text in [
        "0.0.0.0",
        "127.1.2.3",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:1.2.3.4",
    ] {
        assert!(check_vip(ip(text)).is_err(), "{text}");
        let mut w = World::default();
        w.pool("p", &[&format!("{text}-{text}")]);
        let family = Family::of(ip(text));
        w.service("a").families = vec![family];
        w.settle();
        assert_eq!(w.shows("a"), " out_of_ips", "{text}");
    }
    assert!(check_vip(Ipv4Addr::new(223, 255, 255, 255).into()).is_ok());
}
