//! Why the kernel side could not be set up, each with its remedy.

use std::io;
use std::path::PathBuf;

/// Why loading, pinning or attaching failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The process may not use BPF.
    #[error(
        "{call} is not permitted: run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (and CAP_SYS_ADMIN to mount bpffs)"
    )]
    NoBpfRights {
        call: &'static str,
        source: io::Error,
    },
    /// There is no BPF file system to pin to.
    #[error("no BPF file system at {}: mount it with `mount -t bpf bpf {}`", mount_point.display(), mount_point.display())]
    BpffsUnavailable {
        mount_point: PathBuf,
        source: io::Error,
    },
    /// Another process holds the pin directory.
    #[error("another process works with the pins in {}: stop it, or give this one another pin directory", pin_dir.display())]
    PinsInUse { pin_dir: PathBuf },
    /// A pin could not be read, written or removed.
    #[error("pin {} could not be used: `fairlead-agent cleanup` removes all pins", path.display())]
    Pin { path: PathBuf, source: io::Error },
    /// A pinned map does not have the layout that its directory promises.
    #[error(
        "map {map} has another layout ({found}) than the programs expect ({expected}): run `fairlead-agent cleanup`"
    )]
    LayoutChanged {
        map: &'static str,
        expected: String,
        found: String,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refused program {prog}: it needs Linux 6.1 or later; verifier: {log}")]
    VerifierRejected {
        prog: &'static str,
        log: String,
        source: io::Error,
    },
    /// The kernel had no memory for a map.
    #[error(
        "no memory for map {map}: lower its number of entries in the settings, or raise the memory limit of the service"
    )]
    OutOfMemory { map: String, source: io::Error },
    /// The embedded object does not have the programs or maps that this build expects.
    #[error(
        "the embedded BPF object is not usable ({what}): this is a build error, rebuild from clean sources"
    )]
    ObjectMalformed { what: String },
    /// No such interface in this network namespace.
    #[error("interface {name} does not exist: `ip link` lists those that do")]
    UnknownInterface { name: String },
    /// Someone else's XDP program is attached.
    #[error(
        "interface {interface} already runs XDP program {prog_name:?} (id {prog_id}): detach it with `ip link set dev {interface} xdp off`, or leave forwarding off there"
    )]
    XdpDeviceBusy {
        interface: String,
        prog_id: u32,
        prog_name: String,
    },
    /// A pinned link of ours belongs to a device that is not in this network namespace.
    #[error("the pinned link {} belongs to another network namespace: give this process another pin directory, or run `fairlead-agent cleanup`", path.display())]
    LinkElsewhere { path: PathBuf },
    /// The kernel or the driver refused to attach in either mode.
    #[error("no XDP program can be attached to interface {interface}")]
    AttachRefused {
        interface: String,
        source: io::Error,
    },
    /// The interface could not be queried.
    #[error("interface {interface} could not be queried")]
    Netlink {
        interface: String,
        source: io::Error,
    },
    /// A test-run failed.
    #[error("test-run of program {prog} failed")]
    TestRun { prog: String, source: io::Error },
}

impl DatapathError {
    /// The closed word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoBpfRights { .. } => "NoBpfRights",
            Self::BpffsUnavailable { .. } => "BpffsUnavailable",
            Self::PinsInUse { .. } => "PinsInUse",
            Self::Pin { .. } => "PinUnusable",
            Self::LayoutChanged { .. } => "LayoutChanged",
            Self::VerifierRejected { .. } => "VerifierRejected",
            Self::OutOfMemory { .. } => "OutOfMemory",
            Self::ObjectMalformed { .. } => "ObjectMalformed",
            Self::UnknownInterface { .. } => "UnknownInterface",
            Self::XdpDeviceBusy { .. } => "XdpDeviceBusy",
            Self::LinkElsewhere { .. } => "LinkElsewhere",
            Self::AttachRefused { .. } => "AttachRefused",
            Self::Netlink { .. } => "NetlinkFailed",
            Self::TestRun { .. } => "TestRunFailed",
        }
    }

    /// A refused call: missing rights, or a pin that is not usable.
    pub(crate) fn pin(call: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoBpfRights { call, source },
            _ => Self::Pin {
                path: path.into(),
                source,
            },
        }
    }
}
