//! Time as the lab's figures use it: one monotonic clock for every thread and every namespace.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

/// Pause between two looks of [`poll`].
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Time since the machine started (`CLOCK_BOOTTIME`).
pub fn now() -> Duration {
    Duration::from_nanos(fairlead_rt::clock::boottime_ns())
}

/// Time since 1970, for stamps that people compare with other tools.
pub fn wall() -> Duration {
    let wall = fairlead_rt::clock::wall();
    wall.duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Returns at `moment`, or at once when it has passed; what paces a load.
pub fn wait_until(moment: Duration) {
    let moment = TimeSpec::from_duration(moment);
    // A signal wakes the thread early; then it goes back to waiting.
    while clock_nanosleep(
        ClockId::CLOCK_BOOTTIME,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &moment,
    )
    .is_err_and(|errno| errno == nix::errno::Errno::EINTR)
    {}
}

/// Looks until `look` finds something or `patience` has passed; it looks at least once.
pub fn poll<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if now() >= until {
            return None;
        }
        wait_until(now() + LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_its_moment_and_not_before() {
        let moment = now() + Duration::from_millis(5);
        wait_until(moment);
        assert!(now() >= moment);
        wait_until(Duration::ZERO);
    }

    #[test]
    fn polling_looks_at_least_once_and_ends() {
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
        let start = now();
        assert_eq!(poll(Duration::from_millis(25), || None::<u8>), None);
        assert!(now() >= start + Duration::from_millis(25));
    }
}
