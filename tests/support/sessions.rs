//! Sessions of made models, and what tests ask of them.

use std::sync::Arc;

use tern::engine::{Control, Input, Isa, Logits, Model, ModelParams, Session, SessionParams};

use super::tiny::Tiny;

/// A session of a model.
pub fn session(model: &Model, params: SessionParams) -> Session {
    Session::new(model, &params).expect("a session")
}

/// Evaluates tokens, and wants the logits of the last.
pub fn eval(s: &mut Session, tokens: &[i32]) {
    s.eval(tokens, Logits::Last, &Control::default()).expect("evaluates");
}

/// The bits of the logits.
pub fn bits(s: &Session) -> Vec<u32> {
    s.logits().expect("logits").iter().map(|x| x.to_bits()).collect()
}

/// All that a session is, but for what it has counted since it was made.
pub fn state(s: &Session) -> Vec<u8> {
    let mut bytes = vec![0; s.saved_len(None).expect("its length") as usize];
    s.write(None, &mut bytes).expect("a snapshot");
    let word =
        |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a word")) as usize;
    let (n, body) = (word(12), word(16));
    assert_eq!(word(36 + 16), 1, "the second section is that of the counters");
    let (start, end) = (word(36 + 8), word(36 + 16 + 8));
    [&bytes[36 + 16 * n..start], &bytes[end..body]].concat()
}

/// A made model, on the best kernels of this machine or on those of one instruction set.
pub fn load(tiny: &Tiny, isa: Option<Isa>) -> Arc<Model> {
    let params = ModelParams { isa, ..ModelParams::default() };
    Arc::new(Model::load(Input::Memory(&tiny.gguf()), &params, &mut |_, _| true).expect("loads"))
}
