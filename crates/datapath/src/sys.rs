//! The `bpf(2)` commands that aya has no safe or complete call for: element access through a shared reference, batches, links.
//!
//! Every function takes borrowed descriptors and byte slices whose lengths the caller has checked against the map; this module is the only
//! place that talks to the kernel without aya.
#![expect(unsafe_code, reason = "system calls and mappings have no safe form")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{FromZeros, Immutable, IntoBytes};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const MAP_LOOKUP_BATCH: u32 = 24;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

/// `enum bpf_attach_type`: BPF_XDP.
const ATTACH_XDP: u32 = 37;

/// Update flag: create or replace.
pub(crate) const ANY: u64 = 0;
/// Update flag: only create.
pub(crate) const NOEXIST: u64 = 1;
/// Update flag: only replace.
pub(crate) const EXIST: u64 = 2;

/// `XDP_FLAGS_SKB_MODE`.
pub(crate) const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(crate) const XDP_NATIVE: u32 = 1 << 2;

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct PinAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// Runs one command. Returns the (non-negative) result of the system call.
fn bpf<A: IntoBytes + Immutable>(command: u32, attr: &mut A) -> io::Result<i64> {
    // SAFETY: `attr` is a live, exclusively borrowed structure without padding (`IntoBytes`) of exactly the length passed; the kernel reads
    // and writes only that many bytes of it. Pointers inside it are made from live slices by the callers below, with the lengths that the
    // command uses.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

/// Takes a descriptor that the kernel just returned.
fn own(result: i64) -> OwnedFd {
    let fd = i32::try_from(result).expect("the kernel returns descriptors as int");
    // SAFETY: `fd` was returned by the kernel for this call just now, so it is open and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Creates an array of one element and drops it.
pub(crate) fn probe_map() -> io::Result<()> {
    // Type (array), key size, value size, entries, flags.
    let mut attr = [2_u32, 4, 8, 1, 0];
    bpf(MAP_CREATE, &mut attr).map(own).map(drop)
}

/// Reads one element. `value` is as long as the map's value (times the rounded possible CPUs for per-CPU maps).
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: raw(map),
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..ElemAttr::default()
    };
    found(bpf(MAP_LOOKUP_ELEM, &mut attr))
}

/// Writes one element with an update flag.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: raw(map),
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags,
        ..ElemAttr::default()
    };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Deletes one element; `false` when there was none.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: raw(map),
        key: key.as_ptr() as u64,
        ..ElemAttr::default()
    };
    found(bpf(MAP_DELETE_ELEM, &mut attr))
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One step of a batched read of a hash map.
pub(crate) struct Batch {
    /// Elements written to `keys` and `values`.
    pub(crate) count: u32,
    /// No more elements follow.
    pub(crate) done: bool,
}

/// Reads up to `count` elements after `cursor`, which it moves. `first` starts over. Fails with `ENOSPC` when one bucket holds more than
/// `count`: try again with a larger one.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    first: bool,
    cursor: &mut [u8],
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<Batch> {
    let mut next = vec![0_u8; cursor.len()];
    let mut attr = BatchAttr {
        in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
        out_batch: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    let done = match bpf(MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    cursor.copy_from_slice(&next);
    Ok(Batch {
        count: attr.count,
        done,
    })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Pins an object at a path on a BPF file system.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr {
        pathname: path.as_ptr() as u64,
        fd: raw(object),
        flags: 0,
    };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr {
        pathname: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    bpf(OBJ_GET, &mut attr).map(own)
}

/// Creates an XDP link. `flags`: [`XDP_NATIVE`] or [`XDP_GENERIC`].
pub(crate) fn xdp_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = [raw(program), ifindex, ATTACH_XDP, flags];
    bpf(LINK_CREATE, &mut attr).map(own)
}

/// Replaces the program of a link atomically.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [raw(link), raw(program), 0, 0];
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link for good, whoever else still holds it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [raw(link)];
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// The start of `struct bpf_link_info` for XDP links.
#[derive(Default, Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    _pad: u32,
    /// Zero once the device is gone.
    pub(crate) ifindex: u32,
    _rest: [u32; 11],
}

/// Describes a link.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: raw(link),
        len: len32::<LinkInfo>(),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The start of `struct bpf_map_info`.
#[derive(Default, Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    name: [u8; 16],
}

/// Describes a map.
pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: raw(map),
        len: len32::<MapInfo>(),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The start of `struct bpf_prog_info`, up to and including the name.
#[derive(Default, Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct ProgInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    _tag: [u8; 8],
    _jited_len: u32,
    _xlated_len: u32,
    _jited: u64,
    _xlated: u64,
    _load_time: u64,
    _created_by: u32,
    _nr_map_ids: u32,
    _map_ids: u64,
    name: [u8; 16],
}

impl ProgInfo {
    /// The name that the kernel keeps (at most 15 characters).
    pub(crate) fn name(&self) -> String {
        let end = self
            .name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

/// Describes a program.
pub(crate) fn prog_info(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let mut info = ProgInfo::default();
    let mut attr = InfoAttr {
        fd: raw(program),
        len: len32::<ProgInfo>(),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Describes the program with this id.
pub(crate) fn prog_info_by_id(id: u32) -> io::Result<ProgInfo> {
    let mut attr = [id, 0, 0];
    let program = bpf(PROG_GET_FD_BY_ID, &mut attr).map(own)?;
    prog_info(std::os::fd::AsFd::as_fd(&program))
}

fn len32<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("a small structure")
}
