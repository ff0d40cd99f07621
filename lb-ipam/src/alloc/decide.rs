//! Who keeps what it holds, and who gets what is missing.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_api::convert::check_vip;
use fairlead_model::ServiceName;

use super::{
    Family, FamilyPolicy, Inputs, ServiceInput, Settings,
    holders::{Holders, Incompatible},
    pools::View,
};

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
            | Self::Unusable(..) => "no_pool",
            Self::SelectorMismatch { .. } => "pool_selector_mismatch",
            Self::Taken { .. } | Self::TakenElsewhere(_) | Self::Reserved { .. } => {
                "already_allocated"
            }
            Self::MayNotShare { .. } => "already_allocated_incompatible_service",
            Self::OutOfIps { .. } => "out_of_ips",
            Self::BadRequest(_) => "invalid_request",
        }
    }
}

/// The decision for one Service that we serve.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Its addresses, kept ones first, in the order of its status.
    pub(super) ingress: Vec<IpAddr>,
    /// Why something is missing; of several reasons the last, as in Cilium.
    pub(super) lack: Option<Lack>,
    /// What is missing may come with an address that is about to be released: say nothing yet.
    pub(super) is_waiting: bool,
}

/// All decisions.
pub(super) struct Decided<'a> {
    pub(super) by_service: BTreeMap<&'a ServiceName, Decision>,
    pub(super) holders: Holders<'a>,
}

pub(super) fn decide<'a>(inputs: &'a Inputs, views: &[View<'_>]) -> Decided<'a> {
    let is_ours = |s: &&ServiceInput| s.is_load_balancer && inputs.settings.serves(&s.class);
    let mut ours: Vec<&ServiceInput> = inputs.services.iter().filter(is_ours).collect();
    let mut round = Round {
        settings: inputs.settings,
        views,
        holders: Holders::default(),
        by_service: BTreeMap::new(),
    };
    ours.sort_by_cached_key(|s| {
        let wants = Want::of(s, inputs.settings);
        (
            !s.is_settled,
            !wants.is_covered(&s.ingress),
            s.created,
            s.name.clone(),
        )
    });
    for service in &ours {
        round.keep(service, |round, ip| round.is_in_pool(ip, service));
    }
    // Members of a group that joined by key alone stay as long as the one they joined.
    for service in &ours {
        round.keep(service, |round, ip| {
            round
                .holders
                .under_key(&service.sharing.key)
                .any(|held| held == ip)
        });
    }
    for service in &inputs.services {
        let is_released = is_ours(&service) || service.has_our_addresses();
        for ip in &service.ingress {
            if is_released {
                round.holders.close_until_released(*ip, service);
            } else {
                round.holders.close(*ip);
            }
        }
        for ip in &service.releasing {
            round.holders.close_until_released(*ip, service);
        }
    }
    ours.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    for service in &ours {
        round.give_requested(service);
    }
    for service in &ours {
        round.give_by_family(service);
    }
    Decided {
        by_service: round.by_service,
        holders: round.holders,
    }
}

// === impl Want ===

/// What a Service asks for.
#[derive(Debug, PartialEq, Eq)]
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

    fn allows(&self, ip: IpAddr) -> bool {
        match self {
            Self::Addresses(list) => list.contains(&ip),
            Self::Families(list) => list.contains(&Family::of(ip)),
        }
    }

    fn is_covered(&self, held: &[IpAddr]) -> bool {
        match self {
            Self::Addresses(list) => list.iter().all(|ip| held.contains(ip)),
            Self::Families(list) => list
                .iter()
                .all(|f| held.iter().any(|ip| Family::of(*ip) == *f)),
        }
    }
}

// === impl Round ===

struct Round<'a, 'v> {
    settings: Settings,
    views: &'v [View<'v>],
    holders: Holders<'a>,
    by_service: BTreeMap<&'a ServiceName, Decision>,
}

impl<'a> Round<'a, '_> {
    /// Keeps what the Service holds, asks for and may hold, as far as `is_valid` agrees. Nobody moves who need not.
    fn keep(&mut self, service: &'a ServiceInput, is_valid: impl Fn(&Self, IpAddr) -> bool) {
        let want = Want::of(service, self.settings);
        let before = self
            .by_service
            .remove(&service.name)
            .unwrap_or_default()
            .ingress;
        let mut kept = Vec::with_capacity(service.ingress.len());
        for ip in &service.ingress {
            if kept.contains(ip) {
                continue;
            }
            let is_kept = before.contains(ip)
                || (want.allows(*ip)
                    && check_vip(*ip).is_ok()
                    && is_valid(self, *ip)
                    && self.holders.may_hold(*ip, service).is_ok());
            if is_kept {
                kept.push(*ip);
                if !before.contains(ip) {
                    self.holders.hold(*ip, service);
                }
            }
        }
        let ingress = kept;
        self.by_service.insert(
            &service.name,
            Decision {
                ingress,
                ..Decision::default()
            },
        );
    }

    /// Whether a pool that selects the Service holds the address; also a disabled or conflicting one, and one with a
    /// block that cannot be read, which may be the block that the address came from.
    fn is_in_pool(&self, ip: IpAddr, service: &ServiceInput) -> bool {
        let mut views = self.views.iter();
        views.any(|v| {
            v.selects(&service.labels) && (v.contains(ip) || !v.pool.bad_blocks.is_empty())
        })
    }

    fn give_requested(&mut self, service: &'a ServiceInput) {
        let Want::Addresses(wanted) = Want::of(service, self.settings) else {
            return;
        };
        let mut missing: Vec<IpAddr> = {
            let held = &self.by_service[&service.name].ingress;
            wanted.into_iter().filter(|ip| !held.contains(ip)).collect()
        };
        missing.sort_by_key(|ip| Family::of(*ip));
        for ip in missing {
            let answer = self.ask_for(ip, service);
            self.note(service, answer);
        }
        if let Some(item) = service.bad_requests.last() {
            self.note(service, Err((Lack::BadRequest(item.clone()), false)));
        }
    }

    /// The requested address, or why not and whether waiting may help.
    fn ask_for(&self, ip: IpAddr, service: &ServiceInput) -> Result<IpAddr, (Lack, bool)> {
        if let Err(why) = check_vip(ip) {
            return Err((Lack::Unusable(ip, why), false));
        }
        let mut with_ip = self
            .views
            .iter()
            .filter(|v| v.is_active() && v.contains(ip));
        let Some(oldest) = with_ip.clone().next() else {
            return Err((Lack::NoPoolWith(ip), false));
        };
        if !with_ip.any(|v| v.selects(&service.labels)) {
            let pool = oldest.pool.name.clone();
            return Err((Lack::SelectorMismatch { ip, pool }, false));
        }
        if !self.holders.is_taken(ip) {
            // Who shares a reserved address keeps it; nobody gets it anew.
            return match self
                .views
                .iter()
                .find(|v| v.contains(ip) && v.is_reserved(ip))
            {
                Some(v) => Err((
                    Lack::Reserved {
                        ip,
                        pool: v.pool.name.clone(),
                    },
                    false,
                )),
                None => Ok(ip),
            };
        }
        let Err(why) = self.holders.may_hold(ip, service) else {
            return Ok(ip);
        };
        let lack = match self.holders.of(ip).next().cloned() {
            None => Lack::TakenElsewhere(ip),
            Some(holder) if service.sharing.key.is_empty() => Lack::Taken { ip, holder },
            Some(holder) => Lack::MayNotShare { ip, holder, why },
        };
        Err((lack, self.holders.is_releasing(ip)))
    }

    fn give_by_family(&mut self, service: &'a ServiceInput) {
        let Want::Families(families) = Want::of(service, self.settings) else {
            return;
        };
        let mut missing: Vec<Family> = {
            let held = &self.by_service[&service.name].ingress;
            let lacks = |f: &Family| !held.iter().any(|ip| Family::of(*ip) == *f);
            families.into_iter().filter(lacks).collect()
        };
        missing.sort_unstable();
        missing.dedup();
        for family in missing {
            let answer = self.choose(family, service);
            self.note(service, answer);
        }
    }

    /// An address of the family: one shared under the Service's key, else the lowest free one of the oldest pool.
    fn choose(&mut self, family: Family, service: &ServiceInput) -> Result<IpAddr, (Lack, bool)> {
        let shared = self
            .holders
            .under_key(&service.sharing.key)
            .filter(|ip| Family::of(*ip) == family)
            .find(|ip| self.holders.may_hold(*ip, service).is_ok());
        if let Some(ip) = shared {
            return Ok(ip);
        }
        let is_candidate =
            |v: &&View<'_>| v.is_active() && v.selects(&service.labels) && v.has_family(family);
        let candidates: Vec<&View<'_>> = self.views.iter().filter(is_candidate).collect();
        if candidates.is_empty() {
            return Err((Lack::NoPoolOfFamily(family), false));
        }
        let mut search = candidates.iter();
        if let Some(ip) = search.find_map(|v| v.lowest_free(family, &mut self.holders)) {
            return Ok(ip);
        }
        let is_waiting = self
            .holders
            .releasing()
            .any(|ip| Family::of(ip) == family && candidates.iter().any(|v| v.contains(ip)));
        let n_pools = candidates.len();
        Err((Lack::OutOfIps { family, n_pools }, is_waiting))
    }

    fn note(&mut self, service: &'a ServiceInput, answer: Result<IpAddr, (Lack, bool)>) {
        let decision = self.by_service.entry(&service.name).or_default();
        match answer {
            Ok(ip) => {
                decision.ingress.push(ip);
                self.holders.hold(ip, service);
            }
            Err((_, _)) if self.views.is_empty() => decision.lack = Some(Lack::NoPoolAtAll),
            Err((lack, is_waiting)) => {
                decision.lack = Some(lack);
                decision.is_waiting |= is_waiting;
            }
        }
    }
}
