//! `fairlead appliance`: everything goes to the program beside it, and what that says comes back.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

fn ask(fairlead: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(fairlead)
        .args(words)
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn words_and_answers_pass_unchanged() {
    let dir = tempfile::TempDir::new().unwrap();
    let fairlead = dir.path().join("fairlead");
    fs::copy(env!("CARGO_BIN_EXE_fairlead"), &fairlead).unwrap();
    let (code, _, said) = ask(&fairlead, &["appliance", "promote"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("NoAppliance"), "{said}");

    let program = dir.path().join("fairlead-appliance");
    fs::write(
        &program,
        "#!/bin/sh\necho \"got $*\"\necho trouble >&2\ntest \"$1\" != check\n",
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, said, _) = ask(
        &fairlead,
        &["appliance", "token", "create", "--ttl", "10m", "--help"],
    );
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "got token create --ttl 10m --help\n")
    );
    let (code, said, trouble) = ask(&fairlead, &["appliance", "check", "f"]);
    assert_eq!(
        (code, said.as_str(), trouble.as_str()),
        (Some(1), "", "trouble\n")
    );
}
