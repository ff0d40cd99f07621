//! The API as clients see it: a real server over TLS, and kube-rs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should end there"
)]

#[path = "api/client.rs"]
mod client;
#[path = "api/harness.rs"]
mod harness;
#[path = "api/owners.rs"]
mod owners;
#[path = "api/refusals.rs"]
mod refusals;
#[path = "api/watches.rs"]
mod watches;
