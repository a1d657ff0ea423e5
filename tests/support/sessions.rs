//! Sessions of made models, and what tests ask of them.

use std::sync::Arc;

use tern::engine::{Control, Logits, Model, Session, SessionParams};

/// A session of a model.
pub fn session(model: &Arc<Model>, params: SessionParams) -> Session {
    Session::new(Arc::clone(model), &params).expect("a session")
}

/// Evaluates tokens, and wants the logits of the last.
pub fn eval(s: &mut Session, tokens: &[i32]) {
    s.eval(tokens, Logits::Last, &Control::default()).expect("evaluates");
}

/// The bits of the logits.
pub fn bits(s: &Session) -> Vec<u32> {
    s.logits().expect("logits").iter().map(|x| x.to_bits()).collect()
}
