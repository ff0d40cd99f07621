//! One kind's objects, as a watch delivers them.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// What a conversion made of an object: its record, or `None` where the object counts as absent; an error keeps what was
/// there before.
pub type Read<R> = Result<Option<R>, ()>;

/// The objects of one kind by key. A new list is collected aside and replaces the old one only when it is whole.
#[derive(Debug)]
pub struct Table<R> {
    live: BTreeMap<String, R>,
    fresh: Option<BTreeMap<String, R>>,
    is_complete: bool,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self {
            live: BTreeMap::new(),
            fresh: None,
            is_complete: false,
        }
    }
}

impl<R: Clone + PartialEq> Table<R> {
    /// Whether a list was ever whole.
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The record under the key.
    pub fn get(&self, key: &str) -> Option<&R> {
        self.live.get(key)
    }

    /// Every record, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = &R> {
        self.live.values()
    }

    /// Takes an event; returns the keys whose record changed, with the former record.
    pub fn apply(&mut self, event: Event<(String, Read<R>)>) -> Vec<(String, Option<R>)> {
        match event {
            Event::Init => {
                self.fresh = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply((key, read)) => {
                let before = || self.live.get(&key).cloned();
                let record = read.unwrap_or_else(|()| before());
                if let (Some(fresh), Some(record)) = (&mut self.fresh, record) {
                    fresh.insert(key, record);
                }
                Vec::new()
            }
            Event::InitDone => {
                self.is_complete = true;
                let fresh = self.fresh.take().unwrap_or_default();
                let mut old = std::mem::replace(&mut self.live, fresh);
                let mut changed = Vec::new();
                for (key, record) in &self.live {
                    let before = old.remove(key);
                    if before.as_ref() != Some(record) {
                        changed.push((key.clone(), before));
                    }
                }
                changed.extend(old.into_iter().map(|(key, record)| (key, Some(record))));
                changed
            }
            Event::Apply((_, Err(()))) => Vec::new(),
            Event::Apply((key, Ok(record))) => self.put(key, record),
            Event::Delete((key, _)) => self.put(key, None),
        }
    }

    /// Replaces the record of an object that is known, as the answer to a write does; one that is gone stays gone.
    pub fn update(&mut self, key: &str, record: R) {
        // A list that is being read may hold an older state of it.
        if let Some(fresh) = self.fresh.as_mut().and_then(|fresh| fresh.get_mut(key)) {
            fresh.clone_from(&record);
        }
        if let Some(live) = self.live.get_mut(key) {
            *live = record;
        }
    }

    fn put(&mut self, key: String, record: Option<R>) -> Vec<(String, Option<R>)> {
        if self.live.get(&key) == record.as_ref() {
            return Vec::new();
        }
        let before = match record {
            Some(record) => self.live.insert(key.clone(), record),
            None => self.live.remove(&key),
        };
        vec![(key, before)]
    }
}
