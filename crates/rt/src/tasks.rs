//! A bounded set of short-lived tasks, such as the connections of a server.
//!
//! Unlike a [`crate::Supervisor`]'s children they come and go; one that panics is logged and does not end the others.

use std::future::Future;

use tokio::task::JoinSet;
use tracing::error;

/// A bounded set of short-lived tasks. Dropping it aborts them.
pub struct Tasks {
    name: &'static str,
    max: usize,
    set: JoinSet<()>,
}

impl Tasks {
    /// At most `max` (at least one) run at a time.
    pub fn new(name: &'static str, max: usize) -> Self {
        Self {
            name,
            max: max.max(1),
            set: JoinSet::new(),
        }
    }

    /// How many run now.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Starts a task, after waiting for a free place if there is none.
    ///
    /// # Cancel safety
    /// Dropping the future before it completes drops the task unstarted.
    pub async fn spawn<F>(&mut self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some(ended) = self.set.try_join_next() {
            self.note(ended);
        }
        while self.set.len() >= self.max {
            match self.set.join_next().await {
                Some(ended) => self.note(ended),
                None => break,
            }
        }
        self.set.spawn(future);
    }

    /// Waits until every task has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: the tasks run on.
    pub async fn join(&mut self) {
        while let Some(ended) = self.set.join_next().await {
            self.note(ended);
        }
    }

    fn note(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            error!(tasks = self.name, error = %error, "a task died");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::Tasks;

    #[tokio::test]
    async fn a_full_set_waits_for_a_place() {
        let mut tasks = Tasks::new("test", 1);
        let (go, wait) = oneshot::channel::<()>();
        tasks.spawn(async { wait.await.unwrap() }).await;
        assert!(futures::FutureExt::now_or_never(tasks.spawn(async {})).is_none());
        go.send(()).unwrap();
        tasks.spawn(async {}).await;
        tasks.join().await;
        assert!(tasks.is_empty());
    }
}
