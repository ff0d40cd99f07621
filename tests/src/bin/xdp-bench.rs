//! ns of CPU per packet of the load balancer's program, against the floor in the same run: `./x bench xdp [-o json] [--quick]`.
//!
//! Method: a generator program writes the next flow's headers at each repetition of the kernel's test-run and calls the program under test, so
//! that every packet is another one; flows come in random order after a warm pass; targets take turns in each round; generator and head
//! move are measured in the same rounds and subtracted. Before timing, outputs are compared byte for byte; afterwards, the share of packets that
//! were forwarded is checked.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use fairlead_abi::bench::{BenchFlow, BenchState, FLOOR_SOURCE4, FLOOR_SOURCE6};
use fairlead_abi::lb::{Iface, SlotTable, VipState, iface_flags, mode};
use fairlead_datapath::bench::{Bench, Target};
use fairlead_datapath::{Datapath, DatapathConfig, cleanup};
use fairlead_tests::fill::{self, FrontendSpec};
use fairlead_tests::frame::{self, Flow};
use fairlead_xdp_lb::maglev::{self, Member};
use nix::time::{ClockId, clock_gettime};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// The loopback device: test-run presents packets as received there.
const LO: u32 = 1;
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Ethernet and 64 bytes of headers: what the generator writes.
const FRAME: usize = 78;
/// Slots of each table; also the size in the figures that this is compared with.
const TABLE_SIZE: u32 = 16_381;
const LINES: u32 = TABLE_SIZE.div_ceil(32);
/// Outputs compared byte for byte before a case is timed.
const COMPARED: u32 = 300;
const ROUNDS: usize = 5;
const PORT: u16 = 80;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// How many VIPs with how many backends each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    vips: u32,
    backends: u32,
}

const SHAPES: [Shape; 2] = [
    Shape {
        vips: 1,
        backends: 10,
    },
    Shape {
        vips: 1000,
        backends: 100,
    },
];
const FLOWS: [(u32, &str); 4] = [
    (1, "1"),
    (1_000, "1k"),
    (100_000, "100k"),
    (1_000_000, "1M"),
];
/// Backend records that are there; VIPs beyond them share.
const RECORDS: u32 = 60_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            drop(writeln!(std::io::stderr(), "xdp-bench: {error:?}"));
            ExitCode::FAILURE
        }
    }
}

struct Options {
    json: bool,
    packets: u32,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options {
        json: false,
        packets: 1_000_000,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-o" if arguments.next().as_deref() == Some("json") => options.json = true,
            "--quick" => options.packets = 100_000,
            other => anyhow::bail!("{other}: usage: xdp-bench [-o json] [--quick]"),
        }
    }
    Ok(options)
}

/// Removes the pins also when a measurement fails.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.0) {
            drop(writeln!(std::io::stderr(), "pins stay: {error}"));
        }
    }
}

fn run() -> anyhow::Result<()> {
    let options = options()?;
    let pins = Pins(PathBuf::from(format!(
        "/sys/fs/bpf/fairlead-bench-{}",
        std::process::id()
    )));
    let datapath = Datapath::open(&DatapathConfig::new(&pins.0)).context("load the programs")?;
    let mut bench = Bench::open(&datapath).context("load the benchmark's programs")?;
    let own = Iface {
        ifindex: LO,
        mtu: 1500,
        mac: OWN_MAC,
        flags: iface_flags::FORWARD,
        addr4: FLOOR_SOURCE4,
        l2_cell: 0,
        addr6: FLOOR_SOURCE6,
    };
    fill::iface(datapath.lb(), &own);
    for shape in SHAPES {
        progress(&format!(
            "building {} tables of {TABLE_SIZE} slots",
            shape.vips
        ))?;
        for v6 in [false, true] {
            let vips = fill_tables(&datapath, shape, v6)?;
            for (flows, label) in FLOWS {
                case(
                    &datapath,
                    &mut bench,
                    &options,
                    &Case {
                        shape,
                        vips: &vips,
                        v6,
                        flows,
                        label,
                        flags: ACK,
                    },
                )?;
            }
            let flood = Case {
                shape,
                vips: &vips,
                v6,
                flows: 1_000_000,
                label: "1M SYN",
                flags: SYN,
            };
            case(&datapath, &mut bench, &options, &flood)?;
        }
    }
    Ok(())
}

struct Case<'a> {
    shape: Shape,
    vips: &'a [IpAddr],
    v6: bool,
    flows: u32,
    label: &'static str,
    flags: u8,
}

impl Case<'_> {
    fn name(&self) -> String {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        format!(
            "{family} TCP, {} VIPs x {}, {} flows",
            self.shape.vips, self.shape.backends, self.label
        )
    }
}

fn vip(n: u32, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from(0xfd00_0007_u128 << 96 | u128::from(n)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0xcb00_0000 + n))
    }
}

fn backend(n: u32, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from(0xfd00_0008_u128 << 96 | u128::from(n)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
    }
}

/// Writes backends, tables and frontends; returns the VIPs. The floor looks only into a key's preferred bucket, so VIPs are chosen to fit there.
fn fill_tables(datapath: &Datapath, shape: Shape, v6: bool) -> anyhow::Result<Vec<IpAddr>> {
    let lb = datapath.lb();
    let slot = u8::try_from(LO)?;
    for n in 0..RECORDS.min(shape.vips * shape.backends) {
        match backend(n, v6) {
            IpAddr::V4(addr) => {
                fill::backend4(lb, n, addr.octets(), 8080, NEXT_HOP, slot, FLOOR_SOURCE4);
            }
            IpAddr::V6(addr) => fill::backend6(lb, n, addr.octets(), 8080, NEXT_HOP, slot),
        }
    }
    // Shapes do not share VIPs: the first one's stay where they are.
    let candidates = (shape.vips * 16..).map(|n| vip(n, v6));
    let mut free = candidates.filter(|vip| fill::fits_first_bucket(lb, *vip, PORT, 6));
    let mut vips = Vec::new();
    for n in 0..shape.vips {
        let vip = free.next().context("no VIP fits")?;
        vips.push(vip);
        let base = n * shape.backends % RECORDS;
        let members: Vec<Member> = (0..shape.backends)
            .map(|i| {
                let identity = SocketAddr::new(backend(base + i, v6), 8080);
                Ok(Member {
                    identity,
                    index: u16::try_from(i)?,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let current = fill::slots(lb, n * LINES, &maglev::build(&members, TABLE_SIZE)?);
        let spec = FrontendSpec {
            vip,
            port: PORT,
            proto: 6,
            index: n + 1 + if v6 { 2_000 } else { 0 },
            vip_state: n + 1,
            mode: mode::DSR_IPIP,
            current,
            previous: SlotTable::default(),
            flags: 0,
            backend_base: base,
            n_backends: shape.backends,
            udp_previous_until: 0,
        };
        fill::frontend(lb, &spec)?;
    }
    for (n, vip) in (1..).zip(&vips) {
        fill::vip(lb, *vip, n, &VipState::default())?;
    }
    Ok(vips)
}

fn case(
    datapath: &Datapath,
    bench: &mut Bench,
    options: &Options,
    case: &Case<'_>,
) -> anyhow::Result<()> {
    progress(&case.name())?;
    write_flows(datapath, bench, case)?;
    let targets = [
        Target::Nothing,
        Target::Tx,
        Target::Head,
        Target::Floor,
        Target::LoadBalancer,
    ];
    let mut samples = [const { Vec::new() }; 5];
    for round in 0..=ROUNDS {
        for (target, samples) in targets.into_iter().zip(&mut samples) {
            let nanoseconds = measure(bench, case, target, options.packets)
                .with_context(|| format!("{target:?} in case {}", case.name()))?;
            // The first round warms caches and tables.
            if round > 0 {
                samples.push(nanoseconds);
            }
        }
    }
    let [nothing, tx, head, floor, load_balancer] = samples.map(median);
    let (value, peer_value) = (load_balancer - head, floor - head);
    report(options, &case.name(), value, Some(peer_value))?;
    report(
        options,
        &format!("{}: generator alone", case.name()),
        nothing,
        None,
    )?;
    report(
        options,
        &format!("{}: bare XDP_TX", case.name()),
        tx - nothing,
        None,
    )?;
    report(
        options,
        &format!("{}: bare head move", case.name()),
        head - nothing,
        None,
    )
}

/// Writes the flows in random order and compares what comes out.
fn write_flows(datapath: &Datapath, bench: &Bench, case: &Case<'_>) -> anyhow::Result<()> {
    // The same flows in every run, so that figures can be compared.
    let mut random = StdRng::seed_from_u64(0xfa1e);
    for n in 0..case.flows {
        let client = if case.v6 {
            IpAddr::V6(Ipv6Addr::from(
                0xfd00_0005_u128 << 96 | u128::from(random.random::<u64>()),
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from(0xc000_0000 | random.random::<u32>() >> 4))
        };
        let flow = Flow {
            src_mac: CLIENT_MAC,
            dst_mac: OWN_MAC,
            src: client,
            dst: case.vips[random.random_range(0..case.vips.len())],
            sport: random.random_range(1024..=u16::MAX),
            dport: PORT,
        };
        // 64 bytes from the IP header on.
        let payload = vec![0; if case.v6 { 4 } else { 24 }];
        let sent = frame::tcp(&flow, case.flags, &payload);
        let headers: [u8; 64] = sent[14..].try_into().context("64 bytes of headers")?;
        bench.flows().write(n, &BenchFlow { headers });
        if n < COMPARED {
            let ours = datapath.test_run("lb_ingress", &sent)?;
            let floor = bench.floor(&sent)?;
            ensure!(ours.verdict == 3, "verdict {} for {flow:?}", ours.verdict);
            ensure!(
                (ours.verdict, &ours.packet) == (floor.verdict, &floor.packet),
                "{flow:?}: ours {:02x?}, floor {:02x?}",
                ours.packet,
                floor.packet
            );
        }
    }
    Ok(())
}

/// ns of this thread's CPU time per packet.
fn measure(
    bench: &mut Bench,
    case: &Case<'_>,
    target: Target,
    packets: u32,
) -> anyhow::Result<f64> {
    bench.aim(target)?;
    let grows = match target {
        Target::Nothing | Target::Tx => 0,
        Target::Head => 20,
        Target::Floor | Target::LoadBalancer => {
            if case.v6 {
                40
            } else {
                20
            }
        }
    };
    let mut eth = [0; 14];
    eth[..6].copy_from_slice(&OWN_MAC);
    eth[6..12].copy_from_slice(&CLIENT_MAC);
    eth[12..].copy_from_slice(if case.v6 {
        &[0x86, 0xdd]
    } else {
        &[0x08, 0x00]
    });
    let state = BenchState {
        flows: u64::from(case.flows),
        frame_len: FRAME as u64,
        grows,
        eth,
        ..BenchState::default()
    };
    bench.state().write(0, &state);
    let before = thread_time()?;
    bench.send(&[0; FRAME], packets)?;
    let spent = thread_time()?.saturating_sub(before);
    let after = bench.state().read(0);
    ensure!(
        after.runs == u64::from(packets),
        "{} of {packets} repetitions ran",
        after.runs
    );
    if matches!(target, Target::Floor | Target::LoadBalancer) {
        let expected = u64::from(packets) - 1;
        ensure!(
            after.forwarded == expected,
            "{} of {expected} packets were forwarded",
            after.forwarded
        );
    }
    Ok(spent.as_secs_f64() * 1e9 / f64::from(packets))
}

fn thread_time() -> anyhow::Result<Duration> {
    Ok(Duration::from(clock_gettime(
        ClockId::CLOCK_THREAD_CPUTIME_ID,
    )?))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn report(options: &Options, case: &str, value: f64, floor: Option<f64>) -> anyhow::Result<()> {
    let rounded = |x: f64| (x * 10.0).round() / 10.0;
    let mut out = std::io::stdout();
    if options.json {
        let mut line =
            json!({ "bench": "xdp", "case": case, "value": rounded(value), "unit": "ns" });
        if let Some(floor) = floor {
            line["peer"] = json!("floor");
            line["peer_value"] = json!(rounded(floor));
            line["ratio"] = json!((value / floor * 100.0).round() / 100.0);
        }
        writeln!(out, "{line}")?;
    } else {
        match floor {
            Some(floor) => writeln!(
                out,
                "{case:<52} {value:7.1} ns   floor {floor:7.1} ns   ratio {:.2}",
                value / floor
            )?,
            None => writeln!(out, "{case:<70} {value:7.1} ns")?,
        }
    }
    Ok(())
}

fn progress(what: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr(), "xdp-bench: {what}")?)
}
