//! The breaker: after a few failures in a row nothing is sent for a while but a probe, so that a Redis that is slow or gone
//! costs a request nothing. Pure: it is told the time.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES_MAX: u32 = 3;

/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Where it stands; the numbers are what `/metrics` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BreakerState {
    /// Everything is sent.
    #[default]
    Closed = 0,
    /// A probe is under way.
    Probing = 1,
    /// Nothing is sent.
    Open = 2,
}

impl BreakerState {
    /// The state that a number stands for.
    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Closed,
            1 => Self::Probing,
            _ => Self::Open,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Breaker {
    state: BreakerState,
    failures: u32,
    probe_at: Instant,
}

impl Breaker {
    /// Open, with a probe due: what has never answered is not asked for users.
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: BreakerState::Open, failures: 0, probe_at: now }
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == BreakerState::Closed
    }

    /// When the next probe is due; `None` unless it is open.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        (self.state == BreakerState::Open).then_some(self.probe_at)
    }

    /// The probe leaves.
    pub(crate) fn probing(&mut self) {
        self.state = BreakerState::Probing;
    }

    /// Something was answered.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The probe was answered.
    pub(crate) fn close(&mut self) {
        (self.state, self.failures) = (BreakerState::Closed, 0);
    }

    /// Something was not answered in time, or not at all. True when this opens the breaker.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures += 1;
        let opens = match self.state {
            BreakerState::Closed => self.failures >= FAILURES_MAX,
            BreakerState::Probing => true,
            BreakerState::Open => false,
        };
        if opens {
            let was_closed = self.is_closed();
            (self.state, self.failures, self.probe_at) = (BreakerState::Open, 0, now + PROBE_EVERY);
            return was_closed;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_an_answered_probe() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        assert_eq!(breaker.probe_at(), Some(now), "nothing is sent before the first probe was answered");
        breaker.probing();
        breaker.close();
        assert!(breaker.is_closed());
        for _ in 0..10 {
            assert!(!breaker.failed(now) && !breaker.failed(now));
            breaker.succeeded();
        }
        assert!(!breaker.failed(now) && !breaker.failed(now) && breaker.failed(now));
        assert_eq!((breaker.state(), breaker.probe_at()), (BreakerState::Open, Some(now + PROBE_EVERY)));
        breaker.probing();
        assert_eq!(breaker.probe_at(), None, "one probe at a time");
        assert!(!breaker.failed(now), "it was open already");
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
