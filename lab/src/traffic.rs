//! Clients and servers that measure. Clients are plain blocking code, run on a node's network by
//! [`crate::node::Node::in_netns`]; the protocol between them is in [`proto`].

pub mod ask;
pub mod connections;
pub mod dark;
pub mod echo;
pub mod probe;
pub mod proto;
pub mod requests;
