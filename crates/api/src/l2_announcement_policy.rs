//! `CiliumL2AnnouncementPolicy`: which Services are announced on the LAN, by which nodes, on which interfaces.

pub mod v2alpha1;
