//! Which backends of static EndpointSlices answer, where no kubelet asks: TCP and HTTP checks, wanted by annotations on the Service.
//!
//! ```text
//! Services, EndpointSlices ──watch──▶ plan: what to check          pure
//!                                      └ engine: when, and since when it fails   sans-IO
//!                                         └ probe: connect, or GET
//!                     conditions.ready ◀── plan: what a slice should say         pure
//! ```
//! One node checks, the one that serves the API, and writes `conditions.ready` into the slices: every node reads the same answer, so that
//! their Maglev tables stay equal. With the API away the last answer stays.
//! Invariant: of the backends of a Service and family, one is always left ready, the last that failed.
//! Read [`settings`] for what users say, [`engine`] for thresholds, [`plan`] for slices, [`controller`] for the loop.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod controller;
pub mod engine;
pub mod plan;
pub mod probe;
pub mod settings;

pub use controller::run;
