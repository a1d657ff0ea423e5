//! What a program wants: models, sessions, plans.

pub mod vocab;
