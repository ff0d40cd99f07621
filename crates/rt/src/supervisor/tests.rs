use std::{io, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{BoxError, ExitError, Supervisor};

async fn until(token: CancellationToken) -> Result<(), BoxError> {
    token.cancelled().await;
    Ok(())
}

#[tokio::test]
async fn a_child_that_ends_ends_its_siblings() {
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new("test", stop.clone());
    tasks.spawn("waits", until(tasks.token()));
    tasks.spawn("ends", async { Ok::<_, BoxError>(()) });
    let error = tasks.first_exit().await.unwrap_err();
    assert_eq!(error.to_string(), "test: task `ends` ended unexpectedly");
    assert!(!stop.is_cancelled(), "the parent decides for itself");
}

#[tokio::test]
async fn an_error_is_reported_with_its_task() {
    let mut tasks = Supervisor::new("test", CancellationToken::new());
    tasks.spawn("waits", until(tasks.token()));
    tasks.spawn("fails", async { Err(io::Error::other("disk full")) });
    let error = tasks.first_exit().await.unwrap_err();
    let ExitError::Failed { task, source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        (task.as_str(), source.to_string().as_str()),
        ("fails", "disk full")
    );
}

#[tokio::test]
async fn a_panic_is_reported_with_its_message() {
    let mut tasks = Supervisor::new("test", CancellationToken::new());
    tasks.spawn("waits", until(tasks.token()));
    tasks.spawn("panics", async {
        assert!(io::stdin().lines().count() == usize::MAX, "number {}", 7);
        Ok::<_, BoxError>(())
    });
    let error = tasks.first_exit().await.unwrap_err();
    assert_eq!(error.to_string(), "test: task `panics` panicked: number 7");
}

#[tokio::test]
async fn stopping_from_above_is_no_error() {
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new("test", stop.clone());
    tasks.spawn("waits", until(tasks.token()));
    tasks.spawn_finite("brief", async { Ok::<_, BoxError>(()) });
    stop.cancel();
    tasks.first_exit().await.unwrap();
}

#[tokio::test]
async fn a_child_that_will_not_stop_is_named_and_aborted() {
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new("test", stop.clone()).with_grace(Duration::from_millis(20));
    tasks.spawn("deaf", async {
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(())
    });
    stop.cancel();
    let error = tasks.first_exit().await.unwrap_err();
    assert_eq!(error.reason(), "TaskStuck");
    assert!(error.to_string().contains("`deaf`"), "{error}");
}

#[tokio::test]
async fn a_thread_is_a_child_like_any_other() {
    let mut tasks = Supervisor::new("test", CancellationToken::new());
    tasks.spawn("waits", until(tasks.token()));
    tasks.spawn_thread("ticker", |_stop| Err(io::Error::other("no such device")));
    let error = tasks.first_exit().await.unwrap_err();
    assert!(error.to_string().contains("`ticker` failed"), "{error}");

    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new("test", stop.clone());
    tasks.spawn_thread("ticker", |stop| {
        while !stop.is_cancelled() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok::<_, BoxError>(())
    });
    stop.cancel();
    tasks.first_exit().await.unwrap();
}
