//! What benchmarks of kernels share: matrices, tokens and caches of made numbers.

use tern::base::dtype::DType;
use tern::base::pool::Columns;
use tern::kernel::{Activations, GROUP, Kernels, Packed, Panel, Weight};
use tern::quant::p16;

/// Tokens, as kernels want them.
pub struct Tokens {
    k: usize,
    x: Vec<f32>,
    q: Vec<i8>,
    d: Vec<f32>,
    sum: Vec<i32>,
}

impl Tokens {
    /// `n` tokens of `k` numbers from -1 to 1.
    pub fn new(kernels: &Kernels, n: usize, k: usize) -> Tokens {
        let x: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let (mut q, mut d, mut sum) = (vec![0; n * k], vec![0.0; n * k / 32], vec![0; n * k / 16]);
        for t in 0..n {
            kernels.quantize(
                &x[t * k..][..k],
                &mut q[t * k..][..k],
                &mut d[t * k / 32..][..k / 32],
                &mut sum[t * k / 16..][..k / 16],
            );
        }
        Tokens { k, x, q, d, sum }
    }

    /// The first `n` of them.
    pub fn first(&self, n: usize) -> Activations<'_> {
        let k = self.k;
        Activations {
            n,
            k,
            x: &self.x[..n * k],
            pitch: k,
            q: &self.q[..n * k],
            d: &self.d[..n * k / 32],
            sum: &self.sum[..n * k / 16],
        }
    }
}

/// A matrix of made weights: packed if the kernels multiply from that, else as in a file.
pub struct Matrix {
    dtype: DType,
    k: usize,
    n_rows: usize,
    packed: bool,
    bytes: Vec<u8>,
}

impl Matrix {
    /// `n_rows` rows of `k` weights; as many more as fill a group of rows.
    pub fn new(kernels: &Kernels, dtype: DType, n_rows: usize, k: usize) -> Matrix {
        let n_rows = n_rows.next_multiple_of(p16::ROWS);
        let row_bytes = dtype.row_bytes(k).expect("whole blocks");
        // Small bytes: no scale is a NaN or large. Nor subnormal, which is slow to multiply.
        let mut bytes: Vec<u8> = (0..n_rows * row_bytes).map(|i| (i * 31 % 59) as u8).collect();
        if dtype == DType::Mxfp4 {
            bytes.chunks_mut(dtype.block_bytes()).for_each(|block| block[0] |= 64);
        }
        let packed = kernels.packs();
        if packed {
            let len = p16::packed_bytes(dtype, k, n_rows).expect("whole blocks");
            let mut groups = vec![0; len];
            p16::pack(dtype, k, &bytes, &mut groups);
            bytes = groups;
        }
        Matrix { dtype, k, n_rows, packed, bytes }
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Bytes of the weights as a file has them.
    pub fn file_bytes(&self) -> usize {
        self.n_rows * self.dtype.row_bytes(self.k).expect("whole blocks")
    }

    /// Multiplies tokens by it; `out` has a row of `n_rows` for each.
    pub fn multiply(&self, kernels: &Kernels, tokens: &Activations<'_>, out: &mut [f32]) {
        let (dtype, k, n_rows, bytes) = (self.dtype, self.k, self.n_rows, &self.bytes[..]);
        let columns = &mut Columns::new(out, n_rows, 0..n_rows);
        match self.packed {
            true => kernels.matmul_packed(&Packed { dtype, k, n_rows, bytes }, tokens, columns),
            false => kernels.matmul(&Weight { dtype, k, n_rows, bytes }, tokens, columns),
        }
    }
}

/// Attention of 3 query heads of 64 elements for each kv head, tile by tile, over caches in half
/// precision: what a token of SmolLM2-135M does in each layer.
pub struct Attention {
    n_cells: usize,
    cache: Vec<u16>,
    q: Vec<f32>,
    scores: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
    part: Vec<f32>,
    mixed: Vec<f32>,
}

const HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const TILE: usize = 128;

impl Attention {
    /// Of `n_tokens` over `n_heads` caches of `n_cells`, whole tiles.
    pub fn new(n_heads: usize, n_cells: usize, n_tokens: usize) -> Attention {
        let rows = HEADS * n_tokens;
        // Keys and values of a head follow each other; each is a small number.
        let len = 2 * n_heads * n_cells * HEAD_DIM;
        Attention {
            n_cells,
            cache: (0..len).map(|i| 0x2000 + (i * 31 % 59) as u16).collect(),
            q: (0..rows * HEAD_DIM).map(|i| (i % 7) as f32 / 7.0).collect(),
            scores: vec![0.0; rows * TILE],
            max: vec![0.0; rows],
            sum: vec![0.0; rows],
            part: vec![0.0; rows * HEAD_DIM],
            mixed: vec![0.0; rows * HEAD_DIM],
        }
    }

    /// Bytes of the caches.
    pub fn bytes(&self) -> usize {
        2 * self.cache.len()
    }

    /// Multiplications.
    pub fn macs(&self) -> usize {
        self.cache.len() * self.q.len() / HEAD_DIM
    }

    /// Does it once.
    pub fn run(&mut self, kernels: &Kernels) {
        let rows = self.q.len() / HEAD_DIM;
        for head in self.cache.chunks_exact(2 * self.n_cells * HEAD_DIM) {
            let (keys, values) = head.split_at(self.n_cells * HEAD_DIM);
            let tiles = keys.chunks(TILE * HEAD_DIM).zip(values.chunks(TILE * HEAD_DIM));
            for (keys, values) in tiles {
                let (n_groups, group) = (TILE / GROUP, GROUP * HEAD_DIM);
                let keys = Panel { data: keys, n: HEAD_DIM, row: GROUP, n_groups, group };
                let scores = (&mut self.scores[..], TILE);
                kernels.panel_f16(rows, (&self.q, HEAD_DIM), &keys, scores, true);
                let (m, l) = (&mut self.max[..], &mut self.sum[..]);
                kernels.powers((&mut self.scores, TILE), TILE, (m, l));
                std::hint::black_box((&self.max, &self.sum));
                let n_groups = HEAD_DIM / GROUP;
                let values = Panel { data: values, n: TILE, row: HEAD_DIM, n_groups, group: GROUP };
                let part = (&mut self.part[..], HEAD_DIM);
                kernels.panel_f16(rows, (&self.scores, TILE), &values, part, true);
                let mixed = self.mixed.chunks_exact_mut(HEAD_DIM);
                for (mixed, part) in mixed.zip(self.part.chunks_exact(HEAD_DIM)) {
                    kernels.blend(mixed, 0.5, part, 0.5);
                }
            }
        }
    }
}

/// Rows of logits.
pub mod logits {
    use tern::base::rng::Rng;

    /// A number between -9 and 9, about normal with deviation 3.
    fn noise(rng: &mut Rng) -> f32 {
        6.0 * (rng.next_f32() + rng.next_f32() + rng.next_f32()) - 9.0
    }

    /// Noise alone, in which a nucleus holds most of the vocabulary.
    pub fn flat(rng: &mut Rng, n_vocab: usize) -> Vec<f32> {
        (0..n_vocab).map(|_| noise(rng)).collect()
    }

    /// As a model makes them: noise, and 64 tokens above it that fall off from 20, where the highest
    /// are 1 apart, to 10.
    pub fn peaked(rng: &mut Rng, n_vocab: usize) -> Vec<f32> {
        let mut row = flat(rng, n_vocab);
        for rank in 0..64 {
            let token = (rng.next_u64() % n_vocab as u64) as usize;
            row[token] = 20.0 - 2.4 * (1.0 + rank as f32).ln();
        }
        row
    }
}
