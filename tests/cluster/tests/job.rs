//! The main job on a real control plane: two operators, an agent on each node, permissions of `deploy/plain`, kubectl as the
//! user's tool, and the example manifests as they are.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should end there"
)]

use fairlead_cluster::repository;
use fairlead_cluster::site::{NAMESPACE, Program, Site};
use fairlead_lab::drive::{INTERFACE, NODES};
use fairlead_lab::traffic::requests::requests;

/// Short, so that a test need not wait for the defaults.
const ELECTION: [&str; 6] = [
    "--leader-election-lease-duration",
    "3s",
    "--leader-election-renew-deadline",
    "2s",
    "--leader-election-retry-period",
    "500ms",
];

#[test]
fn operators_and_agents_do_the_main_job_with_the_rights_of_the_manifests() {
    let mut site = Site::up("job").unwrap();
    for node in NODES {
        site.start(node, Program::Operator, &ELECTION).unwrap();
        site.start(node, Program::Agent, &[]).unwrap();
    }
    let examples = repository().join("configs/examples/main");
    let applied = site
        .plane
        .kubectl(&["apply", "-f", &examples.display().to_string()])
        .unwrap();
    assert!(
        applied.lines().all(|line| line.ends_with(" created")),
        "{applied}"
    );
    let (service, owner) = site
        .wait("the Service is served", |site| site.ready(&NODES))
        .unwrap();
    let client = site.lab().node("client").unwrap();
    for target in service.tcp() {
        let outcome = requests(&client, target, 300).unwrap();
        assert_eq!((outcome.requests, outcome.failed), (300, 0), "{outcome:?}");
        assert_eq!(outcome.spread.len(), 3, "{outcome:?}");
    }

    // A node dies: agent and link.
    let victim = NODES.into_iter().find(|node| *node == owner).unwrap();
    let heir = NODES.into_iter().find(|node| *node != owner).unwrap();
    site.kill(victim, Program::Agent).unwrap();
    let (switch, port) = site.lab().across(victim, INTERFACE).unwrap();
    let switch = site.lab().node(&switch).unwrap();
    switch.run(&["ip", "link", "set", &port, "down"]).unwrap();
    site.wait("the other node answers", |_| {
        for target in service.tcp() {
            let answer = requests(&client, target, 1)?;
            anyhow::ensure!(answer.failed == 0, "{target}: {:?}", answer.why);
        }
        Ok(())
    })
    .unwrap();
    let lease = site.wait("its Lease names the heir", |site| {
        let args = [
            "get",
            "lease",
            "-n",
            NAMESPACE,
            "cilium-l2announce-default-web",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ];
        let holder = site.plane.kubectl(&args)?;
        anyhow::ensure!(holder == heir, "held by {holder}");
        Ok(())
    });
    lease.unwrap();

    // The leading operator is killed: the other gives out addresses.
    let holder = [
        "get",
        "lease",
        "-n",
        NAMESPACE,
        "fairlead-operator",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ];
    let leader = site.plane.kubectl(&holder).unwrap();
    let leader = NODES
        .into_iter()
        .find(|node| leader.contains(node))
        .unwrap_or_else(|| panic!("{leader} names no node"));
    site.kill(leader, Program::Operator).unwrap();
    let second = "{apiVersion: v1, kind: Service, metadata: {name: second}, spec: {type: LoadBalancer, ports: [{port: 81}]}}";
    site.plane.apply(second).unwrap();
    let second = [
        "get",
        "svc",
        "second",
        "-o",
        "jsonpath={.status.loadBalancer.ingress[0].ip}",
    ];
    let ip = site.wait("the other operator leads", |site| {
        let ip = site.plane.kubectl(&second)?;
        anyhow::ensure!(!ip.is_empty(), "no address");
        Ok(ip)
    });
    assert!(ip.unwrap().starts_with("10.10.0."));
    let now = site.plane.kubectl(&holder).unwrap();
    assert!(!now.contains(leader), "{now}");
    for node in NODES {
        for program in [Program::Agent, Program::Operator] {
            let log = site.log(node, program).unwrap();
            assert!(
                !log.contains("Forbidden") && !log.contains("forbidden"),
                "{log}"
            );
        }
    }
}
