//! The machine that runs a compiled template.
//!
//! Loops, scopes and calls of macros stand on lists of their own, so running costs no stack that
//! grows with the template.

use crate::base::heap;
use crate::base::shared::Shared;

use super::calls::Given;
use super::code::{Args, Name, Op, Program};
use super::filters;
use super::grow::{Grow, listed, split_off};
use super::methods;
use super::parser::Located;
use super::value::{Fault, Fuel, List, Value, binary, fault};

/// A loop that runs.
pub(super) struct Loop {
    /// Tells it from the loops before it.
    pub number: u64,
    pub items: Shared<List>,
    /// How many items have been fetched.
    pub n_fetched: usize,
    /// What a collecting loop kept.
    kept: Option<Vec<Value>>,
    /// Where the next item is fetched, and what the other lists held when the loop began.
    next: usize,
    n_scopes: usize,
    n_captures: usize,
    n_stack: usize,
}

/// A call of a macro that runs.
pub(super) struct Call {
    pub return_to: usize,
    /// Which parameters were given, one bit each.
    pub given: u64,
    /// The caller's lowest visible scope, and its loops.
    pub base: usize,
    pub n_loops: usize,
}

/// A program and its state.
pub(super) struct Machine<'p> {
    pub program: &'p Program<'p>,
    pub fuel: Fuel,
    pub stack: Vec<Value>,
    /// For each name, its values in the scopes that have one, innermost last.
    bound: Vec<Vec<(usize, Value)>>,
    /// For each scope, the names that it binds. The first is the template's own.
    pub scopes: Vec<Vec<Name>>,
    /// The lowest scope that is visible, the first apart: that of the macro that runs.
    pub base: usize,
    pub loops: Vec<Loop>,
    pub calls: Vec<Call>,
    /// Texts being written; the first is the prompt.
    pub captures: Vec<String>,
    n_loops: u64,
}

impl<'p> Machine<'p> {
    pub(super) fn new(program: &'p Program<'p>) -> Result<Machine<'p>, Fault> {
        let (mut scopes, mut captures) = (Vec::new(), Vec::new());
        scopes.add(Vec::new())?;
        captures.add(String::new())?;
        Ok(Machine {
            program,
            fuel: Fuel::new(),
            stack: Vec::new(),
            bound: listed(program.names.iter().map(|_| Vec::new()))?,
            scopes,
            base: 0,
            loops: Vec::new(),
            calls: Vec::new(),
            captures,
            n_loops: 0,
        })
    }

    /// Sets a variable of the template, unless it mentions none of this name.
    pub(super) fn set_global(&mut self, name: &str, value: Value) -> Result<(), Fault> {
        match self.program.names.iter().position(|n| *n == name) {
            Some(at) => self.store(at as Name, value),
            None => Ok(()),
        }
    }

    /// Runs the program; the prompt.
    pub(super) fn run(mut self) -> Result<String, Located> {
        let mut at = 0;
        while let Some(&(op, line)) = self.program.code.get(at) {
            at = self.step(op, at).map_err(|fault| (line, fault))?;
        }
        let prompt = self.captures.into_iter().next();
        prompt.map_or_else(broken, Ok).map_err(|fault| (0, fault))
    }

    /// Runs one instruction; where the next one is.
    fn step(&mut self, op: Op, at: usize) -> Result<usize, Fault> {
        self.fuel.pay(0)?;
        let target = |n: i32| at.wrapping_add_signed(n as isize);
        match op {
            Op::Text(from, to) => {
                let text = self.program.source.get(from as usize..to as usize);
                self.write(text.map_or_else(broken, Ok)?)?;
            }
            Op::Print => {
                let value = self.pop()?;
                let Some(out) = self.captures.last_mut() else { return broken() };
                super::text::write(&value, out, &mut self.fuel)?;
            }
            Op::Const(i) => match self.program.constants.get(i as usize) {
                Some(constant) => self.push(constant.clone())?,
                None => return broken(),
            },
            Op::Load(name) => self.push(self.load(name)?)?,
            Op::Store(name) => {
                let value = self.pop()?;
                self.store(name, value)?;
            }
            Op::StoreAttr(name, attr) => {
                let value = self.pop()?;
                self.store_attr(name, self.word(attr)?, value)?;
            }
            Op::Attr(name) => {
                let value = self.pop()?;
                let found = self.attr(&value, self.word(name)?)?;
                self.push(found)?;
            }
            Op::Item => {
                let (key, value) = (self.pop()?, self.pop()?);
                let found = match (&value, &key) {
                    (Value::Namespace(_) | Value::Loop(_), Value::Str(name)) => {
                        self.attr(&value, name)?
                    }
                    _ => methods::item(&value, &key, &mut self.fuel)?,
                };
                self.push(found)?;
            }
            Op::Slice => {
                let (step, stop, start) = (self.pop()?, self.pop()?, self.pop()?);
                let value = self.pop()?;
                let slice = methods::slice(&value, [&start, &stop, &step], &mut self.fuel)?;
                self.push(slice)?;
            }
            Op::List(n) => {
                let items = self.pop_many(n as usize)?;
                let list = self.fuel.list(items)?;
                self.push(list)?;
            }
            Op::Map(n) => {
                let mut entries = Vec::new();
                let mut flat = self.pop_many((n as usize).saturating_mul(2))?.into_iter();
                while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
                    entries.add((key, value))?;
                }
                let map = self.fuel.map(entries)?;
                self.push(map)?;
            }
            Op::Unpack(n) => {
                let value = self.pop()?;
                let list = self.fuel.items(&value)?;
                if list.items.len() != n as usize {
                    return fault!("{} items cannot be unpacked into {n}", list.items.len());
                }
                self.stack.add_all(list.items.iter().rev().cloned())?;
            }
            Op::Not => {
                let value = self.pop()?;
                self.push(Value::Bool(!value.is_true()))?;
            }
            Op::Neg | Op::Pos => {
                let value = self.pop()?;
                let by = Value::Int(if op == Op::Neg { -1 } else { 1 });
                if matches!(value, Value::Str(_) | Value::List(_)) {
                    return fault!("{} has no sign", value.kind());
                }
                let result = binary(super::value::Binary::Mul, &value, &by, &mut self.fuel)?;
                self.push(result)?;
            }
            Op::Binary(op) => {
                let (b, a) = (self.pop()?, self.pop()?);
                let result = binary(op, &a, &b, &mut self.fuel)?;
                self.push(result)?;
            }
            Op::Jump(n) => return Ok(target(n)),
            Op::JumpIfFalse(n) => {
                if !self.pop()?.is_true() {
                    return Ok(target(n));
                }
            }
            Op::JumpIfFalseOrPop(n) | Op::JumpIfTrueOrPop(n) => {
                let is_true = self.stack.last().is_some_and(Value::is_true);
                if is_true == matches!(op, Op::JumpIfTrueOrPop(_)) {
                    return Ok(target(n));
                }
                self.pop()?;
            }
            Op::Filter(name, args) => self.apply(name, args, filters::filter)?,
            Op::Test(name, args) => self.apply(name, args, filters::test)?,
            Op::Method(name, args) => return self.method(name, args, at),
            Op::Call(args) => return self.call(args, at),
            Op::LoopBegin(collects) => {
                let value = self.pop()?;
                let items = self.fuel.items(&value)?;
                self.n_loops = self.n_loops.saturating_add(1); // the fuel ends long before
                self.loops.add(Loop {
                    number: self.n_loops,
                    items,
                    n_fetched: 0,
                    kept: collects.then(Vec::new),
                    next: next(at),
                    n_scopes: self.scopes.len(),
                    n_captures: self.captures.len(),
                    n_stack: self.stack.len(),
                })?;
                self.scopes.add(Vec::new())?;
            }
            Op::LoopNext(n) => {
                let Some(current) = self.loops.last_mut() else { return broken() };
                let Some(item) = current.items.items.get(current.n_fetched).cloned() else {
                    return Ok(target(n));
                };
                current.n_fetched = next(current.n_fetched);
                let (number, n_scopes) = (current.number, current.n_scopes);
                self.drop_scopes(n_scopes);
                self.scopes.add(Vec::new())?;
                if let Some(name) = self.program.loop_name {
                    self.store(name, Value::Loop(number))?;
                }
                self.push(item)?;
            }
            Op::LoopKeep => {
                let keep = self.pop()?.is_true();
                self.fuel.pay(size_of::<Value>())?;
                let Some(current) = self.loops.last_mut() else { return broken() };
                if let (true, Some(kept)) = (keep, &mut current.kept) {
                    let last = current.n_fetched.checked_sub(1);
                    let Some(item) = last.and_then(|last| current.items.items.get(last)) else {
                        return broken();
                    };
                    kept.add(item.clone())?;
                }
            }
            Op::LoopEnd => {
                let Some(ended) = self.loops.pop() else { return broken() };
                self.drop_scopes(ended.n_scopes);
                let left = match ended.kept {
                    Some(kept) => self.fuel.list(kept)?,
                    None => Value::Bool(ended.n_fetched == 0),
                };
                self.push(left)?;
            }
            Op::Break | Op::Continue => {
                let Some(current) = self.loops.last_mut() else { return broken() };
                let again = current.next;
                if op == Op::Break {
                    // The next item is then not there.
                    current.items = Shared::new(List::empty())?;
                }
                let (n_scopes, n_captures, n_stack) =
                    (current.n_scopes, current.n_captures, current.n_stack);
                self.drop_scopes(next(n_scopes));
                self.captures.truncate(n_captures);
                self.stack.truncate(n_stack);
                return Ok(again);
            }
            Op::ScopeBegin => self.scopes.add(Vec::new())?,
            Op::ScopeEnd => self.drop_scopes(self.scopes.len().saturating_sub(1)),
            Op::CaptureBegin => self.captures.add(String::new())?,
            Op::CaptureEnd => {
                let Some(text) = self.captures.pop() else { return broken() };
                self.push(Value::Str(Shared::new(text)?))?;
            }
            Op::Macro(i) => self.push(Value::Macro(i))?,
            Op::JumpIfGiven(i, n) => {
                let given = self.calls.last().and_then(|call| call.given.checked_shr(i));
                if given.is_some_and(|bits| bits & 1 == 1) {
                    return Ok(target(n));
                }
            }
            Op::Return => {
                let (Some(call), Some(text)) = (self.calls.pop(), self.captures.pop()) else {
                    return broken();
                };
                self.drop_scopes(self.base);
                self.base = call.base;
                self.loops.truncate(call.n_loops);
                self.push(Value::Str(Shared::new(text)?))?;
                return Ok(call.return_to);
            }
            Op::Pop => {
                self.pop()?;
            }
        }
        Ok(next(at))
    }

    pub(super) fn push(&mut self, value: Value) -> Result<(), Fault> {
        self.stack.add(value)
    }

    pub(super) fn pop(&mut self) -> Result<Value, Fault> {
        self.stack.pop().map_or_else(broken, Ok)
    }

    /// The top `n` values, the lowest first.
    fn pop_many(&mut self, n: usize) -> Result<Vec<Value>, Fault> {
        self.fuel.pay(n.saturating_mul(size_of::<Value>()))?;
        match self.stack.len().checked_sub(n) {
            Some(from) => split_off(&mut self.stack, from),
            None => broken(),
        }
    }

    fn write(&mut self, text: &str) -> Result<(), Fault> {
        match self.captures.last_mut() {
            Some(out) => self.fuel.push(out, text),
            None => broken(),
        }
    }

    pub(super) fn word(&self, name: Name) -> Result<&'p str, Fault> {
        self.program.names.get(name as usize).copied().map_or_else(broken, Ok)
    }

    fn load(&self, name: Name) -> Result<Value, Fault> {
        let Some(bound) = self.bound.get(name as usize) else { return broken() };
        Ok(match (bound.last(), bound.first()) {
            (Some((scope, value)), _) if *scope >= self.base => value.clone(),
            (_, Some((0, value))) => value.clone(),
            _ => Value::Undefined,
        })
    }

    pub(super) fn store(&mut self, name: Name, value: Value) -> Result<(), Fault> {
        let innermost = self.scopes.len().saturating_sub(1);
        let (Some(scope), Some(bound)) =
            (self.scopes.last_mut(), self.bound.get_mut(name as usize))
        else {
            return broken();
        };
        match bound.last_mut() {
            Some((scope, old)) if *scope == innermost => *old = value,
            _ => {
                scope.add(name)?;
                bound.add((innermost, value))?;
            }
        }
        Ok(())
    }

    /// Ends scopes until only `n` are left.
    fn drop_scopes(&mut self, n: usize) {
        while self.scopes.len() > n {
            for name in self.scopes.pop().into_iter().flatten() {
                self.bound.get_mut(name as usize).and_then(Vec::pop);
            }
        }
    }

    fn store_attr(&mut self, name: Name, attr: &str, value: Value) -> Result<(), Fault> {
        let Value::Namespace(space) = self.load(name)? else {
            return fault!("'{}' is not a namespace", self.word(name)?);
        };
        if matches!(value, Value::Namespace(_)) {
            return fault!("a namespace cannot be put into anything");
        }
        let Ok(mut space) = space.try_borrow_mut() else { return broken() };
        self.fuel.pay(space.len().saturating_mul(64))?;
        match space.iter_mut().find(|(other, _)| other == attr) {
            Some((_, old)) => *old = value,
            None => space.add((heap::text(attr)?, value))?,
        }
        Ok(())
    }

    pub(super) fn attr(&mut self, value: &Value, name: &str) -> Result<Value, Fault> {
        match value {
            Value::Loop(number) => self.loop_attr(*number, name),
            Value::Namespace(space) => {
                let Ok(space) = space.try_borrow() else { return broken() };
                self.fuel.pay(space.len().saturating_mul(64))?;
                let found = space.iter().find(|(other, _)| other == name);
                Ok(found.map_or(Value::Undefined, |(_, value)| value.clone()))
            }
            Value::Undefined => fault!("'{name}' of an undefined value"),
            _ => {
                let key = self.fuel.string(&[name])?;
                methods::item(value, &key, &mut self.fuel)
            }
        }
    }

    /// Takes the arguments off the stack: by position, by name.
    #[allow(clippy::type_complexity, reason = "a pair of lists, used in three places below")]
    pub(super) fn pop_args(
        &mut self,
        args: Args,
    ) -> Result<(Vec<Value>, Vec<(&'p str, Value)>), Fault> {
        let program = self.program;
        let Some(names) = program.arg_names.get(args.names as usize) else { return broken() };
        let mut by_name = Vec::new();
        for (&name, value) in names.iter().zip(self.pop_many(names.len())?) {
            by_name.add((self.word(name)?, value))?;
        }
        Ok((self.pop_many(args.n as usize)?, by_name))
    }

    /// Replaces the arguments and the value below them by what a filter or test makes of them.
    fn apply(
        &mut self,
        name: Name,
        args: Args,
        what: fn(&str, &Value, &Given<'_>, &mut Fuel) -> Result<Value, Fault>,
    ) -> Result<(), Fault> {
        let (by_position, by_name) = self.pop_args(args)?;
        let value = self.pop()?;
        let given = Given { by_position: &by_position, by_name: &by_name };
        let result = what(self.word(name)?, &value, &given, &mut self.fuel)?;
        self.push(result)
    }
}

/// What comes after an instruction, or an item: there are less than 2^32 of either.
pub(super) fn next(at: usize) -> usize {
    at.saturating_add(1)
}

/// What the parser never makes: code that does not fit together.
pub(super) fn broken<T>() -> Result<T, Fault> {
    fault!("the compiled template is broken")
}
