//! Where the embedded API answers otherwise. A row that nothing needs any more fails the suite, so the list only shrinks by itself.
//!
//! Rows name the step by its place in its story. The reasons come in three kinds: it *says more or less of the same*, it is *of no
//! use without the rest of Kubernetes*, or it is a *gap* that may be closed.

/// One expected difference.
pub(crate) struct Difference {
    /// Story and step, `*` for any text.
    pub(crate) at: &'static str,
    /// `code`, `warnings` or a JSON pointer, `*` for any text.
    pub(crate) place: &'static str,
    /// Why it may be so.
    pub(crate) why: &'static str,
}

const fn row(at: &'static str, place: &'static str, why: &'static str) -> Difference {
    Difference { at, place, why }
}

const TYPES: &str = "a value of another type: found by the schema (422, with the field) and not by a decoder before it (400)";
const OPTIONS: &str = "an option with an unknown value: 400 instead of 422; the reason names option and value all the same";
const CREATE_VERSION: &str = "resourceVersion on create is refused (400) also in a dry run; kube-apiserver answers 500 or ignores it";
const APPLY: &str = "server-side apply is refused with 415 as long as no field ownership is kept";
const NULLS: &str = "null for a list or map: refused by the schema; kube-apiserver drops it";
const DELETED: &str =
    "what was deleted is answered with a Status, by kube-apiserver with the object";
const NOT_READY: &str = "the taint node.kubernetes.io/not-ready is for schedulers and kubelets, of which there are none";
const ZEROES: &str = "status of a Node: kube-apiserver writes out zero values of Go structs";
const NAMESPACE: &str = "a namespace is gone at once: nothing else runs that would have to clean up, and it has no finalizer of its own";
const GENERATION: &str = "gap: the generation of an EndpointSlice counts changes of content only; kube-apiserver counts labels too";
const CAUSES: &str = "the same refusal, its causes divided otherwise: kube-apiserver says some twice, or names the list instead of the item";
const ORDER: &str =
    "gap: strategic merge puts new list items last; kube-apiserver puts the patch's first";
const VALIDATION: &str = "gap: a check of kube-apiserver that is not made here";
const WARNINGS: &str = "gap: a warning that is not given; the object is the same";
const SELECTORS: &str =
    "gap: a selector that kube-apiserver refuses is read as one that matches nothing";
const LISTS: &str = "gap: list options that contradict each other or cannot be read";

pub(crate) const DIFFERENCES: &[Difference] = &[
    // === every kind ===
    row(
        "*",
        "/items/*/apiVersion",
        "items of lists say their type, which clients of kube-apiserver fill in themselves",
    ),
    row("*", "/items/*/kind", "as apiVersion"),
    row("refuse/*: 6 *", "code", CREATE_VERSION),
    row("refuse/*: 9 *", "code", TYPES),
    row("refuse/*: 11 *", "code", VALIDATION),
    row("refuse/*: 11 *", "warnings", WARNINGS),
    row("refuse/*: 12 *", "/details/causes/0/*", CAUSES),
    row("refuse/*: 17 *", "code", OPTIONS),
    row("refuse/*: 18 *", "code", OPTIONS),
    row(
        "refuse/*: 21 *",
        "code",
        "the object is looked up before names are compared: 404 instead of 400 for one that is not there",
    ),
    row(
        "life/*: 13 *",
        "/details/kind",
        "a failed precondition names the resource, as other refusals do, and not the kind",
    ),
    row("life/*: 14 *", "/details/kind", "as for the uid"),
    row("patch/*: 4 *", "/details/causes", CAUSES),
    row(
        "patch/*: 8 *",
        "code",
        "an unknown operation of a JSON patch: 400 instead of 422",
    ),
    row("patch/* (apply)", "code", APPLY),
    row(
        "patch/*: 21 *",
        "code",
        "gap: the length of fieldManager is not checked; nothing keeps it",
    ),
    row("final/*: 4 *", "/details/causes", CAUSES),
    row(
        "final/*: 6 *",
        "/metadata/finalizers",
        "the write that takes the last finalizer answers the object as it was last",
    ),
    row("list/*: 11 *", "code", SELECTORS),
    row("list/*: 15 *", "code", SELECTORS),
    row("list/*: 28 *", "code", LISTS),
    row(
        "watch/*: 11 *",
        "code",
        "a resourceVersion that is no number: 400 instead of 500",
    ),
    row("watch/*: 12 *", "code", OPTIONS),
    row("watch/*: 13 *", "code", SELECTORS),
    row(
        "watch/*: 14 *",
        "",
        "`watch` on a named object watches it; kube-apiserver answers the object",
    ),
    row(
        "odd/*: 4 *",
        "code",
        "null is no object (400); kube-apiserver takes it for an empty one (422)",
    ),
    // === custom resources ===
    row(
        "refuse/Cilium*: 4 *",
        "code",
        "another kind in the body: 400 as for built-in kinds",
    ),
    row(
        "refuse/Cilium*: 19 *",
        "code",
        "POST to a named object: 405 as for built-in kinds; kube-apiserver creates it",
    ),
    row(
        "refuse/Cilium*: 25 *",
        "code",
        "PUT to a collection: 405 as for built-in kinds",
    ),
    row(
        "refuse/Cilium*: 26 *",
        "code",
        "PATCH to a collection: 405 as for built-in kinds",
    ),
    row(
        "refuse/Cilium*: 27 *",
        "/details",
        "a path that does not exist has no details, as for built-in kinds",
    ),
    row(
        "odd/Cilium*: 14 *",
        "/details",
        "405 has no details, as for built-in kinds",
    ),
    row(
        "odd/Cilium*: 15 *",
        "/details",
        "405 has no details, as for built-in kinds",
    ),
    row("pools: 1 *", "/details/causes/0/reason", NULLS),
    row("pools: 5 *", "/details/causes/0/reason", CAUSES),
    row("pools: 6 *", "/details/causes/0/reason", CAUSES),
    row("pools: 8 *", "warnings", WARNINGS),
    row("pools: 10 *", "code", NULLS),
    row("pools: 13 *", "/details/causes", CAUSES),
    row(
        "pools: 27 *",
        "warnings",
        "the warning of an old version does not name the new one",
    ),
    row("pools: 28 *", "warnings", WARNINGS),
    row(
        "pools: 30 *",
        "warnings",
        "the warning of an old version does not name the new one",
    ),
    row("policies: 1 *", "code", NULLS),
    row("pool-status: 5 *", "/details/causes", CAUSES),
    row("pool-status: 7 *", "/details/causes/0/reason", NULLS),
    row("pool-status: 8 *", "/details/causes/0/reason", CAUSES),
    row("pool-status: 10 *", "/details/causes", CAUSES),
    row(
        "pool-status: 15 *",
        "/details/kind",
        "a conflict names the kind in one place and the resource in another",
    ),
    // === Services ===
    row("*/Service: * DELETE *", "/*", DELETED),
    row("refuse/Service: 22 *", "code", CREATE_VERSION),
    row(
        "refuse/Service: 23 *",
        "code",
        "gap: a uid on create by PUT is not compared",
    ),
    row(
        "service-types: 17 *",
        "/details/causes/0/field",
        "the field's name as it is written; kube-apiserver begins it with a capital",
    ),
    row("service-types: 18 *", "/details/causes/0/field", "as above"),
    row("service-types: 19 *", "/details/causes/0/field", "as above"),
    row("service-types: 34 *", "warnings", WARNINGS),
    row("service-types: 39 *", "warnings", WARNINGS),
    row("service-types: 43 *", "code", VALIDATION),
    row("service-ports: 1 *", "/details/causes", CAUSES),
    row("service-ports: 2 *", "/details/causes", CAUSES),
    row("service-ports: 3 *", "/details/causes", CAUSES),
    row("service-ports: 4 *", "/details/causes", CAUSES),
    row("service-ports: 5 *", "code", TYPES),
    row("service-ports: 6 *", "code", TYPES),
    row(
        "service-ports: 24 *",
        "code",
        "a node port out of range is refused also in a dry run",
    ),
    row(
        "service-ports: 25 *",
        "code",
        "a node port out of range is refused also in a dry run",
    ),
    row("service-ports: 26 *", "/details/causes/0/reason", CAUSES),
    row("service-ports: 27 *", "code", VALIDATION),
    row("service-ports: 29 *", "code", VALIDATION),
    row("service-ports: 30 *", "code", TYPES),
    row("service-addresses: 1 *", "/details/causes/0/field", CAUSES),
    row("service-addresses: 2 *", "code", VALIDATION),
    row("service-addresses: 7 *", "code", VALIDATION),
    row("service-addresses: 8 *", "code", VALIDATION),
    row("service-addresses: 9 *", "code", VALIDATION),
    row("service-addresses: 14 *", "code", VALIDATION),
    row("service-addresses: 27 *", "code", VALIDATION),
    row("service-changes: 3 *", "/details/causes", CAUSES),
    row("service-changes: 5 *", "/details/causes/0/field", CAUSES),
    row("service-changes: 11 *", "/spec/ports/*", ORDER),
    row(
        "service-changes: 14 *",
        "code",
        "an item without its merge key: 422 instead of 500",
    ),
    row("service-changes: 27 *", "/details/causes/0/field", CAUSES),
    row(
        "service-status: 2 *",
        "/status/loadBalancer/ingress/0/ipMode",
        "gap: ipMode VIP is not filled in",
    ),
    row(
        "service-status: 3 *",
        "/status/loadBalancer/ingress/0/ipMode",
        "as above",
    ),
    row(
        "service-status: 4 *",
        "/status/loadBalancer/ingress/*/ipMode",
        "as above",
    ),
    row("service-status: 5 *", "code", VALIDATION),
    row("service-status: 8 *", "code", VALIDATION),
    row("service-status: 16 *", "/details/*", TYPES),
    row("service-status: 17 *", "/status/conditions/*", ORDER),
    row("service-status: 18 *", "/status/conditions/*", ORDER),
    row("service-status: 19 *", "/status/conditions/*", ORDER),
    row("service-status: 20 *", "/status/conditions/*", ORDER),
    row("service-status: 22 *", "/status/conditions/*", ORDER),
    row("service-status: 23 *", "code", VALIDATION),
    // === EndpointSlices ===
    row("*/EndpointSlice: *", "*/metadata/generation", GENERATION),
    row("slice-changes: 1 *", "/details/causes", CAUSES),
    row("slices: 4 *", "/details/causes/0/field", CAUSES),
    row("slices: 5 *", "warnings", WARNINGS),
    row("slices: 10 *", "/details/causes/0/field", CAUSES),
    row("slices: 23 *", "code", VALIDATION),
    row(
        "slices: 25 *",
        "/endpoints/0/deprecatedTopology",
        "gap: a field of v1beta1 that kube-apiserver drops",
    ),
    row(
        "slices: 27 *",
        "code",
        "port 0 is refused: nothing can be sent there",
    ),
    row(
        "slices: 28 *",
        "code",
        "port 65536 is refused: there is none",
    ),
    row("slices: 33 *", "code", VALIDATION),
    // === ConfigMaps, Secrets, Events ===
    row(
        "*/ConfigMap: *",
        "/rows/*/cells/*",
        "a count in a table is text",
    ),
    row(
        "*/Secret: *",
        "/rows/*/cells/*",
        "a count in a table is text",
    ),
    row(
        "*/Event: *",
        "/rows/*/cells/*",
        "a count in a table is text",
    ),
    row(
        "watch/*: 16 *",
        "/*/object/rows/*/cells/*",
        "a count in a table is text",
    ),
    row("config-maps: 3 *", "code", TYPES),
    row("config-maps: 4 *", "code", NULLS),
    row("config-maps: 6 *", "code", TYPES),
    row("config-maps: 8 *", "/details/causes/0/field", CAUSES),
    row("config-maps: 10 *", "/details/*", CAUSES),
    row("config-maps: 15 *", "/details/causes", CAUSES),
    row("secrets: 3 *", "code", TYPES),
    row("secrets: 6 *", "warnings", WARNINGS),
    row(
        "secrets: 7 *",
        "code",
        "gap: types of Secrets that nothing here reads are not checked",
    ),
    row("secrets: 10 *", "code", "as above"),
    row("secrets: 11 *", "code", "as above"),
    row(
        "refuse/Event: 1 *",
        "code",
        "names of Events are checked as those of all kinds",
    ),
    row(
        "refuse/Event: 2 *",
        "code",
        "names of Events are checked as those of all kinds",
    ),
    row(
        "refuse/Event: 3 *",
        "code",
        "names of Events are checked as those of all kinds",
    ),
    row("refuse/Event: 22 *", "code", CREATE_VERSION),
    row(
        "refuse/Event: 23 *",
        "code",
        "gap: a uid on create by PUT is not compared",
    ),
    row("events: 3 *", "code", VALIDATION),
    row("events: 5 *", "code", VALIDATION),
    // === Leases ===
    row("refuse/Lease: 22 *", "code", CREATE_VERSION),
    row(
        "refuse/Lease: 23 *",
        "code",
        "gap: a uid on create by PUT is not compared",
    ),
    row(
        "refuse/Lease: 24 *",
        "code",
        "gap: PUT of a Lease without resourceVersion is taken",
    ),
    row("leases: 7 *", "code", "a time without microseconds is read"),
    row("leases: 8 *", "code", TYPES),
    row(
        "leases: 9 *",
        "/spec/renewTime",
        "a time stays in the zone it was written in",
    ),
    row(
        "leases: 10 *",
        "/spec",
        "gap: fields of coordinated leader election are kept; kube-apiserver drops them while that is off",
    ),
    row("leases: 11 *", "/spec", "as above"),
    row(
        "leases: 13 *",
        "code",
        "gap: PUT of a Lease without resourceVersion is taken",
    ),
    // === Nodes and namespaces ===
    row("*/Node: *", "*/spec/taints", NOT_READY),
    row("nodes: *", "/spec", NOT_READY),
    row("nodes: *", "/spec/taints", NOT_READY),
    row("*/Node: *", "*/status", ZEROES),
    row("nodes: *", "/status", ZEROES),
    row("nodes: *", "/status/daemonEndpoints", ZEROES),
    row(
        "nodes: *",
        "/spec/podCIDR*",
        "gap: podCIDR and podCIDRs do not fill in one another, nor are they fixed",
    ),
    row("nodes: 4 *", "code", VALIDATION),
    row("nodes: 7 *", "code", VALIDATION),
    row("nodes: 8 *", "code", VALIDATION),
    row("nodes: 16 *", "code", VALIDATION),
    row("*/Namespace: * DELETE *", "/*", DELETED),
    row("*/Namespace: *", "/spec", NAMESPACE),
    row("life/Namespace: 16 *", "code", NAMESPACE),
    row("life/Namespace: 17 *", "code", NAMESPACE),
    row("life/Namespace: 18 *", "code", NAMESPACE),
    row(
        "final/Namespace: *",
        "/metadata/deletionGracePeriodSeconds",
        NAMESPACE,
    ),
    row("final/Namespace: 7 *", "code", NAMESPACE),
    row(
        "list/Namespace: 29 *",
        "code",
        "gap: a collection of namespaces may be deleted",
    ),
    row("watch/Namespace: 16 *", "/*", NAMESPACE),
    row(
        "namespaces: 12 *",
        "code",
        "gap: a collection of namespaces may be deleted, save for those that must stay",
    ),
    row("namespaces: 14 *", "code", VALIDATION),
    // === paths ===
    row(
        "policies: 12 *",
        "",
        "a path that does not exist is answered with a Status; kube-apiserver writes text",
    ),
    row("paths: 1 *", "", "as above"),
    row("paths: 2 *", "", "as above"),
    row("paths: 6 *", "", "as above"),
    row("paths: 10 *", "", "as above"),
    row(
        "paths: 0 *",
        "/serverAddressByClientCIDRs",
        "one address, which the client knows already",
    ),
    row(
        "paths: 4 *",
        "/resources/*/storageVersionHash",
        "for migration of stored versions, of which there is one",
    ),
    row("paths: 5 *", "/resources/*/storageVersionHash", "as above"),
    row(
        "paths: 17 *",
        "/details",
        "a subresource that does not exist has no details",
    ),
];

/// Whether `text` fits `pattern`, in which `*` stands for any text.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            rest.is_empty()
                || text
                    .char_indices()
                    .map(|(at, _)| at)
                    .chain([text.len()])
                    .any(|at| fits(rest, &text[at..]))
        }),
    }
}
