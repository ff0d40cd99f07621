//! Work over a millisecond leaves the async threads.

/// Runs `work` on the blocking pool. A panic in it continues in the caller, so that the caller's supervisor sees it.
///
/// # Cancel safety
/// Dropping the future does not stop `work`; it runs to its end unseen.
pub async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away, and the caller with it: never complete.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn values_come_back() {
        assert_eq!(super::blocking(|| 7).await, 7);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller() {
        let mut set = tokio::task::JoinSet::new();
        set.spawn(super::blocking(|| panic!("on purpose")));
        assert!(set.join_next().await.unwrap().unwrap_err().is_panic());
    }
}
