//! The kernel at the floor of what is supported, with its modules: the distribution's package, fetched once into the cache. Nothing is
//! skipped: what is missing is an error that names it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::netns::run;

/// An image that boots, and what it loads.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `vmlinuz-RELEASE`.
    pub image: PathBuf,
    /// `lib/modules/RELEASE` with `modules.dep`.
    pub modules: PathBuf,
}

// === impl Kernel ===

impl Kernel {
    /// A kernel of the 6.1 series: `FAIRLEAD_KERNEL_6_1` (a folder with `boot/` and `lib/modules/`), the cache, or Debian 12's package.
    ///
    /// # Errors
    /// It is not there and cannot be fetched.
    pub fn linux_6_1() -> anyhow::Result<Self> {
        if let Some(named) = std::env::var_os("FAIRLEAD_KERNEL_6_1") {
            return Self::in_folder(Path::new(&named)).with_context(|| {
                format!(
                    "FAIRLEAD_KERNEL_6_1 = {}: there is no boot/vmlinuz-6.1.* with its lib/modules/*/modules.dep",
                    named.display()
                )
            });
        }
        let cache = cache().context("no cache directory: set FAIRLEAD_CACHE or HOME")?;
        let folder = cache.join("kernel-6.1");
        fs::create_dir_all(&cache)?;
        // Tests run beside each other, and one fetches for all.
        let lock = File::create(cache.join("kernel-6.1.lock"))?;
        lock.lock()?;
        if let Some(kernel) = Self::in_folder(&folder) {
            return Ok(kernel);
        }
        fetch(&folder).context(
            "Linux 6.1 could not be fetched: on another distribution than Debian 12 name a folder with boot/ and lib/modules/ in FAIRLEAD_KERNEL_6_1",
        )?;
        Self::in_folder(&folder).context("the package holds no boot/vmlinuz-6.1.*")
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let boot = fs::read_dir(folder.join("boot")).ok()?;
        let images = boot.filter_map(Result::ok).map(|entry| entry.path());
        images.into_iter().find_map(|image| {
            let release = release_of(&image).filter(|release| release.starts_with("6.1."))?;
            let modules = folder.join("lib/modules").join(release);
            modules
                .join("modules.dep")
                .exists()
                .then_some(Self { image, modules })
        })
    }

    /// As in `uname -r`.
    #[must_use]
    pub fn release(&self) -> String {
        release_of(&self.image).unwrap_or_default()
    }

    /// The files of `modules` and of what they need, in the order in which they are loaded.
    ///
    /// # Errors
    /// A module is not known.
    pub fn files_of(&self, modules: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let table = fs::read_to_string(self.modules.join("modules.dep"))?;
        let mut files = Vec::new();
        for module in modules {
            let is_it = |line: &&str| {
                let path = line.split(':').next().unwrap_or_default();
                path.ends_with(&format!("/{module}.ko"))
            };
            let line = table.lines().find(is_it);
            let line = line.with_context(|| format!("{} has no {module}", self.release()))?;
            // `module: nearest need ... deepest need`
            let mut needs: Vec<&str> = line.split([':', ' ']).filter(|w| !w.is_empty()).collect();
            needs.reverse();
            for need in needs.into_iter().map(|need| self.modules.join(need)) {
                if !files.contains(&need) {
                    files.push(need);
                }
            }
        }
        Ok(files)
    }
}

fn release_of(image: &Path) -> Option<String> {
    let name = image.file_name().and_then(OsStr::to_str)?;
    name.strip_prefix("vmlinuz-").map(str::to_owned)
}

fn cache() -> Option<PathBuf> {
    let under = |variable: &str, rest: &str| {
        std::env::var_os(variable).map(|base| PathBuf::from(base).join(rest))
    };
    under("FAIRLEAD_CACHE", "")
        .or_else(|| under("XDG_CACHE_HOME", "fairlead"))
        .or_else(|| under("HOME", ".cache/fairlead"))
}

fn fetch(folder: &Path) -> anyhow::Result<()> {
    let depends = run(&["apt-cache", "depends", "linux-image-amd64"])?;
    let package = depends
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-6.1."))
        .with_context(|| {
            format!(
                "linux-image-amd64 is not of the 6.1 series here: {}",
                depends.trim()
            )
        })?
        .to_owned();
    if folder.exists() {
        // Half of it, or what an earlier version of this program kept.
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let download = Command::new("apt-get")
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package])
        .current_dir(folder)
        .status()
        .context("start apt-get")?;
    ensure!(
        download.success(),
        "apt-get download {package}: {download} (is `apt-get update` recent?)"
    );
    let archive = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .context("apt-get left no package")?;
    let at = folder.display().to_string();
    run(&["dpkg-deb", "-x", &archive.display().to_string(), &at])?;
    fs::remove_file(&archive)?;
    let release = package.trim_start_matches("linux-image-");
    // Last, because its table is what tells a whole folder.
    run(&["depmod", "-b", &at, release])?;
    Ok(())
}
