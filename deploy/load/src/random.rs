//! Random numbers that come out the same for the same seed, and keys drawn by them.

use crate::schedule::ProducerShare;

/// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Streams of different numbers have nothing to do with each other.
    pub(crate) fn new(seed: u32, stream: u64) -> Self {
        let mut mixed = Self(u64::from(seed) << 32 ^ stream);
        Self(mixed.next())
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// A number from 0 to below 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Which keys there are, and how often each comes.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    /// Each record has one of its own: its number.
    Fresh,
    /// So many, evenly.
    Even(u64),
    /// The first ones more often.
    Zipf(Zipf),
}

impl Keys {
    /// A producer's share of `count` keys: no key is sent by two, so that the order of its records is kept.
    pub(crate) fn of(count: Option<u64>, zipf: Option<f64>, share: ProducerShare) -> Self {
        let own = count.map(|count| (count - share.producer).div_ceil(share.of));
        match (own, zipf) {
            (None, _) => Self::Fresh,
            (Some(own), None) => Self::Even(own),
            (Some(own), Some(exponent)) => Self::Zipf(Zipf::new(own, exponent)),
        }
    }

    /// The key's number, from 0.
    pub(crate) fn draw(&self, record: u64, share: ProducerShare, random: &mut Random) -> u64 {
        let rank = match self {
            Self::Fresh => return record,
            Self::Even(count) => random.below(*count),
            Self::Zipf(zipf) => zipf.draw(random),
        };
        rank * share.of + share.producer
    }
}

/// Zipf's law over `count` ranks, without a table. Source: Hörmann and Derflinger, "Rejection-inversion to generate variates
/// from monotone discrete distributions", 1996, as in Apache Commons RNG's `RejectionInversionZipfSampler`.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    count: f64,
    exponent: f64,
    first: f64,
    last: f64,
    shortcut: f64,
}

impl Zipf {
    #[allow(clippy::cast_precision_loss, reason = "nobody has 2^53 keys")]
    fn new(count: u64, exponent: f64) -> Self {
        let count = count as f64;
        let mut zipf = Self { count, exponent, first: 0.0, last: 0.0, shortcut: 0.0 };
        (zipf.first, zipf.last) = (zipf.integral(1.5) - 1.0, zipf.integral(count + 0.5));
        zipf.shortcut = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// A rank, from 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to the number of keys")]
    fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.last + random.unit() * (self.first - self.last);
            let x = self.inverse(u);
            let rank = x.round().clamp(1.0, self.count);
            if rank - x <= self.shortcut || u >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        log * if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 }
    }

    fn inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.exponent)).max(-1.0);
        (x * if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 }).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 200_000;

    fn shares(keys: &Keys, share: ProducerShare, count: usize) -> Vec<f64> {
        let (mut random, mut seen) = (Random::new(7, 0), vec![0_u32; count]);
        for record in 0..DRAWS {
            let key = keys.draw(u64::from(record), share, &mut random);
            seen[usize::try_from(key).expect("small")] += 1;
        }
        seen.into_iter().map(|seen| f64::from(seen) / f64::from(DRAWS)).collect()
    }

    const ALONE: ProducerShare = ProducerShare { producer: 0, of: 1 };

    /// Red when a rank is drawn a place too high, or the exponent is ignored: each share is within a tenth of r^-s / H.
    #[test]
    fn zipf_gives_each_rank_what_its_law_says() {
        for exponent in [0.5, 1.0, 1.3, 2.0] {
            let keys = Keys::of(Some(50), Some(exponent), ALONE);
            let harmonic: f64 = (1..=50).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for (rank, share) in (1..=10).zip(shares(&keys, ALONE, 50)) {
                let law = f64::from(rank).powf(-exponent) / harmonic;
                assert!((share / law - 1.0).abs() < 0.1, "{exponent}, rank {rank}: {share}, not {law}");
            }
        }
        assert_eq!(shares(&Keys::of(Some(1), Some(1.0), ALONE), ALONE, 1), [1.0]);
    }

    /// Red when a key is left out or comes twice as often as another.
    #[test]
    fn even_keys_come_evenly() {
        for share in shares(&Keys::of(Some(20), None, ALONE), ALONE, 20) {
            assert!((share * 20.0 - 1.0).abs() < 0.1, "{share}");
        }
    }

    /// Red when two producers draw the same key, or one of ten is nobody's.
    #[test]
    fn producers_share_the_keys() {
        let drawn = |producer| {
            let share = ProducerShare { producer, of: 3 };
            shares(&Keys::of(Some(10), None, share), share, 10)
        };
        let all = [drawn(0), drawn(1), drawn(2)];
        for key in 0..10 {
            assert_eq!(all.iter().filter(|seen| seen[key] > 0.0).count(), 1, "key {key}");
        }
    }

    /// Red when the seed or the stream is ignored.
    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed, stream| {
            let mut random = Random::new(seed, stream);
            [random.next(), random.next()]
        };
        assert_eq!(numbers(7, 1), numbers(7, 1));
        assert_ne!(numbers(7, 1), numbers(8, 1));
        assert_ne!(numbers(7, 1), numbers(7, 2));
    }
}
