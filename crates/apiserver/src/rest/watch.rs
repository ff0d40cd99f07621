//! Watch: a stream of changes that misses nothing.
//!
//! A watch pulls from the engine's window at its client's speed. While the client reads, the stream is at most one batch
//! ahead of it; when it falls out of the window it gets 410 and its place is free again. A client that reads nothing is cut
//! off by its connection (`stall.rs`).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use fairlead_rt::CancellationToken;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::{Params, Shape, Target, view};
use crate::api::Api;
use crate::clock;
use crate::engine::{Event, Gone, Scope, Shared};
use crate::object;
use crate::selector::Selector;
use crate::status::ApiError;
use crate::table;

/// How often a quiet watch that asked for bookmarks hears how far it has got.
const BOOKMARKS: Duration = Duration::from_mins(1);
/// Without `timeoutSeconds` a watch ends after this, as a Kubernetes API server's does.
const LONGEST: Duration = Duration::from_mins(45);

struct Watch {
    shared: Arc<Shared>,
    target: Target,
    selector: Selector,
    shape: Shape,
    changed: watch::Receiver<u64>,
    /// Changes up to here were sent or were not this watch's concern.
    cursor: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    stop: CancellationToken,
    /// Columns are described once.
    described: bool,
    /// Written before anything else.
    first: Option<Bytes>,
    over: bool,
    _place: OwnedSemaphorePermit,
}

pub(crate) fn watch(
    api: &Api,
    mut target: Target,
    params: &Params,
    shape: Shape,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let kind = target.served.kind.clone();
    let fields = match target.name.take() {
        Some(name) => format!("metadata.name={name}"),
        None => params.text("fieldSelector").to_owned(),
    };
    let selector = Selector::parse(&kind, params.text("labelSelector"), &fields)?;
    let place =
        api.watches
            .clone()
            .try_acquire_owned()
            .map_err(|_full| ApiError::TooManyRequests {
                what: "open watches",
            })?;
    let timeout = params
        .number("timeoutSeconds")?
        .filter(|s| *s > 0)
        .map_or(LONGEST, Duration::from_secs);
    let now = Instant::now();
    let mut watch = Watch {
        shared: api.shared.clone(),
        changed: api
            .shared
            .changes(&kind.stored_in)
            .ok_or(ApiError::NoSuchPath)?,
        target,
        selector,
        shape,
        cursor: params.number("resourceVersion")?.unwrap_or(0),
        bookmarks: params.flag("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARKS,
        ends: now + timeout.min(LONGEST * 2),
        stop,
        described: false,
        first: None,
        over: false,
        _place: place,
    };
    watch.begin(params)?;
    let frames = stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), watch))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn stale(gone: Gone) -> ApiError {
    ApiError::Expired {
        detail: format!("too old resource version: {} ({})", gone.asked, gone.oldest),
        go_on: None,
    }
}

impl Watch {
    /// Begins with what there is, where the client asks for that or says nothing (as with Kubernetes' resourceVersion 0), or
    /// after the revision it names.
    fn begin(&mut self, params: &Params) -> Result<(), ApiError> {
        let since = self.cursor;
        if params.flag("sendInitialEvents") {
            if params.text("resourceVersionMatch") != "NotOlderThan" {
                return Err(ApiError::bad_request(
                    "sendInitialEvents requires resourceVersionMatch=NotOlderThan",
                ));
            }
            let newest = self.shared.revision();
            if since > newest {
                return Err(stale(Gone {
                    asked: since,
                    oldest: newest,
                }));
            }
            self.begin_with_all(true)?;
        } else if since == 0 {
            self.begin_with_all(false)?;
        } else {
            self.shared
                .since(&self.target.served.kind.stored_in, since)
                .map_err(stale)?;
        }
        Ok(())
    }

    /// Queues every object as `ADDED`, and says where the initial ones end if the client asked for that.
    fn begin_with_all(&mut self, mark_end: bool) -> Result<(), ApiError> {
        let selector = self.selector.clone();
        let namespace = self.target.namespace.clone();
        let resource = self.target.served.kind.stored_in.clone();
        let scope = Scope {
            namespace: namespace.as_deref(),
            limit: usize::MAX,
            ..Scope::default()
        };
        let page = self
            .shared
            .list(&resource, scope, |object| selector.keeps(object))
            .map_err(stale)?;
        self.cursor = page.revision;
        let mut frames = String::new();
        for object in &page.objects {
            self.frame(&mut frames, "ADDED", object);
        }
        if mark_end && self.bookmarks {
            self.bookmark(&mut frames, true);
        }
        if !frames.is_empty() {
            self.first = Some(frames.into());
        }
        Ok(())
    }

    /// The next bytes of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            if self.over {
                return None;
            }
            // Before looking, so that a change between looking and waiting wakes us.
            self.changed.mark_unchanged();
            let mut frames = String::new();
            match self
                .shared
                .since(&self.target.served.kind.stored_in, self.cursor)
            {
                Ok((events, reached)) => {
                    for event in &events {
                        self.tell(&mut frames, event);
                    }
                    self.cursor = reached;
                }
                Err(gone) => {
                    let status = stale(gone).to_status();
                    push(&mut frames, "ERROR", &status);
                    self.over = true;
                }
            }
            let now = Instant::now();
            if frames.is_empty() && self.bookmarks && now >= self.next_bookmark {
                self.bookmark(&mut frames, false);
            }
            if !frames.is_empty() {
                self.next_bookmark = now + BOOKMARKS;
                return Some(frames.into());
            }
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(self.ends) => return self.last_words(),
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {}
            }
        }
    }

    /// A last bookmark, so that the client's next watch begins close to here.
    fn last_words(&mut self) -> Option<Bytes> {
        self.over = true;
        let mut frames = String::new();
        if self.bookmarks {
            self.bookmark(&mut frames, false);
        }
        (!frames.is_empty()).then(|| frames.into())
    }

    /// What a change is to this watch: an object may come into its selection or leave it.
    fn tell(&mut self, frames: &mut String, event: &Event) {
        if self
            .target
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != event.namespace)
        {
            return;
        }
        let kept = |object: &Option<Arc<Value>>| {
            object.clone().filter(|object| self.selector.keeps(object))
        };
        match (kept(&event.before), kept(&event.after)) {
            (None, Some(object)) => self.frame(frames, "ADDED", &object),
            (Some(_), Some(object)) => self.frame(frames, "MODIFIED", &object),
            (Some(object), None) => {
                // The last state, with the revision of the deletion: a watch resumes after it.
                let mut last = (*object).clone();
                object::set_revision(&mut last, event.revision);
                self.frame(frames, "DELETED", &last);
            }
            (None, None) => {}
        }
    }

    fn frame(&mut self, frames: &mut String, kind: &str, object: &Value) {
        let object = view(&self.target.served, object);
        match self.shape {
            Shape::Object => push(frames, kind, &object),
            Shape::Partial => push(frames, kind, &table::partial(&object)),
            Shape::Table(include) => {
                let columns = &self.target.served.version().columns;
                let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let rows = [object.into_owned()];
                let table = table::table(
                    columns,
                    &rows,
                    &meta,
                    include,
                    !self.described,
                    clock::now(),
                );
                self.described = true;
                push(frames, kind, &table);
            }
        }
    }

    fn bookmark(&mut self, frames: &mut String, ends_initial: bool) {
        let mut meta =
            json!({ "resourceVersion": self.cursor.to_string(), "creationTimestamp": null });
        if ends_initial {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let served = &self.target.served;
        let object = match self.shape {
            Shape::Object => {
                json!({ "kind": served.kind.kind, "apiVersion": served.api_version(), "metadata": meta })
            }
            Shape::Partial => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta })
            }
            Shape::Table(include) => {
                let object = json!({ "kind": served.kind.kind, "apiVersion": served.api_version(), "metadata": meta });
                let list = json!({ "resourceVersion": self.cursor.to_string() });
                table::table(
                    &served.version().columns,
                    &[object],
                    &list,
                    include,
                    !self.described,
                    clock::now(),
                )
            }
        };
        push(frames, "BOOKMARK", &object);
    }
}

fn push(frames: &mut String, kind: &str, object: &Value) {
    frames.push_str("{\"type\":\"");
    frames.push_str(kind);
    frames.push_str("\",\"object\":");
    frames.push_str(&object.to_string());
    frames.push_str("}\n");
}
