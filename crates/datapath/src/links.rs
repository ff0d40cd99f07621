//! Attaching to interfaces by pinned links, and taking over the links of an earlier process.
//!
//! A link is pinned to `links/<ifindex>` and outlives us. Taking over replaces its program in one atomic step: no packet sees an empty hook.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::netdev::{self, Hook};
use crate::{DatapathError, sys};

/// How a program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel allocates a buffer.
    Native,
    /// In the network stack: works on every device, slower.
    Generic,
}

/// What [`crate::Datapath::attach`] is allowed to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acceleration {
    /// Native, generic where the driver cannot.
    #[default]
    BestEffort,
    /// Native or an error.
    Native,
    /// Generic, even where the driver could do better.
    Generic,
}

/// An interface that our program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub ifindex: u32,
    pub mode: Mode,
    /// A link of an earlier process was taken over, without a gap.
    pub taken_over: bool,
}

/// The pinned links of one pin directory.
#[derive(Debug)]
pub(crate) struct Links {
    directory: PathBuf,
}

struct Pinned {
    path: PathBuf,
    link: OwnedFd,
    info: sys::LinkInfo,
}

impl Links {
    pub(crate) fn in_dir(pin_dir: &Path) -> Self {
        Self {
            directory: pin_dir.join("links"),
        }
    }

    /// Puts `program` on the interface's hook, see [`crate::Datapath::attach`].
    pub(crate) fn attach(
        &self,
        program: BorrowedFd<'_>,
        ifindex: u32,
        acceleration: Acceleration,
    ) -> Result<Attached, DatapathError> {
        let interface = netdev::name(ifindex)?;
        if let Some(pinned) = self.pinned(ifindex)? {
            if let Some(mode) = take_over(&pinned, program, ifindex, &interface)? {
                return Ok(Attached {
                    ifindex,
                    mode,
                    taken_over: true,
                });
            }
            remove(&pinned.path)?;
        }
        let (link, mode) = create(program, ifindex, &interface, acceleration)?;
        crate::bpffs::create_dir(&self.directory)?;
        let path = self.path(ifindex);
        sys::pin(link.as_fd(), &path)
            .map_err(|source| DatapathError::pin("pinning a link", path, source))?;
        Ok(Attached {
            ifindex,
            mode,
            taken_over: false,
        })
    }

    /// Removes our program from the interface's hook; `false` when it was not there.
    pub(crate) fn detach(&self, ifindex: u32) -> Result<bool, DatapathError> {
        match self.pinned(ifindex)? {
            Some(pinned) => detach(&pinned).map(|()| true),
            None => Ok(false),
        }
    }

    /// Removes every link; returns how many there were.
    pub(crate) fn detach_all(&self) -> Result<usize, DatapathError> {
        let mut n_links = 0;
        for pinned in self.all()? {
            detach(&pinned)?;
            n_links += 1;
        }
        Ok(n_links)
    }

    /// Every interface of this namespace that a link of ours is attached to.
    pub(crate) fn attached(&self) -> Result<Vec<Attached>, DatapathError> {
        let mut all = Vec::new();
        for pinned in self.all()? {
            let hook = hook(pinned.info.ifindex, &pinned.path.display().to_string());
            if let Ok(Some(Hook { mode, prog_id })) = hook
                && prog_id == pinned.info.prog_id
            {
                all.push(Attached {
                    ifindex: pinned.info.ifindex,
                    mode,
                    taken_over: false,
                });
            }
        }
        Ok(all)
    }

    /// Whether a link on a living device runs a program other than the one with this id.
    pub(crate) fn any_runs_other_than(&self, prog_id: u32) -> Result<bool, DatapathError> {
        Ok(self
            .all()?
            .iter()
            .any(|pinned| pinned.info.ifindex != 0 && pinned.info.prog_id != prog_id))
    }

    fn path(&self, ifindex: u32) -> PathBuf {
        self.directory.join(ifindex.to_string())
    }

    fn pinned(&self, ifindex: u32) -> Result<Option<Pinned>, DatapathError> {
        let path = self.path(ifindex);
        if path.exists() {
            open(path).map(Some)
        } else {
            Ok(None)
        }
    }

    fn all(&self) -> Result<Vec<Pinned>, DatapathError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(DatapathError::pin("listing links", &self.directory, source));
            }
        };
        entries
            .map(|entry| {
                let entry = entry.map_err(|source| {
                    DatapathError::pin("listing links", &self.directory, source)
                })?;
                open(entry.path())
            })
            .collect()
    }
}

fn open(path: PathBuf) -> Result<Pinned, DatapathError> {
    let opened = sys::open_pin(&path).and_then(|link| Ok((sys::link_info(link.as_fd())?, link)));
    match opened {
        Ok((info, link)) => Ok(Pinned { path, link, info }),
        Err(source) => Err(DatapathError::pin("opening a pinned link", path, source)),
    }
}

/// Replaces the program of a pinned link. `None`: its device is gone, the pin is of no use any more.
fn take_over(
    pinned: &Pinned,
    program: BorrowedFd<'_>,
    ifindex: u32,
    interface: &str,
) -> Result<Option<Mode>, DatapathError> {
    if pinned.info.ifindex != ifindex {
        return Ok(None);
    }
    let Some(hook) = hook(ifindex, interface)?.filter(|hook| hook.prog_id == pinned.info.prog_id)
    else {
        return Err(DatapathError::LinkElsewhere {
            path: pinned.path.clone(),
        });
    };
    match sys::link_update(pinned.link.as_fd(), program) {
        Ok(()) => Ok(Some(hook.mode)),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(None),
        Err(source) => Err(DatapathError::pin(
            "replacing a link's program",
            &pinned.path,
            source,
        )),
    }
}

fn create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    interface: &str,
    acceleration: Acceleration,
) -> Result<(OwnedFd, Mode), DatapathError> {
    let first = match acceleration {
        Acceleration::Generic => Mode::Generic,
        Acceleration::Native | Acceleration::BestEffort => Mode::Native,
    };
    let native = match create_in(program, ifindex, first) {
        Ok(link) => return Ok((link, first)),
        Err(error) => error,
    };
    let is_final = matches!(
        native.raw_os_error(),
        Some(libc::EPERM | libc::EBUSY | libc::EEXIST | libc::ENODEV)
    );
    if is_final || acceleration != Acceleration::BestEffort {
        return Err(refused(native, ifindex, interface));
    }
    let link = create_in(program, ifindex, Mode::Generic)
        .map_err(|error| refused(error, ifindex, interface))?;
    tracing::warn!(ifindex, error = %native, "no native XDP on this interface: forwarding in generic mode, slower");
    Ok((link, Mode::Generic))
}

fn create_in(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let flags = match mode {
        Mode::Native => sys::XDP_NATIVE,
        Mode::Generic => sys::XDP_GENERIC,
    };
    sys::xdp_link(program, ifindex, flags)
}

fn refused(source: io::Error, ifindex: u32, interface: &str) -> DatapathError {
    let interface = interface.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM) => DatapathError::NoBpfRights {
            call: "attaching an XDP program",
            source,
        },
        Some(libc::EBUSY | libc::EEXIST) => {
            let prog_id = netdev::xdp_hook(ifindex)
                .ok()
                .flatten()
                .map_or(0, |hook| hook.prog_id);
            let prog_name = sys::prog_info_by_id(prog_id)
                .map(|info| info.name())
                .unwrap_or_default();
            DatapathError::XdpDeviceBusy {
                interface,
                prog_id,
                prog_name,
            }
        }
        _ => DatapathError::AttachRefused { interface, source },
    }
}

fn hook(ifindex: u32, interface: &str) -> Result<Option<Hook>, DatapathError> {
    netdev::xdp_hook(ifindex).map_err(|source| DatapathError::Netlink {
        interface: interface.to_owned(),
        source,
    })
}

/// Detaches first and unpins then, so that a link that someone else still holds open is gone from the hook as well.
fn detach(pinned: &Pinned) -> Result<(), DatapathError> {
    match sys::link_detach(pinned.link.as_fd()) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) && pinned.info.ifindex != 0 => {
            return Err(DatapathError::pin("detaching a link", &pinned.path, error));
        }
        _ => {}
    }
    remove(&pinned.path)
}

fn remove(path: &Path) -> Result<(), DatapathError> {
    fs::remove_file(path).map_err(|source| DatapathError::pin("removing a pin", path, source))
}
