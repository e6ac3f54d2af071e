//! Who updates what, in which order: a seeded stream of (connection, series) picks, uniform or Zipf. The same seed gives the
//! same stream, so two runs that are compared load the server with the same keys.

use clap::ValueEnum;

/// How picks are spread over users and series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Every one as likely as the other.
    Uniform,
    /// Rank r with weight 1/r (exponent 1): a few are hot, most are cold.
    Zipf,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to spread load; not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; `bound` 0 gives 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Sixteen bytes shaped like a random UUID (version 4), for device ids that repeat with the seed.
    pub fn uuid_bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    }
}

/// Picks ranks `0..count` by one distribution.
#[derive(Clone, Debug)]
pub struct Picker {
    count: usize,
    /// Cumulative Zipf weights, scaled to 1; empty for uniform.
    cumulative: Vec<f64>,
}

impl Picker {
    /// A picker over `count` ranks; `count` must not be 0.
    pub fn new(distribution: Distribution, count: usize) -> Self {
        assert!(count > 0, "there must be something to pick");
        let mut cumulative = Vec::new();
        if distribution == Distribution::Zipf {
            let mut sum = 0.0;
            cumulative = (1..=count)
                .map(|rank| {
                    sum += 1.0 / rank as f64;
                    sum
                })
                .collect();
            cumulative.iter_mut().for_each(|weight| *weight /= sum);
        }
        Self { count, cumulative }
    }

    /// One rank.
    pub fn pick(&self, random: &mut Random) -> usize {
        if self.cumulative.is_empty() {
            return random.below(self.count as u64) as usize;
        }
        let at = random.unit();
        self.cumulative.partition_point(|weight| *weight <= at).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_stream() {
        let picker = Picker::new(Distribution::Zipf, 1_000);
        let stream = |seed| {
            let mut random = Random::new(seed);
            (0..1_000).map(|_| picker.pick(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
    }

    #[test]
    fn zipf_prefers_low_ranks_and_uniform_does_not() {
        let share_of_first_tenth = |distribution| {
            let (picker, mut random) = (Picker::new(distribution, 1_000), Random::new(1));
            (0..20_000).filter(|_| picker.pick(&mut random) < 100).count() as f64 / 20_000.0
        };
        assert!(share_of_first_tenth(Distribution::Zipf) > 0.6);
        assert!((share_of_first_tenth(Distribution::Uniform) - 0.1).abs() < 0.02);
    }
}
