use super::*;
use crate::clab;
use crate::runner::Lab;

/// Two hosts on a bridge: each frame comes in at one port, goes out at another, and is kept once.
const BRIDGED: &str = r#"
name: t
topology:
  defaults: { kind: linux, image: i, network-mode: none }
  nodes:
    a: { exec: ["ip addr add 10.0.0.1/24 dev eth1", "ip link set eth1 up"] }
    b: { exec: ["ip addr add 10.0.0.2/24 dev eth1", "ip link set eth1 up"] }
    s:
      exec:
        - ip link add br0 type bridge
        - ip link set br0 up
        - ip link set eth1 master br0 up
        - ip link set eth2 master br0 up
  links:
    - { endpoints: ["a:eth1", "s:eth1"], mtu: 1500 }
    - { endpoints: ["b:eth1", "s:eth2"], mtu: 1500 }
"#;

struct Guard(String);

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0).expect("a lab goes down");
    }
}

#[test]
fn every_frame_is_kept_once_and_readable() {
    let guard = Guard(format!("t{}-capture", std::process::id()));
    let topology = clab::parse("t.clab.yml", BRIDGED).unwrap();
    let plan = crate::plan::plan(&topology, &guard.0, Path::new("/")).unwrap();
    let nowhere = Path::new("/nonexistent");
    let lab = Lab::up(&plan, nowhere, nowhere, &mut |_| {}).unwrap();
    let capture = Capture::start(&lab.node("s").unwrap(), "br0").unwrap();
    // The capture starts on a thread of its own: ping until it has begun, then count one sequence.
    let a = lab.node("a").unwrap();
    a.run(&["ping", "-c3", "-i0.2", "-W2", "10.0.0.2"]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    capture.write(file.path()).unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes[..4], 0xa1b2_c3d4_u32.to_le_bytes());
    assert_eq!(bytes[20..24], 1_u32.to_le_bytes(), "link type Ethernet");
    // Record header: seconds, microseconds, kept, length. Echo requests with sequence 3, by hand.
    let (mut at, mut third) = (24, 0);
    while at < bytes.len() {
        let kept = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let frame = &bytes[at + 16..at + 16 + kept];
        let icmp = frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 8;
        third += usize::from(icmp && frame[40..42] == [0, 3]);
        at += 16 + kept;
    }
    assert_eq!(third, 1, "{} bytes", bytes.len());
}
