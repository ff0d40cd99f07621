//! A real Kubernetes control plane as a test peer: what no server of our own can prove about itself.
//!
//! [`ControlPlane`] starts etcd and kube-apiserver from `tests/tools` (RBAC on, TLS, a loopback address of its own) in about
//! three seconds. A program that is missing is a failure, nothing is skipped.
#![forbid(unsafe_code)]

pub mod control_plane;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod site;
pub mod tools;

pub use control_plane::{Backup, ControlPlane, PATIENCE, client, repository};

/// Runs a future to its end on a thread and a runtime of its own, so that callers may be anywhere.
pub fn aside<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime without threads of its own needs no resource")
                .block_on(work)
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
