//! Two random choices, the cheaper one taken.
//!
//! Weights make it a draw of two *slots*: an endpoint has as many as its weight over the smallest
//! weight of the set (not necessarily a whole number), and two different slots are drawn. With
//! equal weights that is two different endpoints; an endpoint of twice the weight is drawn twice as
//! often, and now and then against itself. Equals tie, and a tie goes to the first draw, so that
//! shares follow the weights without load as well as under it.

/// Endpoints by weight, ready to be drawn from.
#[derive(Debug)]
pub(in crate::upstream) struct Slots {
    ends: Ends,
    /// The smallest weight that isn't zero; the size of one slot.
    unit: u64,
}

/// Where each endpoint's stretch of the line of weights ends.
#[derive(Debug)]
enum Ends {
    /// That many endpoints of one weight, each taken as 1.
    Even(u64),
    Uneven(Vec<u64>),
}

impl Slots {
    pub(super) fn new(weights: &[u32]) -> Self {
        let unit = weights
            .iter()
            .copied()
            .filter(|&weight| weight > 0)
            .min()
            .unwrap_or(0);
        if weights.iter().all(|&weight| weight == unit) {
            let count = if unit == 0 { 0 } else { weights.len() as u64 };
            return Self {
                ends: Ends::Even(count),
                unit: 1,
            };
        }
        let ends = weights
            .iter()
            .scan(0_u64, |end, &weight| {
                *end += u64::from(weight);
                Some(*end)
            })
            .collect();
        Self {
            ends: Ends::Uneven(ends),
            unit: u64::from(unit),
        }
    }

    /// The endpoint of a slot; `None` when there is no slot.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let total = self.end(self.len().checked_sub(1)?);
        (total > 0).then(|| self.find(rng.u64(..total)))
    }

    /// Whether one slot is all there is.
    pub(super) fn is_one(&self) -> bool {
        self.len()
            .checked_sub(1)
            .is_some_and(|last| self.end(last) == self.unit)
    }

    /// The endpoint of another slot than one that `first` has been drawn by; `None` when that is
    /// the only one.
    pub(super) fn draw_beside(&self, first: usize, rng: &mut fastrand::Rng) -> Option<usize> {
        let total = self.end(self.len().checked_sub(1)?);
        if total <= self.unit {
            return None;
        }
        // The line without one slot of the first: what lay behind the slot moves up.
        let mut point = rng.u64(..total - self.unit);
        if point >= self.end(first) - self.unit {
            point += self.unit;
        }
        Some(self.find(point))
    }

    /// Requests per slot of an endpoint.
    pub(super) fn load(&self, index: usize, active: u32) -> f64 {
        let start = index.checked_sub(1).map_or(0, |before| self.end(before));
        f64::from(active) * self.unit as f64 / (self.end(index) - start) as f64
    }

    fn len(&self) -> usize {
        match &self.ends {
            Ends::Even(count) => *count as usize,
            Ends::Uneven(ends) => ends.len(),
        }
    }

    fn end(&self, index: usize) -> u64 {
        match &self.ends {
            Ends::Even(_) => index as u64 + 1,
            Ends::Uneven(ends) => ends[index],
        }
    }

    /// The endpoint whose stretch holds a point of the line.
    fn find(&self, point: u64) -> usize {
        match &self.ends {
            Ends::Even(_) => point as usize,
            Ends::Uneven(ends) => ends.partition_point(|&end| end <= point),
        }
    }
}
