//! Random numbers that are the same on every machine: xoshiro256** seeded through SplitMix64.
//!
//! Sources: D. Blackman and S. Vigna, "Scrambled Linear Pseudorandom Number Generators", ACM
//! Transactions on Mathematical Software 47(4), 2021 (xoshiro256**); G. Steele, D. Lea and C. Flood,
//! "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (SplitMix64). Integers and shifts
//! only, so that no rounding mode, vector width or library can change a sequence. Not for secrets.

/// A sequence of random numbers, set by its seed alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The sequence of a seed. Every seed is as good as any other, 0 included.
    pub fn new(seed: u64) -> Rng {
        // SplitMix64 visits every value once, so four in a row are never all zero, the one state
        // that xoshiro cannot leave.
        let mut at = seed;
        Rng { state: std::array::from_fn(|_| split_mix(&mut at)) }
    }

    /// What [`Rng::from_state`] goes on from.
    pub fn state(&self) -> [u64; 4] {
        self.state
    }

    /// The rest of a sequence. `None` for four zeros, which no sequence comes to.
    pub fn from_state(state: [u64; 4]) -> Option<Rng> {
        (state != [0; 4]).then_some(Rng { state })
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.state;
        let out = s1.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= t;
        *s3 = s3.rotate_left(45);
        out
    }

    /// Uniform in [0, 1): the upper 24 bits of the next number, over 2^24.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform in [0, 1): the upper 53 bits of the next number, over 2^53.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// One step of SplitMix64.
fn split_mix(at: &mut u64) -> u64 {
    *at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *at;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known outputs of the authors' C code for the seed 1234567.
    #[test]
    fn split_mix_gives_the_published_numbers() {
        let mut at = 1234567;
        let got: [u64; 5] = std::array::from_fn(|_| split_mix(&mut at));
        assert_eq!(
            got,
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423,
                4593380528125082431,
                16408922859458223821,
            ]
        );
    }

    /// Known outputs of the authors' C code for the state 1, 2, 3, 4.
    #[test]
    fn xoshiro_gives_the_published_numbers() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let got: [u64; 10] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(
            got,
            [
                11520,
                0,
                1509978240,
                1215971899390074240,
                1216172134540287360,
                607988272756665600,
                16172922978634559625,
                8476171486693032832,
                10595114339597558777,
                2904607092377533576,
            ]
        );
    }

    #[test]
    fn a_sequence_goes_on_from_its_state() {
        let mut rng = Rng::new(5);
        for _ in 0..100 {
            let mut rest = Rng::from_state(rng.state()).expect("not all zeros");
            assert_eq!(rest, rng);
            assert_eq!(rest.next_u64(), rng.next_u64());
        }
        assert_eq!(Rng::from_state([0; 4]), None);
    }

    #[test]
    fn floats_lie_in_the_unit_interval_and_fill_it() {
        let mut rng = Rng::new(0);
        let mut bins = [0u32; 16];
        for _ in 0..16_000 {
            let (x, y) = (rng.next_f32(), rng.next_f64());
            assert!((0.0..1.0).contains(&x) && (0.0..1.0).contains(&y));
            bins[(x * 16.0) as usize] += 1;
        }
        assert!(bins.iter().all(|&n| (800..1200).contains(&n)), "{bins:?}");
        assert_ne!(Rng::new(1).next_u64(), Rng::new(2).next_u64());
        // The largest numbers that the shifts leave stay below 1.
        assert!((u64::MAX >> 40) as f32 * (1.0 / (1u32 << 24) as f32) < 1.0);
    }
}
