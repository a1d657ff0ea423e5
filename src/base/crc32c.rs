//! CRC32C, by the CPU's own instruction where it has one.
//!
//! The polynomial is Castagnoli's (G. Castagnoli, S. Bräuer and M. Herrmann, "Optimization of cyclic
//! redundancy-check codes with 24 and 32 parity bits", IEEE Transactions on Communications 41(6),
//! 1993), the conventions those of iSCSI (RFC 3720). It finds every flipped bit, any three of them
//! in 256 MiB, and every burst of up to 32.
//!
//! The instruction takes 8 bytes in each cycle, but its result takes two or three. So long input is
//! cut into three lanes, whose sums are made side by side and then put together: bytes behind a
//! lane multiply its sum by a power of x, modulo the polynomial, which is known for lanes of known
//! lengths.
//!
//! Own code, for two reasons. The crate `crc32c` does not enable the instruction for the loops that
//! use it on aarch64, and so calls a function for every 8 bytes; and it has 16 KiB of tables, for
//! which the library has no room there.
#![allow(unsafe_code, reason = "calls a function for CPUs with an instruction, once it is known")]

/// The polynomial; the highest bit stands for x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bytes of a lane: a third of 64 KiB, and for what is left. Putting sums together takes about as
/// long as 2000 bytes.
const LANES: [usize; 2] = [21_840, 1360];

/// What each byte makes of a sum of 0, for CPUs without the instruction.
const TABLE: [u32; 256] = {
    let (mut table, mut i) = ([0; 256], 0);
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = times_x(crc);
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The checksum of bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// The checksum of some bytes whose checksum is `crc`, followed by `bytes`.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU has the instruction, as was just seen.
        return !unsafe { hardware(!crc, bytes) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("crc") {
        // SAFETY: the CPU has the instruction, as was just seen.
        return !unsafe { hardware(!crc, bytes) };
    }
    !software(!crc, bytes)
}

/// The sum byte by byte.
fn software(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The sum by instructions that take 8 bytes, and one.
macro_rules! hardware {
    ($feature:literal, $take_8:expr, $take_1:expr) => {
        #[target_feature(enable = $feature)]
        fn hardware(mut crc: u32, mut bytes: &[u8]) -> u32 {
            for (lane, shift) in const { [(LANES[0], x_to(LANES[0])), (LANES[1], x_to(LANES[1]))] }
            {
                while let Some((block, rest)) = bytes.split_at_checked(3 * lane) {
                    let (a, bc) = block.split_at(lane);
                    let (b, c) = bc.split_at(lane);
                    let (a, b, c) = (a.as_chunks().0, b.as_chunks().0, c.as_chunks().0);
                    let (mut second, mut third) = (0, 0);
                    for ((a, b), c) in a.iter().zip(b).zip(c) {
                        crc = $take_8(crc, u64::from_le_bytes(*a));
                        second = $take_8(second, u64::from_le_bytes(*b));
                        third = $take_8(third, u64::from_le_bytes(*c));
                    }
                    crc = multiply(shift, multiply(shift, crc) ^ second) ^ third;
                    bytes = rest;
                }
            }
            let (words, rest) = bytes.as_chunks();
            for word in words {
                crc = $take_8(crc, u64::from_le_bytes(*word));
            }
            for byte in rest {
                crc = $take_1(crc, *byte);
            }
            crc
        }
    };
}

#[cfg(target_arch = "x86_64")]
hardware!(
    "sse4.2",
    |crc, word| std::arch::x86_64::_mm_crc32_u64(u64::from(crc), word) as u32,
    std::arch::x86_64::_mm_crc32_u8
);
#[cfg(target_arch = "aarch64")]
hardware!("crc", std::arch::aarch64::__crc32cd, std::arch::aarch64::__crc32cb);

/// A sum times x.
const fn times_x(crc: u32) -> u32 {
    (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
}

/// The product of two sums.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 32);
    while bit > 0 {
        bit -= 1;
        product ^= b * (a >> bit & 1);
        b = times_x(b);
    }
    product
}

/// x to the power of the bits of so many bytes, by squares.
const fn x_to(bytes: usize) -> u32 {
    let (mut power, mut square, mut left) = (1 << 31, 1 << 30, 8 * bytes);
    while left > 0 {
        if left & 1 == 1 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        left >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, section B.4, and the check value of every catalogue.
    #[test]
    fn published_sums_come_out() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        for (bytes, expected) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (&descending, 0x113f_db5c),
            (&[], 0),
        ] {
            assert_eq!(crc32c(bytes), expected);
            assert_eq!(!software(!0, bytes), expected);
        }
    }

    #[test]
    fn every_length_in_any_two_parts_has_the_sum_of_its_bits() {
        let mut rng = crate::base::rng::Rng::new(1);
        let all: Vec<u8> = (0..200_000).map(|_| rng.next_u64() as u8).collect();
        let by_bits = |bytes: &[u8]| {
            !bytes
                .iter()
                .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |c, _| times_x(c)))
        };
        let [long, short] = LANES.map(|lane| 3 * lane);
        let near = |n: usize| n - 9..n + 10;
        let lens = (0..300).chain(near(short)).chain(near(long)).chain(near(long + short));
        for n in lens.chain([2 * long, 2 * long + short + 13, 190_000]) {
            let from = rng.next_u64() as usize % 64;
            let bytes = &all[from..from + n];
            let (expected, cut) = (by_bits(bytes), rng.next_u64() as usize % (n + 1));
            assert_eq!(crc32c(bytes), expected, "{n} bytes");
            assert_eq!(!software(!0, bytes), expected, "{n} bytes");
            assert_eq!(crc32c_append(crc32c(&bytes[..cut]), &bytes[cut..]), expected, "{n}: {cut}");
        }
    }
}
