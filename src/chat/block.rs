//! What a parser has begun and not ended yet.

use super::code::{Name, Op};

/// Instructions and their lines.
pub(super) type Code = Vec<(Op, u32)>;

/// A block that waits for its end.
pub(super) enum Block {
    /// The jump taken when the last condition fails, if it had one; the jumps to the end.
    If {
        next: Option<usize>,
        ends: Vec<usize>,
    },
    /// Where the next item is fetched; after `else`, the jump past it.
    For {
        next: usize,
        past_else: Option<usize>,
    },
    With,
    /// A variable, and the filters that its text goes through.
    Set(Target, Code),
    Filter(Code),
    /// The jump past the body.
    Macro(usize),
    Generation,
}

/// What is assigned to.
pub(super) enum Target {
    Name(Name),
    Attr(Name, Name),
    Names(Vec<Name>),
}

impl Block {
    /// What its statement is called.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Block::If { .. } => "if",
            Block::For { .. } => "for",
            Block::With => "with",
            Block::Set(..) => "set",
            Block::Filter(_) => "filter",
            Block::Macro(_) => "macro",
            Block::Generation => "generation",
        }
    }
}
