//! The Kubernetes surface: CRD types, names, conditions, conversions to the model, and the one watch that feeds an agent.
//!
//! Invariant: nothing past this crate sees an unvalidated spec, and nothing past [`watch`] sees an incomplete cluster
//! (style.md I6). The CRDs are Cilium's, field by field, so that manifests written for Cilium apply unmodified.
//! Read [`names`] for every string a user can meet, [`lb_ip_pool`] and [`l2_announcement_policy`] for the kinds,
//! [`convert`] for api → model, [`watch`] for the snapshots.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod address_reservation;
pub mod codegen;
pub mod condition;
pub mod config_keys;
pub mod convert;
pub mod ip_pool_usage;
pub mod l2_announcement_policy;
pub mod label_selector;
pub mod lb_ip_pool;
pub mod names;
mod schema;
pub mod view;
pub mod watch;

pub use address_reservation::AddressReservation;
pub use codegen::crds;
pub use convert::{ConvertError, Converted, Problem};
pub use ip_pool_usage::IPPoolUsage;
pub use l2_announcement_policy::v2alpha1::CiliumL2AnnouncementPolicy;
pub use lb_ip_pool::v2::CiliumLoadBalancerIPPool;
