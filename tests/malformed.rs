//! The corpus of malformed models: files that are damaged, hostile, or no models, and what each is
//! called.
//!
//! Every case has a name of its own, and the exact code and the place that its error must have. Each
//! runs on a thread with a small stack, and lies right before a page that nobody may read. Whatever a
//! file holds, that never ends with a panic, a hang, a stack that overflows or a process that dies;
//! and it never takes more memory than the file has bytes and 64 MiB. What loads also tokenizes a text
//! and generates four tokens.
//!
//! [`known`] has what brought down other programs that read such files, by the numbers under which
//! that was published. [`sweep`] changes good files everywhere: what they say is not the point there,
//! but that they end well.
//!
//! Grammars and JSON schemas are a class of their own in other engines. tern has neither yet, so
//! there is nothing to break.

#[path = "malformed/adapters.rs"]
mod adapters;
#[path = "malformed/alignment.rs"]
mod alignment;
#[path = "malformed/case.rs"]
mod case;
#[path = "malformed/fields.rs"]
mod fields;
#[path = "malformed/header.rs"]
mod header;
#[path = "malformed/hyperparameters.rs"]
mod hyperparameters;
#[path = "malformed/keys.rs"]
mod keys;
#[path = "malformed/known.rs"]
mod known;
#[path = "malformed/model_tensors.rs"]
mod model_tensors;
#[path = "malformed/models.rs"]
mod models;
#[path = "malformed/parts.rs"]
mod parts;
#[path = "malformed/ranges.rs"]
mod ranges;
#[path = "malformed/sizes.rs"]
mod sizes;
#[path = "malformed/strings.rs"]
mod strings;
mod support;
#[path = "malformed/sweep.rs"]
mod sweep;
#[path = "malformed/templates.rs"]
mod templates;
#[path = "malformed/tensor_info.rs"]
mod tensor_info;
#[path = "malformed/values.rs"]
mod values;
#[path = "malformed/vocabularies.rs"]
mod vocabularies;
#[path = "malformed/weights.rs"]
mod weights;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use case::{Case, Outcome, Works, case, check, load, using};
use models::{ARCHS, small, spm};
use support::counting::Counting;
use support::guarded::Guarded;
use support::tiny::Tiny;
use tern::base::dtype::DType;
use tern::base::file::{LoadMode, Source};
use tern::engine::{Error, Gguf, Input, Model, ModelParams, Session, SessionParams};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A class of damage: its name, its cases, and how many there are at least.
type Class = (&'static str, fn() -> Vec<Case>, usize);

const CLASSES: [Class; 15] = [
    ("header", header::cases, 25),
    ("keys", keys::cases, 25),
    ("values", values::cases, 45),
    ("strings", strings::cases, 25),
    ("alignment", alignment::cases, 12),
    ("tensor info", tensor_info::cases, 60),
    ("sizes", sizes::cases, 40),
    ("ranges", ranges::cases, 40),
    ("hyperparameters", hyperparameters::cases, 70),
    ("tensors of a model", model_tensors::cases, 25),
    ("vocabularies", vocabularies::cases, 60),
    ("templates", templates::cases, 25),
    ("weights", weights::cases, 30),
    ("adapters", adapters::cases, 30),
    ("parts", parts::cases, 15),
];

/// The class of a name.
fn class(name: &str) -> Class {
    *CLASSES.iter().find(|class| class.0 == name).expect("a class of that name")
}

fn check_class(name: &str) {
    check(name, class(name).1());
}

#[test]
fn the_corpus_is_as_large_as_it_says() {
    let (mut names, mut twice) = (HashSet::new(), Vec::new());
    let mut total = 0;
    let known: Class = ("known", known::cases, 45);
    for (class, cases, least) in CLASSES.into_iter().chain([known]) {
        let cases = cases();
        println!("{class}: {}", cases.len());
        assert!(cases.len() >= least, "{class}: {} cases, at least {least}", cases.len());
        total += cases.len();
        for Case { name, expected, .. } in cases {
            if let Outcome::Fails(code, part) = &expected {
                assert!(!code.is_empty() && !part.is_empty(), "{name}: no place is named");
            }
            if !names.insert(name.clone()) {
                twice.push(name);
            }
        }
    }
    assert!(twice.is_empty(), "of two cases each: {twice:?}");
    println!("{total} named cases");
    assert!(total >= 545);
}

/// Every file of this corpus lies before a page that nobody may read.
#[test]
fn who_reads_beyond_a_file_would_be_noticed() {
    let mut place = Guarded::new();
    for len in [0, 1, 4095, 4096, 4097, 100_000, 3] {
        let bytes = vec![7; len];
        assert_eq!(place.hold(&bytes), bytes);
        assert!(!place.is_open(), "{len} bytes");
    }
}

#[test]
fn the_models_that_are_spoiled_work() {
    check("good models", good_models());
}

fn good_models() -> Vec<Case> {
    let mut cases = vec![case("good_spm", spm(), Works)];
    cases.extend(ARCHS.map(|arch| case(format!("good_{arch}"), small(arch).writer(), Works)));
    cases
}

/// One test for each class, so that they run side by side.
macro_rules! classes {
    ($($test:ident = $class:literal,)*) => { $(
        #[test]
        fn $test() {
            check_class($class);
        }
    )* };
}

classes! {
    headers_have_their_codes = "header",
    keys_have_their_codes = "keys",
    values_have_their_codes = "values",
    strings_have_their_codes = "strings",
    alignments_have_their_codes = "alignment",
    tensor_tables_have_their_codes = "tensor info",
    sizes_have_their_codes = "sizes",
    ranges_have_their_codes = "ranges",
    hyperparameters_have_their_codes = "hyperparameters",
    tensors_of_models_have_their_codes = "tensors of a model",
    vocabularies_have_their_codes = "vocabularies",
    templates_have_their_codes = "templates",
    weights_have_their_codes = "weights",
    adapters_have_their_codes = "adapters",
    parts_have_their_codes = "parts",
}

#[test]
fn what_is_known_of_others_has_its_code() {
    check("known", known::cases());
}

/// Copied, mapped and guarded, or mapped and trusted: the same is wrong with a file, but for weights
/// that are not numbers, which a mapping that is trusted does not look for.
#[test]
fn however_a_file_is_loaded_the_same_is_wrong_with_it() {
    let classes = ["header", "ranges", "tensors of a model", "adapters"].map(|name| class(name).1);
    for cases in classes.into_iter().chain([known::cases as fn() -> Vec<Case>]) {
        for Case { name, file, .. } in cases().into_iter().filter(|case| !case.file.is_empty()) {
            let temporary = parts::temporary(&file);
            let expected = load(&file).err();
            for mode in [LoadMode::Copy, LoadMode::MapGuarded, LoadMode::MapFast] {
                let input = Input::Fd { fd: temporary.as_raw_fd(), offset: 0, len: u64::MAX };
                let params = ModelParams { load_mode: Some(mode), ..ModelParams::default() };
                let found = Model::load(input, &params, &mut |_, _| true).err();
                let trusted = mode == LoadMode::MapFast
                    && found.is_none()
                    && matches!(expected, Some(Error::BadWeights(_)));
                assert!(found == expected || trusted, "{name}, {mode:?}: {found:?}, {expected:?}");
            }
        }
    }
}

#[test]
fn hostile_texts_are_tokenized_and_come_back() {
    check("texts", vocabularies::texts());
}

#[test]
fn random_templates_do_no_harm() {
    let random = |_: &[u8]| {
        templates::random_templates();
        Ok(())
    };
    check("random templates", vec![using(random, "pieces", vec![], Works)]);
}

/// The length of the context is the file's, and a session takes it by default: more than there is
/// memory for must be an error, and not the end of whichever process the system chooses.
#[test]
fn a_context_beyond_memory_is_an_error() {
    let wide = Tiny { n_head: 4, n_head_kv: 4, head_dim: 64, ..small("llama") };
    let (model, default) = (ModelParams::default(), SessionParams::default());
    let per_cell =
        Model::plan(Input::Memory(&wide.gguf()), &model, &default).expect("a plan").kv_bytes
            / u64::from(wide.n_ctx_train);
    let cells = (tern::base::memory::available() / 2 * 3 / per_cell).min(1 << 30);
    let file = wide.writer().u32("llama.context_length", cells as u32).write();
    let model = load(&file).expect("loads");
    let error = Session::new(Arc::clone(&model), &default).err().expect("too large");
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    assert!(Session::new(model, &SessionParams { n_ctx: 64, ..default }).is_ok());
}

/// A file that PyPI's gguf wrote (gguf_py.py), with every kind of value and type of tensor.
#[test]
fn what_the_reference_writes_is_accepted() {
    let file = include_bytes!("malformed/gguf_py.bin");
    case::parse(file).unwrap_or_else(|e| panic!("{e}"));
    let gguf = Gguf::parse(&Source::from_memory(file)).expect("parsed just now");
    for &dtype in DType::ALL {
        let tensor = gguf.tensor(dtype.name()).unwrap_or_else(|| panic!("{dtype} is missing"));
        assert_eq!((tensor.dtype, tensor.shape[1]), (dtype, 3));
    }
    let four = gguf.tensor("of.four.dimensions").expect("a tensor of four dimensions");
    assert_eq!(four.shape, [5, 4, 3, 2]);
    let metadata = gguf.metadata();
    assert_eq!(metadata.get_u64("k.u64"), Ok(Some(u64::MAX)));
    assert_eq!(metadata.get_i32("k.i32"), Ok(Some(i32::MIN)));
    assert_eq!(gguf.alignment(), 64);
}

#[test]
fn real_files_are_accepted() {
    const TEST: &str = "real_files_are_accepted";
    for name in ["SmolLM2-135M-Instruct.Q4_0.gguf", "gemma-3-270m-Q4_K_M.gguf"] {
        let Some(path) = support::cached(TEST, &format!("models/{name}")) else { continue };
        let input = Input::Path(&path);
        let model = Model::load(input, &ModelParams::default(), &mut |_, _| true);
        let model = Arc::new(model.unwrap_or_else(|e| panic!("{name}: {e}")));
        let params = SessionParams { n_ctx: 128, ..SessionParams::default() };
        Session::new(model, &params).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    // Vocabularies alone: a model lacks its tensors, and nothing before them is wrong.
    let Ok(entries) = std::fs::read_dir(support::cache_dir().join("vocab")) else {
        return support::skipped(TEST, "no vocabularies in the cache");
    };
    for path in entries.map(|e| e.expect("an entry").path()) {
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let name = path.display();
        match Model::load(Input::Path(&path), &ModelParams::default(), &mut |_, _| true) {
            Err(Error::BadTensor(e)) => {
                assert_eq!(e.as_str(), "token_embd.weight: missing", "{name}")
            }
            Err(Error::UnsupportedArch(_)) => {}
            Err(e) => panic!("{name}: {e}"),
            Ok(_) => panic!("{name}: a vocabulary alone is a model"),
        }
    }
}

/// A file for each case, and `index.tsv`: its class, its name, and the code that it must have.
#[test]
#[ignore = "writes the corpus to the folder TERN_CORPUS, for tests/peer/malformed.py"]
fn the_corpus_is_written_for_other_programs() {
    let Some(folder) = std::env::var_os("TERN_CORPUS").map(PathBuf::from) else {
        return support::skipped("the_corpus_is_written", "TERN_CORPUS names no folder");
    };
    std::fs::create_dir_all(&folder).unwrap();
    let known: Class = ("known", known::cases, 45);
    let good: Class = ("good", good_models, 1);
    let mut index = String::new();
    for (class, cases, _) in CLASSES.into_iter().chain([known, good]) {
        for Case { name, file, expected, .. } in cases() {
            let code = match &expected {
                Works => "works",
                Outcome::Fails(code, _) => code,
            };
            writeln!(index, "{class}\t{name}\t{code}").unwrap();
            std::fs::write(folder.join(format!("{name}.gguf")), file).unwrap();
        }
    }
    std::fs::write(folder.join("index.tsv"), index).unwrap();
}
