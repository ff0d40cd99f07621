//! What a human is shown: views, how they render, and the client that asks an agent for them.
//!
//! Invariant: one definition per view. The agent serves these structs as JSON, the CLI renders them as table, JSON or YAML, and
//! later screens read the same. Read [`status`] and [`service`] for the views, [`render`] for how they look, [`explain`](mod@explain)
//! for the chain from Service to packet, [`client`] for asking.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod client;
pub mod error;
pub mod explain;
pub mod l2;
pub mod pool;
pub mod render;
pub mod service;
pub mod status;
pub mod text;
pub mod timestamp;

pub use client::{Client, ClientError};
pub use error::ErrorView;
pub use explain::{ExplainLink, ExplainView, LinkState};
pub use l2::{L2Event, L2Row};
pub use pool::IpPoolRow;
pub use render::{Format, Render, RenderError};
pub use service::{BackendView, ConditionView, FrontendView, ServiceView};
pub use status::{
    ApiView, GenerationView, HeartbeatView, InterfaceView, PeerView, ProblemView, ReasonView,
    StatusView,
};
pub use timestamp::Timestamp;
