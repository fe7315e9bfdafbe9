//! Taking turns, smoothly: `a a a b` by weight is served as `a a b a`, not in runs.

/// Longest cycle. Weights that need more are scaled down to it, none below one turn.
const MAX_TURNS: u64 = 4096;

/// One whole cycle of turns, worked out beforehand so that a pick is one step of a shared counter.
#[derive(Debug)]
pub(in crate::upstream) struct Wheel {
    turns: Vec<u32>,
}

impl Wheel {
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = u64::from(weights.iter().copied().fold(0, gcd)).max(1);
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() / divisor;
        let scaled = |weight: u32| match u64::from(weight) / divisor {
            0 => 0,
            weight if total <= MAX_TURNS => weight,
            weight => (weight * MAX_TURNS / total).max(1),
        };
        // The k-th of w turns belongs to the middle of the k-th of w equal parts of the cycle.
        let mut turns: Vec<(f64, u32)> = weights
            .iter()
            .zip(0_u32..)
            .flat_map(|(&weight, index)| {
                let count = scaled(weight);
                (0..count).map(move |k| ((k as f64 + 0.5) / count as f64, index))
            })
            .collect();
        turns.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self {
            turns: turns.into_iter().map(|(_, index)| index).collect(),
        }
    }

    /// Whose turn it is at a step of the counter.
    pub(super) fn at(&self, step: usize) -> Option<usize> {
        let turn = step.checked_rem(self.turns.len())?;
        Some(self.turns[turn] as usize)
    }

    /// Whose turn it is out of turn. A turn that can't be taken goes to one of all others: the next
    /// in line would have twice as many.
    pub(super) fn any(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        match self.turns.len() {
            0 => None,
            turns => Some(self.turns[rng.usize(..turns)] as usize),
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(weights: &[u32]) -> Vec<usize> {
        let wheel = Wheel::new(weights);
        (0..wheel.turns.len())
            .filter_map(|step| wheel.at(step))
            .collect()
    }

    #[test]
    fn turns_are_spread() {
        assert_eq!(cycle(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(cycle(&[30, 10]), [0, 0, 1, 0]);
        assert_eq!(cycle(&[5, 0, 1]), [0, 0, 0, 2, 0, 0]);
    }

    #[test]
    fn the_counter_may_wrap() {
        let wheel = Wheel::new(&[1, 2]);
        assert!(wheel.at(usize::MAX).is_some());
        assert_eq!(Wheel::new(&[]).at(7), None);
        assert_eq!(Wheel::new(&[0, 0]).at(7), None);
    }

    #[test]
    fn huge_weights_are_scaled_and_small_ones_kept() {
        let turns = cycle(&[u32::MAX, 1, u32::MAX - 1]);
        assert!(turns.len() as u64 <= MAX_TURNS + 3);
        assert_eq!(turns.iter().filter(|&&index| index == 1).count(), 1);
    }
}
