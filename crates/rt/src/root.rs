//! The frame of every daemon: runtime, signals, exit code.

use std::{future::Future, io, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::supervisor::BoxError;

/// Runs a daemon to its end on a new multi-threaded runtime. SIGTERM or SIGINT fires the token, a second one ends the process at once.
///
/// An error is logged with its whole chain and becomes exit code 1.
pub fn run<B, F, E>(build: B) -> ExitCode
where
    B: FnOnce(CancellationToken) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(error = %error, "the runtime does not start");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        let work = build(stop.clone());
        tokio::select! {
            outcome = work => outcome.map_err(Into::into),
            outcome = signals(stop) => outcome.map_err(BoxError::from),
        }
    });
    // Blocking work that nobody waits for any more must not hold the exit up.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %chain(error.as_ref()), "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Completes at the second signal only; the first fires `stop`.
async fn signals(stop: CancellationToken) -> Result<(), io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if stop.is_cancelled() {
            return Err(io::Error::other(format!(
                "second signal ({name}), not waiting any longer"
            )));
        }
        info!(signal = name, "stopping");
        stop.cancel();
    }
}

/// An error and its causes in one line, joined by `: `; a cause whose text the line already ends with is left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use crate::ExitError;

    #[test]
    fn a_chain_is_one_line() {
        let error = ExitError::Failed {
            supervisor: "agent".into(),
            task: "driver".into(),
            source: Box::new(io::Error::other("map is full")),
        };
        assert_eq!(
            super::chain(&error),
            "agent: task `driver` failed: map is full"
        );
    }
}
