//! When a check is due. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The next one, after one that began at a time. Intervals are up to a tenth longer or shorter, and
/// the first check comes at any point of one: thousands of proxies that start together don't ask
/// together, nor come to. `random` is uniform over all its values.
pub(super) fn next(
    interval: Duration,
    last: Option<Instant>,
    random: u32,
    now: Instant,
) -> Instant {
    let interval = interval.mul_f64(0.9 + chance(random >> 16) / 5.0);
    match last {
        None => now + interval.mul_f64(chance(random)),
        Some(last) => (last + interval).max(now),
    }
}

/// By the lower 16 bits: from 0 to 1.
fn chance(random: u32) -> f64 {
    f64::from(random as u16) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    #[test]
    fn bounds_are_kept() {
        let now = Instant::now();
        let then = now - Duration::from_secs(1);
        let late = now - Duration::from_secs(60);
        assert_eq!(next(INTERVAL, None, 0, now), now);
        let longest = Duration::from_millis(5500);
        assert_eq!(next(INTERVAL, None, u32::MAX, now), now + longest);
        let at = |random| next(INTERVAL, Some(then), random, now) - then;
        assert_eq!(at(0), Duration::from_millis(4500));
        assert_eq!(at(u32::MAX), longest);
        assert_eq!(next(INTERVAL, Some(late), 0, now), now);
    }

    /// Proxies that start at one moment: how many knock at one endpoint in the busiest tenth of a
    /// second of the first ten minutes?
    #[test]
    fn thousands_that_start_together_stay_apart() {
        const PROXIES: u32 = 5000;
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let start = Instant::now();
            let mut knocks = vec![0_u32; 6000];
            for _ in 0..PROXIES {
                let (mut last, mut now) = (None, start);
                loop {
                    now = next(INTERVAL, last, rng.u32(..), now);
                    let slot = (now - start).as_millis() as usize / 100;
                    let Some(count) = knocks.get_mut(slot) else {
                        break;
                    };
                    *count += 1;
                    last = Some(now);
                }
            }
            // On average 100, with a standard deviation of 10; of 120,000 slots none is far off.
            let busiest = knocks.iter().max().unwrap();
            assert!(*busiest < 160, "{seed}: {busiest}");
        }
    }
}
