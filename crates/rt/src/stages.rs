//! Stopping in a written order: what was added last stops last.
//!
//! Invariant: a stage is told to stop only after every stage before it has stopped or used up its time.
//! An agent stops announcing before it stops programming; an appliance keeps its API until the agent has withdrawn.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::supervisor::{BoxError, ExitError, panic_message};

struct Stage {
    name: String,
    grace: Duration,
    token: CancellationToken,
    handle: JoinHandle<Result<(), BoxError>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Parts of a process with an order of stopping: the first added stops first.
pub struct Stages {
    name: String,
    stop: CancellationToken,
    parts: Vec<Stage>,
}

impl Stages {
    /// `stop` begins the orderly stop.
    pub fn new(name: impl Into<String>, stop: CancellationToken) -> Self {
        Self {
            name: name.into(),
            stop,
            parts: Vec::new(),
        }
    }

    /// Starts a stage. It gets a token of its own, fired when its turn to stop has come; `grace` is its time to do so.
    pub fn add<B, F, E>(&mut self, name: impl Into<String>, grace: Duration, build: B)
    where
        B: FnOnce(CancellationToken) -> F,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let token = CancellationToken::new();
        let future = build(token.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle is kept in the stage, which aborts it on drop and reports its death"
        )]
        let handle = tokio::spawn(async move { future.await.map_err(Into::into) });
        self.parts.push(Stage {
            name: name.into(),
            grace,
            token,
            handle,
        });
    }

    /// Runs until `stop` fires or any stage ends, then stops the stages in order. The first failure is returned.
    ///
    /// # Cancel safety
    /// Dropping the future aborts every stage at once.
    pub async fn run(mut self) -> Result<(), ExitError> {
        let mut first = None;
        tokio::select! {
            () = self.stop.cancelled() => {}
            (index, outcome) = any(&mut self.parts) => {
                let stage = self.parts.remove(index);
                first = Some(self.judge(&stage.name, outcome).unwrap_or_else(|| ExitError::Ended {
                    supervisor: self.name.clone(),
                    task: stage.name.clone(),
                }));
            }
        }
        if let Some(error) = &first {
            warn!(reason = error.reason(), error = %error, "stopping the other stages");
        }
        for mut stage in std::mem::take(&mut self.parts) {
            info!(stage = stage.name, "stopping");
            stage.token.cancel();
            let error = match tokio::time::timeout(stage.grace, &mut stage.handle).await {
                Ok(outcome) => self.judge(&stage.name, outcome),
                Err(_elapsed) => Some(ExitError::Stuck {
                    supervisor: self.name.clone(),
                    task: stage.name.clone(),
                    grace: stage.grace,
                }),
            };
            first = first.or(error);
        }
        first.map_or(Ok(()), Err)
    }

    fn judge(
        &self,
        stage: &str,
        outcome: Result<Result<(), BoxError>, tokio::task::JoinError>,
    ) -> Option<ExitError> {
        let (supervisor, task) = (self.name.clone(), stage.to_owned());
        match outcome {
            Ok(Ok(())) => None,
            Ok(Err(source)) => Some(ExitError::Failed {
                supervisor,
                task,
                source,
            }),
            Err(error) => error.is_panic().then(|| ExitError::Panicked {
                supervisor,
                task,
                message: panic_message(error.into_panic().as_ref()),
            }),
        }
    }
}

/// The first stage to end, by position. Pending for ever without stages.
async fn any(
    stages: &mut [Stage],
) -> (usize, Result<Result<(), BoxError>, tokio::task::JoinError>) {
    if stages.is_empty() {
        return std::future::pending().await;
    }
    let handles = stages.iter_mut().map(|stage| &mut stage.handle);
    let (outcome, index, _) = futures::future::select_all(handles).await;
    (index, outcome)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::Stages;
    use crate::BoxError;

    const GRACE: Duration = Duration::from_secs(5);

    fn add(stages: &mut Stages, name: &'static str, log: &mpsc::Sender<&'static str>) {
        let log = log.clone();
        stages.add(name, GRACE, |stop| async move {
            stop.cancelled().await;
            log.send(name).await.map_err(BoxError::from)
        });
    }

    #[tokio::test]
    async fn stages_stop_in_the_order_they_were_added() {
        let stop = CancellationToken::new();
        let (log, mut seen) = mpsc::channel(8);
        let mut stages = Stages::new("test", stop.clone());
        for name in ["announcer", "driver", "api"] {
            add(&mut stages, name, &log);
        }
        drop(log);
        stop.cancel();
        stages.run().await.unwrap();
        let mut order = Vec::new();
        while let Some(name) = seen.recv().await {
            order.push(name);
        }
        assert_eq!(order, ["announcer", "driver", "api"]);
    }

    #[tokio::test]
    async fn a_stage_that_dies_stops_the_others_and_is_named() {
        let (log, mut seen) = mpsc::channel(8);
        let mut stages = Stages::new("test", CancellationToken::new());
        add(&mut stages, "announcer", &log);
        stages.add("driver", GRACE, |_stop| async { Err("no maps".to_owned()) });
        let error = stages.run().await.unwrap_err();
        assert_eq!(error.to_string(), "test: task `driver` failed");
        assert_eq!(seen.recv().await, Some("announcer"));
    }
}
