//! The embedded Kubernetes-style API: discovery, CRUD, list and watch, patch, validation, tables, on a durable store.
//!
//! It serves the kinds Fairlead uses (core/v1, EndpointSlice, Lease) and the custom resources it is given, so that kubectl
//! and controllers written for Kubernetes work where there is no Kubernetes.
//!
//! Invariants: an acknowledged write is on disk; nobody sees a change that is not; a watch misses nothing or says 410.
//! Read next: `server.rs` (life), `api.rs` (a request's way), `engine.rs` (state), `kinds.rs` (what is served).
#![forbid(unsafe_code)]

mod admit;
mod api;
mod auth;
mod clock;
mod config;
pub mod copy;
mod decode;
mod discovery;
mod door;
mod engine;
mod expression;
mod files;
mod jsonpath;
mod kinds;
pub mod member;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod removal;
mod rest;
mod schema;
mod selector;
mod server;
mod service;
mod stall;
mod status;
mod store;
mod strategic;
mod table;
mod tls;
mod validate;

pub use self::config::{Config, Limits, OpenError, RunError};
pub use self::copy::Copy;
pub use self::member::Fence;
pub use self::server::Server;
pub use self::store::StoreState;
