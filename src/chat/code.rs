//! What a template is compiled to: instructions for a machine with a stack.
//!
//! Jumps are relative, so that a run of instructions can be moved: `a if b else c` is read with
//! `a` first and runs with `b` first.

use super::value::{Binary, Value};

/// The number of a name.
pub(super) type Name = u32;

/// One instruction. "Pops" and "pushes" are said of the stack of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    /// Writes the source from, to.
    Text(u32, u32),
    /// Pops and writes.
    Print,
    /// Pushes a constant.
    Const(u32),
    /// Pushes a variable.
    Load(Name),
    /// Pops into a variable of the innermost scope.
    Store(Name),
    /// Pops into an attribute of a namespace.
    StoreAttr(Name, Name),
    /// Pops a value, pushes its attribute.
    Attr(Name),
    /// Pops a key and a value, pushes the item.
    Item,
    /// Pops step, stop, start and a value, pushes the slice.
    Slice,
    /// Pops so many items, pushes a list.
    List(u32),
    /// Pops so many pairs, pushes a map.
    Map(u32),
    /// Pops a list of so many items, pushes them, the first one last.
    Unpack(u32),
    Not,
    Neg,
    Pos,
    Binary(Binary),
    Jump(i32),
    /// Pops; jumps if it is false.
    JumpIfFalse(i32),
    /// Jumps if the top is false, pops otherwise.
    JumpIfFalseOrPop(i32),
    /// Jumps if the top is true, pops otherwise.
    JumpIfTrueOrPop(i32),
    /// Pops arguments and a value, pushes a filter's result.
    Filter(Name, Args),
    /// Pops arguments and a value, pushes whether a test holds.
    Test(Name, Args),
    /// Pops arguments and a value, pushes what the value returns when called.
    Call(Args),
    /// Pops arguments and a value, pushes what its method returns.
    Method(Name, Args),
    /// Pops what to iterate over; begins a loop, which is a scope. True: it collects items.
    LoopBegin(bool),
    /// Pushes the next item in a fresh scope; jumps when there is none.
    LoopNext(i32),
    /// Pops a condition; if it is true, the loop keeps its item.
    LoopKeep,
    /// Ends a loop; pushes what it kept, or whether it had no items.
    LoopEnd,
    Break,
    Continue,
    /// Begins a scope.
    ScopeBegin,
    /// Ends a scope.
    ScopeEnd,
    /// From here on text goes into a string.
    CaptureBegin,
    /// Pushes that string.
    CaptureEnd,
    /// Pushes a macro.
    Macro(u32),
    /// Jumps if the macro was given its parameter of this number.
    JumpIfGiven(u32, i32),
    /// Returns from a macro.
    Return,
    /// Pops and forgets.
    Pop,
}

/// The arguments of a call: how many by position, and which list of names follows them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Args {
    pub n: u32,
    pub names: u32,
}

/// A macro: its code begins at `entry` with the defaults of its parameters.
pub(super) struct Macro {
    pub name: Name,
    pub parameters: Vec<Name>,
    pub entry: usize,
}

/// A compiled template.
pub(super) struct Program<'s> {
    pub source: &'s str,
    /// Instructions and their lines.
    pub code: Vec<(Op, u32)>,
    pub constants: Vec<Value>,
    pub names: Vec<&'s str>,
    /// The name "loop", if it occurs.
    pub loop_name: Option<Name>,
    pub macros: Vec<Macro>,
    /// Lists of the names of arguments; the first is empty.
    pub arg_names: Vec<Vec<Name>>,
}

impl Op {
    /// The same jump with another distance.
    pub(super) fn with_distance(self, n: i32) -> Op {
        match self {
            Op::Jump(_) => Op::Jump(n),
            Op::JumpIfFalse(_) => Op::JumpIfFalse(n),
            Op::JumpIfFalseOrPop(_) => Op::JumpIfFalseOrPop(n),
            Op::JumpIfTrueOrPop(_) => Op::JumpIfTrueOrPop(n),
            Op::LoopNext(_) => Op::LoopNext(n),
            Op::JumpIfGiven(i, _) => Op::JumpIfGiven(i, n),
            other => other,
        }
    }
}
