//! Points in time of the announcer: `CLOCK_BOOTTIME`, the clock of the deadlines in the kernel.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// A point of `CLOCK_BOOTTIME`. Engines take it as an argument and never read a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(u64);

impl BootTime {
    /// Before everything.
    pub const ZERO: Self = Self(0);
    /// After everything: a timer that is not set.
    pub const NEVER: Self = Self(u64::MAX);

    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if that lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    /// Saturates at [`BootTime::NEVER`].
    fn add(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;

    /// Saturates at [`BootTime::ZERO`].
    fn sub(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}
