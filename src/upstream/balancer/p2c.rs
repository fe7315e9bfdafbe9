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
    /// Where the line of weights ends.
    total: u64,
}

/// Where each endpoint's stretch of the line of weights ends.
#[derive(Debug)]
enum Ends {
    /// All have one weight, each taken as 1.
    Even,
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
            return Self {
                ends: Ends::Even,
                unit: 1,
                total: if unit == 0 { 0 } else { weights.len() as u64 },
            };
        }
        let ends: Vec<u64> = weights
            .iter()
            .scan(0_u64, |end, &weight| {
                *end += u64::from(weight);
                Some(*end)
            })
            .collect();
        Self {
            total: ends.last().copied().unwrap_or(0),
            ends: Ends::Uneven(ends),
            unit: u64::from(unit),
        }
    }

    /// The endpoint of a slot; `None` when there is no slot.
    #[inline]
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        (self.total > 0).then(|| self.find(rng.u64(..self.total)))
    }

    /// Whether one slot is all there is.
    #[inline]
    pub(super) const fn is_one(&self) -> bool {
        self.total == self.unit
    }

    /// The endpoint of another slot than one that `first` has been drawn by; `None` when that is
    /// the only one.
    #[inline]
    pub(super) fn draw_beside(&self, first: usize, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.total <= self.unit {
            return None;
        }
        // The line without one slot of the first: what lay behind the slot moves up.
        let mut point = rng.u64(..self.total - self.unit);
        if point >= self.end(first) - self.unit {
            point += self.unit;
        }
        Some(self.find(point))
    }

    /// Requests per slot of an endpoint.
    #[inline]
    pub(super) fn load(&self, index: usize, active: u32) -> f64 {
        match &self.ends {
            Ends::Even => f64::from(active),
            Ends::Uneven(ends) => {
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                f64::from(active) * self.unit as f64 / (ends[index] - start) as f64
            }
        }
    }

    #[inline]
    fn end(&self, index: usize) -> u64 {
        match &self.ends {
            Ends::Even => index as u64 + 1,
            Ends::Uneven(ends) => ends[index],
        }
    }

    /// The endpoint whose stretch holds a point of the line.
    #[inline]
    fn find(&self, point: u64) -> usize {
        match &self.ends {
            Ends::Even => point as usize,
            Ends::Uneven(ends) => ends.partition_point(|&end| end <= point),
        }
    }
}
