//! Writes under way, answers, and events that come late or out of order.

use std::time::{Duration, Instant, UNIX_EPOCH};

use fairlead_api::condition::time;
use k8s_openapi::api::core::v1;
use kube::runtime::watcher::Event;

use super::{Change, Extra, Fault, Key, State, Verb, Write, Written};
use crate::alloc::Settings;

fn service(name: &str, version: u64, more: &str) -> v1::Service {
    serde_norway::from_str(&format!(
        "{{metadata: {{name: {name}, namespace: shop, uid: u-{name}, resourceVersion: '{version}', creationTimestamp: '2026-01-01T00:00:00Z'}},
  spec: {{type: LoadBalancer, ipFamilies: [IPv4]}}{more}}}"
    ))
    .unwrap()
}

/// As the API server answers: with the address and the condition that were sent.
fn served(name: &str, version: u64, ip: &str) -> v1::Service {
    let status = format!(
        ", status: {{loadBalancer: {{ingress: [{{ip: {ip}, ipMode: VIP}}]}}, conditions: [
  {{type: cilium.io/IPAMRequestSatisfied, status: 'True', reason: satisfied, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
    );
    service(name, version, &status)
}

fn list(services: Vec<v1::Service>, block: &str) -> Vec<Change> {
    let pool = format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {{name: p, uid: u-p, resourceVersion: '1'}}, spec: {{blocks: [{block}]}}}}"
    );
    let pool = serde_norway::from_str(&pool).unwrap();
    let mut changes = relist(services);
    changes.extend(without_extras());
    changes.extend([Event::Init, Event::InitApply(pool), Event::InitDone].map(Change::Pool));
    changes
}

fn without_extras() -> [Change; 3] {
    [Extra::Reservations, Extra::Usages, Extra::Nodes].map(Change::Absent)
}

fn relist(services: Vec<v1::Service>) -> Vec<Change> {
    let items = services.into_iter().map(Event::InitApply);
    let all = std::iter::once(Event::Init)
        .chain(items)
        .chain([Event::InitDone]);
    all.map(Change::Service).collect()
}

fn state(services: Vec<v1::Service>, block: &str) -> State {
    let mut state = State::new(Settings::default());
    for change in list(services, block) {
        state.apply(change);
    }
    decide(&mut state);
    state
}

/// Runs the engine until it has nothing more to do; says whether anything is to be written that was not before.
fn decide(state: &mut State) -> bool {
    let before: Vec<String> = queued(state);
    while let Some(mut engine) = state.take_engine() {
        let delta = engine.run();
        state.take_delta(engine, delta, UNIX_EPOCH);
    }
    queued(state) != before
}

fn queued(state: &State) -> Vec<String> {
    state.queue.values().map(|d| format!("{d:?}")).collect()
}

fn apply(state: &mut State, service: v1::Service) {
    state.apply(Change::Service(Event::Apply(service)));
}

fn key(name: &str) -> Key {
    Key::Service(format!("shop/{name}").parse().unwrap())
}

/// Sends whatever may go out, pools first left unanswered; returns the Services' writes as text.
fn send(state: &mut State, now: Instant) -> Vec<String> {
    let wall = time(UNIX_EPOCH);
    let next = || state.next_write(now, &wall);
    let sent: Vec<Write> = std::iter::from_fn(next).collect();
    let services = sent.iter().filter(|w| matches!(w.key, Key::Service(_)));
    services
        .map(|w| {
            let Verb::Patch(body) = &w.verb else {
                panic!("Services are only patched");
            };
            let body = serde_json::json!(body);
            let ingress = &body[1]["value"]["loadBalancer"]["ingress"];
            let ips: Vec<&str> = ingress
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|e| e["ip"].as_str())
                .collect();
            format!(
                "{} @{} {}",
                w.key,
                body[0]["value"].as_str().unwrap(),
                ips.join(",")
            )
        })
        .collect()
}

fn now() -> Instant {
    fairlead_rt::clock::now()
}

const ONE: &str = "{start: 192.0.2.1}";
const MANY: &str = "{cidr: 192.0.2.0/24}";

#[tokio::test]
async fn nothing_is_decided_before_both_lists_are_whole() {
    let mut state = State::new(Settings::default());
    let mut changes = list(vec![service("a", 1, "")], MANY);
    let last = changes.pop().unwrap();
    for change in changes {
        state.apply(change);
        assert!(state.take_engine().is_none());
    }
    state.apply(last);
    assert!(decide(&mut state));
    assert_eq!(send(&mut state, now()), ["Service shop/a @1 192.0.2.0"]);
}

#[tokio::test]
async fn a_write_under_way_holds_its_address_whoever_comes() {
    let mut state = state(vec![service("b", 1, "")], ONE);
    assert_eq!(send(&mut state, now()), ["Service shop/b @1 192.0.2.1"]);
    // Earlier in every order, and there is but one address.
    apply(&mut state, service("a", 2, ""));
    assert!(decide(&mut state));
    assert_eq!(
        send(&mut state, now()),
        ["Service shop/a @2 "],
        "told that there is none"
    );
}

#[tokio::test]
async fn the_echo_of_our_own_write_needs_no_plan() {
    let mut state = state(vec![service("a", 1, "")], MANY);
    send(&mut state, now());
    let answer = served("a", 2, "192.0.2.0");
    // The watch may be faster than the answer, or slower.
    apply(&mut state, answer.clone());
    assert!(!decide(&mut state));
    state.written(
        &key("a"),
        Ok(Written::Service(Box::new(answer.clone()))),
        now(),
    );
    assert!(!decide(&mut state));
    apply(&mut state, answer);
    assert!(!decide(&mut state));
    apply(&mut state, service("a", 3, ""));
    assert!(decide(&mut state), "somebody wiped it");
}

#[tokio::test]
async fn an_object_never_goes_back_in_time() {
    let mut state = state(vec![service("a", 1, "")], MANY);
    send(&mut state, now());
    let answer = served("a", 5, "192.0.2.0");
    state.written(&key("a"), Ok(Written::Service(Box::new(answer))), now());
    // An event and a list from before the answer.
    apply(&mut state, service("a", 3, ""));
    for change in relist(vec![service("a", 4, ""), service("b", 2, "")]) {
        state.apply(change);
    }
    assert!(decide(&mut state));
    assert_eq!(send(&mut state, now()), ["Service shop/b @2 192.0.2.1"]);
}

#[tokio::test]
async fn an_answer_during_a_new_list_is_not_forgotten() {
    let mut state = state(vec![service("a", 1, "")], MANY);
    send(&mut state, now());
    state.apply(Change::Service(Event::Init));
    state.apply(Change::Service(Event::InitApply(service("a", 1, ""))));
    let answer = served("a", 5, "192.0.2.0");
    state.written(&key("a"), Ok(Written::Service(Box::new(answer))), now());
    state.apply(Change::Service(Event::InitDone));
    apply(&mut state, service("0-earlier", 6, ""));
    decide(&mut state);
    assert_eq!(
        send(&mut state, now()),
        ["Service shop/0-earlier @6 192.0.2.1"]
    );
}

#[tokio::test]
async fn what_is_gone_stays_gone_and_its_address_is_free() {
    let mut state = state(vec![service("a", 1, "")], ONE);
    send(&mut state, now());
    state.apply(Change::Service(Event::Delete(service("a", 3, ""))));
    let answer = served("a", 2, "192.0.2.1");
    state.written(&key("a"), Ok(Written::Service(Box::new(answer))), now());
    apply(&mut state, service("b", 4, ""));
    assert!(decide(&mut state));
    assert_eq!(send(&mut state, now()), ["Service shop/b @4 192.0.2.1"]);
}

#[tokio::test]
async fn an_address_is_free_only_when_the_release_is_answered() {
    let mut state = state(vec![served("a", 1, "192.0.2.1")], ONE);
    let mut off = served("a", 2, "192.0.2.1");
    off.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
    apply(&mut state, off.clone());
    apply(&mut state, service("b", 3, ""));
    decide(&mut state);
    assert_eq!(send(&mut state, now()), ["Service shop/a @2 "], "b waits");
    assert!(send(&mut state, now()).is_empty());
    off.status = None;
    off.metadata.resource_version = Some("4".into());
    state.written(&key("a"), Ok(Written::Service(Box::new(off))), now());
    decide(&mut state);
    assert_eq!(send(&mut state, now()), ["Service shop/b @3 192.0.2.1"]);
}

#[tokio::test]
async fn failed_writes_pause_longer_each_time_and_disturb_no_other() {
    let mut state = state(vec![service("a", 1, "")], MANY);
    let begin = now();
    let mut at = begin;
    for pause in [250, 500, 1_000, 2_000] {
        assert_eq!(send(&mut state, at), ["Service shop/a @1 192.0.2.0"]);
        state.written(&key("a"), Err(Fault::Forbidden("no".into())), at);
        decide(&mut state);
        assert!(send(&mut state, at).is_empty(), "paused");
        // A new object does not end the pause of a missing permission, and is served meanwhile.
        let due = at + Duration::from_millis(pause);
        assert_eq!(state.wake_at(at), Some(due));
        at = due;
    }
    apply(&mut state, service("b", 2, ""));
    decide(&mut state);
    let before = at.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(send(&mut state, before), ["Service shop/b @2 192.0.2.1"]);
    for _ in 0..20 {
        at += Duration::from_secs(301);
        assert_eq!(send(&mut state, at).len(), 1);
        state.written(&key("a"), Err(Fault::Timeout), at);
        decide(&mut state);
    }
    assert_eq!(
        state.wake_at(at),
        Some(at + Duration::from_mins(5)),
        "never longer than five minutes"
    );
}

#[tokio::test]
async fn a_newer_object_ends_the_pause_after_a_conflict() {
    let mut state = state(vec![service("a", 1, "")], MANY);
    let at = now();
    send(&mut state, at);
    state.written(&key("a"), Err(Fault::Conflict), at);
    decide(&mut state);
    assert!(send(&mut state, at).is_empty());
    apply(&mut state, service("a", 2, ""));
    decide(&mut state);
    assert_eq!(send(&mut state, at), ["Service shop/a @2 192.0.2.0"]);
}

#[tokio::test]
async fn a_pool_that_cannot_be_read_gives_nothing_and_takes_nothing() {
    let mut state = State::new(Settings::default());
    let odd = "{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p, uid: u-p, resourceVersion: '1'}, spec: {blocks: none}}";
    let odd: kube::api::DynamicObject = serde_norway::from_str(odd).unwrap();
    let services = vec![served("a", 1, "192.0.2.1"), service("b", 2, "")];
    for change in relist(services) {
        state.apply(change);
    }
    for event in [Event::Init, Event::InitApply(odd), Event::InitDone] {
        state.apply(Change::Pool(event));
    }
    for change in without_extras() {
        state.apply(change);
    }
    decide(&mut state);
    assert_eq!(
        send(&mut state, now()),
        ["Service shop/b @2 "],
        "a keeps its address, b is told that there is no pool"
    );
}
