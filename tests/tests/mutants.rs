//! The logic's own tests notice when the logic is wrong: small mutations of its sources, each of which must make them fail.
//!
//! A copy of `bpf/abi` and `bpf/logic` is built in a workspace of its own; the first build takes a minute, each mutation a few seconds.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One mutation.
struct Mutant {
    /// Below `bpf/logic/src`.
    file: &'static str,
    /// What stands there exactly once.
    original: &'static str,
    /// What is put in its place.
    mutated: &'static str,
    /// The tests that must notice.
    tests: &'static str,
}

const fn mutant(
    file: &'static str,
    original: &'static str,
    mutated: &'static str,
    tests: &'static str,
) -> Mutant {
    Mutant {
        file,
        original,
        mutated,
        tests,
    }
}

const MUTANTS: [Mutant; 21] = [
    mutant("csum.rs", "self.word(!w)", "self.word(w)", "csum::"),
    mutant(
        "output.rs",
        "total > eg.mtu || total > 0xffff",
        "total >= eg.mtu || total > 0xffff",
        "ingress::",
    ),
    mutant(
        "transition.rs",
        "self.m.now() < self.fe.udp_previous_until",
        "self.m.now() > self.fe.udp_previous_until",
        "transition::",
    ),
    mutant(
        "snat.rs",
        "w.candidates = [first, slots",
        "w.candidates = [NOWHERE, slots",
        "snat::",
    ),
    mutant(
        "snat.rs",
        "Some(found) if record::is_own(&m.load(found.0), h) => Ok(Some(found))",
        "Some(found) if record::is_own(&m.load(found.0), h) => Err(reasons::SNAT_TABLE_FULL)",
        "snat::",
    ),
    mutant("l2.rs", "arp.op.get() != 1", "arp.op.get() != 2", "l2::"),
    mutant(
        "ingress.rs",
        "if flags & vip_flags::PASS_TO_HOST != 0",
        "if flags & vip_flags::PASS_TO_HOST == 0",
        "ingress::",
    ),
    mutant(
        "ingress.rs",
        "if !select::is_own(p, m, v6, dst)",
        "if select::is_own(p, m, v6, dst)",
        "node::",
    ),
    mutant(
        "record.rs",
        "&& addr_eq(&v.vip, &h.dst)",
        "&& addr_eq(&v.client, &h.src)",
        "node::",
    ),
    mutant(
        "record.rs",
        "if !expired(&v, now, h.proto)",
        "if expired(&v, now, h.proto)",
        "snat::",
    ),
    mutant(
        "icmp_snat.rs",
        "if record::is_kept(m, &w.fe, &w.key)",
        "if !record::is_kept(m, &w.fe, &w.key)",
        "icmp::",
    ),
    mutant(
        "icmp.rs",
        "record::is_kept(m, &fe, &record::quoted_key(h))",
        "record::is_kept(m, &fe, &record::reply_key(h))",
        "icmp::",
    ),
    mutant(
        "quote.rs",
        "address_delta(&outer.src, &ends.dst, true)",
        "address_delta(&outer.src, &outer.dst, true)",
        "node::",
    ),
    mutant("rewrite.rs", ".minus(0x0100)", ".minus(0x0001)", "snat::"),
    mutant(
        "select.rs",
        "Some(iface) if v6 && !addr_eq(&iface.addr6, &[0; 16])",
        "Some(iface) if v6 && addr_eq(&iface.addr6, &[0; 16])",
        "node::",
    ),
    mutant(
        "hash.rs",
        "(NODE_PORT_MIN as u32).wrapping_add(sum % NODE_PORTS)",
        "(SNAT_PORT_MIN as u32).wrapping_add(sum % NODE_PORTS)",
        "node::",
    ),
    mutant(
        "refusal.rs",
        "usize::from(h.bytes).min(",
        "p.len().min(",
        "snat::",
    ),
    mutant(
        "tunnel.rs",
        "is_some_and(|to| addr_eq(&to.addr, backend))",
        "is_some()",
        "node::",
    ),
    mutant(
        "node.rs",
        "icmp::is_error(h.v6, message.kind) =>",
        "!icmp::is_error(h.v6, message.kind) =>",
        "node::",
    ),
    mutant(
        "decap.rs",
        "(true, false) => Err(reasons::DECAP_UNKNOWN_SENDER)",
        "(true, false) => Ok(true)",
        "decap::",
    ),
    mutant(
        "parse.rs",
        "} else if frag & OFFSET_MASK == 0 {",
        "} else if frag & OFFSET_MASK != 0 {",
        "parse::",
    ),
];

/// The tree that is mutated.
struct Copy {
    directory: tempfile::TempDir,
    target: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let directory = tempfile::tempdir().unwrap();
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let (before, rest) = manifest.split_once("members = [").unwrap();
        let (_, after) = rest.split_once(']').unwrap();
        let manifest = format!("{before}members = [\"bpf/abi\", \"bpf/logic\"]{after}");
        fs::write(directory.path().join("Cargo.toml"), manifest).unwrap();
        fs::copy(root.join("Cargo.lock"), directory.path().join("Cargo.lock")).unwrap();
        for part in ["bpf/abi", "bpf/logic"] {
            copy(&root.join(part), &directory.path().join(part));
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
        Self { directory, target }
    }

    /// Runs the logic's tests whose names have `tests` in them; returns what they printed and whether they passed.
    fn test(&self, tests: &str) -> (String, bool) {
        let output = Command::new(env!("CARGO"))
            .args([
                "test",
                "--offline",
                "-q",
                "-p",
                "fairlead-logic",
                "--all-features",
                "--lib",
                tests,
            ])
            .env("CARGO_TARGET_DIR", &self.target)
            .env("PROPTEST_CASES", "64")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            String::from_utf8_lossy(&text).into_owned(),
            output.status.success(),
        )
    }

    fn source(&self, file: &str) -> PathBuf {
        self.directory.path().join("bpf/logic/src").join(file)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn every_mutation_of_the_logic_makes_its_tests_fail() {
    let copy = Copy::new();
    let (text, passed) = copy.test("");
    assert!(passed, "the tests fail without a mutation:\n{text}");
    for Mutant {
        file,
        original,
        mutated,
        tests,
    } in MUTANTS
    {
        let sound = fs::read_to_string(copy.source(file)).unwrap();
        assert_eq!(
            sound.matches(original).count(),
            1,
            "`{original}` in {file}: choose another mutation"
        );
        fs::write(copy.source(file), sound.replace(original, mutated)).unwrap();
        let (text, passed) = copy.test(tests);
        assert!(!passed, "no test noticed `{mutated}` in {file}");
        assert!(
            text.contains("test result: FAILED"),
            "`{mutated}` in {file} does not compile:\n{text}"
        );
        fs::write(copy.source(file), sound).unwrap();
    }
}
