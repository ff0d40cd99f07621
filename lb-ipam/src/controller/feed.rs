//! The two watches as one stream.

use fairlead_api::{CiliumLoadBalancerIPPool, watch::feed};
use futures::stream::{BoxStream, SelectAll, select_all};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};

use super::state::Change;

/// `None` stands for an error that was reported and will be tried again.
pub(super) type Feed = SelectAll<BoxStream<'static, Option<Change>>>;

pub(super) fn all(client: &Client) -> Feed {
    // Pools are read as plain data, so that one that does not fit its type does not make the list unreadable.
    let pool = ApiResource::erase::<CiliumLoadBalancerIPPool>(&());
    select_all([
        feed::one(
            "services",
            Api::<v1::Service>::all(client.clone()),
            Change::Service,
        ),
        feed::one(
            "ciliumloadbalancerippools",
            Api::<DynamicObject>::all_with(client.clone(), &pool),
            Change::Pool,
        ),
    ])
}
