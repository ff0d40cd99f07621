//! What a Service asks for, and why it lacks it.

use std::net::IpAddr;

use fairlead_model::ServiceName;

use super::{Family, FamilyPolicy, ServiceInput, Settings, sharing::Incompatible};

/// Message of every Service that we serve while there is no pool at all.
pub const NO_POOL_AT_ALL: &str = "there is no CiliumLoadBalancerIPPool";

/// Why a Service lacks an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// There is nothing to give out.
    #[error("{NO_POOL_AT_ALL}")]
    NoPoolAtAll,
    /// No enabled pool selects it with an address of this family.
    #[error("no enabled pool selects this Service and has {0:?} addresses")]
    NoPoolOfFamily(Family),
    /// No enabled pool holds the requested address.
    #[error("no enabled pool contains {0}")]
    NoPoolWith(IpAddr),
    /// The Service names a pool that is not there.
    #[error("annotation fairlead.io/ip-pool names pool {0}, which does not exist")]
    NamedPoolMissing(String),
    /// The only pools with the address are not those that the Service names.
    #[error("{ip} lies in pool {pool}, which annotation fairlead.io/ip-pool does not name")]
    NotNamed {
        /// The address.
        ip: IpAddr,
        /// The oldest such pool.
        pool: String,
    },
    /// The address, or every address of the family, lies in a block that is refused.
    #[error("the blocks of pool {0} that could serve are refused: see its conditions")]
    Refused(String),
    /// It is kept for somebody else, or for nobody.
    #[error("{ip} is reserved by AddressReservation {by}")]
    KeptFor {
        /// The address.
        ip: IpAddr,
        /// The reservation.
        by: String,
    },
    /// An address that nobody can have.
    #[error("{0} is not given out: {1}")]
    Unusable(IpAddr, fairlead_api::convert::VipError),
    /// The only pools with the address do not select the Service.
    #[error("{ip} lies in pool {pool}, whose serviceSelector does not match this Service")]
    SelectorMismatch {
        /// The address.
        ip: IpAddr,
        /// The oldest such pool.
        pool: String,
    },
    /// Somebody else has it.
    #[error("{ip} is held by {holder}")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        holder: ServiceName,
    },
    /// Somebody has it whom we do not serve, or it is about to be released.
    #[error("{0} is held by a Service of another class")]
    TakenElsewhere(IpAddr),
    /// First or last address of a block with `allowFirstLastIPs: No`.
    #[error(
        "{ip} is the first or last address of a block of pool {pool}, which has allowFirstLastIPs: No"
    )]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// Its pool.
        pool: String,
    },
    /// It may not be shared.
    #[error("{ip} is held by {holder}: {why}")]
    MayNotShare {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        holder: ServiceName,
        /// The rule.
        why: Incompatible,
    },
    /// All matching pools are full.
    #[error("no free {family:?} address in {n_pools} matching pools")]
    OutOfIps {
        /// The family.
        family: Family,
        /// How many pools were searched.
        n_pools: usize,
    },
    /// Items of the request that are no address.
    #[error("requested `{0}`, which is no address")]
    BadRequest(String),
}

impl Lack {
    /// Cilium's word for it; `invalid_request` is ours, as Cilium drops such items without a word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoPoolAtAll
            | Self::NoPoolOfFamily(_)
            | Self::NoPoolWith(_)
            | Self::NamedPoolMissing(_)
            | Self::Refused(_)
            | Self::Unusable(..) => "no_pool",
            Self::SelectorMismatch { .. } | Self::NotNamed { .. } => "pool_selector_mismatch",
            Self::Taken { .. }
            | Self::TakenElsewhere(_)
            | Self::Reserved { .. }
            | Self::KeptFor { .. } => "already_allocated",
            Self::MayNotShare { .. } => "already_allocated_incompatible_service",
            Self::OutOfIps { .. } => "out_of_ips",
            Self::BadRequest(_) => "invalid_request",
        }
    }
}

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// Exactly these.
    Addresses(Vec<IpAddr>),
    /// One of each.
    Families(Vec<Family>),
}

impl Want {
    /// # Source
    /// Specification section 1.5.
    pub(super) fn of(service: &ServiceInput, settings: Settings) -> Self {
        if !service.requested.is_empty() || !service.bad_requests.is_empty() {
            return Self::Addresses(service.requested.clone());
        }
        let is_enabled = |family: &Family| match family {
            Family::V4 => settings.ipv4,
            Family::V6 => settings.ipv6,
        };
        let enabled = || {
            [Family::V4, Family::V6]
                .into_iter()
                .filter(is_enabled)
                .collect()
        };
        let families = match service.family_policy {
            FamilyPolicy::SingleStack => match service.families.first() {
                // Also one that the cluster has disabled: the user named it.
                Some(family) => vec![*family],
                None if settings.ipv4 => vec![Family::V4],
                None => vec![Family::V6],
            },
            FamilyPolicy::PreferDualStack if !service.families.is_empty() => service
                .families
                .iter()
                .copied()
                .filter(is_enabled)
                .collect(),
            FamilyPolicy::PreferDualStack | FamilyPolicy::RequireDualStack => enabled(),
        };
        Self::Families(families)
    }

    /// Whether holding the address is part of it.
    pub(super) fn allows(&self, ip: IpAddr) -> bool {
        match self {
            Self::Addresses(list) => list.contains(&ip),
            Self::Families(list) => list.contains(&Family::of(ip)),
        }
    }

    /// Whether these addresses are all of it.
    pub(super) fn is_covered(&self, held: &[IpAddr]) -> bool {
        match self {
            Self::Addresses(list) => list.iter().all(|ip| held.contains(ip)),
            Self::Families(list) => list
                .iter()
                .all(|f| held.iter().any(|ip| Family::of(*ip) == *f)),
        }
    }
}
