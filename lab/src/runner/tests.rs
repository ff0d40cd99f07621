//! These make real namespaces and therefore need root; without it they fail, they are not skipped.

use super::*;
use crate::clab;

/// A lab under a name that no other process has, removed at the end of the test.
struct Guard(String);

impl Guard {
    fn new(purpose: &str) -> Self {
        Self(format!("t{}-{purpose}", std::process::id()))
    }

    fn up(&self, text: &str) -> Result<Lab, LabError> {
        let topology = clab::parse("t.clab.yml", text)?;
        let plan = crate::plan::plan(&topology, &self.0, Path::new("/"))?;
        Lab::up(
            &plan,
            Path::new("t.clab.yml"),
            Path::new("/nonexistent"),
            &mut |_| {},
        )
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0).expect("a lab goes down");
    }
}

const PAIR: &str = r#"
name: t
topology:
  defaults: { kind: linux, image: i, network-mode: none }
  nodes:
    a:
      sysctls: { net.ipv4.ip_forward: 1 }
      exec:
        - ip addr add 10.0.0.1/24 dev eth1
        - ip link set eth1 up
        - mount -t bpf bpf /sys/fs/bpf
        - mkdir /sys/fs/bpf/kept
    b:
      exec:
        - ip addr add 10.0.0.2/24 dev eth1
        - ip link set eth1 up
  links:
    - { endpoints: ["a:eth1", "b:eth1"], mtu: 1500 }
"#;

fn thresholds() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").unwrap()
}

#[test]
fn a_node_has_its_own_network_sysctls_sysfs_and_bpffs() {
    let guard = Guard::new("view");
    let lab = guard.up(PAIR).unwrap();
    let a = lab.node("a").unwrap();
    assert_eq!(a.run(&["ls", "/sys/class/net"]).unwrap(), "eth1\nlo\n");
    assert_eq!(
        a.run(&["cat", "/proc/sys/net/ipv4/ip_forward"]).unwrap(),
        "1\n"
    );
    assert!(a.run(&["ls", "/sys/fs/bpf"]).unwrap().contains("kept"));
    assert!(
        !Path::new("/sys/fs/bpf/kept").exists(),
        "a node's bpffs is its own"
    );
    a.run(&["ping", "-c1", "-W2", "10.0.0.2"]).unwrap();
}

#[test]
fn down_removes_everything_and_up_can_be_repeated() {
    let guard = Guard::new("again");
    let lab = guard.up(PAIR).unwrap();
    assert!(thresholds().trim().parse::<u64>().unwrap() >= 65_536);
    let same = guard.up(PAIR).unwrap();
    assert_eq!(same.nodes(), lab.nodes());
    let other = PAIR.replace("10.0.0.2", "10.0.0.3");
    assert_eq!(
        guard.up(&other).expect_err("it is another lab").reason(),
        "LabExists"
    );
    Lab::down(&guard.0).unwrap();
    for node in ["a", "b"] {
        assert!(
            !Path::new("/run/netns")
                .join(namespace(&guard.0, node))
                .exists()
        );
    }
    assert!(!state::dir(&guard.0).exists());
    assert_eq!(
        Lab::open(&guard.0).expect_err("it is down").reason(),
        "LabNotUp"
    );
    neigh::assert_released(&guard.0);
    guard.up(&other).unwrap();
}

#[test]
fn down_ends_what_runs_in_the_lab_registered_or_not() {
    let guard = Guard::new("procs");
    let mut lab = guard.up(PAIR).unwrap();
    let sleep = ["sleep".to_owned(), "600".to_owned()];
    let mut registered = lab.start("a", "sleeper", &sleep, &[]).unwrap();
    let mut stranger = lab
        .node("b")
        .unwrap()
        .command(&["sleep", "600"])
        .spawn()
        .unwrap();
    Lab::down(&guard.0).unwrap();
    for child in [&mut registered, &mut stranger] {
        assert!(
            !child.wait().unwrap().success(),
            "it was ended, it did not finish"
        );
    }
}

#[test]
fn a_failing_step_is_named_and_nothing_is_left() {
    let guard = Guard::new("fails");
    let broken = PAIR.replace(
        "ip addr add 10.0.0.2/24 dev eth1",
        "ip addr add nonsense dev eth1",
    );
    let error = guard.up(&broken).expect_err("the address is nonsense");
    assert!(
        error
            .to_string()
            .contains("b: ip addr add nonsense dev eth1"),
        "{error}"
    );
    assert!(error.to_string().contains("nonsense"), "{error}");
    assert!(!state::dir(&guard.0).exists());
    assert!(
        !Path::new("/run/netns")
            .join(namespace(&guard.0, "a"))
            .exists()
    );
}

#[test]
fn a_strangers_namespace_is_left_alone() {
    let guard = Guard::new("stranger");
    let foreign = namespace(&guard.0, "b");
    host(&["ip", "netns", "add", &foreign]).unwrap();
    let error = guard.up(PAIR).expect_err("the name is taken");
    assert!(error.to_string().contains("exists already"), "{error}");
    assert!(Path::new("/run/netns").join(&foreign).exists());
    host(&["ip", "netns", "del", &foreign]).unwrap();
}

#[test]
fn binds_environment_and_management_network_are_what_containers_have() {
    let guard = Guard::new("mgmt");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    let text = format!(
        r#"
name: t
mgmt: {{ ipv4-subnet: 172.30.0.0/16 }}
topology:
  defaults: {{ kind: linux, image: i }}
  nodes:
    a:
      mgmt-ipv4: 172.30.0.2
      env: {{ GREETING: hello }}
      binds: ["{0}:/opt/{1}/deep:ro"]
      cmd: sh -c 'env; exec sleep 600'
    b:
      mgmt-ipv4: 172.30.1.3
"#,
        folder.path().display(),
        guard.0
    );
    let lab = guard.up(&text).unwrap();
    let a = lab.node("a").unwrap();
    a.run(&["ping", "-c1", "-W2", "172.30.1.3"]).unwrap();
    let file = format!("/opt/{}/deep/file", guard.0);
    assert_eq!(a.run(&["cat", &file]).unwrap(), "content");
    assert!(a.run(&["touch", &file]).is_err(), "the bind is read-only");
    assert!(!Path::new(&file).exists(), "only the node sees it");
    let told = || {
        fs::read_to_string(a.log("a-cmd"))
            .ok()?
            .contains("GREETING=hello\n")
            .then_some(())
    };
    assert!(clock::poll(Duration::from_secs(5), told).is_some());
    Lab::down(&guard.0).unwrap();
    assert!(
        !Path::new("/opt").join(&guard.0).exists(),
        "what was made for the bind is gone"
    );
}
