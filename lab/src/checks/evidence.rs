//! What is kept when something does not hold: enough to find the cause without a second run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::report::copy_dir;
use crate::runner::Lab;

/// Commands whose output is kept, for every node.
const QUESTIONS: [(&str, &[&str]); 10] = [
    (
        "fairlead",
        &[
            "sh",
            "-c",
            "fairlead status && fairlead service list && fairlead l2 list",
        ],
    ),
    ("link", &["ip", "-s", "-d", "link"]),
    ("addr", &["ip", "addr"]),
    ("route", &["ip", "route", "show", "table", "all"]),
    ("neigh", &["ip", "-s", "neigh"]),
    ("maddr", &["ip", "maddr"]),
    ("fdb", &["bridge", "-s", "fdb"]),
    ("mdb", &["bridge", "-d", "mdb"]),
    ("sockets", &["ss", "-anp"]),
    (
        "bpf",
        &[
            "sh",
            "-c",
            "bpftool net; bpftool link; for m in $(find /sys/fs/bpf -type f -path '*map*' 2>/dev/null); do echo $m; bpftool map dump pinned $m | head -c 200000; done",
        ],
    ),
];

/// Writes what the nodes of `lab` know, and its logs, to a folder that outlives it.
/// Best effort: a failing question must not hide the failure that is being reported.
pub fn keep(lab: &Lab, occasion: &str) -> PathBuf {
    let stamp = crate::clock::wall().as_secs();
    let dir = std::env::temp_dir().join(format!("fairlead-lab-{}-{occasion}-{stamp}", lab.name()));
    fs::create_dir_all(&dir).ok();
    copy_dir(&lab.dir().join("log"), &dir.join("log"));
    for name in lab.nodes() {
        let Ok(node) = lab.node(&name) else { continue };
        for (question, argv) in QUESTIONS {
            // A server runs no agent, a client has no bridge: silence is no evidence.
            if let Ok(output) = node.command(argv).output()
                && !output.stdout.is_empty()
            {
                let text = [output.stdout, output.stderr].concat();
                write(&dir.join(format!("{name}-{question}.txt")), &text);
            }
        }
    }
    dir
}

/// Writes a file of evidence, as far as possible.
pub fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).ok();
}
