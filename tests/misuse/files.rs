//! Files that are not what a path should lead to, and the codes that say so.

use std::path::Path;
use std::sync::Arc;

use tern::base::crc32c::crc32c;
use tern::engine::{
    Control, Input, Logits, Model, ModelParams, Sampler, SamplerParams, Session, SessionParams,
};

use super::support::gguf_writer::GgufWriter;
use super::support::tiny::Tiny;

/// Models: name, what loading gives, and what planning gives, which reads no weight.
pub(crate) const MODELS: &[(&str, &str, &str)] = &[
    ("cut.gguf", "BAD_FILE", "BAD_FILE"),
    ("hparams.gguf", "BAD_HPARAMS", "BAD_HPARAMS"),
    ("tensor.gguf", "BAD_TENSOR", "BAD_TENSOR"),
    ("vocab.gguf", "BAD_VOCAB", "BAD_VOCAB"),
    ("weights.gguf", "BAD_WEIGHTS", "OK"),
    ("arch.gguf", "UNSUPPORTED_ARCH", "UNSUPPORTED_ARCH"),
    ("dtype.gguf", "UNSUPPORTED_DTYPE", "UNSUPPORTED_DTYPE"),
    ("tokenizer.gguf", "UNSUPPORTED_TOKENIZER", "UNSUPPORTED_TOKENIZER"),
    ("packing.gguf", "UNSUPPORTED_PACKING", "UNSUPPORTED_PACKING"),
];

/// Sessions: name, what restoring gives, and what prefetching gives, which looks at the header.
pub(crate) const SESSIONS: &[(&str, &str, &str)] = &[
    ("cut.tern", "SNAPSHOT_CORRUPT", "SNAPSHOT_CORRUPT"),
    ("flipped.tern", "SNAPSHOT_CORRUPT", "OK"),
    ("version.tern", "SNAPSHOT_VERSION", "SNAPSHOT_VERSION"),
    ("model.tern", "SNAPSHOT_MODEL", "OK"),
    ("types.tern", "SNAPSHOT_LAYOUT", "OK"),
    ("sampler.tern", "SNAPSHOT_LAYOUT", "OK"),
];

/// The model of all cases.
pub(crate) fn tiny() -> Tiny {
    Tiny {
        n_embd: 64,
        n_layer: 1,
        n_head: 2,
        n_head_kv: 1,
        head_dim: 32,
        n_ff: 64,
        ..Tiny::new("llama")
    }
}

/// Writes all files that cases name.
pub(crate) fn write_all(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).expect("writing a file");
    };
    let good = tiny().gguf();
    write("model.gguf", &good);
    write("other.txt", b"A text that is long enough to be no header of anything at all.\n");
    for (name, ..) in MODELS {
        write(name, &model(name, &good));
    }
    let saved = session(&tiny(), 0, true);
    for (name, ..) in SESSIONS {
        write(name, &snapshot(name, &saved));
    }
}

fn model(name: &str, good: &[u8]) -> Vec<u8> {
    let changed: GgufWriter = match name {
        "cut.gguf" => return good[..good.len() / 2].to_vec(),
        "hparams.gguf" => tiny().writer().without("llama.block_count"),
        "tensor.gguf" => tiny().writer().without_tensor("output_norm.weight"),
        "vocab.gguf" => tiny().writer().without("tokenizer.ggml.tokens"),
        "weights.gguf" => {
            let mut writer = tiny().writer();
            writer.tensor_data_mut("output_norm.weight")[..4]
                .copy_from_slice(&f32::NAN.to_le_bytes());
            writer
        }
        "arch.gguf" => {
            tiny().writer().without("general.architecture").str("general.architecture", "mamba")
        }
        "dtype.gguf" => tiny().writer().claim_dtype("blk.0.attn_q.weight", 999),
        "tokenizer.gguf" => tiny().writer().without("tokenizer.ggml.model"),
        "packing.gguf" => {
            tiny().writer().str("tern.packing.layout", "p32").u32("tern.packing.version", 1)
        }
        name => panic!("tests/misuse/files.rs does not know how to make {name}"),
    };
    changed.write()
}

fn snapshot(name: &str, saved: &[u8]) -> Vec<u8> {
    let mut bytes = saved.to_vec();
    match name {
        "cut.tern" => bytes.truncate(20),
        "flipped.tern" => bytes[saved.len() / 2] ^= 1,
        "version.tern" => {
            bytes[8] = 99;
            let crc = crc32c(&bytes[..32]);
            bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        }
        "model.tern" => return session(&Tiny { seed: 2, ..tiny() }, 0, true),
        "types.tern" => return session(&tiny(), 2, true),
        "sampler.tern" => return session(&tiny(), 0, false),
        name => panic!("tests/misuse/files.rs does not know how to make {name}"),
    }
    bytes
}

/// A session as that of the drivers, saved; with keys and values of a type, with a sampler or without.
fn session(tiny: &Tiny, kv_dtype: u32, with_sampler: bool) -> Vec<u8> {
    let file = tiny.gguf();
    let model = Model::load(Input::Memory(&file), &ModelParams::default(), &mut |_, _| true);
    let params = SessionParams {
        n_ctx: 96,
        n_logits: 4,
        n_threads: 1,
        kv_dtype,
        ..SessionParams::default()
    };
    let mut session = Session::new(Arc::new(model.expect("loads")), &params).expect("a session");
    let tokens: Vec<i32> = b"the sea.".iter().map(|b| i32::from(*b)).collect();
    session.eval(&tokens, Logits::Last, &Control::default()).expect("evaluates");
    let sampler = Sampler::new(&SamplerParams::default()).expect("a sampler");
    let sampler = with_sampler.then_some(&sampler);
    let mut bytes = vec![0; session.saved_len(sampler).expect("a length") as usize];
    session.write(sampler, &mut bytes).expect("saves");
    bytes
}
