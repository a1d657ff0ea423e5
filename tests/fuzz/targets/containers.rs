//! The container of a model: metadata and the tensor table, of any bytes.

use tern::base::file::Source;
use tern::gguf::Gguf;

use crate::memory;
use crate::models::{odd_tensor, odd_value, placed};
use crate::support::gguf_writer::{GgufWriter, kind, string};
use crate::support::parsed::{box_of_all, use_all};

pub fn run(input: &[u8]) {
    let parsed = memory::call(
        || Gguf::parse(&Source::from_memory(input)),
        |a, b| a.metadata().len() == b.metadata().len() && a.tensors().len() == b.tensors().len(),
    );
    let Ok(gguf) = parsed else { return };
    use_all("input", &gguf, input);
    let metadata = gguf.metadata();
    for (key, _) in metadata.iter() {
        let _ = memory::call_eq(|| metadata.get_u64(key));
        let _ = memory::call_eq(|| metadata.get_u32(key));
        let _ = memory::call_eq(|| metadata.get_i32(key));
        let _ = memory::call_eq(|| Ok(metadata.get_f32(key)?.map(f32::to_bits)));
        let _ = memory::call_eq(|| metadata.get_bool(key));
        let _ = memory::call_eq(|| metadata.get_str(key));
        let _ = memory::call_eq(|| Ok(metadata.strings(key)?.map(|all| all.count())));
        let bits = |list: Vec<f32>| list.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let _ =
            memory::call(|| metadata.f32s(key), |a, b| a.clone().map(bits) == b.clone().map(bits));
        let _ = memory::call_eq(|| metadata.i32s(key));
        let _ = memory::call_eq(|| metadata.u32s(key));
        let _ = memory::call_eq(|| metadata.bools(key));
    }
    assert!(metadata.value("no such key").is_none());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let all = box_of_all();
    let mut seeds = vec![
        GgufWriter::new().write(),
        all.write(),
        all.clone().version(2).write(),
        all.clone().alignment(64).write(),
        all.clone().raw_kv(b"k.u8", kind::U8, &[1]).write(),
        placed(&[("a", 8, 0), ("b", 8, 32), ("c", 48, 64)]).write(),
        placed(&[("a", 8, 0), ("b", 8, 16)]).write(),
        include_bytes!("../../malformed/gguf_py.bin")[..4000].to_vec(),
    ];
    seeds.extend((0..14).map(|kind| odd_value(kind, &string(b"text")).write()));
    seeds.extend((0..40).step_by(3).map(|dtype| odd_tensor(2, &[32, 1], dtype).write()));
    seeds.extend((0..6).map(|n| odd_tensor(n, &[2; 6][..n as usize], 0).write()));
    seeds
}
