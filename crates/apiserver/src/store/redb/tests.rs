use super::*;

fn key(resource: &str, name: &str) -> Key {
    Key {
        resource: resource.into(),
        namespace: "default".into(),
        name: name.into(),
    }
}

fn put(key: &Key, expected: Option<u64>, value: &str) -> Change {
    Change {
        key: key.clone(),
        expected,
        value: Some(value.into()),
        previous: None,
    }
}

fn bound(changes: usize) -> Bound {
    Bound {
        changes,
        bytes: 1000,
    }
}

fn get(store: &RedbStore, key: &Key) -> Option<Record> {
    store
        .list()
        .unwrap()
        .into_iter()
        .find_map(|(other, record)| (other == *key).then_some(record))
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.redb");
    let a = key("services", "a");
    let first = {
        let mut store = RedbStore::open(&path, bound(10)).unwrap();
        store
            .commit(&[put(&a, None, "1"), put(&key("services", "b"), None, "2")])
            .unwrap()
    };
    assert_eq!(first, 2, "a new store is at revision 1");
    let store = RedbStore::open(&path, bound(10)).unwrap();
    assert_eq!(store.revision().unwrap(), 3);
    assert_eq!(
        get(&store, &a),
        Some(Record {
            revision: 2,
            json: b"1".to_vec()
        })
    );
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(store.history("services").unwrap().changes.len(), 2);
}

#[test]
fn a_race_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = RedbStore::open(&dir.path().join("o"), bound(10)).unwrap();
    let (a, b) = (key("services", "a"), key("services", "b"));
    store.commit(&[put(&a, None, "1")]).unwrap();
    let result = store.commit(&[put(&b, None, "1"), put(&a, Some(7), "2")]);
    assert!(
        matches!(result, Err(StoreError::Raced { .. })),
        "{result:?}"
    );
    assert_eq!(get(&store, &b), None);
    assert_eq!(store.revision().unwrap(), 2);
    store.commit(&[put(&a, Some(2), "2")]).unwrap();
}

#[test]
fn history_is_bounded_per_resource_and_its_floor_survives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o");
    {
        let mut store = RedbStore::open(&path, bound(3)).unwrap();
        let mut at = None;
        store
            .commit(&[put(&key("services", "quiet"), None, "q")])
            .unwrap();
        for n in 0..10 {
            at = Some(
                store
                    .commit(&[put(&key("leases", "busy"), at, &n.to_string())])
                    .unwrap(),
            );
        }
    }
    let store = RedbStore::open(&path, bound(3)).unwrap();
    let busy = store.history("leases").unwrap();
    assert_eq!(
        busy.changes.iter().map(|c| c.revision).collect::<Vec<_>>(),
        [10, 11, 12]
    );
    assert_eq!(busy.floor, 9);
    let quiet = store.history("services").unwrap();
    assert_eq!((quiet.floor, quiet.changes.len()), (0, 1));
}

#[test]
fn a_file_of_a_later_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o");
    drop(RedbStore::open(&path, bound(3)).unwrap());
    {
        let db = Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", 99).unwrap();
        txn.commit().unwrap();
    }
    let Err(error) = RedbStore::open(&path, bound(3)) else {
        panic!("opened a file of format 99")
    };
    assert_eq!(error.reason(), "ApiStoreFormat");
    assert!(error.to_string().contains("format 99"), "{error}");
}

#[test]
fn two_processes_cannot_share_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o");
    let _open = RedbStore::open(&path, bound(3)).unwrap();
    let Err(error) = RedbStore::open(&path, bound(3)) else {
        panic!("opened twice")
    };
    assert_eq!(error.reason(), "ApiStoreBusy");
}

#[test]
fn history_is_bounded_in_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o");
    let large = "x".repeat(400);
    let mut store = RedbStore::open(&path, bound(100)).unwrap();
    let mut at = None;
    for _ in 0..5 {
        at = Some(
            store
                .commit(&[put(&key("secrets", "large"), at, &large)])
                .unwrap(),
        );
    }
    assert_eq!(store.history("secrets").unwrap().changes.len(), 2);
    // The sizes are counted again at the next start.
    drop(store);
    let mut store = RedbStore::open(&path, bound(100)).unwrap();
    store
        .commit(&[put(&key("secrets", "large"), at, &"x".repeat(5000))])
        .unwrap();
    let history = store.history("secrets").unwrap();
    assert_eq!(
        (history.changes.len(), history.floor),
        (1, 6),
        "the latest is kept, whatever its size"
    );
}
