//! The kinds that are served: names, versions, schemas, columns, and the rules each follows.
//!
//! Invariant: everything that discovery, OpenAPI, tables and the handlers know of a kind, they know from here.
//! Next: `kinds/core.rs` (built in), `kinds/crd.rs` (from CustomResourceDefinitions).

mod core;
mod crd;
pub(crate) mod event;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::OpenError;
use crate::protobuf::Protobuf;
use crate::schema::Schema;
use crate::table::Column;

/// What a kind does beyond what its schema says. One word per built-in kind, one for all custom resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    Namespace,
    Node,
    Service,
    Secret,
    ConfigMap,
    Event,
    /// `events.k8s.io`: the same objects under newer field names.
    NewEvent,
    EndpointSlice,
    Lease,
    /// CustomResourceDefinition: this program's own, shown but not changed.
    Definition,
    /// Asked by POST and answered at once; nothing is stored.
    Review,
    /// ComponentStatus: the state of the API itself.
    Component,
    Custom,
}

impl Rules {
    /// Whether `metadata.generation` counts changes of the desired state. Kubernetes keeps none for most core kinds.
    pub(crate) const fn has_generation(self) -> bool {
        matches!(self, Self::EndpointSlice | Self::Definition | Self::Custom)
    }

    /// Whether a PUT without a resourceVersion overwrites.
    pub(crate) const fn overwrites_blindly(self) -> bool {
        !matches!(self, Self::Custom)
    }

    /// Whether a PUT creates what is not there.
    pub(crate) const fn put_creates(self) -> bool {
        matches!(
            self,
            Self::Service | Self::Event | Self::NewEvent | Self::Lease
        )
    }

    /// Whether a status update may also change labels and annotations: so it is with the built-in kinds.
    pub(crate) const fn status_carries_metadata(self) -> bool {
        !matches!(self, Self::Custom)
    }

    pub(crate) const fn is_built_in(self) -> bool {
        !matches!(self, Self::Custom)
    }

    /// What may be done with objects of the kind.
    pub(crate) const fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Review => &["create"],
            Self::Component => &["get", "list"],
            Self::Definition => &["get", "list", "watch"],
            _ => &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ],
        }
    }

    /// Whether the store keeps objects of the kind.
    pub(crate) const fn is_stored(self) -> bool {
        !matches!(self, Self::Review | Self::Component)
    }
}

/// One version of a kind.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) schema: Schema,
    /// Has a `/status`.
    pub(crate) status: bool,
    pub(crate) columns: Vec<Column>,
    /// Sent as a `Warning` header with every answer.
    pub(crate) warning: Option<String>,
    /// Name of its schema in OpenAPI documents.
    pub(crate) definition: String,
}

/// A kind and all its versions, which share one storage.
#[derive(Debug)]
#[expect(
    clippy::struct_field_names,
    reason = "`kind` and `listKind` are the API's own words"
)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) rules: Rules,
    /// `plural` or `plural.group`: the name in errors.
    pub(crate) resource: Arc<str>,
    /// The name in the store: the same, but where two groups show one set of objects.
    pub(crate) stored_in: Arc<str>,
    pub(crate) versions: Vec<Version>,
    /// The `apiVersion` objects are stored with.
    pub(crate) stored_as: String,
}

impl Kind {
    /// `group/version`, or the version alone in the core group.
    pub(crate) fn api_version(&self, version: &str) -> String {
        api_version(&self.group, version)
    }
}

pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// A kind in one of its versions, as a request path names it.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) kind: Arc<Kind>,
    index: usize,
}

impl Served {
    pub(crate) fn version(&self) -> &Version {
        &self.kind.versions[self.index]
    }

    pub(crate) fn api_version(&self) -> String {
        self.kind.api_version(&self.version().name)
    }
}

/// All kinds.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Built-in kinds first, then custom ones in the order given.
    pub(crate) kinds: Vec<Arc<Kind>>,
    /// OpenAPI definitions of all kinds and what they refer to.
    pub(crate) definitions: Map<String, Value>,
    pub(crate) protobuf: Protobuf,
    by_path: HashMap<(String, String, String), Served>,
}

impl Registry {
    /// The built-in kinds and those that `crds` define.
    pub(crate) fn new(crds: &[Value]) -> Result<Self, OpenError> {
        let mut definitions = core::definitions();
        let mut kinds = core::kinds(&definitions);
        for definition in crds {
            let (kind, schemas) = crd::parse(definition, &definitions)?;
            if kinds.iter().any(|other| other.resource == kind.resource) {
                return Err(crd::error(
                    definition,
                    "metadata.name",
                    "this resource is defined twice",
                ));
            }
            definitions.extend(schemas);
            kinds.push(kind);
        }
        let kinds: Vec<Arc<Kind>> = kinds.into_iter().map(Arc::new).collect();
        let mut by_path = HashMap::new();
        for kind in &kinds {
            for (index, version) in kind.versions.iter().enumerate() {
                let path = (
                    kind.group.clone(),
                    version.name.clone(),
                    kind.plural.clone(),
                );
                by_path.insert(
                    path,
                    Served {
                        kind: kind.clone(),
                        index,
                    },
                );
            }
        }
        Ok(Self {
            kinds,
            definitions,
            protobuf: Protobuf::new(),
            by_path,
        })
    }

    /// The names under which the store keeps objects, each once.
    pub(crate) fn stored(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for kind in self.kinds.iter().filter(|kind| kind.rules.is_stored()) {
            if !names.contains(&kind.stored_in) {
                names.push(kind.stored_in.clone());
            }
        }
        names
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        self.by_path
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Groups with their versions, most preferred first, in the order in which kinds were added; the core group is "".
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in &self.kinds {
            let at = groups
                .iter()
                .position(|(group, _)| *group == kind.group)
                .unwrap_or_else(|| {
                    groups.push((&kind.group, Vec::new()));
                    groups.len() - 1
                });
            for version in &kind.versions {
                if !groups[at].1.contains(&version.name.as_str()) {
                    groups[at].1.push(&version.name);
                }
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        }
        groups
    }

    /// The kinds of one group and version.
    pub(crate) fn of<'a>(&'a self, group: &str, version: &str) -> Vec<&'a Served> {
        let served = |kind: &Arc<Kind>| self.find(&kind.group, version, &kind.plural);
        self.kinds
            .iter()
            .filter(|kind| kind.group == group)
            .filter_map(served)
            .collect()
    }
}

/// Kubernetes' order of versions: stable before beta before alpha, then the higher number.
fn rank(version: &str) -> (u8, u32, u32) {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (stability, minor) = match &rest[digits..] {
            "" => (3, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(n), _) => (2, n.parse().ok()?),
                (_, Some(n)) => (1, n.parse().ok()?),
                _ => return None,
            },
        };
        Some((stability, major, minor))
    };
    parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut versions = [
            "v1alpha1", "v2", "v1beta2", "v1", "v2alpha1", "v1beta10", "foo",
        ];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        assert_eq!(
            versions,
            [
                "v2", "v1", "v1beta10", "v1beta2", "v2alpha1", "v1alpha1", "foo"
            ]
        );
    }

    #[test]
    fn built_in_kinds_compile_and_are_found_by_path() {
        let registry = Registry::new(&[]).unwrap();
        for (group, version, plural) in [
            ("", "v1", "services"),
            ("", "v1", "namespaces"),
            ("", "v1", "events"),
            ("discovery.k8s.io", "v1", "endpointslices"),
            ("coordination.k8s.io", "v1", "leases"),
        ] {
            assert!(
                registry.find(group, version, plural).is_some(),
                "{group}/{version} {plural}"
            );
        }
        assert!(registry.find("", "v1", "pods").is_none());
        let (old, new) = (
            registry.find("", "v1", "events").unwrap(),
            registry.find("events.k8s.io", "v1", "events").unwrap(),
        );
        assert_eq!(old.kind.stored_in, new.kind.stored_in);
    }
}
