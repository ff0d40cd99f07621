//! The container image as an OCI layout in one tar file, assembled without a daemon and without rights.
//!
//! ```text
//! tree::Tree ── paths and contents, sorted ──▶ layer::layer ── tar, gzip, digests ──▶ layout::write ── blobs, index, one tar file
//!    ▲ libraries::closure: what the binaries load, from this machine's Debian packages
//! ```
//! Invariant: the same binaries on the same machine give the same bytes. Every order is sorted, every owner is root, and every time is the
//! one that the caller gives.
#![forbid(unsafe_code)]

pub mod layer;
pub mod layout;
pub mod libraries;
pub mod tree;
