//! Whether the API server answers: asked every few seconds, shown in `fairlead status`, never a reason to stop anything.

use std::{sync::Arc, time::Duration};

use fairlead_api::watch::feed::Refusals;
use fairlead_observe::{ApiView, Timestamp};
use fairlead_rt::{BoxError, CancellationToken, clock};
use kube::Client;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// Between two questions.
const EVERY: Duration = Duration::from_secs(3);
/// An API server that needs longer counts as away.
const DEADLINE: Duration = Duration::from_secs(3);

/// Asks until told to stop; notifies `again` whenever the API server answers after it had been away.
///
/// # Errors
/// None; the signature is that of a supervised task.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn watch(
    client: Client,
    view: watch::Sender<ApiView>,
    again: Arc<Notify>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut refusals = Refusals::default();
    loop {
        let asked = tokio::select! {
            asked = tokio::time::timeout(DEADLINE, client.apiserver_version()) => asked,
            () = stop.cancelled() => return Ok(()),
        };
        let error = match asked {
            Ok(Ok(_version)) => None,
            // It answers; what this node may not ask is no matter here.
            Ok(Err(error)) if is_refusal(&error) => {
                refusals.failed("ask for the API server's version", &error);
                None
            }
            Ok(Err(error)) => Some(brief(&error)),
            Err(_elapsed) => Some(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        if note(&view, error) {
            again.notify_one();
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// It knows who we are, which an API server that takes us for nobody does not.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// An error in the words of its innermost cause: those around it say only that it was a request.
pub(crate) fn brief(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Returns whether the API server is back.
fn note(view: &watch::Sender<ApiView>, error: Option<String>) -> bool {
    let mut is_back = false;
    view.send_if_modified(|view| {
        let is_connected = error.is_none();
        let turned = view.is_connected != is_connected || view.since.is_none();
        if turned {
            view.since = Some(Timestamp::from_system(clock::wall()));
            match &error {
                None => info!(server = view.server, "the API server answers"),
                Some(error) => warn!(server = view.server, error, "the API server is away"),
            }
        }
        is_back = turned && is_connected && view.error.is_some();
        let changed = turned || view.error != error;
        view.is_connected = is_connected;
        view.error = error;
        changed
    });
    is_back
}

#[cfg(test)]
mod tests {
    use fairlead_observe::ApiView;
    use tokio::sync::watch;

    use super::note;

    #[test]
    fn since_tells_when_it_turned() {
        let view = watch::Sender::new(ApiView {
            server: "https://lb1".into(),
            is_connected: false,
            since: None,
            error: None,
        });
        assert!(!note(&view, None), "it was not away before");
        let since = view.borrow().since;
        assert!(view.borrow().is_connected && since.is_some());
        assert!(!note(&view, None));
        assert_eq!(view.borrow().since, since);
        assert!(!note(&view, Some("connection refused".into())));
        assert_eq!(view.borrow().error.as_deref(), Some("connection refused"));
        assert!(!view.borrow().is_connected);
        assert!(note(&view, None), "it is back");
    }
}
