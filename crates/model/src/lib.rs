//! Words of the domain, always valid: no I/O, no async, no Kubernetes.
//!
//! Nothing past `fairlead-api` sees an unvalidated spec: conversions there build these types or say which field is wrong.
//! Read [`service`] for what a client dials and where it goes, [`snapshot`] for what an agent acts on.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod name;
pub mod net;
pub mod policy;
pub mod pool;
pub mod selector;
pub mod service;
pub mod snapshot;

pub use name::{NameError, NodeName, ServiceName};
pub use net::{IpRange, MacAddr, RangeError, Vip};
pub use policy::{L2Policy, Preference};
pub use pool::{Pool, PoolBlock};
pub use selector::{Labels, Operator, Requirement, Selector, SelectorError};
pub use service::{
    Backend, BackendState, ForwardingMode, Frontend, LoadBalancerClass, Protocol, Service,
    ServicePort, TrafficPolicy,
};
pub use snapshot::{Generation, Node, Snapshot};
