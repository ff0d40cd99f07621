//! The same with the real programs: what a client on the wire gets answered, and by whom.

use std::time::Duration;

use fairlead_abi::lb::{Iface, N_IFACES, iface_flags};
use fairlead_datapath::{Acceleration, Datapath, DatapathConfig};
use fairlead_rt::clock;

use super::{Ear, Lan, Running, VIP4, VIP6, ip, snapshot, wait};

/// Programs on a node's interface; their pins go with it.
struct Programs {
    datapath: Option<Datapath>,
    pins: std::path::PathBuf,
}

impl Programs {
    fn attach(lan: &Lan, name: &str) -> Self {
        let (pins, index, mac) = (lan.pins(name), lan.ifindex(name), lan.mac(name));
        let folder = pins.clone();
        let datapath = lan.spawn(name, move || {
            let config = DatapathConfig::new(folder);
            let mut datapath = Datapath::open(&config).expect("these tests need root and bpffs");
            datapath.attach(index, Acceleration::Generic).unwrap();
            let row = Iface {
                ifindex: index,
                mtu: 1_500,
                mac: mac.0,
                flags: iface_flags::ANNOUNCE,
                addr4: [0; 4],
                l2_cell: 0,
                addr6: [0; 16],
            };
            datapath.lb().ifaces.write(index & (N_IFACES - 1), &row);
            datapath
        });
        Self {
            datapath: Some(datapath.join().unwrap()),
            pins,
        }
    }

    fn run(&self, lan: &Lan, name: &str) -> Running {
        let maps = self.datapath.as_ref().unwrap().l2();
        Running::start(lan, name, maps, Some(snapshot(&[VIP4, VIP6])))
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        drop(self.datapath.take());
        fairlead_datapath::cleanup(&self.pins).expect("our own pins can be removed");
    }
}

#[test]
fn a_killed_agent_is_answered_for_until_its_deadline_and_then_the_other_answers() {
    let lan = Lan::new(&["a", "b", "c"]);
    let (first, second) = (Programs::attach(&lan, "a"), Programs::attach(&lan, "b"));
    let ear = Ear::new(&lan, "c");
    let (a, b) = (first.run(&lan, "a"), second.run(&lan, "b"));
    wait("somebody owns both addresses", || {
        (a.owns(VIP4) && a.owns(VIP6)) || (b.owns(VIP4) && b.owns(VIP6))
    });
    let (owner, other, mac, other_mac) = if a.owns(VIP4) {
        (a, b, lan.mac("a"), lan.mac("b"))
    } else {
        (b, a, lan.mac("b"), lan.mac("a"))
    };
    for vip in [VIP4, VIP6] {
        ear.ask(ip(vip));
        wait("the programs answer", || ear.hears(ip(vip), mac));
    }
    owner.kill();
    let dead = clock::now();
    wait(
        "two seconds pass with the dead owner's kernel answering",
        || {
            let is_early = clock::now() - dead < Duration::from_secs(2);
            if is_early {
                assert!(!other.owns(VIP4), "an answer means that its kernel lives");
            }
            !is_early
        },
    );
    for vip in [VIP4, VIP6] {
        assert!(ear.hears(ip(vip), mac), "{vip} is still answered");
    }
    for vip in [VIP4, VIP6] {
        wait("the other one answers", || ear.hears(ip(vip), other_mac));
        wait("it says so", || other.owns(vip));
        wait("the dead owner's kernel is silent", || {
            !ear.hears(ip(vip), mac)
        });
    }
}

#[test]
fn a_killed_agent_that_is_alone_is_answered_for_beyond_its_deadline_and_adopts_without_a_gap() {
    let lan = Lan::new(&["a", "c"]);
    let programs = Programs::attach(&lan, "a");
    let ear = Ear::new(&lan, "c");
    let mac = lan.mac("a");
    let first = programs.run(&lan, "a");
    wait("it owns both addresses", || {
        first.owns(VIP4) && first.owns(VIP6)
    });
    for vip in [VIP4, VIP6] {
        ear.ask(ip(vip));
        wait("the programs answer", || ear.hears(ip(vip), mac));
    }
    first.kill();
    let never_dark = |for_: Duration| {
        let begin = clock::now();
        wait("time passes", || {
            for vip in [VIP4, VIP6] {
                assert!(ear.hears(ip(vip), mac), "{vip} is dark");
            }
            clock::now() - begin > for_
        });
    };
    never_dark(Duration::from_secs(4));
    let second = programs.run(&lan, "a");
    never_dark(Duration::from_secs(2));
    wait("it owns it", || second.owns(VIP4));
    let (_, _, why) = second.row(VIP4).unwrap();
    assert_eq!(
        why,
        "owned before the agent restarted, answered all the while"
    );
}
