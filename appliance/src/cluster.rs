//! Several appliances as one group: who serves the API, how another one is let in, and how it takes over.
//!
//! ```text
//!            token, CSR, CA pinned by its hash                 certificate, heartbeat key
//!  joiner ─────────────────────────────────────▶ the node that serves ─────────▶ joiner: a member
//!  member: route (who serves now?) · copy (everything, on disk) · renew (its certificate) · promoted?
//!  server: fence (does anybody serve a later reign?) · asked to yield?
//! ```
//! Invariant: of two nodes that serve, the one of the lower [`Fence`](fairlead_apiserver::Fence) stops as soon as it hears of the other,
//! and a member never follows a lower one than it has seen.
//! Read [`home`] for what is on disk, [`control`] for who does what when, [`promote`](mod@promote) for the takeover.

pub mod control;
pub mod copy;
pub mod disk;
pub mod enrol;
pub mod home;
pub mod link;
pub mod promote;
pub mod token;
pub mod wire;
