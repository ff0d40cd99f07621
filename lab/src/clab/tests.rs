use super::*;

const GOOD: &str = r#"
name: t
topology:
  defaults: { kind: linux, image: i, network-mode: none, exec: ["a b"] }
  nodes:
    one: { exec: ["c 'd e'"], env: { N: 1 } }
    two: { stages: { create: { wait-for: [ { node: one, stage: create-links } ] } } }
  links:
    - endpoints: ["one:eth1", "two:eth1"]
      mtu: 1500
"#;

fn refused(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the test must change something");
    let error = parse("t.clab.yml", &GOOD.replace(from, to)).expect_err("it must be refused");
    error.to_string()
}

#[test]
fn a_node_inherits_and_keeps_containerlabs_order() {
    let topology = parse("t.clab.yml", GOOD).unwrap();
    let nodes = topology.nodes();
    assert_eq!(nodes[0].exec, ["a b", "c 'd e'"]);
    assert_eq!(nodes[1].exec, ["a b"]);
    assert!(nodes.iter().all(|n| n.isolated));
    assert_eq!(topology.topology.links[0].ends()[1].interface, "eth1");
}

#[test]
fn an_unknown_field_is_refused_with_its_name_and_line() {
    let error = refused("mtu: 1500", "mtu: 1500\n      vars: {}");
    assert!(error.contains("unknown field `vars`"), "{error}");
    assert!(
        error.contains("line 9") || error.contains("line 11"),
        "{error}"
    );
    let error = refused(
        "network-mode: none,",
        "network-mode: none, startup-config: x,",
    );
    assert!(
        error.contains("topology.defaults: unknown field `startup-config`"),
        "{error}"
    );
    assert!(error.contains("at line 4"), "{error}");
}

#[test]
fn a_foreign_kind_is_refused() {
    let error = refused("kind: linux", "kind: nokia_srlinux");
    assert!(
        error.contains("unknown variant `nokia_srlinux`, expected `linux`"),
        "{error}"
    );
}

#[test]
fn what_containerlab_would_expand_or_merge_away_is_refused() {
    let error = refused("c 'd e'", "echo $HOME");
    assert!(
        error.starts_with("t.clab.yml:6: $: containerlab expands variables"),
        "{error}"
    );
    let error = refused("c 'd e'", "a b");
    assert!(
        error.contains("topology.nodes.one.exec: stated twice"),
        "{error}"
    );
}

#[test]
fn broken_links_name_the_endpoint_and_its_line() {
    let error = refused("\"two:eth1\"]", "\"three:eth1\"]");
    assert_eq!(
        error,
        "t.clab.yml:9: topology.links[0].endpoints: node `three` does not exist"
    );
    let error = refused("\"two:eth1\"]", "\"two\"]");
    assert!(error.ends_with("`two` is not node:interface"), "{error}");
    let error = refused("\"two:eth1\"]", "\"one:eth1\"]");
    assert!(error.ends_with("`one:eth1` is on two links"), "{error}");
    let error = refused("\"two:eth1\"]", "\"two:eth0\"]");
    assert!(
        error.contains("eth0 is the management interface"),
        "{error}"
    );
    let error = refused("mtu: 1500", "mtu: 60");
    assert!(error.contains("topology.links[0].mtu"), "{error}");
}

#[test]
fn a_link_without_an_mtu_is_refused() {
    let error = refused("      mtu: 1500\n", "");
    assert!(error.contains("missing field `mtu`"), "{error}");
}

#[test]
fn a_node_needs_kind_image_and_a_way_to_management() {
    let error = refused("kind: linux, ", "");
    assert!(
        error.contains("topology.nodes.one.kind: missing"),
        "{error}"
    );
    let error = refused("image: i, ", "");
    assert!(
        error.contains("topology.nodes.one.image: missing"),
        "{error}"
    );
    let error = refused("network-mode: none, ", "");
    assert!(error.contains("give it a mgmt-ipv4"), "{error}");
}

#[test]
fn unbalanced_quotes_and_odd_binds_are_refused() {
    let error = refused("c 'd e'", "c 'd");
    assert!(
        error.contains("topology.nodes.one.exec: unbalanced quotes"),
        "{error}"
    );
    let error = refused("env: { N: 1 }", "binds: [\"x:relative\"]");
    assert!(
        error.contains("topology.nodes.one.binds: write host-path"),
        "{error}"
    );
}

#[test]
fn waiting_for_nobody_is_refused() {
    let error = refused("node: one, stage", "node: four, stage");
    assert!(
        error.contains("waits for node `four`, which does not exist"),
        "{error}"
    );
}

#[test]
fn the_trees_own_topologies_are_accepted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(load(&dir.join("main.clab.yml")).unwrap().name, "main");
}

#[test]
fn a_missing_file_says_how_to_name_one() {
    let error = load(Path::new("/nonexistent/x.clab.yml")).expect_err("there is no such file");
    assert_eq!(error.reason(), "TopologyUnreadable");
    assert!(error.to_string().contains("/nonexistent/x.clab.yml"));
}
