//! Pin directories that end with the test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A pin directory of its own below `/sys/fs/bpf`; links and pins in it are removed on drop.
#[derive(Debug)]
pub struct PinDir(PathBuf);

impl PinDir {
    /// A name that no other test of this machine uses.
    #[expect(clippy::new_without_default, reason = "each is another directory")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!(
            "/sys/fs/bpf/fairlead-test-{}-{n}",
            std::process::id()
        )))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if let Err(error) = fairlead_datapath::cleanup(&self.0) {
            // A test that already fails says why; this is a second problem.
            drop(writeln!(
                std::io::stderr(),
                "pins in {} stay: {error}",
                self.0.display()
            ));
        }
    }
}
