//! CRDs are written when they must be, and only then.

use fairlead_api::crds;

use super::{Action, action};

#[test]
fn absent_ones_are_created_and_current_ones_kept() {
    let ours = &crds()[0];
    assert_eq!(action(None, ours), Action::Create);
    let mut served = ours.clone();
    // What an API server adds.
    served.metadata.resource_version = Some("7".into());
    served.spec.preserve_unknown_fields = Some(false);
    served.spec.conversion = serde_norway::from_str("strategy: None").unwrap();
    assert_eq!(action(Some(&served), ours), Action::Keep);
}

#[test]
fn a_stale_one_is_replaced_at_its_version() {
    let ours = &crds()[0];
    let mut stale = ours.clone();
    stale.metadata.resource_version = Some("7".into());
    stale.spec.versions.pop();
    let Action::Replace(next) = action(Some(&stale), ours) else {
        panic!("a version is missing");
    };
    assert_eq!(next.spec, ours.spec);
    assert_eq!(next.metadata.resource_version.as_deref(), Some("7"));
}

#[test]
fn ciliums_own_are_left_to_its_operator() {
    let ours = &crds()[0];
    let mut theirs = ours.clone();
    theirs.spec.versions.pop();
    let labels = theirs.metadata.labels.get_or_insert_default();
    labels.insert("io.cilium.k8s.crd.schema.version".into(), "1.34.3".into());
    assert_eq!(action(Some(&theirs), ours), Action::LeaveToCilium);
}
