//! Who may hold an address together.

use fairlead_model::TrafficPolicy;

use super::{Namespaces, ServiceInput};

/// Why two Services may not share an address; prints the text that the condition's message ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// The keys differ, or there is none.
    #[error("different sharing key")]
    Key,
    /// One does not let the other's namespace in.
    #[error("different and not permitted namespace")]
    Namespace,
    /// Both want the same port.
    #[error("same port and protocol")]
    Port,
    /// One is `Local`, the other `Cluster`.
    #[error("different ExternalTrafficPolicy")]
    TrafficPolicy,
    /// Both are `Local`, but for different pods.
    #[error("compatible ExternalTrafficPolicy local but selecting different set of pods")]
    Pods,
}

impl Incompatible {
    /// The closed word for metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Key => "DifferentSharingKey",
            Self::Namespace => "NamespaceNotPermitted",
            Self::Port => "SamePort",
            Self::TrafficPolicy => "DifferentTrafficPolicy",
            Self::Pods => "DifferentPods",
        }
    }
}

/// # Errors
/// The first rule of the specification's table (section 1.6) that forbids sharing.
pub fn compatible(a: &ServiceInput, b: &ServiceInput) -> Result<(), Incompatible> {
    let (one, two) = (&a.sharing, &b.sharing);
    if one.key.is_empty() || one.key != two.key {
        return Err(Incompatible::Key);
    }
    let permits = |host: &ServiceInput, guest: &ServiceInput| match &host.sharing.namespaces {
        Namespaces::All => true,
        Namespaces::Listed(list) => list.iter().any(|ns| ns == guest.name.namespace()),
    };
    let is_same = a.name.namespace() == b.name.namespace();
    let is_permitted = permits(a, b) && permits(b, a);
    if !is_same && !is_permitted {
        return Err(Incompatible::Namespace);
    }
    if one.ports.iter().any(|port| two.ports.contains(port)) {
        return Err(Incompatible::Port);
    }
    if one.traffic_policy != two.traffic_policy {
        return Err(Incompatible::TrafficPolicy);
    }
    let is_local = one.traffic_policy == TrafficPolicy::Local;
    if is_local && (one.pods.is_empty() || one.pods != two.pods) {
        return Err(Incompatible::Pods);
    }
    Ok(())
}
