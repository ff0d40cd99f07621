//! Whose an address is while two Services name it without having agreed to share.
//!
//! Two operators that both believe to lead for a moment may give one address to two Services. LB-IPAM finds and repairs that;
//! until it has, the address belongs to the older Service here, so that no agent ever forwards or announces it for both.
//! Only addresses that LB-IPAM gave are judged: other controllers have their own rules of sharing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fairlead_model::{ServiceName, Vip};
use k8s_openapi::api::core::v1;
use kube::{ResourceExt as _, runtime::watcher::Event};

use crate::names::{annotation, condition};

/// What one Service's status claims.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    name: ServiceName,
    created: i64,
    key: String,
    vips: BTreeSet<Vip>,
}

/// Every claim of a Service that LB-IPAM serves.
#[derive(Debug, Default)]
pub(super) struct Claims {
    live: BTreeMap<String, Claim>,
    fresh: Option<BTreeMap<String, Claim>>,
    /// Oldest first, then by name.
    by_vip: HashMap<Vip, BTreeSet<(i64, ServiceName, String)>>,
}

impl Claims {
    /// Takes an event as the table of Services does; returns the Services that may now have other addresses than before.
    pub(super) fn apply(&mut self, event: &Event<v1::Service>) -> BTreeSet<ServiceName> {
        match event {
            Event::Init => {
                self.fresh = Some(BTreeMap::new());
                BTreeSet::new()
            }
            Event::InitApply(object) => {
                if let (Some(fresh), Some(claim)) = (&mut self.fresh, claim(object)) {
                    fresh.insert(claim.name.to_string(), claim);
                }
                BTreeSet::new()
            }
            Event::InitDone => {
                let fresh = self.fresh.take().unwrap_or_default();
                let gone = self.live.keys().filter(|key| !fresh.contains_key(*key));
                let gone: Vec<String> = gone.cloned().collect();
                let mut touched = BTreeSet::new();
                for key in gone {
                    touched.append(&mut self.put(&key, None));
                }
                for (key, claim) in fresh {
                    touched.append(&mut self.put(&key, Some(claim)));
                }
                touched
            }
            Event::Apply(object) => {
                let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
                let key = format!("{namespace}/{}", object.name_any());
                self.put(&key, claim(object))
            }
            Event::Delete(object) => {
                let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
                self.put(&format!("{namespace}/{}", object.name_any()), None)
            }
        }
    }

    fn put(&mut self, key: &str, claim: Option<Claim>) -> BTreeSet<ServiceName> {
        if self.live.get(key) == claim.as_ref() {
            return BTreeSet::new();
        }
        let mut vips = BTreeSet::new();
        if let Some(old) = self.live.remove(key) {
            for vip in &old.vips {
                if let Some(claims) = self.by_vip.get_mut(vip) {
                    claims.remove(&(old.created, old.name.clone(), old.key.clone()));
                    if claims.is_empty() {
                        self.by_vip.remove(vip);
                    }
                }
            }
            vips.extend(old.vips);
        }
        if let Some(new) = claim {
            for vip in &new.vips {
                let claims = self.by_vip.entry(*vip).or_default();
                claims.insert((new.created, new.name.clone(), new.key.clone()));
                vips.insert(*vip);
            }
            self.live.insert(key.to_owned(), new);
        }
        let claims = vips.iter().filter_map(|vip| self.by_vip.get(vip));
        claims.flatten().map(|(_, name, _)| name.clone()).collect()
    }

    /// Whether the Service may be served on this address of its status.
    pub(super) fn may_use(&self, vip: Vip, service: &ServiceName) -> bool {
        let Some(claims) = self.by_vip.get(&vip) else {
            return true;
        };
        let Some((_, _, key)) = claims.iter().find(|(_, name, _)| name == service) else {
            return true;
        };
        let Some((_, oldest, owners)) = claims.first() else {
            return true;
        };
        oldest == service || (!key.is_empty() && key == owners)
    }
}

/// `None` where LB-IPAM has said nothing.
fn claim(object: &v1::Service) -> Option<Claim> {
    let is_load_balancer =
        object.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
    let status = object.status.as_ref().filter(|_| is_load_balancer)?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|c| c.type_ == condition::IPAM_REQUEST_SATISFIED)?;
    let ingress = status.load_balancer.as_ref()?.ingress.iter().flatten();
    let vips: BTreeSet<Vip> = ingress
        .filter_map(|entry| entry.ip.as_deref()?.parse::<IpAddr>().ok())
        .collect();
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let annotations = object.annotations();
    let key = annotations
        .get(annotation::SHARING_KEY)
        .or_else(|| annotations.get(annotation::SHARING_KEY_OLD));
    Some(Claim {
        name: ServiceName::new(&namespace, &object.name_any()).ok()?,
        created: object
            .creation_timestamp()
            .map_or(i64::MAX, |t| t.0.as_second()),
        key: key.cloned().unwrap_or_default(),
        vips,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1;
    use kube::runtime::watcher::Event;

    use super::Claims;

    const OURS: &str = "{type: cilium.io/IPAMRequestSatisfied, status: 'True', reason: satisfied, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}";

    fn service(name: &str, second: u8, key: &str, vip: &str, conditions: &str) -> v1::Service {
        let text = format!(
            "{{metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-01T00:00:{second:02}Z', annotations: {{lbipam.cilium.io/sharing-key: '{key}'}}}},
  spec: {{type: LoadBalancer}}, status: {{loadBalancer: {{ingress: [{{ip: {vip}}}]}}, conditions: [{conditions}]}}}}"
        );
        serde_norway::from_str(&text).unwrap()
    }

    fn uses(claims: &Claims, name: &str) -> bool {
        let name = format!("shop/{name}").parse().unwrap();
        claims.may_use("192.0.2.1".parse().unwrap(), &name)
    }

    #[test]
    fn of_two_services_with_one_address_the_older_is_served() {
        let mut claims = Claims::default();
        claims.apply(&Event::Apply(service("young", 2, "", "192.0.2.1", OURS)));
        assert!(uses(&claims, "young"));
        let touched = claims.apply(&Event::Apply(service("old", 1, "", "192.0.2.1", OURS)));
        assert_eq!(touched.len(), 2, "both are to be looked at again");
        assert!(uses(&claims, "old") && !uses(&claims, "young"));
        let touched = claims.apply(&Event::Apply(service("old", 1, "", "192.0.2.2", OURS)));
        assert!(touched.contains(&"shop/young".parse().unwrap()));
        assert!(uses(&claims, "young"), "the address is its own again");
    }

    #[test]
    fn who_shares_a_key_shares_and_other_controllers_are_left_alone() {
        let mut claims = Claims::default();
        claims.apply(&Event::Apply(service("old", 1, "k", "192.0.2.1", OURS)));
        claims.apply(&Event::Apply(service("same", 2, "k", "192.0.2.1", OURS)));
        claims.apply(&Event::Apply(service("other", 3, "l", "192.0.2.1", OURS)));
        claims.apply(&Event::Apply(service("metallb", 4, "", "192.0.2.1", "")));
        assert!(uses(&claims, "old") && uses(&claims, "same") && uses(&claims, "metallb"));
        assert!(!uses(&claims, "other"));
        claims.apply(&Event::Delete(service("old", 1, "k", "192.0.2.1", OURS)));
        assert!(uses(&claims, "same") && !uses(&claims, "other"));
    }

    #[test]
    fn a_new_list_counts_when_it_is_whole() {
        let mut claims = Claims::default();
        claims.apply(&Event::Apply(service("old", 1, "", "192.0.2.1", OURS)));
        claims.apply(&Event::Apply(service("young", 2, "", "192.0.2.1", OURS)));
        claims.apply(&Event::Init);
        claims.apply(&Event::InitApply(service(
            "young",
            2,
            "",
            "192.0.2.1",
            OURS,
        )));
        assert!(!uses(&claims, "young"));
        let touched = claims.apply(&Event::InitDone);
        assert!(touched.contains(&"shop/young".parse().unwrap()));
        assert!(uses(&claims, "young"));
    }
}
