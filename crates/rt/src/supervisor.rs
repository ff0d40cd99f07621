//! A named set of tasks that live and die together.
//!
//! Invariant: a child that ends, errs or panics ends its siblings, and its name reaches whoever waits in
//! [`Supervisor::first_exit`]. Dropping a supervisor aborts its children.

use std::{collections::HashMap, error::Error, future::Future, time::Duration};

use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Any error that may cross a task boundary.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// How long children may take to stop after their token fired before they are aborted.
pub const GRACE: Duration = Duration::from_secs(10);

/// Why a supervisor ended.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// A child that should run until stopped returned.
    #[error("{supervisor}: task `{task}` ended unexpectedly")]
    Ended {
        /// Name of the supervisor.
        supervisor: String,
        /// Name of the child.
        task: String,
    },
    /// A child returned an error.
    #[error("{supervisor}: task `{task}` failed")]
    Failed {
        /// Name of the supervisor.
        supervisor: String,
        /// Name of the child.
        task: String,
        /// What it returned.
        source: BoxError,
    },
    /// A child panicked.
    #[error("{supervisor}: task `{task}` panicked: {message}")]
    Panicked {
        /// Name of the supervisor.
        supervisor: String,
        /// Name of the child.
        task: String,
        /// The panic's message.
        message: String,
    },
    /// A child did not stop in time and was aborted.
    #[error("{supervisor}: task `{task}` did not stop within {} s", grace.as_secs())]
    Stuck {
        /// Name of the supervisor.
        supervisor: String,
        /// Name of the child.
        task: String,
        /// The time it had.
        grace: Duration,
    },
}

impl ExitError {
    /// The closed word for metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Ended { .. } => "TaskEnded",
            Self::Failed { .. } => "TaskFailed",
            Self::Panicked { .. } => "TaskPanicked",
            Self::Stuck { .. } => "TaskStuck",
        }
    }
}

struct Child {
    name: String,
    /// May end with `Ok` before it is told to.
    is_finite: bool,
}

/// A named set of tasks that live and die together.
pub struct Supervisor {
    name: String,
    token: CancellationToken,
    tasks: JoinSet<Result<(), BoxError>>,
    children: HashMap<tokio::task::Id, Child>,
    grace: Duration,
}

impl Supervisor {
    /// The children's token is a child of `stop`: ending them does not fire `stop` itself.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the supervisor stands for its parent's stop from here on"
    )]
    pub fn new(name: impl Into<String>, stop: CancellationToken) -> Self {
        Self {
            name: name.into(),
            token: stop.child_token(),
            tasks: JoinSet::new(),
            children: HashMap::new(),
            grace: GRACE,
        }
    }

    /// With another time to stop than [`GRACE`].
    #[must_use]
    pub const fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Fires when the children must stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a child that runs until the token fires; its end before that, even with `Ok`, ends the siblings.
    pub fn spawn<F, E>(&mut self, name: impl Into<String>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.start(name.into(), false, future);
    }

    /// Starts a child that may end with `Ok` at any time; an error or panic still ends the siblings.
    pub fn spawn_finite<F, E>(&mut self, name: impl Into<String>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.start(name.into(), true, future);
    }

    /// Starts a thread of its own (named, at most 15 bytes shown by the kernel). `body` must watch the token that it is given.
    pub fn spawn_thread<F, E>(&mut self, name: impl Into<String>, body: F)
    where
        F: FnOnce(CancellationToken) -> Result<(), E> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let name = name.into();
        let token = self.token.clone();
        let (done, ended) = oneshot::channel();
        let builder = std::thread::Builder::new().name(name.clone());
        let started = builder.spawn(move || {
            let body = std::panic::AssertUnwindSafe(move || body(token));
            let outcome = std::panic::catch_unwind(body);
            // The receiver is gone only when the supervisor was dropped: nobody is left to tell.
            drop(done.send(outcome));
        });
        self.start(name, false, async move {
            started.map_err(BoxError::from)?;
            match ended.await {
                Ok(Ok(outcome)) => outcome.map_err(Into::into),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(closed) => Err(closed.into()),
            }
        });
    }

    fn start<F, E>(&mut self, name: String, is_finite: bool, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let handle = self
            .tasks
            .spawn(async move { future.await.map_err(Into::into) });
        self.children.insert(handle.id(), Child { name, is_finite });
    }

    /// Waits until a child ends or the token fires, ends the siblings and joins them all. The first failure is returned.
    ///
    /// # Cancel safety
    /// Dropping the future aborts every child.
    pub async fn first_exit(mut self) -> Result<(), ExitError> {
        let mut first = None;
        while first.is_none() && !self.token.is_cancelled() {
            tokio::select! {
                () = self.token.cancelled() => {}
                ended = self.tasks.join_next_with_id() => match ended {
                    Some(ended) => first = self.judge(ended, false),
                    // Only finite children, all done: nothing is left to wait for.
                    None => return Ok(()),
                },
            }
        }
        if let Some(error) = &first {
            warn!(reason = error.reason(), error = %error, "stopping the siblings");
        }
        self.token.cancel();
        let deadline = tokio::time::Instant::now() + self.grace;
        while !self.tasks.is_empty() {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => {
                    let error = self.judge(ended, true);
                    first = first.or(error);
                }
                Ok(None) => break,
                Err(_elapsed) => {
                    first = first.or_else(|| self.stuck());
                    self.tasks.shutdown().await;
                    break;
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn stuck(&self) -> Option<ExitError> {
        let mut names: Vec<&str> = self.children.values().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        (!names.is_empty()).then(|| ExitError::Stuck {
            supervisor: self.name.clone(),
            task: names.join(", "),
            grace: self.grace,
        })
    }

    fn judge(
        &mut self,
        ended: Result<(tokio::task::Id, Result<(), BoxError>), tokio::task::JoinError>,
        is_stopping: bool,
    ) -> Option<ExitError> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let child = self.children.remove(&id);
        let is_finite = child.as_ref().is_some_and(|c| c.is_finite);
        let task = child.map_or_else(|| "unnamed".to_owned(), |c| c.name);
        let supervisor = self.name.clone();
        // A child may see the token before we do.
        let is_stopping = is_stopping || self.token.is_cancelled();
        match ended {
            Ok((_, Ok(()))) if is_finite || is_stopping => {
                debug!(supervisor, task, "task ended");
                None
            }
            Ok((_, Ok(()))) => Some(ExitError::Ended { supervisor, task }),
            Ok((_, Err(source))) => Some(ExitError::Failed {
                supervisor,
                task,
                source,
            }),
            Err(error) if error.is_panic() => Some(ExitError::Panicked {
                supervisor,
                task,
                message: panic_message(error.into_panic().as_ref()),
            }),
            Err(_aborted) => None,
        }
    }
}

/// The text of a panic's payload, if it has one.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
