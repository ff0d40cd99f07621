//! The cluster-wide root: LB-IPAM and what needs one writer.
