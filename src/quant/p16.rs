//! P16: the layout that kernels multiply from. Sixteen rows lie side by side, so that a vector holds
//! the same place of sixteen rows, and no kernel adds up across a vector.
//!
//! ```text
//! matrix = groups of 16 rows, one after the other; the last is filled up with zeros
//! group  = heads of all blocks | padding to 64 bytes | codes of all blocks
//! head   = each f16 of the block header as [16 rows] of 2 bytes; an exponent as [16] of 1 byte;
//!          then each word of packed scales as [16] of 4 bytes
//! codes  = each word of the block's codes as [16] of 4 bytes: a line of 64 bytes
//! ```
//! A block is that of the file, its bytes only moved: nothing is rounded, a matrix takes as much
//! memory as in the file, and [`unpack_block`] gives the file's bytes back. The four bytes of a word
//! are four neighbouring weights (or one field of each), as the dot products of four bytes that
//! every instruction set has want them. The fifth bits of Q5_0 and Q5_1 are turned on the way: bit
//! `j` of byte `t` belongs to weight `4 j + t`.
//!
//! Floats have neither blocks nor heads: `group = [k][16 rows]`, padded to 64 bytes.

use crate::base::dtype::DType;

/// Rows of a group.
pub const ROWS: usize = 16;
/// What a group is a multiple of, in bytes.
const ALIGNMENT: usize = 64;
/// Bytes of the longest block, that of Q6_K.
pub const LONGEST_BLOCK: usize = 210;

/// Where the parts of a block are in the file, and what its codes mean.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Offsets of half-precision numbers and other pairs of bytes.
    pub halves: &'static [usize],
    /// Bytes of the head that stand alone: an exponent at offset 0.
    pub exponent: bool,
    /// Offsets of words of packed scales.
    pub words: &'static [usize],
    /// Offsets and lengths of the codes' bytes, in the order in which they are packed.
    pub codes: &'static [(usize, usize)],
    /// The first word of codes holds fifth bits.
    pub turned: bool,
    /// The code that stands for 0, as [`super::expand_row`] gives codes; 0 where groups have minima.
    pub zero: i32,
    /// Groups have minima.
    pub min: bool,
}

impl Parts {
    /// Bytes of a head, for each row.
    pub const fn head_bytes(&self) -> usize {
        2 * self.halves.len() + self.exponent as usize + 4 * self.words.len()
    }

    /// Bytes of the codes of a block, for each row.
    pub const fn code_bytes(&self) -> usize {
        let (mut n, mut i) = (0, 0);
        while i < self.codes.len() {
            n += self.codes[i].1;
            i += 1;
        }
        n
    }
}

const PLAIN: Parts = Parts {
    halves: &[0],
    exponent: false,
    words: &[],
    codes: &[],
    turned: false,
    zero: 0,
    min: false,
};

/// The parts of a quantised type; `None` for floats.
pub const fn parts(dtype: DType) -> Option<Parts> {
    Some(match dtype {
        DType::F32 | DType::F16 | DType::BF16 => return None,
        DType::Q4_0 => Parts { codes: &[(2, 16)], zero: 8, ..PLAIN },
        DType::Q4_1 => Parts { halves: &[0, 2], codes: &[(4, 16)], min: true, ..PLAIN },
        DType::Q5_0 => Parts { codes: &[(2, 20)], turned: true, zero: 16, ..PLAIN },
        DType::Q5_1 => {
            Parts { halves: &[0, 2], codes: &[(4, 20)], turned: true, min: true, ..PLAIN }
        }
        DType::Q8_0 => Parts { codes: &[(2, 32)], ..PLAIN },
        DType::Iq4Nl => Parts { codes: &[(2, 16)], ..PLAIN },
        DType::Mxfp4 => Parts { halves: &[], exponent: true, codes: &[(1, 16)], zero: 12, ..PLAIN },
        DType::Q2K => Parts {
            halves: &[80, 82],
            words: &[0, 4, 8, 12],
            codes: &[(16, 64)],
            min: true,
            ..PLAIN
        },
        DType::Q3K => {
            Parts { halves: &[108], words: &[96, 100, 104], codes: &[(0, 96)], zero: 4, ..PLAIN }
        }
        DType::Q4K => {
            Parts { halves: &[0, 2], words: &[4, 8, 12], codes: &[(16, 128)], min: true, ..PLAIN }
        }
        DType::Q5K => {
            Parts { halves: &[0, 2], words: &[4, 8, 12], codes: &[(16, 160)], min: true, ..PLAIN }
        }
        DType::Q6K => Parts {
            halves: &[208],
            words: &[192, 196, 200, 204],
            codes: &[(0, 192)],
            zero: 32,
            ..PLAIN
        },
        DType::Iq4Xs => Parts { halves: &[0, 2], words: &[4], codes: &[(8, 128)], ..PLAIN },
        DType::Tq1_0 => Parts { halves: &[52], codes: &[(0, 52)], zero: 1, ..PLAIN },
        DType::Tq2_0 => Parts { halves: &[64], codes: &[(0, 64)], zero: 1, ..PLAIN },
    })
}

/// Where the codes of a group begin, and the bytes of the group, for rows of `k` weights; `None` if
/// `k` is not whole blocks or a size overflows.
pub fn group_bytes(dtype: DType, k: usize) -> Option<(usize, usize)> {
    let row = dtype.row_bytes(k)?;
    let Some(parts) = parts(dtype) else {
        return Some((0, row.checked_mul(ROWS)?.checked_next_multiple_of(ALIGNMENT)?));
    };
    let blocks = k / dtype.block_len();
    let heads = (blocks * parts.head_bytes()).checked_mul(ROWS)?;
    let heads = heads.checked_next_multiple_of(ALIGNMENT)?;
    let codes = (blocks * parts.code_bytes()).checked_mul(ROWS)?;
    Some((heads, heads.checked_add(codes)?))
}

/// Bytes of a packed matrix; `None` where [`group_bytes`] is, or if it overflows.
pub fn packed_bytes(dtype: DType, k: usize, n_rows: usize) -> Option<usize> {
    group_bytes(dtype, k)?.1.checked_mul(n_rows.div_ceil(ROWS))
}

/// Packs up to 16 rows, as they follow one another in the file, into one group; every byte of it is
/// written.
///
/// # Panics
/// If `rows` is not 1 to 16 whole rows of `k` weights, or `out` not a group.
pub fn pack_group(dtype: DType, k: usize, rows: &[u8], out: &mut [u8]) {
    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    let (codes_at, len) = group_bytes(dtype, k).expect("whole blocks");
    assert_eq!(out.len(), len, "{dtype}: bytes of a group");
    let n = rows.len() / row_bytes;
    assert!(n * row_bytes == rows.len() && (1..=ROWS).contains(&n), "{dtype}: rows of a group");
    // One function for each type: sizes that are known are what makes this as fast as memory.
    macro_rules! blocks {
        ($($dtype:ident)*) => {
            match dtype {
                DType::F32 => pack_floats::<4>(rows, row_bytes, out),
                DType::F16 | DType::BF16 => pack_floats::<2>(rows, row_bytes, out),
                $(DType::$dtype => {
                    const SIZE: usize = DType::$dtype.block_bytes();
                    pack_blocks::<{ DType::$dtype as usize }, SIZE>(rows, out, codes_at)
                })*
            }
        };
    }
    blocks!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4 Tq1_0 Tq2_0);
}

fn pack_floats<const N: usize>(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    // Rows that there are not, and what fills the group up.
    out.fill(0);
    let (lines, _) = out.as_chunks_mut::<N>();
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let places = lines.iter_mut().skip(r).step_by(ROWS);
        row.as_chunks::<N>().0.iter().zip(places).for_each(|(x, place)| *place = *x);
    }
}

fn pack_blocks<const DTYPE: usize, const SIZE: usize>(
    rows: &[u8],
    out: &mut [u8],
    codes_at: usize,
) {
    let parts = const { parts(DType::ALL[DTYPE]).expect("floats are packed elsewhere") };
    let (rows, _) = rows.as_chunks::<SIZE>();
    let n_blocks = (out.len() - codes_at) / (ROWS * parts.code_bytes());
    let (heads, codes) = out.split_at_mut(codes_at);
    let (heads, padding) = heads.split_at_mut(n_blocks * ROWS * parts.head_bytes());
    padding.fill(0);
    let heads = heads.chunks_exact_mut(ROWS * parts.head_bytes());
    let codes = codes.chunks_exact_mut(ROWS * parts.code_bytes());
    let nothing = [0; SIZE]; // a block of rows that there are not
    for (b, (head, codes)) in heads.zip(codes).enumerate() {
        for r in (0..ROWS).step_by(2) {
            let block = |r| rows.get(r * n_blocks + b).unwrap_or(&nothing);
            pack_blocks_of_two(&parts, [block(r), block(r + 1)], r, head, codes);
        }
        if parts.turned {
            let line = codes.first_chunk_mut::<{ 4 * ROWS }>().expect("a word of fifth bits");
            for word in line.as_chunks_mut::<4>().0 {
                *word = turn(u32::from_le_bytes(*word)).to_le_bytes();
            }
        }
    }
}

/// Packs the rows of a whole matrix, as they follow one another in the file.
///
/// # Panics
/// If `rows` is not whole rows of `k` weights, or `out` not [`packed_bytes`] of them.
pub fn pack(dtype: DType, k: usize, rows: &[u8], out: &mut [u8]) {
    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    let (_, group) = group_bytes(dtype, k).expect("whole blocks");
    let n_rows = rows.len() / row_bytes;
    assert_eq!(Some(out.len()), packed_bytes(dtype, k, n_rows), "{dtype}: bytes of a matrix");
    for (rows, out) in rows.chunks(ROWS * row_bytes).zip(out.chunks_exact_mut(group)) {
        pack_group(dtype, k, rows, out);
    }
}

/// Packs a block of row `r` and one of the row after it: two words side by side are one store, and
/// stores are what takes the time.
#[inline(always)] // `parts` is a constant only where this is a part of its caller
fn pack_blocks_of_two<const SIZE: usize>(
    parts: &Parts,
    blocks: [&[u8; SIZE]; 2],
    r: usize,
    head: &mut [u8],
    codes: &mut [u8],
) {
    let mut at = 0;
    for &from in parts.halves {
        put::<2, SIZE>(blocks, from, &mut head[at..], r);
        at += 2 * ROWS;
    }
    if parts.exponent {
        put::<1, SIZE>(blocks, 0, &mut head[at..], r);
        at += ROWS;
    }
    for &from in parts.words {
        put::<4, SIZE>(blocks, from, &mut head[at..], r);
        at += 4 * ROWS;
    }
    let mut lines = codes.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut();
    for &(from, len) in parts.codes {
        let [first, second] = blocks.map(|block| block[from..from + len].as_chunks::<4>().0);
        for ((x, y), line) in first.iter().zip(second).zip(&mut lines) {
            let [x, y] = [x, y].map(|word| u64::from(u32::from_le_bytes(*word)));
            line.as_chunks_mut::<8>().0[r / 2] = (x | y << 32).to_le_bytes();
        }
    }
}

/// Puts `N` bytes of two blocks into the `r`-th place of a line and the one after it.
#[inline(always)] // moves of one word, where `from` is a constant
fn put<const N: usize, const SIZE: usize>(
    blocks: [&[u8; SIZE]; 2],
    from: usize,
    line: &mut [u8],
    r: usize,
) {
    let places = &mut line.as_chunks_mut::<N>().0[..ROWS];
    for (block, place) in blocks.into_iter().zip(&mut places[r..]) {
        *place = *block[from..].first_chunk::<N>().expect("parts lie in a block");
    }
}

/// Gives the file's bytes of block `b` of one row of a group back; a block of floats is one.
///
/// # Panics
/// If `group` is not a group of rows of `k` weights, has no such row or block, or `out` is not a
/// block.
pub fn unpack_block(dtype: DType, k: usize, group: &[u8], row: usize, b: usize, out: &mut [u8]) {
    let (codes_at, len) = group_bytes(dtype, k).expect("whole blocks");
    assert_eq!(group.len(), len, "{dtype}: bytes of a group");
    assert_eq!(out.len(), dtype.block_bytes(), "{dtype}: bytes of a block");
    assert!(row < ROWS && b < k / dtype.block_len(), "block {b} of row {row}");
    let Some(parts) = parts(dtype) else {
        out.copy_from_slice(&group[(b * ROWS + row) * out.len()..][..out.len()]);
        return;
    };
    let (head_bytes, code_bytes) = (ROWS * parts.head_bytes(), ROWS * parts.code_bytes());
    let head = &group[b * head_bytes..][..head_bytes];
    let codes = &group[codes_at + b * code_bytes..][..code_bytes];
    let mut at = 0;
    for &to in parts.halves {
        out[to..to + 2].copy_from_slice(&head[at + 2 * row..][..2]);
        at += 2 * ROWS;
    }
    if parts.exponent {
        out[0] = head[at + row];
        at += ROWS;
    }
    for &to in parts.words {
        out[to..to + 4].copy_from_slice(&head[at + 4 * row..][..4]);
        at += 4 * ROWS;
    }
    let mut lines = codes.as_chunks::<{ 4 * ROWS }>().0.iter();
    for &(to, len) in parts.codes {
        let words = out[to..to + len].as_chunks_mut::<4>().0;
        for (word, line) in words.iter_mut().zip(&mut lines) {
            word.copy_from_slice(&line[4 * row..4 * row + 4]);
        }
    }
    if parts.turned {
        let to = parts.codes[0].0;
        let word = out[to..to + 4].first_chunk_mut::<4>().expect("four bytes");
        *word = turn_back(u32::from_le_bytes(*word)).to_le_bytes();
    }
}

/// Decodes a row of a packed matrix of rows of `k` weights, exactly; see [`super::decode_row`].
///
/// # Panics
/// If `bytes` has no such row, or `out` is not `k` long.
pub fn decode_row(dtype: DType, k: usize, bytes: &[u8], row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), k, "weights of a row");
    let (_, len) = group_bytes(dtype, k).expect("whole blocks");
    let group = &bytes[row / ROWS * len..][..len];
    let mut block = [0; LONGEST_BLOCK];
    let block = &mut block[..dtype.block_bytes()];
    for (b, out) in out.chunks_exact_mut(dtype.block_len()).enumerate() {
        unpack_block(dtype, k, group, row % ROWS, b, block);
        super::decode_row(dtype, block, out);
    }
}

/// Bit `4 j + t` goes to bit `j` of byte `t`.
fn turn(word: u32) -> u32 {
    (0..8).fold(0, |out, j| out | (((word >> (4 * j) & 15) * 0x0020_4081) & 0x0101_0101) << j)
}

/// The inverse of [`turn`].
fn turn_back(word: u32) -> u32 {
    (0..8).fold(0, |out, j| {
        out | (((word >> j & 0x0101_0101).wrapping_mul(0x0102_0408)) >> 24 & 15) << (4 * j)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_matrix_gives_the_bytes_of_the_file_back() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        for &dtype in DType::ALL {
            let k = 3 * dtype.block_len();
            let row_bytes = dtype.row_bytes(k).expect("whole blocks");
            for n in [1, 7, 16] {
                let rows: Vec<u8> = (0..n * row_bytes).map(|_| random()).collect();
                let len = packed_bytes(dtype, k, n).expect("fits");
                let mut group = vec![0xaa; len];
                pack_group(dtype, k, &rows, &mut group);
                let mut again = vec![0x55; len];
                pack_group(dtype, k, &rows, &mut again);
                assert!(group == again, "{dtype}, {n} rows: a byte was not written");
                let mut back = vec![0; dtype.block_bytes()];
                for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
                    for (b, block) in row.chunks_exact(back.len()).enumerate() {
                        unpack_block(dtype, k, &group, r, b, &mut back);
                        assert_eq!(block, back, "{dtype}, block {b} of row {r} of {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_of_a_block_has_a_place() {
        for &dtype in DType::ALL {
            let Some(parts) = parts(dtype) else { continue };
            assert_eq!(parts.head_bytes() + parts.code_bytes(), dtype.block_bytes(), "{dtype}");
            assert!(dtype.block_bytes() <= LONGEST_BLOCK, "{dtype}");
        }
    }

    #[test]
    fn turned_bits_belong_to_the_weights_they_should() {
        for i in 0..32 {
            let (j, t) = (i / 4, i % 4);
            assert_eq!(turn(1 << i), 1 << (8 * t + j));
            assert_eq!(turn_back(turn(1 << i)), 1 << i);
        }
    }
}
