//! Watches as streams of changes, with retries that back off.
//!
//! A watch that ended well goes on where it was. After one that broke, or could not begin, everything is listed again: an API server that
//! was away may have been restored from an older state, and a watch from a version that it has not reached yet would say nothing until it
//! has, and never what is different.

use std::{collections::BTreeMap, fmt::Debug};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream, SelectAll, select_all},
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
    events(api)
        .map(move |event| match event {
            Ok(event) => Some(wrap(event)),
            Err(error) => {
                report(resource, &error);
                None
            }
        })
        .boxed()
}

/// The events of one watch, for ever, with growing pauses after errors.
pub fn events<K>(api: Api<K>) -> BoxStream<'static, watcher::Result<watcher::Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let anew = move || watcher(api.clone(), watcher::Config::default()).boxed();
    let state = (anew(), anew);
    stream::unfold(state, |(mut current, anew)| async move {
        let event = current.next().await?;
        if event.as_ref().is_err_and(must_list_again) {
            current = anew();
        }
        Some((event, (current, anew)))
    })
    .default_backoff()
    .boxed()
}

/// Whether what was known may have changed without an event. kube's watcher lists again only after a 410 inside a watch.
fn must_list_again(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            // An answer, unless it is that the past is gone, comes from a server that is as it was.
            !matches!(error, kube::Error::Api(status) if status.code != GONE)
        }
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// HTTP.
const GONE: u16 = 410;

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
        Self::of_code(code)
    }

    /// Classifies an error of a single call.
    pub fn of_call(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_code(status.code),
            _ => Self::Unavailable,
        }
    }

    const fn of_code(code: u16) -> Self {
        match code {
            401 | 403 => Self::Forbidden,
            404 => Self::NotInstalled,
            GONE => Self::Expired,
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
    // What the API server says is enough; its whole answer would hide it.
    let error = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    };
    match fault {
        WatchFault::Forbidden => tracing::error!(
            reason,
            error,
            "may not list and watch {resource}: grant `list` and `watch` on it; trying again"
        ),
        WatchFault::NotInstalled => tracing::warn!(
            reason,
            error,
            "the API server does not know {resource}: install configs/crd or run the operator with --create-crds; trying again"
        ),
        WatchFault::Expired => tracing::debug!(reason, error, "watch of {resource} begins anew"),
        WatchFault::Unavailable => {
            tracing::warn!(reason, error, "watch of {resource} failed; trying again");
        }
    }
}

/// What the API server refuses is said once: a thousand Leases that may not be written are one line, and so is each retry of one.
#[derive(Debug, Default)]
pub struct Refusals {
    said: BTreeMap<&'static str, String>,
}

impl Refusals {
    /// `what` was tried and failed. A refusal is an error with its reason, which names the verb and the resource to grant;
    /// anything else passes by itself and is for those who look closely.
    pub fn failed(&mut self, what: &'static str, error: &kube::Error) {
        let fault = WatchFault::of_call(error);
        let (WatchFault::Forbidden, kube::Error::Api(status)) = (fault, error) else {
            tracing::debug!(reason = fault.reason(), %error, "cannot {what} yet");
            return;
        };
        // The object's own name stands before the colon.
        let rule = status.message.split_once(": ").map_or("", |(_, rule)| rule);
        if self.said.get(what).is_some_and(|said| said == rule) {
            return;
        }
        self.said.insert(what, rule.to_owned());
        tracing::error!(
            reason = fault.reason(), error = %status.message,
            "may not {what}: grant what the message names (deploy/plain/rbac.yaml has it); trying again"
        );
    }

    /// `what` worked: if it is refused again, that is news.
    pub fn worked(&mut self, what: &'static str) {
        self.said.remove(what);
    }
}
