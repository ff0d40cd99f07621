//! Watches as streams of changes, with retries that back off.

use std::fmt::Debug;

use futures::{
    StreamExt as _,
    stream::{BoxStream, SelectAll, select_all},
};
use k8s_openapi::{
    api::{core::v1, discovery::v1::EndpointSlice},
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt as _, watcher},
};

use super::builder::Change;
use crate::CiliumL2AnnouncementPolicy;

/// `None` stands for an error that was reported and will be tried again.
pub(super) type Feed = SelectAll<BoxStream<'static, Option<Change>>>;

pub(super) fn all(client: &Client) -> Feed {
    // Policies are read as plain data, so that one that does not fit its type does not make the list unreadable.
    let policy = ApiResource::erase::<CiliumL2AnnouncementPolicy>(&());
    select_all([
        one(
            "services",
            Api::<v1::Service>::all(client.clone()),
            Change::Service,
        ),
        one(
            "endpointslices",
            Api::<EndpointSlice>::all(client.clone()),
            Change::Slice,
        ),
        one("nodes", Api::<v1::Node>::all(client.clone()), Change::Node),
        one(
            "ciliuml2announcementpolicies",
            Api::<DynamicObject>::all_with(client.clone(), &policy),
            Change::L2Policy,
        ),
    ])
}

/// One watch, for ever: what fails is reported, yields `None`, and is tried again with growing pauses.
pub fn one<K, C>(
    resource: &'static str,
    api: Api<K>,
    wrap: fn(watcher::Event<K>) -> C,
) -> BoxStream<'static, Option<C>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    C: 'static,
{
    watcher(api, watcher::Config::default())
        .default_backoff()
        .map(move |event| match event {
            Ok(event) => Some(wrap(event)),
            Err(error) => {
                report(resource, &error);
                None
            }
        })
        .boxed()
}

/// Why a watch failed, as one closed word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFault {
    /// RBAC refuses `list` or `watch`.
    Forbidden,
    /// The kind is not known to the API server: its CRD is not installed.
    NotInstalled,
    /// The watch was too far behind and begins anew; nothing is lost.
    Expired,
    /// The API server did not answer, or not sensibly.
    Unavailable,
}

impl WatchFault {
    /// Classifies an error of kube's watcher.
    pub fn of(error: &watcher::Error) -> Self {
        let code = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => status.code,
            watcher::Error::InitialListFailed(_)
            | watcher::Error::WatchStartFailed(_)
            | watcher::Error::WatchFailed(_)
            | watcher::Error::NoResourceVersion => 0,
        };
        match code {
            401 | 403 => Self::Forbidden,
            404 => Self::NotInstalled,
            410 => Self::Expired,
            _ => Self::Unavailable,
        }
    }

    /// The closed word for logs, metrics and the book.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Forbidden => "Forbidden",
            Self::NotInstalled => "NotInstalled",
            Self::Expired => "Expired",
            Self::Unavailable => "Unavailable",
        }
    }
}

/// One log line per failed try, with what to do about it.
pub fn report(resource: &str, error: &watcher::Error) {
    let fault = WatchFault::of(error);
    let reason = fault.reason();
    match fault {
        WatchFault::Forbidden => tracing::error!(
            reason, %error,
            "may not list and watch {resource}: grant `list` and `watch` on it; trying again"
        ),
        WatchFault::NotInstalled => tracing::warn!(
            reason, %error,
            "the API server does not know {resource}: install configs/crd or run the operator with --create-crds; trying again"
        ),
        WatchFault::Expired => tracing::debug!(reason, %error, "watch of {resource} begins anew"),
        WatchFault::Unavailable => {
            tracing::warn!(reason, %error, "watch of {resource} failed; trying again");
        }
    }
}
