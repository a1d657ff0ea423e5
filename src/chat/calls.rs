//! Calls: of macros, of functions and of methods; and what a loop tells of itself.

use std::cell::RefCell;

use crate::base::heap;
use crate::base::shared::Shared;

use super::MAX_DEPTH;
use super::code::{Args, Name};
use super::grow::Grow;
use super::machine::{Call, Machine, broken, next};
use super::methods;
use super::value::{Fault, Function, Value, fault};

/// The arguments of a call.
pub(super) struct Given<'a> {
    pub by_position: &'a [Value],
    pub by_name: &'a [(&'a str, Value)],
}

impl Given<'_> {
    /// The argument at a place, or of a name.
    pub(super) fn get(&self, at: usize, name: &str) -> Option<&Value> {
        self.by_position.get(at).or_else(|| self.named(name))
    }

    /// Fails if there are more arguments by position, or others by name.
    pub(super) fn at_most(&self, n: usize, names: &[&str]) -> Result<(), Fault> {
        if self.by_position.len() > n {
            return fault!("{} arguments, expected at most {n}", self.by_position.len());
        }
        match self.by_name.iter().find(|(word, _)| !names.contains(word)) {
            Some((word, _)) => fault!("unexpected argument '{word}'"),
            None => Ok(()),
        }
    }

    /// The argument of a name.
    #[inline(never)]
    pub(super) fn named(&self, name: &str) -> Option<&Value> {
        self.by_name.iter().find(|(word, _)| *word == name).map(|(_, value)| value)
    }

    /// The argument at a place, which must be there.
    pub(super) fn need(&self, at: usize, name: &str) -> Result<&Value, Fault> {
        self.get(at, name).map_or_else(|| fault!("the argument '{name}' is missing"), Ok)
    }
}

impl Machine<'_> {
    pub(super) fn loop_attr(&mut self, number: u64, name: &str) -> Result<Value, Fault> {
        let at = self.loops.binary_search_by_key(&number, |l| l.number);
        let Some(current) = at.ok().and_then(|at| self.loops.get(at)) else {
            return fault!("'{name}' of a loop that has ended");
        };
        // Lengths of lists: differences of them fit.
        let (n, fetched) = (current.items.items.len() as i64, current.n_fetched as i64);
        let neighbour = |at: i64| {
            let item = usize::try_from(at).ok().and_then(|at| current.items.items.get(at));
            item.cloned().unwrap_or(Value::Undefined)
        };
        Ok(match name {
            "index" => Value::Int(fetched),
            "index0" => Value::Int(fetched.saturating_sub(1)),
            "revindex" => Value::Int(n.saturating_sub(fetched).saturating_add(1)),
            "revindex0" => Value::Int(n.saturating_sub(fetched)),
            "first" => Value::Bool(fetched == 1),
            "last" => Value::Bool(fetched == n),
            "length" => Value::Int(n),
            "previtem" => neighbour(fetched.saturating_sub(2)),
            "nextitem" => neighbour(fetched),
            // Recursive loops are not supported, so no loop is nested in itself.
            "depth" => Value::Int(1),
            "depth0" => Value::Int(0),
            _ => Value::Undefined,
        })
    }

    pub(super) fn method(&mut self, name: Name, args: Args, at: usize) -> Result<usize, Fault> {
        let (by_position, by_name) = self.pop_args(args)?;
        let value = self.pop()?;
        let name = self.word(name)?;
        let given = Given { by_position: &by_position, by_name: &by_name };
        let result = match &value {
            Value::Loop(number) if name == "cycle" && !by_position.is_empty() => {
                let Value::Int(index) = self.loop_attr(*number, "index0")? else {
                    return broken();
                };
                let at = (index as usize).checked_rem(by_position.len());
                at.and_then(|at| by_position.get(at)).map_or_else(broken, |v| Ok(v.clone()))?
            }
            // A macro that a namespace holds.
            Value::Namespace(_) => {
                let callee = self.attr(&value, name)?;
                return self.call_value(&callee, &given, at);
            }
            _ => methods::method(&value, name, &given, &mut self.fuel)?,
        };
        self.push(result)?;
        Ok(next(at))
    }

    pub(super) fn call(&mut self, args: Args, at: usize) -> Result<usize, Fault> {
        let (by_position, by_name) = self.pop_args(args)?;
        let callee = self.pop()?;
        let given = Given { by_position: &by_position, by_name: &by_name };
        self.call_value(&callee, &given, at)
    }

    fn call_value(&mut self, callee: &Value, given: &Given<'_>, at: usize) -> Result<usize, Fault> {
        match callee {
            Value::Macro(i) => self.begin_macro(*i, given, at),
            Value::Function(function) => {
                let result = self.call_function(*function, given)?;
                self.push(result)?;
                Ok(next(at))
            }
            _ => fault!("{} cannot be called", callee.kind()),
        }
    }

    fn begin_macro(&mut self, i: u32, given: &Given<'_>, at: usize) -> Result<usize, Fault> {
        let Some(called) = self.program.macros.get(i as usize) else { return broken() };
        let name = self.word(called.name)?;
        if self.calls.len() == MAX_DEPTH {
            return fault!("calls of macros nest more than {MAX_DEPTH} deep");
        }
        if given.by_position.len() > called.parameters.len() {
            return fault!("the macro '{name}' has {} parameters", called.parameters.len());
        }
        self.calls.add(Call {
            return_to: next(at),
            given: 0,
            base: self.base,
            n_loops: self.loops.len(),
        })?;
        self.base = self.scopes.len();
        self.scopes.add(Vec::new())?;
        self.captures.add(String::new())?;
        let mut bits = 0_u64;
        for (i, parameter) in called.parameters.iter().enumerate() {
            let word = self.word(*parameter)?;
            let by_name = given.by_name.iter().find(|(name, _)| *name == word);
            let value = match (given.by_position.get(i), by_name) {
                (Some(_), Some(_)) => return fault!("'{word}' is given twice"),
                (Some(value), None) | (None, Some((_, value))) => {
                    bits |= 1_u64.checked_shl(i as u32).unwrap_or(0); // i < MAX_DEPTH
                    value.clone()
                }
                (None, None) => Value::Undefined,
            };
            self.store(*parameter, value)?;
        }
        for (word, _) in given.by_name {
            if !called.parameters.iter().any(|p| self.word(*p).is_ok_and(|name| name == *word)) {
                return fault!("the macro '{name}' has no parameter '{word}'");
            }
        }
        if let Some(call) = self.calls.last_mut() {
            call.given = bits;
        }
        Ok(called.entry)
    }

    fn call_function(&mut self, function: Function, given: &Given<'_>) -> Result<Value, Fault> {
        let fuel = &mut self.fuel;
        match function {
            Function::Range => methods::range(given, fuel),
            Function::Dict | Function::Namespace => {
                let mut entries = Vec::new();
                match given.by_position {
                    [] => (),
                    [Value::Map(map)] => entries.add_all(map.entries.iter().cloned())?,
                    _ => return fault!("expected one map or named arguments"),
                }
                for (name, value) in given.by_name {
                    entries.add((fuel.string(&[name])?, value.clone()))?;
                }
                let map = fuel.map(entries)?;
                let (Function::Namespace, Value::Map(map)) = (function, &map) else {
                    return Ok(map);
                };
                let mut space = Vec::new();
                for (key, value) in &map.entries {
                    space.add((heap::text(key.text()?)?, value.clone()))?;
                }
                Ok(Value::Namespace(Shared::new(RefCell::new(space))?))
            }
            Function::RaiseException => {
                let mut text = String::new();
                for value in given.by_position {
                    super::text::write(value, &mut text, fuel)?;
                }
                fault!("the template says: {text}")
            }
            Function::StrftimeNow => methods::date(given, fuel),
        }
    }
}
