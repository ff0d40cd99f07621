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

/// A row of the history in format 1.
type OldPast<'a> = (&'a str, &'a str, &'a [u8], &'a [u8]);

/// Writes the file as format 1 had it, without this program's own words for it: whoever changes those must convert such files.
#[test]
fn a_file_of_format_1_opens_with_all_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.redb");
    {
        let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
        let objects: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("objects");
        let history: TableDefinition<'_, (&str, u64), OldPast<'_>> =
            TableDefinition::new("history");
        let floors: TableDefinition<'_, &str, u64> = TableDefinition::new("floors");
        let db = Database::create(&path).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut meta = txn.open_table(meta).unwrap();
            meta.insert("format", 1).unwrap();
            meta.insert("revision", 7).unwrap();
            let mut objects = txn.open_table(objects).unwrap();
            let json: &[u8] = br#"{"metadata":{"name":"web"}}"#;
            objects.insert("services\0default\0web", (7, json)).unwrap();
            objects
                .insert("nodes\0\0n1", (5, b"{}".as_slice()))
                .unwrap();
            let mut history = txn.open_table(history).unwrap();
            history
                .insert(("services", 7), ("default", "web", json, b"{}".as_slice()))
                .unwrap();
            txn.open_table(floors)
                .unwrap()
                .insert("services", 6)
                .unwrap();
        }
        txn.commit().unwrap();
    }
    let mut store = RedbStore::open(&path, bound(10)).unwrap();
    assert_eq!(store.revision().unwrap(), 7);
    let web = key("services", "web");
    assert_eq!(
        get(&store, &web).unwrap().json,
        br#"{"metadata":{"name":"web"}}"#
    );
    assert_eq!(store.list().unwrap().len(), 2);
    let past = store.history("services").unwrap();
    assert_eq!(
        (past.floor, past.changes.len(), past.changes[0].revision),
        (6, 1, 7)
    );
    assert_eq!(store.commit(&[put(&web, Some(7), "2")]).unwrap(), 8);
}

/// Objects written over and over leave a file that does not grow: after a warm-up it is as large as it will ever be. The bench
/// `store` does the same a million times.
#[test]
fn the_file_is_bounded_however_much_is_written() {
    const NAMES: usize = 40;
    const BATCHES: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.redb");
    let bound = Bound {
        changes: 200,
        bytes: 200_000,
    };
    let mut store = RedbStore::open(&path, bound).unwrap();
    let mut at = vec![None; NAMES];
    let mut sizes = Vec::new();
    for batch in 0..BATCHES {
        let changes: Vec<Change> = (0..NAMES)
            .map(|n| {
                let value = "x".repeat(500 + (batch * 7 + n * 13) % 1000);
                Change {
                    previous: at[n].is_some().then(|| vec![b'y'; 500]),
                    ..put(&key("configmaps", &format!("m{n}")), at[n], &value)
                }
            })
            .collect();
        let first = store.commit(&changes).unwrap();
        for (n, at) in at.iter_mut().enumerate() {
            *at = Some(first + n as u64);
        }
        sizes.push(std::fs::metadata(&path).unwrap().len());
    }
    let warm = sizes[BATCHES / 5];
    let most = sizes[BATCHES / 5..].iter().max().unwrap();
    assert!(
        *most <= warm * 5 / 4,
        "{warm} bytes after the warm-up, {most} later"
    );
    assert_eq!(
        store.history("configmaps").unwrap().changes.len(),
        store.kept["configmaps"].0
    );
    assert!(store.kept["configmaps"].0 <= 200);
}

#[test]
fn a_file_that_was_large_once_is_made_smaller_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.redb");
    let mut store = RedbStore::open(&path, bound(1)).unwrap();
    let large = "x".repeat(1 << 20);
    let names: Vec<Key> = (0..40).map(|n| key("secrets", &format!("s{n}"))).collect();
    let changes: Vec<Change> = names.iter().map(|key| put(key, None, &large)).collect();
    let first = store.commit(&changes).unwrap();
    let gone: Vec<Change> = names
        .iter()
        .enumerate()
        .map(|(n, key)| Change {
            value: None,
            ..put(key, Some(first + n as u64), "")
        })
        .collect();
    store.commit(&gone).unwrap();
    let before = std::fs::metadata(&path).unwrap().len();
    assert!(before > SHRINK_FROM, "{before}");
    drop(store);
    let store = RedbStore::open(&path, bound(1)).unwrap();
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(
        after * 4 < before,
        "{before} bytes, and {after} after a restart"
    );
    assert_eq!(store.revision().unwrap(), 81);
}
