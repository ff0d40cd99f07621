//! The state as a write sees it.

use std::collections::HashMap;
use std::sync::{Arc, RwLockReadGuard};

use serde_json::Value;

use super::{Objects, State};
use crate::object;
use crate::removal::Owners;
use crate::service::Allocated;
use crate::store::Key;

/// One change that is to be committed.
pub(super) struct Staged {
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// A staged change: what changed, from what, to what.
pub(crate) type Seen = (Key, Option<Arc<Value>>, Option<Arc<Value>>);

/// The state as a write sees it: what is committed, and what was staged before it in the same batch.
pub(crate) struct Tx<'a> {
    pub(super) state: RwLockReadGuard<'a, State>,
    pub(super) staged: Vec<Staged>,
    /// The last staged change of each object.
    pub(super) latest: HashMap<Key, usize>,
    /// Cluster IPs and node ports in use, derived from the Services as they are staged.
    pub(crate) allocated: &'a mut Allocated,
    /// Who owns whom, likewise.
    pub(crate) owners: &'a mut Owners,
}

impl Tx<'_> {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        if let Some(&at) = self.latest.get(key) {
            return self.staged[at].after.clone();
        }
        let table = self.state.resources.get(&key.resource)?;
        table
            .objects
            .get(&(key.namespace.clone(), key.name.clone()))
            .cloned()
    }

    /// The objects of `resource` in `namespace` (all when `None`), in key order.
    pub(crate) fn list(&self, resource: &Arc<str>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let inside = |ns: &str| namespace.is_none_or(|wanted| wanted == ns);
        let mut found = Objects::new();
        if let Some(table) = self.state.resources.get(resource) {
            let committed = table.objects.iter().filter(|((ns, _), _)| inside(ns));
            found.extend(committed.map(|(key, object)| (key.clone(), object.clone())));
        }
        for (key, &at) in self
            .latest
            .iter()
            .filter(|(key, _)| key.resource == *resource && inside(&key.namespace))
        {
            let place = (key.namespace.clone(), key.name.clone());
            match &self.staged[at].after {
                Some(object) => found.insert(place, object.clone()),
                None => found.remove(&place),
            };
        }
        found.into_values().collect()
    }

    /// Every resource that holds something in `namespace`.
    pub(crate) fn resources(&self) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = self.state.resources.keys().cloned().collect();
        all.extend(self.latest.keys().map(|key| key.resource.clone()));
        all.sort();
        all.dedup();
        all
    }

    /// Stages a new state of an object and returns it with its `resourceVersion`.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        object::set_revision(&mut object, self.next_revision());
        let object = Arc::new(object);
        self.stage(key, Some(object.clone()));
        object
    }

    /// Stages a deletion and returns the object's last state.
    pub(crate) fn delete(&mut self, key: Key) -> Option<Arc<Value>> {
        let mut last = (*self.get(&key)?).clone();
        object::set_revision(&mut last, self.next_revision());
        self.stage(key, None);
        Some(Arc::new(last))
    }

    fn next_revision(&self) -> u64 {
        self.state.revision + self.staged.len() as u64 + 1
    }

    fn stage(&mut self, key: Key, after: Option<Arc<Value>>) {
        let before = self.get(&key);
        self.allocated
            .replace(&key, before.as_deref(), after.as_deref());
        self.owners
            .replace(&key, before.as_deref(), after.as_deref());
        self.latest.insert(key.clone(), self.staged.len());
        self.staged.push(Staged { key, before, after });
    }

    /// The n-th staged change.
    pub(crate) fn staged(&self, n: usize) -> Option<Seen> {
        let staged = self.staged.get(n)?;
        Some((
            staged.key.clone(),
            staged.before.clone(),
            staged.after.clone(),
        ))
    }

    /// Gives an object staged after the first `n` the revision it had before: what is not kept gets no new one.
    pub(super) fn keep_revision(&self, object: &mut Arc<Value>, n: usize) {
        let same = |staged: &&Staged| {
            staged
                .after
                .as_ref()
                .is_some_and(|after| Arc::ptr_eq(after, object))
        };
        let Some(before) = self.staged[n..]
            .iter()
            .rev()
            .find(same)
            .map(|staged| &staged.before)
        else {
            return;
        };
        let mut shown = (**object).clone();
        match before {
            Some(before) => {
                let revision = object::meta(before, "resourceVersion").to_owned();
                object::set_meta(&mut shown, "resourceVersion", revision);
            }
            None => drop(object::meta_mut(&mut shown).remove("resourceVersion")),
        }
        *object = Arc::new(shown);
    }

    /// Forgets what was staged after the first `n`.
    pub(super) fn roll_back(&mut self, n: usize) {
        while self.staged.len() > n {
            let Some(undone) = self.staged.pop() else {
                break;
            };
            self.allocated.replace(
                &undone.key,
                undone.after.as_deref(),
                undone.before.as_deref(),
            );
            self.owners.replace(
                &undone.key,
                undone.after.as_deref(),
                undone.before.as_deref(),
            );
            match self
                .staged
                .iter()
                .rposition(|staged| staged.key == undone.key)
            {
                Some(at) => self.latest.insert(undone.key, at),
                None => self.latest.remove(&undone.key),
            };
        }
    }
}
