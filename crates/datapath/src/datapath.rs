//! The load balancer's kernel half as one value: open, fill, attach.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::ProgramFd;
use fairlead_abi::maps::{Kind, slots};
use fairlead_abi::{flow, lb};

use crate::bpffs::PinDir;
use crate::layout::{self, DIRECTORY_PREFIX, Spec};
use crate::links::{Acceleration, Attached, Links};
use crate::maps::{DecapMaps, HashMap, L2Maps, LbMaps, PerCpuArray, Plain, Window};
use crate::object::{MapLayout, ProgramCost, ProgramSet, Role};
use crate::test_run::{self, Run};
use crate::{DatapathError, rights};

/// Where to pin, and how large the maps that are settings are. Another size is another layout: the next start begins with empty maps
/// beside the old ones, which go on forwarding until [`Datapath::attach`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathConfig {
    /// On a BPF file system; below `/sys/fs/bpf` one is mounted there when missing, elsewhere at the directory itself.
    pub pin_dir: PathBuf,
    /// Lines of 32 Maglev slots.
    pub maglev_lines: u32,
    /// Remembered flows of frontends in transition.
    pub n_flows: u32,
    /// Half-open ones among them.
    pub n_flows_new: u32,
    /// Established SNAT records.
    pub n_snat: u32,
    /// Half-open SNAT records.
    pub n_snat_new: u32,
}

impl DatapathConfig {
    /// The default sizes.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            maglev_lines: lb::N_MAGLEV_LINES,
            n_flows: flow::N_FLOWS,
            n_flows_new: flow::N_FLOWS_NEW,
            n_snat: flow::N_SNAT,
            n_snat_new: flow::N_SNAT_NEW,
        }
    }
}

/// The loaded load balancer and responder. Dropping it leaves everything that is attached running.
///
/// Order of a start: [`open`](Self::open), fill the maps, [`attach`](Self::attach). Until a link is attached or taken over, packets meet the
/// earlier process's programs, with the same maps if the layout is the same.
pub struct Datapath {
    pins: PinDir,
    specs: Vec<Spec>,
    layout_dir: PathBuf,
    set: ProgramSet,
    links: Links,
    lb: LbMaps,
    l2: L2Maps,
}

/// What [`cleanup`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub n_links: usize,
    /// Pinned maps.
    pub n_pins: usize,
}

// === impl Datapath ===

impl Datapath {
    const TAILS: &[(u32, &str)] = &[
        (slots::RARE, "lb_rare"),
        (slots::SNAT, "lb_snat"),
        (slots::L2, "l2_respond"),
        (slots::ICMP, "lb_icmp"),
        (slots::ICMP_SNAT, "lb_icmp_snat"),
        (slots::NODE, "lb_node"),
    ];

    /// Loads the programs over the maps pinned by an earlier process, or over new ones. Nothing is attached yet.
    ///
    /// One process at a time may work with a pin directory: another gets [`DatapathError::PinsInUse`].
    pub fn open(cfg: &DatapathConfig) -> Result<Self, DatapathError> {
        let specs = layout::load_balancer(cfg);
        let role = Role {
            entry: "lb_ingress",
            tails: Self::TAILS,
            specs,
        };
        let (pins, layout_dir, set) = load(cfg, &role)?;
        let links = Links::in_dir(pins.path());
        let (lb, l2) = (lb_maps(&set, cfg)?, l2_maps(&set)?);
        Ok(Self {
            pins,
            specs: role.specs,
            layout_dir,
            set,
            links,
            lb,
            l2,
        })
    }

    /// The load balancer's maps.
    pub const fn lb(&self) -> &LbMaps {
        &self.lb
    }

    /// The responder's maps; a clone may live on the heartbeat thread.
    pub const fn l2(&self) -> &L2Maps {
        &self.l2
    }

    /// Runs our programs on an interface: takes over our own pinned link without a gap, or attaches a new one.
    ///
    /// Errors: `UnknownInterface`, `XdpDeviceBusy` (someone else's program stays untouched), `NoBpfRights`, `AttachRefused`,
    /// `LinkElsewhere`.
    pub fn attach(
        &mut self,
        ifindex: u32,
        acceleration: Acceleration,
    ) -> Result<Attached, DatapathError> {
        let attached = self.links.attach(self.set.entry(), ifindex, acceleration)?;
        if !self.links.any_runs_other_than(self.set.entry_id())? {
            self.set.retire_others(&self.layout_dir)?;
            remove_other_layouts(self.pins.path(), &self.layout_dir)?;
        }
        Ok(attached)
    }

    /// Removes our program from an interface; `false` when it was not there.
    pub fn detach(&mut self, ifindex: u32) -> Result<bool, DatapathError> {
        self.links.detach(ifindex)
    }

    /// Interfaces that a link of ours is attached to, also those of an earlier process that were not taken over yet.
    pub fn attached(&self) -> Result<Vec<Attached>, DatapathError> {
        self.links.attached()
    }

    /// What each loaded program cost the verifier.
    pub fn program_costs(&self) -> Vec<ProgramCost> {
        self.set.costs()
    }

    /// Every map of the loaded object, those of other roles (one entry each) and of constants included.
    pub fn map_layouts(&self) -> Vec<MapLayout> {
        self.set.layouts()
    }

    /// Runs one of the programs on a packet, through the kernel's test-run, with the maps as they are.
    pub fn test_run(&self, program: &str, packet: &[u8]) -> Result<Run, DatapathError> {
        test_run::run(self.set.xdp(program), program, packet)
    }
}

impl Datapath {
    /// Name, size and pin of the maps that the benchmark's programs share.
    pub(crate) fn shared_maps(&self) -> impl Iterator<Item = (&'static str, u32, PathBuf)> {
        let shared = self
            .specs
            .iter()
            .filter(|spec| spec.row.kind != Kind::ProgArray);
        shared.map(|spec| {
            (
                spec.row.name,
                spec.max_entries,
                self.layout_dir.join(spec.row.name),
            )
        })
    }

    /// The program that is attached to interfaces.
    pub(crate) fn entry_fd(&self) -> Result<ProgramFd, DatapathError> {
        self.set.entry_fd()
    }
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath")
            .field("pins", &self.pins.path())
            .finish_non_exhaustive()
    }
}

/// The decapsulator of a server that holds VIPs itself.
pub struct Decap {
    pins: PinDir,
    layout_dir: PathBuf,
    set: ProgramSet,
    links: Links,
    maps: DecapMaps,
}

// === impl Decap ===

impl Decap {
    /// Loads the decapsulator over the maps pinned by an earlier process, or over new ones. Its pin directory is its own.
    pub fn open(pin_dir: &Path) -> Result<Self, DatapathError> {
        let cfg = DatapathConfig::new(pin_dir);
        let specs = layout::specs(&cfg, |name| {
            name.starts_with("DECAP_") || name == "REASONS" || name == "IFACES"
        });
        let role = Role {
            entry: "decap_ingress",
            tails: &[],
            specs,
        };
        let (pins, layout_dir, set) = load(&cfg, &role)?;
        let maps = DecapMaps {
            ifaces: window(&set, "IFACES", lb::N_IFACES)?,
            vips: hash(&set, "DECAP_VIPS", row_size("DECAP_VIPS"))?,
            senders: hash(&set, "DECAP_SENDERS", row_size("DECAP_SENDERS"))?,
            reasons: per_cpu(&set, "REASONS", row_size("REASONS"))?,
        };
        let links = Links::in_dir(pins.path());
        Ok(Self {
            pins,
            layout_dir,
            set,
            links,
            maps,
        })
    }

    /// Its maps.
    pub const fn maps(&self) -> &DecapMaps {
        &self.maps
    }

    /// As [`Datapath::attach`].
    pub fn attach(
        &mut self,
        ifindex: u32,
        acceleration: Acceleration,
    ) -> Result<Attached, DatapathError> {
        let attached = self.links.attach(self.set.entry(), ifindex, acceleration)?;
        if !self.links.any_runs_other_than(self.set.entry_id())? {
            remove_other_layouts(self.pins.path(), &self.layout_dir)?;
        }
        Ok(attached)
    }

    /// As [`Datapath::detach`].
    pub fn detach(&mut self, ifindex: u32) -> Result<bool, DatapathError> {
        self.links.detach(ifindex)
    }

    /// As [`Datapath::attached`].
    pub fn attached(&self) -> Result<Vec<Attached>, DatapathError> {
        self.links.attached()
    }

    /// As [`Datapath::program_costs`].
    pub fn program_costs(&self) -> Vec<ProgramCost> {
        self.set.costs()
    }

    /// As [`Datapath::test_run`].
    pub fn test_run(&self, packet: &[u8]) -> Result<Run, DatapathError> {
        test_run::run(self.set.xdp("decap_ingress"), "decap_ingress", packet)
    }
}

impl std::fmt::Debug for Decap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decap")
            .field("pins", &self.pins.path())
            .finish_non_exhaustive()
    }
}

/// Detaches every link and removes every pin below `pin_dir`, of whatever version. Idempotent: nothing there is no error.
pub fn cleanup(pin_dir: &Path) -> Result<Cleaned, DatapathError> {
    let Some(pins) = PinDir::open_existing(pin_dir)? else {
        return Ok(Cleaned::default());
    };
    let n_links = Links::in_dir(pins.path()).detach_all()?;
    let mut n_pins = 0;
    for directory in layout_directories(pins.path())? {
        n_pins += remove_directory(&directory)?;
    }
    let links = pins.path().join("links");
    if links.exists() {
        remove_directory(&links)?;
    }
    // The directory itself stays when it is the root of a mount or holds other pins.
    match fs::remove_dir(pins.path()) {
        Ok(()) => {}
        Err(error) => tracing::debug!(path = %pins.path().display(), %error, "pin directory stays"),
    }
    Ok(Cleaned { n_links, n_pins })
}

fn load(cfg: &DatapathConfig, role: &Role) -> Result<(PinDir, PathBuf, ProgramSet), DatapathError> {
    rights::check()?;
    let pins = PinDir::open(&cfg.pin_dir)?;
    let layout_dir = pins.path().join(layout::directory(&role.specs));
    let set = ProgramSet::load(role, &layout_dir)?;
    Ok((pins, layout_dir, set))
}

fn lb_maps(set: &ProgramSet, cfg: &DatapathConfig) -> Result<LbMaps, DatapathError> {
    Ok(LbMaps {
        ifaces: window(set, "IFACES", lb::N_IFACES)?,
        vips4: window(set, "VIPS4", lb::N_VIP_BUCKETS)?,
        vips6: window(set, "VIPS6", lb::N_VIP_BUCKETS)?,
        vip_state: window(set, "VIP_STATE", lb::N_VIP_STATES)?,
        frontends: window(set, "FRONTENDS", lb::N_FRONTENDS)?,
        maglev: window(set, "MAGLEV", cfg.maglev_lines)?,
        backends4: window(set, "BACKENDS4", lb::N_BACKENDS4)?,
        backends6: window(set, "BACKENDS6", lb::N_BACKENDS6)?,
        fe_stats: per_cpu(set, "FE_STATS", lb::N_FRONTENDS)?,
        reasons: per_cpu(set, "REASONS", row_size("REASONS"))?,
        flows: hash(set, "FLOWS", cfg.n_flows)?,
        flows_new: hash(set, "FLOWS_NEW", cfg.n_flows_new)?,
        snat: hash(set, "SNAT", cfg.n_snat)?,
        snat_new: hash(set, "SNAT_NEW", cfg.n_snat_new)?,
    })
}

fn l2_maps(set: &ProgramSet) -> Result<L2Maps, DatapathError> {
    Ok(L2Maps {
        entries: hash(set, "L2_ENTRIES", row_size("L2_ENTRIES"))?,
        cells: window(set, "L2_CELLS", row_size("L2_CELLS"))?,
        peers: hash(set, "PEERS", row_size("PEERS"))?,
        peer_seen: window(set, "PEER_SEEN", row_size("PEER_SEEN"))?,
    })
}

/// The table's number of entries of a map that is no setting.
fn row_size(name: &str) -> u32 {
    fairlead_abi::maps::MAPS
        .iter()
        .find(|row| row.name == name)
        .map(|row| row.max_entries)
        .expect("every map that is opened by name is in the table")
}

fn window<T: Plain>(
    set: &ProgramSet,
    name: &'static str,
    len: u32,
) -> Result<Window<T>, DatapathError> {
    Ok(Window::over(set.map(name)?, len))
}

fn hash<K: Plain, V: Plain>(
    set: &ProgramSet,
    name: &'static str,
    max_entries: u32,
) -> Result<HashMap<K, V>, DatapathError> {
    Ok(HashMap::over(name, set.map(name)?, max_entries))
}

fn per_cpu<T: Plain>(
    set: &ProgramSet,
    name: &'static str,
    len: u32,
) -> Result<PerCpuArray<T>, DatapathError> {
    let n_cpus = aya::util::nr_cpus().map_err(|(path, source)| DatapathError::Pin {
        path: path.into(),
        source,
    })?;
    Ok(PerCpuArray::over(name, set.map(name)?, len, n_cpus))
}

/// Removes the maps of other layouts, which no link needs any more.
fn remove_other_layouts(pin_dir: &Path, current: &Path) -> Result<(), DatapathError> {
    for directory in layout_directories(pin_dir)? {
        if directory != current {
            remove_directory(&directory)?;
        }
    }
    Ok(())
}

fn layout_directories(pin_dir: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let is_layout = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        path.is_dir()
            && name.len() == DIRECTORY_PREFIX.len() + 16
            && name.starts_with(DIRECTORY_PREFIX)
    };
    Ok(entries(pin_dir)?.into_iter().filter(is_layout).collect())
}

/// Removes a directory of pins; returns how many pins it held.
fn remove_directory(directory: &Path) -> Result<usize, DatapathError> {
    let pins = entries(directory)?;
    for pin in &pins {
        fs::remove_file(pin).map_err(|source| DatapathError::pin("removing a pin", pin, source))?;
    }
    fs::remove_dir(directory)
        .map_err(|source| DatapathError::pin("removing a pin directory", directory, source))?;
    Ok(pins.len())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    list().map_err(|source| DatapathError::pin("listing pins", directory, source))
}
