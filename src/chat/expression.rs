//! A template's expressions to instructions, by precedence.
//!
//! The parser recurses with each bracket and each operator that waits for its right side, at most
//! [`MAX_DEPTH`] deep.

use crate::base::heap;
use crate::base::shared::Shared;

use super::MAX_DEPTH;
use super::code::{Args, Op};
use super::grow::{Grow, split_off};
use super::lexer::Token;
use super::parser::{Parser, RESERVED, Result};
use super::value::{Binary, Value, fault};

impl Parser<'_> {
    /// An expression, or several with commas between them, which make a list.
    pub(super) fn tuple(&mut self) -> Result<()> {
        self.expression()?;
        if self.is_op(",") { self.rest_of_tuple(1) } else { Ok(()) }
    }

    pub(super) fn rest_of_tuple(&mut self, mut n: u32) -> Result<()> {
        while self.skip_op(",")? {
            if self.is_op(")") || matches!(self.token, Token::BlockEnd | Token::PrintEnd) {
                break;
            }
            self.expression()?;
            n = more(n);
        }
        self.emit(Op::List(n))?;
        Ok(())
    }

    /// Counts one level of recursion while `parse` runs.
    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return fault!("expressions nest more than {MAX_DEPTH} deep");
        }
        let depth = self.depth;
        self.depth = depth.saturating_add(1);
        parse(self)?;
        self.depth = depth;
        Ok(())
    }

    /// `a if b else c`, or less.
    pub(super) fn expression(&mut self) -> Result<()> {
        let start = self.here();
        self.binary(1)?;
        if !self.skip_name("if")? {
            return Ok(());
        }
        let then = split_off(&mut self.program.code, start)?;
        self.binary(1)?;
        let otherwise = self.emit_jump(Op::JumpIfFalse(0))?;
        self.program.code.add_all(then)?;
        let end = self.emit_jump(Op::Jump(0))?;
        self.aim_here(otherwise)?;
        if self.skip_name("else")? {
            self.deeper(Self::expression)?;
        } else {
            self.constant(Value::Undefined)?;
        }
        self.aim_here(end)?;
        Ok(())
    }

    /// Operators that bind at least as tightly as `least`, and their operands.
    pub(super) fn binary(&mut self, least: u8) -> Result<()> {
        self.deeper(|parser| parser.binary_unbounded(least))
    }

    fn binary_unbounded(&mut self, least: u8) -> Result<()> {
        if least <= 3 && self.skip_name("not")? {
            self.binary(3)?;
            self.emit(Op::Not)?;
        } else {
            self.unary()?;
        }
        let mut compared = false;
        loop {
            let (tightness, op) = match &self.token {
                Token::Name("or") => (1, None),
                Token::Name("and") => (2, None),
                Token::Name("in") => (4, Some(Binary::In)),
                Token::Name("not") => (4, Some(Binary::NotIn)),
                Token::Op(op) => match *op {
                    "==" => (4, Some(Binary::Eq)),
                    "!=" => (4, Some(Binary::Ne)),
                    "<" => (4, Some(Binary::Lt)),
                    "<=" => (4, Some(Binary::Le)),
                    ">" => (4, Some(Binary::Gt)),
                    ">=" => (4, Some(Binary::Ge)),
                    "+" => (5, Some(Binary::Add)),
                    "-" => (5, Some(Binary::Sub)),
                    "~" => (6, Some(Binary::Concat)),
                    "*" => (7, Some(Binary::Mul)),
                    "/" => (7, Some(Binary::Div)),
                    "//" => (7, Some(Binary::FloorDiv)),
                    "%" => (7, Some(Binary::Rem)),
                    "**" => (8, Some(Binary::Pow)),
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            };
            if tightness < least {
                return Ok(());
            }
            self.advance()?;
            if op == Some(Binary::NotIn) && !self.skip_name("in")? {
                return self.unexpected("'in'");
            }
            if tightness == 4 && std::mem::replace(&mut compared, true) {
                return fault!("chained comparisons are not supported");
            }
            let tighter = u8::saturating_add(tightness, 1);
            match op {
                Some(op) => {
                    self.binary(tighter)?;
                    self.emit(Op::Binary(op))?;
                }
                None => {
                    let short = if tightness == 1 {
                        Op::JumpIfTrueOrPop(0)
                    } else {
                        Op::JumpIfFalseOrPop(0)
                    };
                    let short = self.emit_jump(short)?;
                    self.binary(tighter)?;
                    self.aim_here(short)?;
                    compared = false;
                }
            }
        }
    }

    /// A sign, or an operand, with what stands behind it: attributes, calls, filters and tests.
    fn unary(&mut self) -> Result<()> {
        let (mut n_neg, mut n_pos) = (0, 0);
        loop {
            if self.skip_op("-")? {
                n_neg = more(n_neg);
            } else if self.skip_op("+")? {
                n_pos = more(n_pos);
            } else {
                break;
            }
        }
        self.primary()?;
        self.postfix()?;
        // In which order they come makes no difference.
        for _ in 0..n_neg {
            self.emit(Op::Neg)?;
        }
        for _ in 0..n_pos {
            self.emit(Op::Pos)?;
        }
        loop {
            if self.skip_op("|")? {
                self.filter()?;
            } else if self.skip_name("is")? {
                self.test()?;
            } else if self.is_op("(") {
                let args = self.args()?;
                self.emit(Op::Call(args))?;
            } else {
                return Ok(());
            }
        }
    }

    fn primary(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.token, Token::End) {
            Token::Name(word) => {
                match word {
                    "true" | "True" => self.constant(Value::Bool(true))?,
                    "false" | "False" => self.constant(Value::Bool(false))?,
                    "none" | "None" => self.constant(Value::None)?,
                    _ if RESERVED.contains(&word) => {
                        self.token = Token::Name(word);
                        return self.unexpected("an expression");
                    }
                    _ => {
                        let name = self.intern(word)?;
                        self.emit(Op::Load(name))?;
                    }
                }
                self.advance()
            }
            Token::Str(text) => self.string(text),
            Token::Int(i) => {
                self.constant(Value::Int(i))?;
                self.advance()
            }
            Token::Float(f) => {
                self.constant(Value::Float(f))?;
                self.advance()
            }
            Token::Op("(") => {
                self.advance()?;
                if self.is_op(")") {
                    self.emit(Op::List(0))?;
                } else {
                    self.tuple()?;
                }
                self.expect_op(")")
            }
            Token::Op("[") => {
                self.advance()?;
                let n = self.items("]", Self::expression)?;
                self.emit(Op::List(n))?;
                Ok(())
            }
            Token::Op("{") => {
                self.advance()?;
                let n = self.items("}", |parser| {
                    parser.expression()?;
                    parser.expect_op(":")?;
                    parser.expression()
                })?;
                self.emit(Op::Map(n))?;
                Ok(())
            }
            other => {
                self.token = other;
                self.unexpected("an expression")
            }
        }
    }

    /// A string, and those right behind it.
    #[inline(never)]
    fn string(&mut self, mut text: String) -> Result<()> {
        self.advance()?;
        while let Token::Str(more) = &self.token {
            heap::push(&mut text, more)?;
            self.advance()?;
        }
        self.constant(Value::Str(Shared::new(text)?))?;
        Ok(())
    }

    /// Items with commas between them, and the bracket that ends them; how many.
    fn items(&mut self, end: &str, item: fn(&mut Self) -> Result<()>) -> Result<u32> {
        let mut n = 0;
        while !self.skip_op(end)? {
            item(self)?;
            n = more(n);
            if !self.is_op(end) {
                self.expect_op(",")?;
            }
        }
        Ok(n)
    }

    fn postfix(&mut self) -> Result<()> {
        loop {
            if self.skip_op(".")? {
                if let Token::Int(i) = self.token {
                    self.advance()?;
                    self.constant(Value::Int(i))?;
                    self.emit(Op::Item)?;
                    continue;
                }
                let name = self.name()?;
                if self.is_op("(") {
                    let args = self.args()?;
                    self.emit(Op::Method(name, args))?;
                } else {
                    self.emit(Op::Attr(name))?;
                }
            } else if self.skip_op("[")? {
                self.subscript()?;
            } else if self.is_op("(") {
                let args = self.args()?;
                self.emit(Op::Call(args))?;
            } else {
                return Ok(());
            }
        }
    }

    #[inline(never)]
    fn subscript(&mut self) -> Result<()> {
        let mut n_colons = 0;
        let mut n_parts = 0;
        loop {
            if self.skip_op(":")? {
                if n_parts == n_colons {
                    self.constant(Value::None)?;
                    n_parts = more(n_parts);
                }
                n_colons = more(n_colons);
            } else if self.skip_op("]")? {
                break;
            } else if n_parts == n_colons && n_colons < 3 {
                self.expression()?;
                n_parts = more(n_parts);
            } else {
                return self.unexpected("']'");
            }
        }
        if n_colons == 0 {
            if n_parts == 0 {
                return fault!("a subscript is empty");
            }
            self.emit(Op::Item)?;
            return Ok(());
        }
        if n_colons > 2 {
            return fault!("a slice has more than three parts");
        }
        for _ in n_parts..3 {
            self.constant(Value::None)?;
        }
        self.emit(Op::Slice)?;
        Ok(())
    }

    /// Arguments in parentheses.
    fn args(&mut self) -> Result<Args> {
        self.expect_op("(")?;
        let mut n = 0;
        let mut names = Vec::new();
        while !self.skip_op(")")? {
            let start = self.here();
            self.expression()?;
            let loaded = match self.program.code.get(start..) {
                Some([(Op::Load(name), _)]) => Some(*name),
                _ => None,
            };
            match loaded {
                Some(name) if self.skip_op("=")? => {
                    self.program.code.truncate(start);
                    self.expression()?;
                    names.add(name)?;
                }
                _ if names.is_empty() => n = more(n),
                _ => return fault!("an argument without a name follows one with a name"),
            }
            if !self.is_op(")") {
                self.expect_op(",")?;
            }
        }
        if names.is_empty() {
            return Ok(Args { n, names: 0 });
        }
        let at = self.program.arg_names.len() as u32;
        self.program.arg_names.add(names)?;
        Ok(Args { n, names: at })
    }

    /// A filter, behind its bar.
    #[inline(never)]
    pub(super) fn filter(&mut self) -> Result<()> {
        let name = self.name()?;
        let args = if self.is_op("(") { self.args()? } else { Args { n: 0, names: 0 } };
        self.emit(Op::Filter(name, args))?;
        Ok(())
    }

    /// A test, behind `is`.
    #[inline(never)]
    fn test(&mut self) -> Result<()> {
        let negated = self.skip_name("not")?;
        let name = self.name()?;
        let bare = match &self.token {
            Token::Name(word) => !RESERVED.contains(word),
            Token::Str(_) | Token::Int(_) | Token::Float(_) => true,
            Token::Op(op) => matches!(*op, "[" | "{"),
            _ => false,
        };
        let args = if self.is_op("(") {
            self.args()?
        } else if bare {
            self.primary()?;
            self.postfix()?;
            Args { n: 1, names: 0 }
        } else {
            Args { n: 0, names: 0 }
        };
        self.emit(Op::Test(name, args))?;
        if negated {
            self.emit(Op::Not)?;
        }
        Ok(())
    }
}

/// One more of what stands in a template, which has less than 2^32 of anything.
fn more(n: u32) -> u32 {
    n.saturating_add(1)
}
