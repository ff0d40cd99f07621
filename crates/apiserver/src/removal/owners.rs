//! Who owns whom, kept while objects change so that no deletion has to search.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use crate::kinds::Registry;
use crate::object;
use crate::store::Key;

/// An index over all objects: by their uid, and by the uids of their owners.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// Group and kind of everything that is served and stored.
    known: HashSet<(String, String)>,
    present: HashMap<String, Key>,
    owned: HashMap<String, BTreeSet<Key>>,
}

impl Owners {
    pub(crate) fn new(registry: &Registry) -> Self {
        let stored = registry.kinds.iter().filter(|kind| kind.rules.is_stored());
        Self {
            known: stored
                .map(|kind| (kind.group.clone(), kind.kind.clone()))
                .collect(),
            ..Self::default()
        }
    }

    /// An object changed.
    pub(crate) fn replace(&mut self, key: &Key, before: Option<&Value>, after: Option<&Value>) {
        if let Some(object) = before {
            self.present.remove(object::meta(object, "uid"));
            for uid in uids(object) {
                if let Some(dependents) = self.owned.get_mut(uid) {
                    dependents.remove(key);
                    if dependents.is_empty() {
                        self.owned.remove(uid);
                    }
                }
            }
        }
        if let Some(object) = after {
            let uid = object::meta(object, "uid");
            if !uid.is_empty() {
                self.present.insert(uid.to_owned(), key.clone());
            }
            for uid in uids(object) {
                self.owned
                    .entry(uid.to_owned())
                    .or_default()
                    .insert(key.clone());
            }
        }
    }

    /// Whether the owner that a reference names is of a kind that is served here.
    pub(super) fn knows(&self, reference: &Value) -> bool {
        let version = object::text(reference, "/apiVersion");
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = object::text(reference, "/kind");
        self.known.contains(&(group.to_owned(), kind.to_owned()))
    }

    pub(super) fn owner(&self, uid: &str) -> Option<&Key> {
        self.present.get(uid)
    }

    /// What the object with this uid owns, in key order.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Key> {
        self.owned.get(uid).into_iter().flatten().cloned().collect()
    }
}

fn uids(object: &Value) -> impl Iterator<Item = &str> {
    let references = object::list(object, "/metadata/ownerReferences").iter();
    references.map(|one| object::text(one, "/uid"))
}
