//! Address pools as LB-IPAM sees them.

use crate::{net::IpRange, selector::Selector};

/// One block of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolBlock {
    /// Its addresses.
    pub range: IpRange,
    /// Written as a prefix: first and last address may be reserved (`allowFirstLastIPs: No`).
    pub is_prefix: bool,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Object name.
    pub name: String,
    /// Seconds since the Unix epoch; older pools are searched first and win conflicts.
    pub created: i64,
    /// The readable blocks, in the order of the spec.
    pub blocks: Vec<PoolBlock>,
    /// What is wrong with the unreadable blocks: field path and message.
    pub bad_blocks: Vec<(String, String)>,
    /// Whether first and last address of prefix blocks may be given out.
    pub allow_first_last: bool,
    /// No new allocations.
    pub disabled: bool,
    /// Over service labels and the special name and namespace labels; `Err` is the message for the pool's condition.
    pub selector: Result<Selector, String>,
}
