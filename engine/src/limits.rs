//! Rate limits: a leaky bucket as one number (GCRA, ITU-T I.371), on a shard as a plain field, across shards as one atomic in
//! a fixed table. Nothing here allocates or locks; the table's size does not depend on how many callers there are.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A rate: so many per second, so many at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Nanoseconds that one unit takes to come back.
    interval_ns: u64,
    /// How far ahead of now a bucket may run.
    depth_ns: u64,
    burst: u32,
}

/// A caller's bucket: when it will be full again, in nanoseconds since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket(u64);

/// The bucket is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Empty {
    /// Until the next unit is back.
    pub(crate) wait_ns: u64,
}

/// What is left after drawing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Drawn {
    /// Units left.
    pub(crate) remaining: u32,
    /// Until all are back.
    pub(crate) full_in_ns: u64,
}

impl Rate {
    /// A rate of at least one per second and one at once.
    pub(crate) fn new(per_s: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_s.max(1));
        let burst = burst.max(1);
        Self { interval_ns, depth_ns: interval_ns * u64::from(burst), burst }
    }

    /// Units at once.
    pub(crate) fn burst(&self) -> u32 {
        self.burst
    }

    /// Draws one unit.
    pub(crate) fn draw(&self, bucket: &mut Bucket, now_ns: u64) -> Result<Drawn, Empty> {
        let (next, answer) = self.step(bucket.0, now_ns);
        bucket.0 = next;
        answer
    }

    fn step(&self, full_at_ns: u64, now_ns: u64) -> (u64, Result<Drawn, Empty>) {
        let next = full_at_ns.max(now_ns) + self.interval_ns;
        let ahead = next - now_ns;
        if ahead > self.depth_ns {
            return (full_at_ns, Err(Empty { wait_ns: ahead - self.depth_ns }));
        }
        let remaining = (self.depth_ns - ahead).checked_div(self.interval_ns).unwrap_or(u64::from(self.burst));
        (next, Ok(Drawn { remaining: remaining as u32, full_in_ns: ahead }))
    }
}

/// How many buckets the process-wide table has: 512 KiB. Callers that fall into one bucket share it; the hash is keyed, so
/// nobody can choose whom they share with.
const BUCKETS: usize = 65_536;

/// Buckets that every shard draws from.
pub(crate) struct SharedBuckets {
    rate: Rate,
    hasher: RandomState,
    buckets: Box<[AtomicU64]>,
}

impl SharedBuckets {
    /// A table of full buckets.
    pub(crate) fn new(rate: Rate) -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { rate, hasher: RandomState::new(), buckets }
    }

    /// The rate.
    pub(crate) fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Draws one unit from the caller's bucket.
    pub(crate) fn draw(&self, caller: impl Hash, since_start: Duration) -> Result<Drawn, Empty> {
        let bucket = &self.buckets[self.hasher.hash_one(caller) as usize % BUCKETS];
        let now_ns = since_start.as_nanos() as u64;
        let mut seen = bucket.load(Ordering::Relaxed);
        loop {
            let (next, answer) = self.rate.step(seen, now_ns);
            answer?;
            match bucket.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return answer,
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let rate = Rate::new(10, 5);
        let mut bucket = Bucket::default();
        let now_ns = 7 * SECOND_NS;
        let left: Vec<u32> = (0..5).map(|_| rate.draw(&mut bucket, now_ns).unwrap().remaining).collect();
        assert_eq!(left, [4, 3, 2, 1, 0]);
        assert_eq!(rate.draw(&mut bucket, now_ns), Err(Empty { wait_ns: SECOND_NS / 10 }));
        assert!(rate.draw(&mut bucket, now_ns + SECOND_NS / 10).is_ok());
        assert!(rate.draw(&mut bucket, now_ns + SECOND_NS / 10).is_err());
        assert_eq!(rate.draw(&mut bucket, now_ns + 60 * SECOND_NS).unwrap().remaining, 4);
    }

    #[test]
    fn shared_buckets_are_exact_across_threads() {
        let buckets = SharedBuckets::new(Rate::new(1, 1_000));
        let passed: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..1_000).filter(|_| buckets.draw("one", Duration::from_secs(1)).is_ok()).count())
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(passed, 1_000);
    }
}
