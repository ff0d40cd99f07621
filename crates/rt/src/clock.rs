//! The only place that reads a clock; engines take time as an argument.

use std::time::{Instant, SystemTime};

/// Monotonic time. Follows tokio's paused clock in tests that pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Nanoseconds of `CLOCK_BOOTTIME`, which runs on while the machine sleeps; the clock of `bpf_ktime_get_boot_ns`.
pub fn boottime_ns() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec()).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanos
}

/// Wall time, for people and for timestamps in API objects; never for decisions.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one reader of the wall clock"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::{boottime_ns, now};

    #[test]
    fn clocks_go_forward() {
        let (instant, boot) = (now(), boottime_ns());
        assert!(boot > 0);
        assert!(now() >= instant && boottime_ns() >= boot);
    }
}
