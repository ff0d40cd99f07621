//! Runs the smoke test on this kernel: as a program, or as the first process of an emulated machine, which it then switches off.
//!
//! The last line of its output is `smoke: ok` or `smoke: failed`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

fn main() -> ExitCode {
    let is_first_process = std::process::id() == 1;
    let result = if is_first_process {
        mount_all().and_then(|()| smoke())
    } else {
        smoke()
    };
    let code = match result {
        Ok(text) => {
            say(&format!("{text}smoke: ok"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{error:?}\nsmoke: failed"));
            ExitCode::FAILURE
        }
    };
    if is_first_process {
        nix::unistd::sync();
        // On success there is nobody left to return to.
        let Err(error) = reboot(RebootMode::RB_POWER_OFF);
        say(&format!("switching off failed: {error}"));
    }
    code
}

fn smoke() -> anyhow::Result<String> {
    use std::fmt::Write;
    let release = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    let mut text = format!("kernel {release}\n");
    let pins = format!("/sys/fs/bpf/fairlead-smoke-{}", std::process::id());
    for cost in fairlead_tests::smoke::run(Path::new(&pins))? {
        writeln!(
            text,
            "program {}: {} instructions verified, {} bytes",
            cost.name, cost.verified, cost.translated
        )?;
    }
    Ok(text)
}

fn mount_all() -> anyhow::Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(
            Some(kind),
            target,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )?;
    }
    Ok(())
}

fn say(text: &str) {
    // Nobody is left to tell if the console is gone.
    drop(writeln!(std::io::stdout(), "{text}"));
}
