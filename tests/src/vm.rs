//! An emulated machine with another kernel: one program in an initial file system, its verdict on the serial line.
//!
//! The kernel is the distribution's package, fetched once into the cache. Nothing is skipped: what is missing is an error that names it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::netns::run;

/// A kernel image of the 6.1 series: `FAIRLEAD_KERNEL_6_1`, the cache, or Debian 12's package.
pub fn kernel_6_1() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("FAIRLEAD_KERNEL_6_1") {
        return Ok(PathBuf::from(named));
    }
    let directory = cache()
        .context("no cache directory: set FAIRLEAD_CACHE or HOME")?
        .join("kernel-6.1");
    if let Some(image) = image_in(&directory) {
        return Ok(image);
    }
    fetch(&directory).context(
        "Linux 6.1 could not be fetched: on another distribution than Debian 12 name an image in FAIRLEAD_KERNEL_6_1",
    )?;
    image_in(&directory).context("the package holds no /boot/vmlinuz-6.1.*")
}

fn cache() -> Option<PathBuf> {
    let under = |variable: &str, rest: &str| {
        std::env::var_os(variable).map(|base| PathBuf::from(base).join(rest))
    };
    under("FAIRLEAD_CACHE", "")
        .or_else(|| under("XDG_CACHE_HOME", "fairlead"))
        .or_else(|| under("HOME", ".cache/fairlead"))
}

fn image_in(directory: &Path) -> Option<PathBuf> {
    let boot = fs::read_dir(directory.join("boot")).ok()?;
    boot.filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with("vmlinuz-6.1."))
        })
}

fn fetch(directory: &Path) -> anyhow::Result<()> {
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
    fs::create_dir_all(directory)?;
    let download = Command::new("apt-get")
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package])
        .current_dir(directory)
        .status()
        .context("start apt-get")?;
    ensure!(
        download.success(),
        "apt-get download {package}: {download} (is `apt-get update` recent?)"
    );
    let archive = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .context("apt-get left no package")?;
    let (archive_text, unpacked) = (archive.display().to_string(), directory.join("unpacked"));
    run(&[
        "dpkg-deb",
        "-x",
        &archive_text,
        &unpacked.display().to_string(),
    ])?;
    fs::rename(unpacked.join("boot"), directory.join("boot"))?;
    // Only the image is of use here; modules and package are several hundred megabytes.
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// An initial file system with `program` as the first process, and the libraries that it needs.
pub fn initramfs(program: &Path) -> anyhow::Result<Vec<u8>> {
    let mut archive = Newc::default();
    for directory in [
        "proc",
        "sys",
        "dev",
        "lib64",
        "lib",
        "lib/x86_64-linux-gnu",
        "usr",
        "usr/lib",
    ] {
        archive.directory(directory);
    }
    archive.file("init", &fs::read(program)?);
    for library in run(&["ldd", &program.display().to_string()])?.lines() {
        // `name => /path (address)` or `/path (address)`; the kernel's own has no path.
        if let Some(path) = library
            .split_whitespace()
            .find(|word| word.starts_with('/'))
        {
            archive.directories_of(path);
            archive.file(path.trim_start_matches('/'), &fs::read(path)?);
        }
    }
    Ok(archive.finish())
}

/// Boots `kernel` with `initramfs`, waits until the machine switches itself off, and returns what it printed.
pub fn boot(kernel: &Path, initramfs: &Path, patience: Duration) -> anyhow::Result<String> {
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "1"])
        .args([
            "-display",
            "none",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64 (package qemu-system-x86)")?;
    let mut serial = machine.stdout.take().context("no serial line")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = serial.read_to_end(&mut bytes);
        (String::from_utf8_lossy(&bytes).into_owned(), result)
    });
    let in_time = wait(&mut machine, patience)?;
    let (text, read) = reader
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    read.context("read the serial line")?;
    if !in_time {
        bail!("the machine did not switch off within {patience:?}; it printed:\n{text}");
    }
    Ok(text)
}

/// Waits for the process; kills it when patience ends.
fn wait(machine: &mut Child, patience: Duration) -> anyhow::Result<bool> {
    const STEP: Duration = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    while waited < patience {
        if machine.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::park_timeout(STEP);
        waited += STEP;
    }
    machine.kill()?;
    machine.wait()?;
    Ok(false)
}

/// A cpio archive of the `newc` kind (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Newc {
    bytes: Vec<u8>,
    n_entries: u32,
    directories: std::collections::BTreeSet<String>,
}

impl Newc {
    const DIRECTORY: u32 = 0o040_755;
    const FILE: u32 = 0o100_755;

    fn directory(&mut self, name: &str) {
        if self.directories.insert(name.to_owned()) {
            self.entry(name, Self::DIRECTORY, &[]);
        }
    }

    fn directories_of(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.directory(&path[..end]);
        }
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, Self::FILE, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.n_entries += 1;
        let size = u32::try_from(content.len()).expect("files are below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        // inode, mode, uid, gid, links, mtime, size, device and special device (major, minor), name size, checksum.
        let fields = [
            self.n_entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
