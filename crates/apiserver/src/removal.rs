//! How objects go: at once, or after those who asked to be waited for (finalizers) have let go; alone, or with what they own.
//!
//! Kubernetes leaves owned objects and namespaces to controllers, which act some time later. Here both happen within the
//! write that causes them: a deletion and what follows from it are one commit, of which a crash shows all or nothing. What
//! clients see is the same: the finalizers `foregroundDeletion` and `orphan` are set and taken away, and every object that goes
//! has an event of its own.
//!
//! Source: kubernetes.io, Garbage Collection; kube-controller-manager, pkg/controller/garbagecollector.
//! Next: `removal/owners.rs` (who owns whom), `rest/write/delete.rs` (the request).

mod owners;

use std::sync::Arc;

use serde_json::{Value, json};

pub(crate) use self::owners::Owners;
use crate::clock;
use crate::engine::Tx;
use crate::object;
use crate::store::Key;

/// The owner goes after what it owns.
const FOREGROUND: &str = "foregroundDeletion";
/// What is owned loses its owner, and stays.
const ORPHAN: &str = "orphan";
const NAMESPACES: &str = "namespaces";
/// Events tell of objects that are gone, too: they are collected by nobody.
const EVENTS: &str = "events";

/// What becomes of objects that a deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Whatever the object's finalizers say; else `Background`.
    Unsaid,
    Background,
    Foreground,
    Orphan,
}

/// Begins an object's deletion, and ends it if nothing holds the object. Returns its present or its last state, and whether it
/// is gone.
pub(crate) fn remove(tx: &mut Tx<'_>, key: Key, policy: Policy) -> Option<(Arc<Value>, bool)> {
    let old = tx.get(&key)?;
    let mut marked = (*old).clone();
    set_policy(&mut marked, policy);
    let empty = &*key.resource != NAMESPACES || empty_namespace(tx, &key.name);
    if empty && !object::has_finalizers(&marked) {
        return Some((finish(tx, key, marked), true));
    }
    if !object::is_terminating(&marked) {
        mark(&mut marked);
        if &*key.resource == NAMESPACES {
            marked["status"]["phase"] = json!("Terminating");
        }
    }
    if marked == *old {
        return Some((old, false));
    }
    Some((tx.put(key, marked), false))
}

/// The finalizers that a policy means.
fn set_policy(object: &mut Value, policy: Policy) {
    let wanted = match policy {
        Policy::Unsaid => return,
        Policy::Background => None,
        Policy::Foreground => Some(FOREGROUND),
        Policy::Orphan => Some(ORPHAN),
    };
    let mut finalizers = object::list(object, "/metadata/finalizers").to_vec();
    finalizers.retain(|one| one != FOREGROUND && one != ORPHAN);
    finalizers.extend(wanted.map(Value::from));
    set_finalizers(object, finalizers);
}

fn set_finalizers(object: &mut Value, finalizers: Vec<Value>) {
    if finalizers.is_empty() {
        object::meta_mut(object).remove("finalizers");
    } else {
        object::set_meta(object, "finalizers", finalizers);
    }
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    let mut finalizers = object::list(object, "/metadata/finalizers").iter();
    finalizers.any(|one| one == name)
}

/// Marks an object as on its way out.
fn mark(object: &mut Value) {
    object::set_meta(object, "deletionTimestamp", clock::timestamp());
    object::set_meta(object, "deletionGracePeriodSeconds", 0);
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        object::set_meta(object, "generation", generation + 1);
    }
}

/// Whether an object that is on its way out, and now is `new`, may go.
pub(crate) fn may_go(tx: &Tx<'_>, key: &Key, new: &Value) -> bool {
    object::is_terminating(new)
        && !object::has_finalizers(new)
        && (&*key.resource != NAMESPACES || is_empty(tx, &key.name))
}

/// Removes an object for good, and with the last object of a terminating namespace the namespace.
pub(crate) fn finish(tx: &mut Tx<'_>, key: Key, last: Value) -> Arc<Value> {
    let namespace = key.namespace.clone();
    let removed = tx.delete(key).unwrap_or_else(|| Arc::new(last));
    if !namespace.is_empty() {
        let key = Key {
            resource: NAMESPACES.into(),
            namespace: String::new(),
            name: namespace,
        };
        if let Some(ns) = tx.get(&key)
            && may_go(tx, &key, &ns)
        {
            tx.delete(key);
        }
    }
    removed
}

/// Deletes what is in a namespace; `false` when something there waits for its finalizers.
fn empty_namespace(tx: &mut Tx<'_>, namespace: &str) -> bool {
    let mut all_gone = true;
    for (key, object) in contents(tx, namespace) {
        if object::has_finalizers(&object) {
            all_gone = false;
            if !object::is_terminating(&object) {
                let mut marked = (*object).clone();
                mark(&mut marked);
                tx.put(key, marked);
            }
        } else {
            tx.delete(key);
        }
    }
    all_gone
}

fn is_empty(tx: &Tx<'_>, namespace: &str) -> bool {
    contents(tx, namespace).is_empty()
}

fn contents(tx: &Tx<'_>, namespace: &str) -> Vec<(Key, Arc<Value>)> {
    let mut all = Vec::new();
    for resource in tx.resources() {
        for object in tx.list(&resource, Some(namespace)) {
            let name = object::name(&object).to_owned();
            all.push((
                Key {
                    resource: resource.clone(),
                    namespace: namespace.to_owned(),
                    name,
                },
                object,
            ));
        }
    }
    all
}

/// Does what follows from the changes staged after the first `from`, and from what that changes in turn. Ends, because each
/// step takes away an object, a reference or a finalizer.
pub(crate) fn settle(tx: &mut Tx<'_>, from: usize) {
    let mut at = from;
    while let Some((key, before, after)) = tx.staged(at) {
        at += 1;
        let owners_before = before.as_deref().map(owner_uids).unwrap_or_default();
        match after {
            None => {
                let uid = before.as_deref().map_or("", |old| object::meta(old, "uid"));
                for dependent in tx.owners.dependents(uid) {
                    review(tx, &dependent);
                }
                for owner in owners_before {
                    release_waiting(tx, &owner);
                }
            }
            // Superseded by a later change, which is looked at in its turn.
            Some(after) if tx.get(&key).is_none_or(|now| !Arc::ptr_eq(&now, &after)) => {}
            Some(after) => {
                let owners = owner_uids(&after);
                if owners != owners_before {
                    review(tx, &key);
                    for lost in owners_before.iter().filter(|uid| !owners.contains(uid)) {
                        release_waiting(tx, lost);
                    }
                }
                if object::is_terminating(&after) {
                    let uid = object::meta(&after, "uid");
                    if has_finalizer(&after, ORPHAN) {
                        orphan(tx, key, uid);
                    } else if has_finalizer(&after, FOREGROUND) {
                        for dependent in tx.owners.dependents(uid) {
                            review(tx, &dependent);
                        }
                        release_waiting(tx, uid);
                    }
                }
            }
        }
    }
}

fn owner_uids(object: &Value) -> Vec<String> {
    let references = object::list(object, "/metadata/ownerReferences").iter();
    references
        .map(|one| object::text(one, "/uid").to_owned())
        .collect()
}

/// How an owner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Present,
    /// On its way out, as soon as what it owns is gone.
    Waiting,
    Absent,
}

fn standing(tx: &Tx<'_>, key: &Key, reference: &Value) -> Standing {
    if !tx.owners.knows(reference) {
        // Of a kind that is not served here, nobody can say that it is gone.
        return Standing::Present;
    }
    let Some(owner) = tx.owners.owner(object::text(reference, "/uid")) else {
        return Standing::Absent;
    };
    // An owner is an object of the cluster, or of the same namespace.
    let reachable = owner.namespace.is_empty() || owner.namespace == key.namespace;
    if !reachable || owner.name != object::text(reference, "/name") {
        return Standing::Absent;
    }
    match tx.get(owner) {
        Some(owner) if object::is_terminating(&owner) && has_finalizer(&owner, FOREGROUND) => {
            Standing::Waiting
        }
        Some(_) => Standing::Present,
        None => Standing::Absent,
    }
}

/// Deletes an object without an owner that stays, and takes away references to those that do not.
fn review(tx: &mut Tx<'_>, key: &Key) {
    let Some(object) = tx.get(key).filter(|_| &*key.resource != EVENTS) else {
        return;
    };
    let references = object::list(&object, "/metadata/ownerReferences");
    let standings: Vec<Standing> = references
        .iter()
        .map(|reference| standing(tx, key, reference))
        .collect();
    let count = |wanted: Standing| standings.iter().filter(|one| **one == wanted).count();
    if count(Standing::Present) == references.len() {
        return;
    }
    if count(Standing::Present) > 0 {
        let kept = references.iter().zip(&standings);
        let kept: Vec<Value> = kept
            .filter(|(_, standing)| **standing == Standing::Present)
            .map(|(reference, _)| reference.clone())
            .collect();
        let mut freed = (*object).clone();
        object::set_meta(&mut freed, "ownerReferences", kept);
        tx.put(key.clone(), freed);
        return;
    }
    if object::is_terminating(&object) {
        return;
    }
    let owns = !tx
        .owners
        .dependents(object::meta(&object, "uid"))
        .is_empty();
    let policy = if count(Standing::Waiting) > 0 && owns {
        Policy::Foreground
    } else {
        Policy::Unsaid
    };
    remove(tx, key.clone(), policy);
}

/// Lets an owner go that waited for what it owns, if nothing of that holds it any more.
fn release_waiting(tx: &mut Tx<'_>, uid: &str) {
    let Some(key) = tx.owners.owner(uid).cloned() else {
        return;
    };
    let Some(owner) = tx.get(&key) else { return };
    let waits = object::is_terminating(&owner) && has_finalizer(&owner, FOREGROUND);
    let blocks = |dependent: &Key| {
        tx.get(dependent).is_some_and(|dependent| {
            let mut references = object::list(&dependent, "/metadata/ownerReferences").iter();
            references.any(|one| one["uid"] == uid && one["blockOwnerDeletion"] == json!(true))
        })
    };
    if waits && !tx.owners.dependents(uid).iter().any(blocks) {
        let_go(tx, key, &owner, FOREGROUND);
    }
}

/// Takes the owner out of what it owns, then lets it go.
fn orphan(tx: &mut Tx<'_>, key: Key, uid: &str) {
    for dependent in tx.owners.dependents(uid) {
        let Some(object) = tx.get(&dependent) else {
            continue;
        };
        let mut freed = (*object).clone();
        let mut references = object::list(&object, "/metadata/ownerReferences").to_vec();
        references.retain(|one| one["uid"] != uid);
        if references.is_empty() {
            object::meta_mut(&mut freed).remove("ownerReferences");
        } else {
            object::set_meta(&mut freed, "ownerReferences", references);
        }
        tx.put(dependent, freed);
    }
    if let Some(owner) = tx.get(&key) {
        let_go(tx, key, &owner, ORPHAN);
    }
}

/// Takes a finalizer of ours away.
fn let_go(tx: &mut Tx<'_>, key: Key, object: &Value, finalizer: &str) {
    let mut freed = object.clone();
    let mut finalizers = object::list(object, "/metadata/finalizers").to_vec();
    finalizers.retain(|one| one != finalizer);
    set_finalizers(&mut freed, finalizers);
    if may_go(tx, &key, &freed) {
        finish(tx, key, freed);
    } else {
        tx.put(key, freed);
    }
}
