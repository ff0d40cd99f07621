//! API, operator and agent in one process, for machines without Kubernetes.
//!
//! ```text
//!            stops last                                              stops first
//!  serving:  apiserver ◀── kube ──┬── operator ◀── manifests         agent
//!                                 └── agent (XDP, ARP/NDP, heartbeats, local API)
//!  member:   (another one's)    ◀── kube over TLS ─────────────────  agent
//! ```
//!
//! Invariant: the agent never waits for the API once it runs; with the API gone it goes on with its last complete snapshot.
//! Read [`run`](mod@run) for the order of things, [`manifests`] for how files become objects, [`cluster`] for how
//! several become one group, [`config`] for the configuration file and the way back from a bad one, [`join`] for how a process finds an API by a kubeconfig.
#![forbid(unsafe_code)]

pub mod args;
pub mod cluster;
pub mod command;
pub mod config;
pub mod install;
pub mod join;
pub mod manifests;
pub mod register;
pub mod run;

pub use args::Args;
pub use run::run;
