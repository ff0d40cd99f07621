//! Where the programs are that `tests/tools/build.sh` builds.

use std::path::PathBuf;

use anyhow::ensure;

/// The built program `name`. Not there is a failure, not a reason to skip.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("FAIRLEAD_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fairlead"),
        PathBuf::from,
    );
    let path = cache.join("tools").join(name);
    ensure!(
        path.exists(),
        "{} is missing: run tests/tools/build.sh (needs Go 1.26), then test again",
        path.display()
    );
    Ok(path)
}
