use fairlead_abi::{flow::N_FLOWS_NEW, lb::mode, lb::vip_flags};

use super::*;
use crate::{
    Verdict,
    host::{World, octets},
    testing::*,
};

const FE: u32 = 5;
/// The backend of every slot before the change, and after it.
const OLD: u16 = 1;
const NEW: u16 = 2;

/// Every slot has changed from [`OLD`] to [`NEW`], at a length of its own.
fn changed(v6: bool, proto: u8) -> World {
    let mut w = world();
    frontend(&mut w, FE, v6, 80, proto, mode::DSR_L2);
    let previous = w.set_table(3000, &[OLD; 509]);
    let current = w.set_table(4000, &[NEW; 251]);
    let fe = w.frontends.get_mut(FE).unwrap();
    (fe.previous, fe.current) = (previous, current);
    fe.flags |= frontend_flags::IN_TRANSITION;
    w
}

/// The backend that a client's packet goes to.
fn send(w: &mut World, v6: bool, sport: u16, proto: u8, flags: u8) -> u16 {
    let (verdict, out) = w.run(LB, &from_client(v6, sport, 80, proto, flags).build());
    assert_eq!(verdict, Verdict::Tx);
    u16::from(out[5]) - 1
}

fn set_flags(w: &mut World, v6: bool, i: u16, flags: u8) {
    let index = FE * 16 + u32::from(i);
    if v6 {
        w.backends6.get_mut(index).unwrap().flags = flags;
    } else {
        w.backends4.get_mut(index).unwrap().flags = flags;
    }
}

fn key_of(v6: bool, sport: u16) -> FlowKey {
    FlowKey {
        client: octets(client(v6)),
        vip: octets(vip(v6)),
        client_port: sport.to_be_bytes(),
        vip_port: 80u16.to_be_bytes(),
        proto: TCP,
        _pad: [0; 3],
    }
}

#[test]
fn a_syn_takes_the_present_backend_and_is_remembered() {
    for v6 in [false, true] {
        let mut w = changed(v6, TCP);
        assert_eq!(send(&mut w, v6, 2000, TCP, SYN), NEW);
        let entry = w.flows_new.get(&key_of(v6, 2000)).unwrap();
        assert_eq!(
            (entry.backend, entry.frontend, entry.state),
            (NEW, FE, flow_state::NEW)
        );
        // The handshake completes: the entry moves.
        assert_eq!(send(&mut w, v6, 2000, TCP, ACK), NEW);
        assert!(w.flows_new.is_empty());
        assert_eq!(
            w.flows.get(&key_of(v6, 2000)).unwrap().state,
            flow_state::ESTABLISHED
        );
        assert_eq!(send(&mut w, v6, 2000, TCP, ACK), NEW);
        assert_eq!((w.flows.len(), w.frontend_counter(FE).packets), (1, 3));
    }
}

#[test]
fn a_flow_that_began_before_the_change_stays() {
    for v6 in [false, true] {
        let mut w = changed(v6, TCP);
        assert_eq!(send(&mut w, v6, 2000, TCP, ACK), OLD);
        assert_eq!(w.flows.get(&key_of(v6, 2000)).unwrap().backend, OLD);
        // Also when the table changes again meanwhile, and when `current` has come back to what `previous` says.
        w.frontends.get_mut(FE).unwrap().previous = w
            .lines
            .get(4000)
            .map(|_| fairlead_abi::lb::SlotTable {
                line: 4000,
                len: 251,
            })
            .unwrap();
        assert_eq!(send(&mut w, v6, 2000, TCP, ACK), OLD);
    }
}

#[test]
fn unchanged_slots_touch_no_table() {
    for flags in [SYN, ACK] {
        let mut w = changed(false, TCP);
        let previous = w.set_table(3000, &[SLOT_UNCHANGED; 509]);
        w.frontends.get_mut(FE).unwrap().previous = previous;
        assert_eq!(send(&mut w, false, 2000, TCP, flags), NEW);
        assert!(w.flows.is_empty() && w.flows_new.is_empty());
    }
}

#[test]
fn a_backend_that_flaps_breaks_nothing() {
    // `current` is back at the old backend, and `previous` still asks: flows of the time between are found.
    let mut w = changed(false, TCP);
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), NEW);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), NEW);
    let current = w.set_table(4000, &[OLD; 251]);
    w.frontends.get_mut(FE).unwrap().current = current;
    assert_eq!(
        send(&mut w, false, 2000, TCP, ACK),
        NEW,
        "of the time between"
    );
    assert_eq!(
        send(&mut w, false, 2001, TCP, ACK),
        OLD,
        "of the time before"
    );
    assert_eq!(send(&mut w, false, 2002, TCP, SYN), OLD, "new");
}

#[test]
fn a_half_open_entry_counts_as_absent_after_ten_seconds() {
    let mut w = changed(false, TCP);
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), NEW);
    let begun = w.now.get();
    w.now.set(begun + HALF_OPEN_NS - 1);
    assert_eq!(send(&mut w.clone(), false, 2000, TCP, ACK), NEW);
    w.now.set(begun + HALF_OPEN_NS);
    assert_eq!(send(&mut w.clone(), false, 2000, TCP, ACK), OLD);
    // A stale entry is overwritten by the next SYN.
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), NEW);
    assert_eq!(
        w.flows_new.get(&key_of(false, 2000)).unwrap().last_seen,
        w.now.get()
    );
}

#[test]
fn without_room_a_syn_follows_the_former_table() {
    let mut w = changed(false, TCP);
    w.flows_new.capacity = 0;
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), OLD);
    assert_eq!(w.reason(reasons::FLOW_TABLE_FULL), 1);
    // Unless its backend takes no new flows.
    set_flags(&mut w, false, OLD, backend_flags::ALIVE);
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), NEW);
    assert_eq!(w.reason(reasons::FLOW_TABLE_FULL), 2);
}

#[test]
fn a_syn_flood_stops_at_the_limit() {
    let mut w = changed(false, TCP);
    for sport in 1024..=u16::MAX {
        send(&mut w, false, sport, TCP, SYN);
    }
    assert_eq!(w.flows_new.len(), N_FLOWS_NEW as usize);
    assert!(w.flows.is_empty());
    assert_eq!(
        w.reason(reasons::FLOW_TABLE_FULL),
        64_512 - u64::from(N_FLOWS_NEW)
    );
}

#[test]
fn without_room_among_the_established_a_flow_is_kept_among_the_half_open() {
    let mut w = changed(false, TCP);
    w.flows.capacity = 0;
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), NEW);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), NEW);
    assert_eq!(w.reason(reasons::FLOW_TABLE_FULL), 1);
    w.now.set(w.now.get() + 100 * HALF_OPEN_NS);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), NEW, "it does not age");
    assert_eq!(
        send(&mut w, false, 2001, TCP, ACK),
        OLD,
        "and an old one needs no entry"
    );
}

#[test]
fn a_dead_backend_keeps_no_flow() {
    let mut w = changed(false, TCP);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
    set_flags(&mut w, false, OLD, 0);
    assert_eq!(
        send(&mut w, false, 2000, TCP, ACK),
        NEW,
        "its entry is void"
    );
    assert_eq!(send(&mut w, false, 2001, TCP, ACK), NEW);
    // A draining one keeps its flows.
    set_flags(&mut w, false, OLD, backend_flags::ALIVE);
    assert_eq!(send(&mut w, false, 2002, TCP, ACK), OLD);
}

#[test]
fn the_last_backend_gone_new_flows_take_the_former_while_it_accepts() {
    let mut w = changed(false, TCP);
    w.frontends.get_mut(FE).unwrap().current.len = 0;
    assert_eq!(send(&mut w, false, 2000, TCP, SYN), OLD);
    set_flags(&mut w, false, OLD, backend_flags::ALIVE);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
    let (verdict, _) = w.run(LB, &from_client(false, 2001, 80, TCP, SYN).build());
    assert_eq!((verdict, w.reason(reasons::NO_BACKEND)), (Verdict::Drop, 1));
}

#[test]
fn a_port_used_again_begins_anew() {
    for last in [FIN | ACK, RST] {
        let mut w = changed(false, TCP);
        assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
        assert_eq!(send(&mut w, false, 2000, TCP, last), OLD);
        assert_eq!(
            send(&mut w, false, 2000, TCP, ACK),
            OLD,
            "the last packets of the old flow"
        );
        assert_eq!(send(&mut w, false, 2000, TCP, SYN), NEW);
        assert_eq!(send(&mut w, false, 2000, TCP, ACK), NEW);
        assert_eq!((w.flows.len(), w.flows_new.len()), (1, 0));
    }
}

#[test]
fn udp_follows_the_former_table_for_its_time() {
    for v6 in [false, true] {
        let mut w = changed(v6, UDP);
        let until = 31_000_000_000;
        w.frontends.get_mut(FE).unwrap().udp_previous_until = until;
        w.now.set(until - 1);
        assert_eq!(send(&mut w, v6, 2000, UDP, 0), OLD);
        set_flags(&mut w, v6, OLD, 0);
        assert_eq!(
            send(&mut w, v6, 2000, UDP, 0),
            NEW,
            "a dead backend gets nothing"
        );
        set_flags(&mut w, v6, OLD, backend_flags::ALIVE);
        w.now.set(until);
        assert_eq!(send(&mut w, v6, 2000, UDP, 0), NEW);
        assert!(w.flows.is_empty() && w.flows_new.is_empty());
    }
}

#[test]
fn an_entry_of_another_frontend_counts_as_absent() {
    let mut w = changed(false, TCP);
    let entry = FlowValue {
        last_seen: w.now.get(),
        frontend: FE + 1,
        backend: 3,
        state: 1,
    };
    w.flows.insert(key_of(false, 2000), entry, Insert::Any);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
    assert_eq!(w.vip_states.get(1).unwrap().flags, vip_flags::HAS_SNAT);
}

#[test]
fn an_entry_is_not_written_for_every_packet() {
    let mut w = changed(false, TCP);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
    let first = w.now.get();
    w.now.set(first + TOUCH_NS);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
    assert_eq!(w.flows.get(&key_of(false, 2000)).unwrap().last_seen, first);
    w.now.set(first + TOUCH_NS + 1);
    assert_eq!(send(&mut w, false, 2000, TCP, ACK), OLD);
    assert_eq!(
        w.flows.get(&key_of(false, 2000)).unwrap().last_seen,
        w.now.get()
    );
}
