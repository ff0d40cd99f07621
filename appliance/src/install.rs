//! `install` and `uninstall`: a systemd unit and a configuration; and nothing of them, nor of what ran by them, afterwards.
//!
//! | Where | What | Gone after `uninstall` |
//! | --- | --- | --- |
//! | `/etc/systemd/system/fairlead-appliance.service` | the unit | yes |
//! | `/etc/fairlead` | configuration and manifests | yes, unless `--keep-config` |
//! | `/var/lib/fairlead` | database, certificates, copies | yes, unless `--keep-state` |
//! | `/run/fairlead` | sockets | yes |
//! | the kernel | programs, pins, group memberships, neighbours | yes |
//!
//! Invariant: `uninstall` is idempotent, and removes files of ours only.

use std::{
    fmt::Write as _,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use fairlead_agent::cleanup;
use fairlead_model::NodeName;

use crate::{
    args::{Args, Install, Uninstall},
    cluster::disk,
    config,
};

/// Name of the unit.
pub const UNIT: &str = "fairlead-appliance.service";
/// Where the configuration is.
pub const CONFIG: &str = "/etc/fairlead/appliance.yaml";
const CONFIG_DIR: &str = "/etc/fairlead";
const MANIFESTS: &str = "/etc/fairlead/manifests";
const UNIT_DIR: &str = "/etc/systemd/system";
const WANTED_BY: &str = "/etc/systemd/system/multi-user.target.wants";

/// What the state folder holds of ours.
const STATE: [&str; 5] = ["api", "cluster", "config", "kubeconfig", "heartbeat.key"];

/// Where systemd itself says that it runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Puts unit and configuration in place, and starts it where systemd runs.
///
/// # Errors
/// A configuration that cannot be used; a file that cannot be written.
///
/// # Cancel safety
/// Each file is there whole or not at all; doing it again goes on.
pub async fn install(wanted: &Install) -> Result<String> {
    let at = |path: &str| rooted(&wanted.root, path);
    let program = std::env::current_exe().context("find this program")?;
    if let Some(file) = &wanted.from {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("--from: read {}", file.display()))?;
        if let Some(problem) = config::supervise::problem(&text).await {
            bail!("--from {}: {problem}", file.display());
        }
        write(&at(CONFIG), &text, 0o600)?;
    } else if !at(CONFIG).exists() {
        write(&at(CONFIG), TEMPLATE, 0o600)?;
    }
    public_dir(&at(MANIFESTS))?;
    let unit = at(UNIT_DIR).join(UNIT);
    write(&unit, &unit_text(&program), 0o644)?;
    let mut said = format!("wrote {} and {}\n", unit.display(), at(CONFIG).display());
    if wanted.is_here() {
        systemctl(&["daemon-reload"])?;
        if wanted.no_start {
            systemctl(&["enable", UNIT])?;
        } else {
            systemctl(&["enable", "--now", UNIT])?;
        }
        writeln!(
            said,
            "enabled {UNIT}: journalctl -u fairlead-appliance shows its log"
        )?;
    } else {
        writeln!(
            said,
            "systemd does not run here: enable it with `systemctl enable --now {UNIT}`"
        )?;
    }
    Ok(said)
}

impl Install {
    /// Whether this machine's systemd is meant.
    fn is_here(&self) -> bool {
        self.root == Path::new("/") && Path::new(BOOTED).exists()
    }
}

/// Stops it and takes everything away.
///
/// # Errors
/// A process that still runs; a file that cannot be removed.
///
/// # Cancel safety
/// Doing it again goes on.
pub async fn uninstall(wanted: &Uninstall, given: &Args) -> Result<String> {
    let at = |path: &str| rooted(&wanted.root, path);
    let mut said = String::new();
    if wanted.root == Path::new("/")
        && Path::new(BOOTED).exists()
        && at(UNIT_DIR).join(UNIT).exists()
    {
        systemctl(&["disable", "--now", UNIT])?;
        writeln!(said, "stopped and disabled {UNIT}")?;
    }
    // By what it ran; a configuration that cannot be read leaves the defaults.
    let file = at(CONFIG);
    let read = file.exists().then(|| config::load(&file).ok()).flatten();
    let args = read.unwrap_or_else(|| given.clone());
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => fairlead_agent::config::hostname()?,
    };
    let node = NodeName::new(&name.to_lowercase()).context("node-name")?;
    let rooted_path = |path: &Path| rooted(&wanted.root, &path.to_string_lossy());
    let socket = args.socket.clone();
    let socket = socket.unwrap_or_else(|| fairlead_agent::config::socket_of(&node));
    let (socket, pins) = (rooted_path(&socket), rooted_path(&args.bpffs));
    // Below another root, what this machine's kernel holds is ours only if the pins say so.
    if wanted.root == Path::new("/") || pins.exists() {
        let removed = cleanup::cleanup(&pins, &socket)
            .await
            .context("take programs and pins away")?;
        write!(said, "{removed}")?;
    }
    let mut empty = Vec::new();
    let mut gone = vec![at(UNIT_DIR).join(UNIT), at(WANTED_BY).join(UNIT)];
    if !wanted.keep_config {
        gone.push(at(CONFIG_DIR));
    }
    if !wanted.keep_state {
        let state = rooted_path(&args.state_dir);
        // What is ours of it by name, for a state folder may hold more; the folder itself only when that leaves it empty.
        gone.extend(STATE.iter().map(|name| state.join(name)));
        gone.push(at(config::slots::DIR));
        empty.push(state);
    }
    if socket.starts_with(at(fairlead_observe::client::SOCKET_DIR)) {
        gone.push(at(fairlead_observe::client::SOCKET_DIR));
    }
    for path in gone {
        if remove(&path).with_context(|| format!("remove {}", path.display()))? {
            writeln!(said, "removed {}", path.display())?;
        }
    }
    for path in empty {
        // One that holds something else stays, and is no failure.
        if std::fs::remove_dir(&path).is_ok() {
            writeln!(said, "removed {}", path.display())?;
        }
    }
    if wanted.root == Path::new("/") && Path::new(BOOTED).exists() {
        systemctl(&["daemon-reload"])?;
    }
    Ok(said)
}

fn rooted(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn public_dir(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    let made = builder.create(dir);
    made.with_context(|| format!("make {}", dir.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(folder) = path.parent() {
        public_dir(folder)?;
    }
    disk::replace_with(path, text.as_bytes(), mode)
        .with_context(|| format!("write {}", path.display()))
}

/// A file, a link or a folder with all that is in it; returns whether it was there.
fn remove(path: &Path) -> io::Result<bool> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn systemctl(words: &[&str]) -> Result<()> {
    let output = Command::new("systemctl").args(words).output();
    let output = output.context("run systemctl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("systemctl {}: {}", words.join(" "), said.trim());
    }
    Ok(())
}

/// The unit. It may restart for ever: what it forwards does not depend on it, and what it lacks may come back. systemd stops it before the
/// network, and its sockets, state and file system of maps are there before it.
pub fn unit_text(program: &Path) -> String {
    format!(
        "# Written by `fairlead-appliance install`; `fairlead-appliance uninstall` removes it.
[Unit]
Description=Fairlead appliance: addresses for Services, announced on the LAN and forwarded in XDP
Wants=network-online.target
After=network-online.target
RequiresMountsFor=/sys/fs/bpf
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={} --config {CONFIG}
Restart=always
RestartSec=1
# Addresses are handed over first, which takes a second or two.
TimeoutStopSec=30
KillMode=mixed
StateDirectory=fairlead
StateDirectoryMode=0700
RuntimeDirectory=fairlead
RuntimeDirectoryMode=0700
LimitMEMLOCK=infinity
LimitNOFILE=65536
LimitRTPRIO=99
NoNewPrivileges=yes
ProtectHome=read-only
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
",
        program.display()
    )
}

/// What is written where nothing is configured yet.
const TEMPLATE: &str = "# Fairlead appliance. Keys are the flags of `fairlead-appliance --help`; `fairlead appliance check` checks them.
# A change is tried at the next start (`systemctl restart fairlead-appliance`) and taken back if it cuts this machine off.

# Interfaces that face the LAN. Without it: the one of the default route.
#interface: [eth0]
manifests: /etc/fairlead/manifests
# Joining the API of another machine, with a token of `fairlead appliance token create` there:
#join: https://192.0.2.11:6443
#token-file: /etc/fairlead/token
# Metrics and health for others than `fairlead`:
#metrics-listen: \":9962\"
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{TEMPLATE, unit_text};

    #[test]
    fn the_template_is_a_configuration() {
        let args = crate::config::parse(TEMPLATE).unwrap();
        assert_eq!(
            args.manifests.as_deref(),
            Some(Path::new("/etc/fairlead/manifests"))
        );
        // Each key that is only shown is one, too.
        let shown = TEMPLATE.lines().filter_map(|line| line.strip_prefix('#'));
        let shown: Vec<&str> = shown.filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(shown.len(), 4);
        let args = crate::config::parse(&shown.join("\n")).unwrap();
        assert_eq!(args.join.as_deref(), Some("https://192.0.2.11:6443"));
        assert!(args.metrics_listen.is_some());
    }

    #[test]
    fn the_unit_runs_this_program_by_the_configuration() {
        let unit = unit_text(Path::new("/usr/local/bin/fairlead-appliance"));
        assert!(unit.contains(
            "ExecStart=/usr/local/bin/fairlead-appliance --config /etc/fairlead/appliance.yaml\n"
        ));
    }
}
