//! How long a VIP was dark. Pure.
//!
//! *Dark* is the longest gap between the send times of answered probes (issue text: UDP echoes sent
//! every 5 ms). A late answer counts: the question is which probes got through, not how fast.

use std::time::Duration;

/// What became of a series of probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Darkness {
    /// Probes sent.
    pub sent: usize,
    /// Probes answered.
    pub answered: usize,
    /// The longest gap between send times of answered probes, the ends of the series counted as
    /// answered: a VIP that never comes back is dark until the last probe.
    pub longest: Duration,
    /// Start of that gap, on the clock of the send times.
    pub since: Duration,
    /// The longest pause between probes as sent. A gap below it says nothing about the VIP.
    pub longest_pause: Duration,
    /// The longest time between a probe and its answer. A probe that waited in a queue for the VIP to
    /// come back counts as answered; this tells of it.
    pub slowest: Duration,
    /// The last probe was answered, or one at most [`SETTLED`] before it.
    pub recovered: bool,
}

/// How near the end of a series an answer must lie for the VIP to count as back.
pub const SETTLED: Duration = Duration::from_millis(100);

/// One probe: when it was sent, and how long its answer took, if one came.
pub type Sample = (Duration, Option<Duration>);

/// Computes [`Darkness`]; `samples` in order of their send times.
pub fn darkness(samples: &[Sample]) -> Darkness {
    let (mut longest, mut since, mut longest_pause) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut lit = samples.first().map_or(Duration::ZERO, |s| s.0);
    let mut before = lit;
    let last = samples.len().saturating_sub(1);
    let mut last_answer = None;
    for (idx, (sent, answer)) in samples.iter().enumerate() {
        let answered = answer.is_some();
        longest_pause = longest_pause.max(sent.saturating_sub(before));
        before = *sent;
        if answered {
            last_answer = Some(*sent);
        }
        if answered || idx == last {
            if sent.saturating_sub(lit) > longest {
                (longest, since) = (sent.saturating_sub(lit), lit);
            }
            lit = *sent;
        }
    }
    Darkness {
        sent: samples.len(),
        answered: samples.iter().filter(|s| s.1.is_some()).count(),
        longest,
        since,
        longest_pause,
        slowest: samples.iter().filter_map(|s| s.1).max().unwrap_or_default(),
        recovered: last_answer.is_some_and(|at| before.saturating_sub(at) <= SETTLED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn every_5_ms(lost: std::ops::Range<u64>, total: u64) -> Vec<Sample> {
        (0..total)
            .map(|i| (ms(5 * i), (!lost.contains(&i)).then_some(ms(1))))
            .collect()
    }

    #[test]
    fn the_gap_is_between_send_times_of_the_answered_neighbours() {
        let d = darkness(&every_5_ms(100..150, 1000));
        assert_eq!((d.longest, d.since), (ms(5 * 51), ms(5 * 99)));
        assert_eq!((d.sent, d.answered, d.recovered), (1000, 950, true));
    }

    #[test]
    fn without_loss_it_is_the_pause_between_probes() {
        let d = darkness(&every_5_ms(0..0, 100));
        assert_eq!((d.longest, d.longest_pause), (ms(5), ms(5)));
    }

    #[test]
    fn a_vip_that_never_returns_is_dark_to_the_end() {
        let d = darkness(&every_5_ms(10..100, 100));
        assert_eq!((d.longest, d.recovered), (ms(5 * 90), false));
    }

    #[test]
    fn a_vip_that_never_answered_is_dark_from_the_start() {
        let d = darkness(&every_5_ms(0..100, 100));
        assert_eq!((d.longest, d.answered, d.recovered), (ms(5 * 99), 0, false));
    }

    #[test]
    fn the_longest_of_two_gaps_counts() {
        let mut samples = every_5_ms(10..20, 200);
        for sample in &mut samples[100..130] {
            sample.1 = None;
        }
        assert_eq!(darkness(&samples).longest, ms(5 * 31));
    }

    #[test]
    fn a_sender_that_paused_says_so() {
        let samples = [
            (ms(0), Some(ms(0))),
            (ms(5), Some(ms(5))),
            (ms(405), Some(ms(405))),
            (ms(410), Some(ms(410))),
        ];
        let d = darkness(&samples);
        assert_eq!(
            (d.longest, d.longest_pause, d.slowest),
            (ms(400), ms(400), ms(410))
        );
    }

    #[test]
    fn nothing_sent_is_no_darkness_and_no_recovery() {
        let d = darkness(&[]);
        assert_eq!((d.sent, d.longest, d.recovered), (0, Duration::ZERO, false));
    }
}
