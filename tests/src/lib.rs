//! What no single crate can prove: the programs under test-run, in namespaces, and on another kernel.
//!
//! Everything here needs root and says so ([`require_root`]); nothing is skipped. Namespaces and pin directories carry the process id, so
//! that runs do not meet. Next: [`lan`], one client, one load balancer and servers on a bridge; [`fill`], map contents by hand.
#![forbid(unsafe_code)]

pub mod fill;
pub mod frame;
pub mod lan;
pub mod netns;
pub mod pins;
pub mod random;
pub mod smoke;
pub mod twin;
pub mod vm;

/// Fails the test with a sentence that says what it needs.
///
/// # Panics
///
/// Without root.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads BPF programs and makes network namespaces: run it as root"
    );
}
