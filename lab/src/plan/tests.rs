use super::*;
use crate::clab;

fn planned(text: &str) -> Result<Plan, PlanError> {
    let topology = clab::parse("t.clab.yml", text).expect("the test's topology is good");
    plan(&topology, "t", Path::new("/base"))
}

#[test]
fn the_main_topology_has_this_plan() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let topology = clab::load(&dir.join("main.clab.yml")).unwrap();
    insta::assert_snapshot!(plan(&topology, "main", dir).unwrap());
}

#[test]
fn every_feature_of_the_subset_has_its_step() {
    let text = r#"
name: t
mgmt: { ipv4-subnet: 172.30.0.0/16 }
topology:
  defaults: { kind: linux, image: i }
  nodes:
    a:
      mgmt-ipv4: 172.30.0.2
      mgmt-ipv6: fd30::2
      cmd: serve "all of it"
      binds: ["conf:/etc/x:ro", "/abs:/y"]
      sysctls: { net.ipv4.ip_forward: 1 }
      exec: ["sh -c 'ip link | cat'"]
      stages:
        create-links:
          exec:
            - { command: touch /before }
            - { command: touch /after, phase: on-exit, target: host }
    b:
      network-mode: none
      stages: { create: { wait-for: [ { node: c, stage: create-links } ] } }
    c: { network-mode: none }
  links:
    - { endpoints: ["a:eth1", "b:eth1"], mtu: 1500 }
    - { endpoints: ["c:eth1", "b:eth2"], mtu: 9000 }
"#;
    insta::assert_snapshot!(planned(text).unwrap());
}

#[test]
fn every_link_is_made_once_and_after_both_its_ends() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let topology = clab::load(&dir.join("main.clab.yml")).unwrap();
    let plan = plan(&topology, "main", dir).unwrap();
    let mut made = Vec::new();
    let mut links = 0;
    for step in &plan.steps {
        match step {
            Step::Namespace { node } => made.push(node.clone()),
            Step::Link { a, b, .. } => {
                links += 1;
                assert!(made.contains(&a.0) && made.contains(&b.0), "{step}");
            }
            Step::Exec { .. } => assert_eq!(links, 6, "commands come after every link: {step}"),
            Step::Sysctl { .. } | Step::Bind { .. } | Step::Start { .. } => {}
        }
    }
    assert_eq!(links, topology.topology.links.len());
}

#[test]
fn a_circle_of_waits_is_named() {
    let text = r"
name: t
topology:
  defaults: { kind: linux, image: i, network-mode: none }
  nodes:
    a: { stages: { create: { wait-for: [ { node: b, stage: create } ] } } }
    b: { stages: { create: { wait-for: [ { node: a, stage: create } ] } } }
";
    let error = planned(text).expect_err("nobody can start");
    assert!(
        error
            .to_string()
            .contains("a waits in stage Create for itself"),
        "{error}"
    );
}
