//! The per-node root: watches, plans, programs, announces.
