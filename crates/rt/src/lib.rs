//! How a process starts, lives and stops: supervisor, shutdown, clock, tracing, metrics, configuration.
//!
//! Invariant: every task and thread has an owner that notices its death (style.md rule 7). Roots begin with [`root::run`],
//! everything below them with a [`Supervisor`] or, where the order of stopping matters, [`Stages`].
//! Read [`supervisor`] first, then [`stages`].
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod blocking;
pub mod clock;
pub mod logging;
pub mod metrics;
pub mod root;
pub mod settings;
pub mod stages;
pub mod supervisor;
pub mod tasks;

pub use blocking::blocking;
pub use metrics::Metrics;
pub use stages::Stages;
pub use supervisor::{BoxError, ExitError, Supervisor};
pub use tasks::Tasks;
pub use tokio_util::sync::CancellationToken;
