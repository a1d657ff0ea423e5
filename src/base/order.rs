//! Floats as integers in the same order, to be sorted or compared as those are.

/// A number that grows with `x`, in the order of [`f32::total_cmp`]: -0 comes before 0.
pub fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// What has this number.
pub fn from_ordered(ordered: u32) -> f32 {
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_total_cmp() {
        let all = [
            -f32::NAN,
            f32::NEG_INFINITY,
            -1.0,
            -f32::from_bits(1),
            -0.0,
            0.0,
            f32::from_bits(1),
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        for a in all {
            assert_eq!(from_ordered(ordered(a)).to_bits(), a.to_bits());
            for b in all {
                assert_eq!(ordered(a).cmp(&ordered(b)), a.total_cmp(&b), "{a} {b}");
            }
        }
    }
}
