//! Windows (RFC 9113 section 5.2), of a stream as of a connection.

use super::frame::MAX_WINDOW;

/// What we may send. A smaller SETTINGS_INITIAL_WINDOW_SIZE can take it below zero (section 6.9.2).
#[derive(Clone, Copy, Debug)]
pub struct SendWindow(i64);

/// The window would be larger than any may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl SendWindow {
    pub const fn new(size: u32) -> Self {
        Self(size as i64)
    }

    /// Octets that may be sent now.
    pub fn left(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// `octets` are not more than what is left.
    pub fn spend(&mut self, octets: usize) {
        debug_assert!(octets <= self.left());
        self.0 -= octets as i64;
    }

    /// A WINDOW_UPDATE, or the difference between two initial windows.
    pub fn grow(&mut self, octets: i64) -> Result<(), Overflow> {
        let grown = self.0 + octets;
        if grown > i64::from(MAX_WINDOW) {
            return Err(Overflow);
        }
        self.0 = grown;
        Ok(())
    }
}

/// What the peer may send. Credit is returned in halves of a window: fewer frames, and the peer
/// never waits while we keep up.
#[derive(Clone, Copy, Debug)]
pub struct RecvWindow {
    size: u32,
    left: u32,
    taken: u32,
}

impl RecvWindow {
    pub const fn new(size: u32) -> Self {
        Self {
            size,
            left: size,
            taken: 0,
        }
    }

    /// `octets` have come; false if they were more than allowed.
    #[must_use]
    pub fn receive(&mut self, octets: usize) -> bool {
        let left = (self.left as usize).checked_sub(octets);
        if let Some(left) = left {
            self.left = left as u32;
        }
        left.is_some()
    }

    /// Of those, so many need no memory any more. Some credit may be due to the peer.
    #[must_use]
    pub fn release(&mut self, octets: usize) -> Option<u32> {
        // They have been counted by `receive`, so neither number is above the window's size.
        self.taken += octets as u32;
        if self.taken < self.size.div_ceil(2) {
            return None;
        }
        self.left += self.taken;
        Some(std::mem::take(&mut self.taken))
    }

    #[cfg(test)]
    pub const fn left(self) -> usize {
        self.left as usize
    }

    /// Whether all credit is with the peer, or kept for the next WINDOW_UPDATE.
    #[cfg(test)]
    pub const fn is_whole(self) -> bool {
        self.left + self.taken == self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_be_in_debt() {
        let mut window = SendWindow::new(10);
        window.spend(8);
        window.grow(-5).unwrap();
        assert_eq!(window.left(), 0);
        window.grow(4).unwrap();
        assert_eq!(window.left(), 1);
        assert_eq!(window.grow(i64::from(MAX_WINDOW)), Err(Overflow));
        window.grow(i64::from(MAX_WINDOW) - 1).unwrap();
    }

    #[test]
    fn credit_is_returned_in_halves() {
        let mut window = RecvWindow::new(100);
        assert!(window.receive(60) && !window.receive(41) && window.receive(40));
        assert_eq!(window.release(49), None);
        assert_eq!(window.release(11), Some(60));
        assert!(window.receive(60) && !window.receive(1));
        assert_eq!(window.release(100), Some(100));
    }
}
