//! Parts: models split into several files, and models that are a part of one file.

use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::case::{Case, Outcome, Works, case, fails, using};
use super::models::{good, small};
use crate::support::gguf_writer::GgufWriter;
use tern::engine::{Error, Input, Model, ModelParams};

/// Loads a model that lies from `offset` on, `len` bytes long, in an open file that holds `file`.
pub(crate) fn part(offset: u64, len: u64) -> impl Fn(&[u8]) -> Result<(), Error> {
    move |file| {
        let temporary = temporary(file);
        let input = Input::Fd { fd: temporary.as_raw_fd(), offset, len };
        Model::load(input, &ModelParams::default(), &mut |_, _| true).map(|_| ())
    }
}

/// An open file without a name that holds these bytes.
pub(crate) fn temporary(bytes: &[u8]) -> std::fs::File {
    let name = format!("tern-malformed-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.read(true).write(true).create_new(true).open(&path).expect("a temporary file");
    std::fs::remove_file(&path).expect("the name goes");
    file.write_all(bytes).expect("room for a temporary file");
    file
}

fn path(path: &'static str) -> impl Fn(&[u8]) -> Result<(), Error> {
    move |_| {
        let input = Input::Path(Path::new(path));
        Model::load(input, &ModelParams::default(), &mut |_, _| true).map(|_| ())
    }
}

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let split = |no: u16, count: u16| good().u16("split.no", no).u16("split.count", count).i32("split.tensors.count", 20);
    let is_part = |n: u64| -> Outcome { fails("UNSUPPORTED", format!("split.count: the file is one of {n} parts of a model")) };
    let later = GgufWriter::new().u16("split.no", 1).u16("split.count", 2).tensor_f32("blk.1.ffn_up.weight", &[64, 64], &[0.0; 4096]);
    let half = split(0, 2).without_tensor("output_norm.weight").without_tensor("blk.1.ffn_down.weight");
    let whole = good().write();
    let len = whole.len() as u64;
    let inside: Vec<u8> = [&[0xFF; 13][..], &whole, b"tail"].concat(); // aligned to nothing
    let two: Vec<u8> = [&whole[..], &small("qwen2").gguf()].concat();
    let bad = |part: &str| fails("BAD_FILE", part);
    vec![
        case("split_first_of_2", half, is_part(2)),
        case("split_second_of_2", later, is_part(2)),
        case("split_without_no", split(0, 3).without("split.no"), is_part(3)),
        case("split_no_beyond_count", split(7, 2), is_part(2)),
        case("split_max", split(0, u16::MAX), is_part(65_535)),
        case("split_u32_max", good().u32("split.count", u32::MAX), is_part(4_294_967_295)),
        case("split_u64_max", good().u64("split.count", u64::MAX), fails("BAD_HPARAMS", "split.count: 18446744073709551615 of kind u64")),
        case("split_neg", good().i32("split.count", -1), fails("BAD_HPARAMS", "split.count: -1 of kind i32")),
        case("split_str", good().str("split.count", "2"), fails("BAD_HPARAMS", "split.count: \"2\" of kind string")),
        case("split_array", good().u32s("split.count", &[2]), fails("BAD_HPARAMS", "split.count: an array")),
        case("split_1_of_1", split(0, 1), Works),
        case("split_0_of_0", split(0, 0), Works),
        case("split_no_alone", good().u16("split.no", 1), Works),
        using(part(0, u64::MAX), "fd_whole", whole.clone(), Works),
        using(part(13, len), "fd_inside", inside.clone(), Works),
        using(part(13, u64::MAX), "fd_inside_to_the_end", inside.clone(), Works),
        using(part(len, u64::MAX), "fd_second_of_two", two.clone(), Works),
        using(part(0, len), "fd_first_of_two", two, Works),
        using(part(13, len - 1), "fd_one_byte_short", inside.clone(), bad("the file is cut short")),
        using(part(13, 24), "fd_header_alone", inside.clone(), bad("number of metadata entries")),
        using(part(13, 3), "fd_3_bytes", inside.clone(), bad("byte 0: magic: 4 bytes expected, 3 are left")),
        using(part(13, 0), "fd_no_bytes", inside.clone(), fails("IO", "no bytes at offset 13")),
        using(part(12, len), "fd_one_byte_early", inside.clone(), bad("byte 4: magic: ")),
        using(part(14, len), "fd_one_byte_late", inside.clone(), bad("byte 4: magic: ")),
        using(part(13, len + 5), "fd_beyond_the_end", inside.clone(), fails("INVALID_ARGUMENT", "offset")),
        using(part(13, u64::MAX - 1), "fd_len_wraps", inside.clone(), fails("INVALID_ARGUMENT", "offset")),
        using(part(13, i64::MAX as u64), "fd_len_neg", inside.clone(), fails("INVALID_ARGUMENT", "offset")),
        using(part(u64::MAX, 2), "fd_offset_max", inside.clone(), fails("INVALID_ARGUMENT", "offset")),
        using(part(1 << 63, u64::MAX), "fd_offset_neg", inside.clone(), fails("INVALID_ARGUMENT", "offset")),
        using(part(len + 18, u64::MAX), "fd_offset_past_the_end", inside, fails("INVALID_ARGUMENT", "offset")),
        using(part(0, u64::MAX), "fd_empty", vec![], fails("IO", "no bytes at offset 0")),
        using(path("/"), "path_directory", vec![], fails("IO", "/")),
        using(path("/no/such/model.gguf"), "path_missing", vec![], fails("IO", "/no/such/model.gguf")),
        using(path(""), "path_empty", vec![], fails("IO", "the path is empty")),
        using(path("/dev/null"), "path_null", vec![], fails("IO", "/dev/null")),
        using(path("/dev/zero"), "path_zero", vec![], fails("IO", "/dev/zero")),
    ]
}
