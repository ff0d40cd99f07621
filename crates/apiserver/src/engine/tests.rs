use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::object;
use crate::removal::Owners;
use crate::service::Allocated;
use crate::store::{Bound, Change, History, Key, PastChange, Record, Store, StoreError};

/// A store in memory that can be told to fail, before or after it has kept the batch.
#[derive(Default)]
struct Memory {
    revision: u64,
    objects: BTreeMap<Key, Record>,
    history: Vec<PastChange>,
    fail: Arc<std::sync::Mutex<Option<Fail>>>,
}

#[derive(Clone, Copy)]
enum Fail {
    Full,
    /// The commit is kept, but the answer is lost.
    Kept,
}

impl Store for Memory {
    fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.revision)
    }

    fn list(&self) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(self
            .objects
            .iter()
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect())
    }

    fn history(&self, resource: &str) -> Result<History, StoreError> {
        let changes = self
            .history
            .iter()
            .filter(|change| &*change.key.resource == resource)
            .cloned()
            .collect();
        Ok(History { floor: 0, changes })
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let fail = self.fail.lock().unwrap().take();
        if let Some(Fail::Full) = fail {
            return Err(StoreError::Full {
                detail: "no space".into(),
            });
        }
        let first = self.revision + 1;
        for change in changes {
            self.revision += 1;
            let present = self.objects.get(&change.key).map(|record| record.revision);
            assert_eq!(
                present, change.expected,
                "the engine knows what the store holds"
            );
            match &change.value {
                Some(json) => self.objects.insert(
                    change.key.clone(),
                    Record {
                        revision: self.revision,
                        json: json.clone(),
                    },
                ),
                None => self.objects.remove(&change.key),
            };
            self.history.push(PastChange {
                revision: self.revision,
                key: change.key.clone(),
                value: change.value.clone(),
                previous: change.previous.clone(),
            });
        }
        match fail {
            Some(Fail::Kept) => Err(StoreError::Failed {
                detail: "answer lost".into(),
            }),
            _ => Ok(first),
        }
    }
}

fn resource() -> Arc<str> {
    "configmaps".into()
}

fn key(name: &str) -> Key {
    Key {
        resource: resource(),
        namespace: "default".into(),
        name: name.into(),
    }
}

fn put(name: &'static str, n: u64) -> Op {
    Box::new(move |tx| {
        let object = json!({ "metadata": { "name": name }, "n": n });
        Ok(Outcome::Object {
            object: tx.put(key(name), object),
            created: false,
            warnings: Vec::new(),
        })
    })
}

fn delete(name: &'static str) -> Op {
    Box::new(move |tx| match tx.delete(key(name)) {
        Some(last) => Ok(Outcome::Deleted(last)),
        None => Err(ApiError::NotFound {
            resource: "configmaps".into(),
            name: name.into(),
        }),
    })
}

fn engine(history: usize) -> (Arc<Shared>, Writer<Memory>) {
    let cidr = "10.0.0.0/24".parse().unwrap();
    let store = Memory {
        revision: 1,
        ..Memory::default()
    };
    let (shared, _jobs, writer) = open(
        store,
        &[resource()],
        Bound {
            changes: history,
            bytes: usize::MAX,
        },
        (Allocated::new(&[cidr]).unwrap(), Owners::default()),
    )
    .unwrap();
    (shared, writer)
}

fn batch(writer: &mut Writer<Memory>, ops: Vec<(Op, bool)>) -> Vec<Result<Outcome, ApiError>> {
    let (jobs, answers): (Vec<Job>, Vec<_>) = ops
        .into_iter()
        .map(|(op, dry_run)| {
            let (reply, answer) = oneshot::channel();
            (Job { op, dry_run, reply }, answer)
        })
        .unzip();
    writer.work(jobs);
    answers
        .into_iter()
        .map(|mut answer| answer.try_recv().unwrap())
        .collect()
}

#[test]
fn later_writes_of_a_batch_see_the_earlier_ones() {
    let (shared, mut writer) = engine(10);
    let answers = batch(
        &mut writer,
        vec![
            (put("a", 1), false),
            (delete("a"), false),
            (delete("a"), false),
        ],
    );
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2].as_ref().unwrap_err().reason(), "NotFound");
    assert!(shared.get("configmaps", "default", "a").is_none());
    assert_eq!(shared.revision(), 3);
}

#[test]
fn a_dry_run_and_a_refusal_leave_nothing_behind() {
    let (shared, mut writer) = engine(10);
    let halfway: Op = Box::new(|tx| {
        tx.put(key("b"), json!({ "metadata": { "name": "b" } }));
        Err(ApiError::MethodNotAllowed)
    });
    let answers = batch(
        &mut writer,
        vec![(put("a", 1), true), (halfway, false), (put("c", 1), false)],
    );
    assert!(answers[0].is_ok());
    let all = everything(&shared, None).unwrap();
    assert_eq!(all.objects.len(), 1);
    assert_eq!(all.objects[0]["metadata"]["resourceVersion"], "2");
}

#[test]
fn a_full_store_refuses_writes_and_nothing_else() {
    let (shared, mut writer) = engine(10);
    writer.apply(put("a", 1)).unwrap();
    *writer.store.fail.lock().unwrap() = Some(Fail::Full);
    let error = writer.apply(put("a", 2)).unwrap_err();
    assert_eq!(
        (error.reason(), error.code().as_u16()),
        ("StorageFull", 507)
    );
    assert_eq!(shared.get("configmaps", "default", "a").unwrap()["n"], 1);
    writer.apply(put("a", 3)).unwrap();
    assert_eq!(shared.get("configmaps", "default", "a").unwrap()["n"], 3);
}

#[test]
fn a_commit_whose_answer_was_lost_is_learnt_of() {
    let (shared, mut writer) = engine(10);
    *writer.store.fail.lock().unwrap() = Some(Fail::Kept);
    assert!(writer.apply(put("a", 1)).is_err());
    assert!(
        shared.get("configmaps", "default", "a").is_none(),
        "not acknowledged, not shown"
    );
    writer.apply(put("b", 1)).unwrap();
    assert_eq!(shared.get("configmaps", "default", "a").unwrap()["n"], 1);
    let (events, _) = shared.since("configmaps", 1).unwrap();
    assert_eq!(
        events
            .iter()
            .map(|event| event.revision)
            .collect::<Vec<_>>(),
        [2, 3]
    );
}

#[test]
fn the_future_is_gone_too() {
    let (shared, mut writer) = engine(10);
    writer.apply(put("a", 1)).unwrap();
    assert!(shared.since("configmaps", 2).is_ok());
    assert_eq!(
        shared.since("configmaps", 3).unwrap_err(),
        Gone {
            asked: 3,
            oldest: 0
        }
    );
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Delete(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = 0..NAMES.len();
    prop::collection::vec(
        prop_oneof![
            names.clone().prop_map(Step::Put),
            names.prop_map(Step::Delete)
        ],
        1..60,
    )
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Objects by name, as a client that applies events would have them.
fn everything(shared: &Shared, at: Option<u64>) -> Result<Page, Gone> {
    let scope = Scope {
        limit: usize::MAX,
        at,
        ..Scope::default()
    };
    shared.list("configmaps", scope, |_| true)
}

fn replay(state: &mut BTreeMap<String, Value>, events: &[Arc<Event>]) {
    for event in events {
        let shown = event.after.as_ref().or(event.before.as_ref()).unwrap();
        let name = object::name(shown).to_owned();
        match &event.after {
            Some(object) => state.insert(name, (**object).clone()),
            None => state.remove(&name),
        };
    }
}

proptest! {
    /// Whoever lists at any moment and then follows the window ends with what is there, or is told that he cannot.
    #[test]
    fn a_list_and_its_changes_make_the_present(steps in steps(), listed_at in 0usize..60, history in 1usize..20) {
        let (shared, mut writer) = engine(history);
        let mut client: Option<(u64, BTreeMap<String, Value>)> = None;
        for (n, step) in steps.iter().enumerate() {
            if n == listed_at {
                let page = everything(&shared, None).unwrap();
                let state = page.objects.iter().map(|o| (object::name(o).to_owned(), (**o).clone())).collect();
                client = Some((page.revision, state));
            }
            // A deletion of what is not there changes nothing, which is as good a step.
            let done = match step {
                Step::Put(name) => writer.apply(put(NAMES[*name], n as u64)),
                Step::Delete(name) => writer.apply(delete(NAMES[*name])),
            };
            prop_assert!(done.is_ok() || matches!(step, Step::Delete(_)));
        }
        let Some((revision, mut state)) = client else { return Ok(()) };
        let changes_since = shared.revision() - revision;
        match shared.since("configmaps", revision) {
            Ok((events, reached)) => {
                prop_assert_eq!(reached, shared.revision());
                prop_assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
                replay(&mut state, &events);
                let page = everything(&shared, None).unwrap();
                let now: BTreeMap<String, Value> =
                    page.objects.iter().map(|o| (object::name(o).to_owned(), (**o).clone())).collect();
                prop_assert_eq!(state, now);
            }
            Err(gone) => {
                prop_assert!(changes_since > history as u64, "told that {} is gone with a window of {}", gone.asked, history);
            }
        }
    }

    /// A list at a past revision shows what a list of then showed, in pages of any size, or says that it cannot.
    #[test]
    fn the_past_is_listed_as_it_was(steps in steps(), listed_at in 0usize..60, history in 1usize..20, limit in 1usize..4) {
        let (shared, mut writer) = engine(history);
        let mut then = None;
        for (n, step) in steps.iter().enumerate() {
            if n == listed_at {
                then = Some(everything(&shared, None).unwrap());
            }
            drop(match step {
                Step::Put(name) => writer.apply(put(NAMES[*name], n as u64)),
                Step::Delete(name) => writer.apply(delete(NAMES[*name])),
            });
        }
        let Some(then) = then else { return Ok(()) };
        let changes_since = shared.revision() - then.revision;
        let (mut shown, mut after) = (Vec::new(), None);
        loop {
            let scope = Scope { limit, after, at: Some(then.revision), ..Scope::default() };
            let page = match shared.list("configmaps", scope, |_| true) {
                Ok(page) => page,
                Err(_gone) => {
                    prop_assert!(changes_since > history as u64);
                    return Ok(());
                }
            };
            prop_assert_eq!(page.revision, then.revision);
            shown.extend(page.objects);
            prop_assert_eq!(page.remaining, then.objects.len() - shown.len());
            match shown.last().filter(|_| page.more) {
                Some(last) => after = Some(("default".to_owned(), object::name(last).to_owned())),
                None => break,
            }
        }
        prop_assert_eq!(shown, then.objects);
    }
}
