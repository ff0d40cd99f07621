//! In steady state the engine and its codec allocate nothing: the heartbeat thread never waits for memory.

#![expect(
    unsafe_code,
    reason = "only a global allocator can count allocations, and its trait is unsafe"
)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test, which clippy does not take for one"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fairlead_announcer::{
    BootTime,
    heartbeat::{self, CLAIMS_PER_CHUNK, Key, MAX_LEN},
    ownership::{Action, Engine, Found, Frame, GroupSpec, Me, Settings, Table, order::NodeId},
};
use fairlead_model::MacAddr;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting per thread.
struct Counting;

// SAFETY: every call is passed on to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about `pointer` and `layout` is handed on.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N_VIPS: u32 = 500;

fn engine(node: u64, now: BootTime) -> Engine {
    let me = Me {
        node: NodeId(node),
        ifindex: 2,
        mac: MacAddr([2, 0, 0, 0, 0, u8::try_from(node).unwrap()]),
        boot: 1,
        seq: 77,
    };
    let specs: Vec<GroupSpec> = (0..N_VIPS)
        .map(|n| GroupSpec {
            vips: vec![(IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n)), true)],
            eligible: vec![NodeId(1), NodeId(2)],
            weights: Vec::new(),
            lease_holder: None,
        })
        .collect();
    let mut engine = Engine::new(Settings::default(), me, &Found::default(), now);
    let table = Box::new(Table::new(&specs));
    drop(engine.install(table, now, &mut Vec::new()));
    engine
}

/// Carries what `from` wants to send to `to`.
fn carry(
    key: &Key,
    actions: &[Action],
    from: &mut Engine,
    to: &mut Engine,
    now: BootTime,
    out: &mut Vec<Action>,
) {
    let mut buffer = [0; MAX_LEN];
    let keys = std::slice::from_ref(key);
    for action in actions {
        match action {
            Action::SendBeat => {
                let header = from.beat_header(now);
                let len = heartbeat::encode_beat(&mut buffer, key, &header, from.heard(now));
                let message = heartbeat::decode(&buffer[..len], keys).unwrap();
                to.on_message(&message, now, out);
            }
            Action::SendClaims => {
                let n = from.n_claim_chunks();
                for chunk in 0..n {
                    let header = from.claims_header(now);
                    let part = (u16::try_from(chunk).unwrap(), u16::try_from(n).unwrap());
                    let claims = from.claims().skip(chunk * CLAIMS_PER_CHUNK);
                    let len = heartbeat::encode_claims(&mut buffer, key, &header, part, claims);
                    let message = heartbeat::decode(&buffer[..len], keys).unwrap();
                    to.on_message(&message, now, out);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_second_of_heartbeats_with_five_hundred_groups_allocates_nothing() {
    let begin = BootTime::from_nanos(1_000_000_000_000);
    let key = Key::new(b"secret");
    let mut engines = [engine(1, begin), engine(2, begin)];
    let mut out: [Vec<Action>; 2] = [Vec::with_capacity(8_192), Vec::with_capacity(8_192)];
    let mut n_before = 0;
    let mut n_owned = 0;
    for step in 0..1_000u32 {
        // Ten seconds to settle, then one that counts; a step is 11 ms.
        let now = begin + Duration::from_millis(11) * step;
        if step == 900 {
            n_before = COUNT.with(Cell::get);
        }
        for at in 0..2 {
            let [first, second] = &mut engines;
            let (from, to) = if at == 0 {
                (first, second)
            } else {
                (second, first)
            };
            from.tick(now, now, true, &mut out[at]);
            let mut heard = std::mem::take(&mut out[1 - at]);
            carry(&key, &out[at], from, to, now, &mut heard);
            let stranger = Frame {
                mac: MacAddr([2, 0, 0, 0, 0, 9]),
                claims: None,
                probes: None,
            };
            to.on_frame(&stranger, now, &mut heard);
            n_owned = from.claims().count() + to.claims().count();
            out[at].clear();
            out[1 - at] = heard;
        }
    }
    let n_allocations = COUNT.with(Cell::get) - n_before;
    assert_eq!(n_owned, 500, "the engines have shared the groups");
    assert_eq!(n_allocations, 0);
}
