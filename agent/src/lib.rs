//! The per-node root: watches, plans, programs, announces, and answers people on a local socket.
//!
//! Read [`run`](mod@run) for the order of things and what happens when a part stops, [`bridge`] for what features tell each other, [`views`] for
//! what people are shown. [`cleanup`] and [`decap`] are commands of their own.
#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod attachments;
pub mod bridge;
pub mod cleanup;
pub mod conditions;
pub mod config;
pub mod connection;
pub mod decap;
pub mod host_arp;
pub mod interfaces;
pub mod key;
pub mod metrics;
pub mod parts;
pub mod run;
pub mod socket;
pub mod views;

pub use config::AgentConfig;
pub use run::run;
