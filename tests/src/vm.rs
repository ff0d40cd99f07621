//! An emulated machine with another kernel: one program, or this machine's whole file system, and what it printed on the serial line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::netns::run;

mod kernel;
mod newc;

pub use kernel::Kernel;
use newc::Newc;

/// What the first program needs to reach this machine's files.
const TO_REACH_FILES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Before the exit status of what ran on this machine's files.
const ENDED: &str = "the command ended with";

/// An emulated machine before it is switched on.
#[derive(Debug)]
pub struct Machine {
    kernel: Kernel,
    initramfs: tempfile::NamedTempFile,
    /// Folders of this machine that it sees, by tag.
    shares: Vec<(&'static str, PathBuf)>,
    mebibytes: u32,
}

// === impl Machine ===

impl Machine {
    /// One whose first process is `program`, with the libraries that it needs and nothing else. It switches the machine off.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn with_program(kernel: &Kernel, program: &Path) -> anyhow::Result<Self> {
        let mut archive = Newc::default();
        for directory in ["proc", "sys", "dev", "lib64", "usr"] {
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
        Self::new(kernel, archive, Vec::new(), 1024)
    }

    /// One that sees this machine's files, changes to them its own, and runs `command` in `folder`.
    ///
    /// # Errors
    /// No static `busybox`, or a file that cannot be read or written.
    pub fn with_files(kernel: &Kernel, folder: &Path, command: &[String]) -> anyhow::Result<Self> {
        let busybox = run(&["sh", "-c", "command -v busybox"])
            .context("busybox is not installed: apt-get install busybox-static")?;
        let mut archive = Newc::default();
        for directory in ["bin", "dev", "files", "layer", "modules", "new", "proc"] {
            archive.directory(directory);
        }
        archive.file("bin/busybox", &fs::read(busybox.trim())?);
        let mut load = Vec::new();
        for file in kernel.files_of(&TO_REACH_FILES)? {
            let name = file.file_name().context("a module has a name")?;
            let inside = format!("modules/{}", name.display());
            archive.file(&inside, &fs::read(&file)?);
            load.push(format!("insmod /{inside}\n"));
        }
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let start = format!(
            "cd {} && {}",
            quoted(&folder.display().to_string()),
            words.join(" ")
        );
        archive.file("command", start.as_bytes());
        archive.file(
            "init",
            first_script(&load.concat(), &kernel.release()).as_bytes(),
        );
        let shares = vec![
            ("files", PathBuf::from("/")),
            ("modules", kernel.modules.clone()),
        ];
        Self::new(kernel, archive, shares, 3072)
    }

    fn new(
        kernel: &Kernel,
        archive: Newc,
        shares: Vec<(&'static str, PathBuf)>,
        mebibytes: u32,
    ) -> anyhow::Result<Self> {
        let initramfs = tempfile::NamedTempFile::new()?;
        fs::write(initramfs.path(), archive.finish())?;
        Ok(Self {
            kernel: kernel.clone(),
            initramfs,
            shares,
            mebibytes,
        })
    }

    /// Boots, hands each line to `hear`, waits until the machine switches itself off, and returns what it printed.
    ///
    /// # Errors
    /// No emulator, or the machine still runs after `patience`.
    pub fn boot(
        &self,
        patience: Duration,
        mut hear: impl FnMut(&str) + Send + 'static,
    ) -> anyhow::Result<String> {
        let mut machine = self.command().spawn();
        let machine = machine.as_mut().map_err(|e| {
            anyhow::anyhow!("start qemu-system-x86_64 (package qemu-system-x86): {e}")
        })?;
        let serial = machine.stdout.take().context("no serial line")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                hear(line.trim_end());
                text += line.trim_end();
                text.push('\n');
            }
            text
        });
        let in_time = wait(machine, patience)?;
        let text = reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if !in_time {
            bail!("the machine did not switch off within {patience:?}; it printed:\n{text}");
        }
        Ok(text)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-m", &self.mebibytes.to_string()])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable",
            ])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs.path());
        for (tag, folder) in &self.shares {
            let path = folder.display();
            command.args([
                "-fsdev",
                &format!(
                    "local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"
                ),
                "-device",
                &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
            ]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// Runs a command on this machine's files under another kernel; its output, if it succeeded.
///
/// # Errors
/// It failed, or the machine did.
pub fn run_under(
    kernel: &Kernel,
    folder: &Path,
    command: &[String],
    patience: Duration,
    hear: impl FnMut(&str) + Send + 'static,
) -> anyhow::Result<String> {
    let text = Machine::with_files(kernel, folder, command)?.boot(patience, hear)?;
    let ended = text.lines().find_map(|line| line.split_once(ENDED));
    let (_, status) = ended.with_context(|| format!("the machine ended before it:\n{text}"))?;
    ensure!(
        status.trim() == "0",
        "{} ended with {} on Linux {}:\n{text}",
        command.join(" "),
        status.trim(),
        kernel.release()
    );
    Ok(text)
}

/// Mounts this machine's files below a layer in memory, and starts `/command` on them.
fn first_script(load: &str, release: &str) -> String {
    let share = "9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose";
    format!(
        "#!/bin/busybox sh
set -e
for name in mount insmod mkdir cat switch_root; do /bin/busybox ln -s busybox /bin/$name; done
mount -t proc proc /proc
mount -t devtmpfs dev /dev
{load}mount -t {share} files /files
mount -t tmpfs layer /layer
mkdir /layer/changes /layer/work
mount -t overlay -o lowerdir=/files,upperdir=/layer/changes,workdir=/layer/work new /new
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mount -t tmpfs run /new/run
mount -t tmpfs tmp /new/tmp
mkdir -p /new/lib/modules/{release}
mount -t {share} modules /new/lib/modules/{release}
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin COMMAND=\"$(cat /command)\"
exec switch_root /new /bin/sh -c '
    uname -sr
    ip link set lo up
    sh -c \"$COMMAND\"
    echo \"{ENDED} $?\"
    echo o > /proc/sysrq-trigger
    read -r _ < /dev/zero'
"
    )
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
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
