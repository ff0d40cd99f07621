use super::{HashMap, Insert};
use crate::maps::MapError;

#[test]
fn insert_keeps_its_promise_about_existing_keys() {
    let map = HashMap::<u32, u64>::in_memory(2);
    map.insert(&1, &10, Insert::New).unwrap();
    assert!(matches!(
        map.insert(&1, &11, Insert::New),
        Err(MapError::Exists { .. })
    ));
    assert!(matches!(
        map.insert(&2, &20, Insert::Replace),
        Err(MapError::Missing { .. })
    ));
    map.insert(&1, &12, Insert::Replace).unwrap();
    assert_eq!(map.get(&1).unwrap(), Some(12));
    assert_eq!(map.get(&2).unwrap(), None);
}

#[test]
fn a_full_map_says_so_and_still_replaces() {
    let map = HashMap::<u32, u64>::in_memory(1);
    map.insert(&1, &10, Insert::Any).unwrap();
    let error = map.insert(&2, &20, Insert::Any).unwrap_err();
    assert_eq!(error.reason(), "MapFull");
    map.insert(&1, &11, Insert::Any).unwrap();
    assert!(map.remove(&1).unwrap());
    assert!(!map.remove(&1).unwrap());
    map.insert(&2, &20, Insert::Any).unwrap();
    assert_eq!(map.entries().unwrap(), [(2, 20)]);
    assert_eq!(map.len().unwrap(), 1);
}
