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

/// A file below `bpf/logic/src`, what stands there exactly once, and what is put in its place.
const MUTANTS: [(&str, &str, &str); 6] = [
    ("csum.rs", "self.word(!w)", "self.word(w)"),
    (
        "output.rs",
        "total > eg.mtu || total > 0xffff",
        "total >= eg.mtu || total > 0xffff",
    ),
    (
        "transition.rs",
        "self.m.now() < self.fe.udp_previous_until",
        "self.m.now() > self.fe.udp_previous_until",
    ),
    (
        "snat.rs",
        "w.candidates = [first, slots",
        "w.candidates = [NOWHERE, slots",
    ),
    ("l2.rs", "arp.op.get() != 1", "arp.op.get() != 2"),
    (
        "ingress.rs",
        "if flags & vip_flags::PASS_TO_HOST != 0",
        "if flags & vip_flags::PASS_TO_HOST == 0",
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

    /// Runs the logic's tests; returns what they printed and whether they passed.
    fn test(&self) -> (String, bool) {
        let output = Command::new(env!("CARGO"))
            .args([
                "test",
                "--offline",
                "-q",
                "-p",
                "fairlead-logic",
                "--all-features",
                "--lib",
            ])
            .env("CARGO_TARGET_DIR", &self.target)
            .env("PROPTEST_CASES", "64")
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
    let (text, passed) = copy.test();
    assert!(passed, "the tests fail without a mutation:\n{text}");
    for (file, original, mutated) in MUTANTS {
        let sound = fs::read_to_string(copy.source(file)).unwrap();
        assert_eq!(
            sound.matches(original).count(),
            1,
            "`{original}` in {file}: choose another mutation"
        );
        fs::write(copy.source(file), sound.replace(original, mutated)).unwrap();
        let (text, passed) = copy.test();
        assert!(!passed, "no test noticed `{mutated}` in {file}");
        assert!(
            text.contains("test result: FAILED"),
            "`{mutated}` in {file} does not compile:\n{text}"
        );
        fs::write(copy.source(file), sound).unwrap();
    }
}
