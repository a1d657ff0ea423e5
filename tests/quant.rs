//! The block formats against recorded results of PyPI's `gguf`, and against themselves.
//!
//! `tests/oracle/quant_vectors.py` wrote the vectors, and says how blocks and weights are made.

#[path = "support/blocks.rs"]
mod blocks;

use blocks::scale_places;
use tern::base::dtype::DType;
use tern::quant;

const VECTORS: &str = include_str!("data/quant_vectors.txt");

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, hash)
}

fn fnv_f32(x: &[f32]) -> u64 {
    fnv(x.iter().flat_map(|x| x.to_le_bytes()))
}

struct Random(u64);

impl Random {
    fn new(name: &str) -> Random {
        Random(fnv(name.bytes()))
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }
}

fn blocks(dtype: DType, n: usize) -> Vec<u8> {
    const SPECIAL: [u16; 10] =
        [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x83ff, 0x7bff, 0xfbff, 0x3c00, 0xbc00];
    let mut random = Random::new(&format!("decode {dtype}"));
    let mut out = Vec::new();
    for i in 0..n {
        let mut block: Vec<u8> =
            (0..dtype.block_bytes()).map(|_| (random.next() >> 24) as u8).collect();
        for &at in scale_places(dtype) {
            let mut bits = u16::from_le_bytes([block[at], block[at + 1]]);
            if let Some(&special) = SPECIAL.get(i) {
                bits = special;
            } else if bits & 0x7c00 == 0x7c00 {
                bits &= !0x4000;
            }
            block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        }
        out.extend(block);
    }
    out
}

fn weights(dtype: DType, n: usize) -> Vec<f32> {
    let mut random = Random::new(&format!("encode {dtype}"));
    let mut out = Vec::new();
    for i in 0..n {
        let scale = f32::powi(2.0, (random.next() % 24) as i32 - 16);
        for _ in 0..dtype.block_len() {
            let x = ((random.next() >> 8) as f32 - 8388608.0) / 8388608.0 * scale;
            out.push(match i % 16 {
                1 => 0.0,
                2 => scale,
                3 => (x / scale * 16.0).floor() * scale,
                _ => x,
            });
        }
    }
    out
}

fn dtype_named(name: &str) -> DType {
    *DType::ALL.iter().find(|dtype| dtype.name() == name).expect("a type of that name")
}

fn lines(kind: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = VECTORS.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.filter(move |line| line[0] == kind)
}

fn hash(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("hexadecimal digits")
}

#[test]
fn decode_gives_the_bits_of_the_reference() {
    let mut n_types = 0;
    for line in lines("block") {
        let dtype = dtype_named(line[1]);
        let bytes: Vec<u8> = (0..line[2].len() / 2)
            .map(|i| u8::from_str_radix(&line[2][2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let mut w = vec![0.0; dtype.block_len()];
        quant::decode_row(dtype, &bytes, &mut w);
        for (i, bits) in line[3..].iter().enumerate() {
            assert_eq!(format!("{:08x}", w[i].to_bits()), *bits, "{dtype}, weight {i}");
        }
    }
    for line in lines("decode") {
        let (dtype, n) = (dtype_named(line[1]), line[2].parse().unwrap());
        let bytes = blocks(dtype, n);
        assert_eq!(fnv(bytes.iter().copied()), hash(line[3]), "{dtype}: the blocks themselves");
        let mut w = vec![0.0; n * dtype.block_len()];
        quant::decode_row(dtype, &bytes, &mut w);
        assert_eq!(fnv_f32(&w), hash(line[4]), "{dtype}: the weights");
        n_types += 1;
    }
    assert_eq!(n_types, DType::COUNT);
}

#[test]
fn encode_gives_the_bits_of_the_reference() {
    let mut n_types = 0;
    for line in lines("encode") {
        let (dtype, n) = (dtype_named(line[1]), line[2].parse().unwrap());
        let w = weights(dtype, n);
        assert_eq!(fnv_f32(&w), hash(line[3]), "{dtype}: the weights themselves");
        let mut bytes = vec![0; n * dtype.block_bytes()];
        assert!(quant::encode_row(dtype, &w, &mut bytes), "{dtype} has an encoder");
        assert_eq!(fnv(bytes), hash(line[4]), "{dtype}: the blocks");
        n_types += 1;
    }
    assert_eq!(n_types, 10);
    assert!(!quant::encode_row(DType::Q4K, &[0.0; 256], &mut [0; 144]));
}

#[test]
fn codes_scales_and_minima_are_the_weights() {
    for &dtype in DType::ALL {
        let Some(layout) = quant::layout(dtype) else {
            assert!(!dtype.is_quantised(), "{dtype}");
            continue;
        };
        let bytes = blocks(dtype, 192);
        let n = 192 * dtype.block_len();
        let mut w = vec![0.0; n];
        quant::decode_row(dtype, &bytes, &mut w);
        let (mut codes, groups) = (vec![0; n], n / layout.group);
        let (mut scales, mut mins) = (vec![f32::NAN; groups], vec![f32::NAN; groups]);
        quant::expand_row(dtype, &bytes, &mut codes, &mut scales, &mut mins);
        for i in 0..n {
            let (scale, min) = (scales[i / layout.group], mins[i / layout.group]);
            if layout.signed {
                assert_eq!(min, 0.0, "{dtype}");
            } else {
                assert!(codes[i] >= 0, "{dtype}");
            }
            // Exact in f64, but for MXFP4's largest scales, whose products are infinite in f32.
            let exact = f64::from(scale) * f64::from(codes[i]) + f64::from(min);
            let error = (exact - f64::from(w[i])).abs();
            let bound = f64::from(f32::EPSILON)
                * (f64::from(scale.abs()) * f64::from(codes[i]).abs()).max(f64::from(min.abs()));
            assert!(error <= bound || !w[i].is_finite() || !min.is_finite(), "{dtype}, {i}");
        }
    }
}

#[test]
fn check_finite_finds_the_first_bad_block() {
    for &dtype in DType::ALL {
        let (len, size) = (dtype.block_len(), dtype.block_bytes());
        let mut good = vec![0u8; 5 * size];
        assert_eq!(quant::check_finite(dtype, &good), None, "{dtype}: zeros");
        // Each place that can make a weight infinite or NaN, in the fourth block.
        let places: &[(usize, &[u8])] = match dtype {
            DType::F32 => &[(0, &[0, 0, 0x80, 0x7f]), (0, &[1, 0, 0x80, 0xff])],
            DType::BF16 => &[(0, &[0x80, 0x7f]), (0, &[0xc0, 0xff])],
            // NaN; and 2^126 * 12, which does not fit a float.
            DType::Mxfp4 => &[(0, &[255, 0]), (0, &[254, 0x07])],
            _ => &[(0, &[0, 0x7c]), (0, &[1, 0xfe])],
        };
        let scales = scale_places(dtype).iter().copied();
        for at in scales.chain(scale_places(dtype).is_empty().then_some(0)) {
            for (_, bytes) in places {
                let from = 3 * size + at;
                good[from..from + bytes.len()].copy_from_slice(bytes);
                assert_eq!(quant::check_finite(dtype, &good), Some(3), "{dtype}, at {at}");
                good.fill(0);
            }
        }
        // What it accepts is finite.
        let bytes = blocks(dtype, 192);
        for block in bytes.chunks(size) {
            let mut w = vec![0.0; len];
            quant::decode_row(dtype, block, &mut w);
            let finite = w.iter().all(|w| w.is_finite());
            let nan_of_mx = dtype == DType::Mxfp4 && block[0] == 255;
            assert_eq!(
                quant::check_finite(dtype, block).is_none(),
                finite && !nan_of_mx,
                "{dtype}"
            );
        }
    }
}
