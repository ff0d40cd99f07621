//! The watches as one stream.

use std::fmt::Debug;

use fairlead_api::{
    AddressReservation, CiliumLoadBalancerIPPool, IPPoolUsage,
    watch::feed::{self, WatchFault},
};
use futures::{
    StreamExt as _,
    stream::{BoxStream, SelectAll, select_all},
};
use k8s_openapi::{api::core::v1, serde::de::DeserializeOwned};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    runtime::watcher,
};

use super::state::{Change, Extra};

/// `None` stands for an error that was reported and will be tried again.
pub(super) type Feed = SelectAll<BoxStream<'static, Option<Change>>>;

pub(super) fn all(client: &Client) -> Feed {
    // Objects that people write are read as plain data, so that one that does not fit its type does not make the list
    // unreadable.
    let plain = |resource: ApiResource| Api::<DynamicObject>::all_with(client.clone(), &resource);
    select_all([
        feed::one(
            "services",
            Api::<v1::Service>::all(client.clone()),
            Change::Service,
        ),
        feed::one(
            "ciliumloadbalancerippools",
            plain(ApiResource::erase::<CiliumLoadBalancerIPPool>(&())),
            Change::Pool,
        ),
        extra(
            "addressreservations",
            plain(ApiResource::erase::<AddressReservation>(&())),
            Change::Reservation,
            Extra::Reservations,
        ),
        extra(
            "ippoolusages",
            plain(ApiResource::erase::<IPPoolUsage>(&())),
            Change::Usage,
            Extra::Usages,
        ),
        extra(
            "nodes",
            Api::<v1::Node>::all(client.clone()),
            Change::Node,
            Extra::Nodes,
        ),
    ])
}

/// As [`feed::one`], but what is not installed or not permitted counts as empty, so that pools and Services work without it.
fn extra<K>(
    resource: &'static str,
    api: Api<K>,
    wrap: fn(watcher::Event<K>) -> Change,
    which: Extra,
) -> BoxStream<'static, Option<Change>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    feed::events(api)
        .map(move |event| match event {
            Ok(event) => Some(wrap(event)),
            Err(error) => {
                feed::report(resource, &error);
                let is_absent = matches!(
                    WatchFault::of(&error),
                    WatchFault::NotInstalled | WatchFault::Forbidden
                );
                is_absent.then_some(Change::Absent(which))
            }
        })
        .boxed()
}
