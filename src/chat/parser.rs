//! A template's tokens to instructions, in one pass: text and statements.
//!
//! Blocks stand on a list, so nesting them costs no stack.

use std::cell::Cell;

use crate::base::line::Line;

use super::block::{Block, Code, Target};
use super::code::{Macro, Name, Op, Program};
use super::grow::{Grow, split_off};
use super::lexer::{Lexer, Token};
use super::machine::broken;
use super::value::{Fault, Value, fault};
use super::{MAX_DEPTH, MAX_NAMES};

/// A fault and its line.
pub(super) type Located = (u32, Fault);

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Words that are no variables.
pub(super) const RESERVED: [&str; 7] = ["and", "or", "not", "if", "else", "in", "is"];

/// What is known half way through a template.
pub(super) struct Parser<'s> {
    lexer: Lexer<'s>,
    /// The token that comes next.
    pub token: Token<'s>,
    pub program: Program<'s>,
    /// The numbers of all names, by what they are.
    by_name: Vec<Name>,
    blocks: Vec<Block>,
    /// How deep the expression is nested.
    pub depth: usize,
}

/// Compiles a template.
pub(super) fn parse(source: &str) -> std::result::Result<Program<'_>, Located> {
    let mut arg_names = Vec::new();
    arg_names.add(Vec::new()).map_err(|fault| (0, fault))?;
    let mut parser = Parser {
        lexer: Lexer::new(source),
        token: Token::End,
        program: Program {
            source,
            code: Vec::new(),
            constants: Vec::new(),
            names: Vec::new(),
            loop_name: None,
            macros: Vec::new(),
            arg_names,
        },
        by_name: Vec::new(),
        blocks: Vec::new(),
        depth: 0,
    };
    match parser.template() {
        Ok(()) => {
            parser.program.loop_name = parser.find("loop").ok();
            Ok(parser.program)
        }
        Err(fault) => Err((parser.lexer.line(), fault)),
    }
}

impl<'s> Parser<'s> {
    fn template(&mut self) -> Result<()> {
        loop {
            self.advance()?;
            match self.token {
                Token::Text(from, to) => self.emit(Op::Text(from as u32, to as u32))?,
                Token::PrintBegin => {
                    self.advance()?;
                    self.tuple()?;
                    self.emit(Op::Print)?;
                    if self.token != Token::PrintEnd {
                        return self.unexpected("'}}'");
                    }
                }
                Token::BlockBegin => {
                    self.advance()?;
                    self.statement()?;
                    if self.token != Token::BlockEnd {
                        return self.unexpected("'%}'");
                    }
                }
                _ => break,
            }
        }
        match self.blocks.last() {
            None => Ok(()),
            Some(block) => fault!("{} has no end", block.name()),
        }
    }

    pub(super) fn advance(&mut self) -> Result<()> {
        self.token = self.lexer.next()?;
        Ok(())
    }

    #[cold]
    #[inline(never)]
    pub(super) fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match &self.token {
            Token::Name(word) => return fault!("found '{word}', expected {expected}"),
            Token::Op(op) => return fault!("found '{op}', expected {expected}"),
            Token::Text(..) => "text",
            Token::BlockBegin => "'{%'",
            Token::BlockEnd => "'%}'",
            Token::PrintBegin => "'{{'",
            Token::PrintEnd => "'}}'",
            Token::Str(_) => "a string",
            Token::Int(_) | Token::Float(_) => "a number",
            Token::End => "the end",
        };
        fault!("found {found}, expected {expected}")
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(&self.token, Token::Op(found) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(&self.token, Token::Name(found) if *found == name)
    }

    /// Skips an operator if it comes next.
    pub(super) fn skip_op(&mut self, op: &str) -> Result<bool> {
        let is = self.is_op(op);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    pub(super) fn skip_name(&mut self, name: &str) -> Result<bool> {
        let is = self.is_name(name);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.skip_op(op)? {
            Ok(())
        } else {
            self.unexpected(&Line::<8>::of(format_args!("'{op}'")))
        }
    }

    /// The next name, as it is written.
    fn word(&mut self) -> Result<&'s str> {
        match self.token {
            Token::Name(name) => {
                self.advance()?;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    pub(super) fn name(&mut self) -> Result<Name> {
        let word = self.word()?;
        self.intern(word)
    }

    pub(super) fn intern(&mut self, word: &'s str) -> Result<Name> {
        let at = match self.find(word) {
            Ok(name) => return Ok(name),
            Err(at) => at,
        };
        let name = self.program.names.len();
        if name == MAX_NAMES {
            return fault!("more than {MAX_NAMES} names");
        }
        self.program.names.add(word)?;
        self.by_name.add(name as Name)?;
        // From the end down to where it belongs.
        let moved = Cell::from_mut(self.by_name.get_mut(at..).unwrap_or_default());
        for pair in moved.as_slice_of_cells().windows(2).rev() {
            if let [lower, upper] = pair {
                lower.swap(upper);
            }
        }
        Ok(name as Name)
    }

    /// The number of a name, or where in `by_name` it belongs.
    fn find(&self, word: &str) -> std::result::Result<Name, usize> {
        let names = &self.program.names;
        let at =
            self.by_name.partition_point(|&n| names.get(n as usize).is_some_and(|n| *n < word));
        let name = self.by_name.get(at).copied();
        name.filter(|&name| names.get(name as usize) == Some(&word)).ok_or(at)
    }

    #[inline(never)]
    pub(super) fn emit(&mut self, op: Op) -> Result<()> {
        self.program.code.add((op, self.lexer.line()))
    }

    pub(super) fn constant(&mut self, value: Value) -> Result<()> {
        let at = self.program.constants.len() as u32;
        self.program.constants.add(value)?;
        self.emit(Op::Const(at))
    }

    pub(super) fn here(&self) -> usize {
        self.program.code.len()
    }

    /// Emits a jump to be aimed later.
    pub(super) fn emit_jump(&mut self, op: Op) -> Result<usize> {
        let jump = self.here();
        self.emit(op)?;
        Ok(jump)
    }

    /// Aims a jump at an instruction; distances count from the jump itself.
    fn aim(&mut self, jump: usize, at: usize) -> Result<()> {
        // A megabyte of template has less than 2^31 instructions.
        let distance = (at as i32).wrapping_sub(jump as i32);
        match self.program.code.get_mut(jump) {
            Some((op, _)) => {
                *op = op.with_distance(distance);
                Ok(())
            }
            None => broken(),
        }
    }

    pub(super) fn aim_here(&mut self, jump: usize) -> Result<()> {
        self.aim(jump, self.here())
    }

    fn open(&mut self, block: Block) -> Result<()> {
        if self.blocks.len() == MAX_DEPTH {
            return fault!("blocks nest more than {MAX_DEPTH} deep");
        }
        self.blocks.add(block)
    }

    fn statement(&mut self) -> Result<()> {
        match self.word()? {
            "if" => {
                self.tuple()?;
                let next = self.emit_jump(Op::JumpIfFalse(0))?;
                self.open(Block::If { next: Some(next), ends: Vec::new() })
            }
            word @ ("elif" | "else") => self.otherwise(word),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => self.macro_statement(),
            "with" => self.with_statement(),
            "filter" => {
                let start = self.here();
                self.filter()?;
                let filters = self.rest_of_filters(start)?;
                self.emit(Op::CaptureBegin)?;
                self.open(Block::Filter(filters))
            }
            "generation" => self.open(Block::Generation),
            word @ ("break" | "continue") => {
                let looks = |b: &&Block| matches!(b, Block::For { .. } | Block::Macro(_));
                match self.blocks.iter().rev().find(looks) {
                    Some(Block::For { past_else: None, .. }) => {
                        self.emit(if word == "break" { Op::Break } else { Op::Continue })?;
                        Ok(())
                    }
                    _ => fault!("{word} is not in a loop"),
                }
            }
            word => match word.strip_prefix("end") {
                Some(_) => self.end(word),
                None => fault!("the statement '{word}' is unknown"),
            },
        }
    }

    fn otherwise(&mut self, word: &str) -> Result<()> {
        match self.blocks.last() {
            Some(Block::If { next: Some(next), .. }) => {
                let next = *next;
                let end = self.emit_jump(Op::Jump(0))?;
                self.aim_here(next)?;
                let mut again = None;
                if word == "elif" {
                    self.tuple()?;
                    again = Some(self.emit_jump(Op::JumpIfFalse(0))?);
                }
                if let Some(Block::If { next, ends }) = self.blocks.last_mut() {
                    *next = again;
                    ends.add(end)?;
                }
                Ok(())
            }
            Some(Block::For { next, past_else: None }) if word == "else" => {
                let next = *next;
                self.end_loop(next)?;
                let past = self.emit_jump(Op::JumpIfFalse(0))?;
                if let Some(Block::For { past_else, .. }) = self.blocks.last_mut() {
                    *past_else = Some(past);
                }
                Ok(())
            }
            _ => fault!("unexpected {word}"),
        }
    }

    /// Ends the body of a loop: back to the next item, and what comes when there is none.
    fn end_loop(&mut self, next: usize) -> Result<()> {
        let back = self.emit_jump(Op::Jump(0))?;
        self.aim(back, next)?;
        self.aim_here(next)?;
        self.emit(Op::LoopEnd)
    }

    fn end(&mut self, word: &str) -> Result<()> {
        let Some(block) = self.blocks.pop() else {
            return fault!("unexpected {word}");
        };
        if word.strip_prefix("end") != Some(block.name()) {
            return fault!("found {word}, expected end{}", block.name());
        }
        match block {
            Block::If { next, ends } => {
                for jump in ends.into_iter().chain(next) {
                    self.aim_here(jump)?;
                }
            }
            Block::For { past_else: Some(past), .. } => self.aim_here(past)?,
            Block::For { next, past_else: None } => {
                self.end_loop(next)?;
                self.emit(Op::Pop)?;
            }
            Block::With => self.emit(Op::ScopeEnd)?,
            Block::Set(target, filters) => {
                self.emit(Op::CaptureEnd)?;
                self.program.code.add_all(filters)?;
                self.assign(&target)?;
            }
            Block::Filter(filters) => {
                self.emit(Op::CaptureEnd)?;
                self.program.code.add_all(filters)?;
                self.emit(Op::Print)?;
            }
            Block::Macro(past) => {
                self.emit(Op::Return)?;
                self.aim_here(past)?;
            }
            Block::Generation => (),
        }
        // Jinja allows the name of what ends here to be repeated.
        if matches!(self.token, Token::Name(_)) && word == "endmacro" {
            self.advance()?;
        }
        Ok(())
    }

    fn for_statement(&mut self) -> Result<()> {
        let target = self.targets()?;
        if !self.skip_name("in")? {
            return self.unexpected("'in'");
        }
        // Not a whole expression: an `if` behind it belongs to the loop.
        self.binary(1)?;
        if self.is_op(",") {
            self.rest_of_tuple(1)?;
        }
        if self.skip_name("if")? {
            self.emit(Op::LoopBegin(true))?;
            let next = self.emit_jump(Op::LoopNext(0))?;
            self.assign(&target)?;
            self.expression()?;
            self.emit(Op::LoopKeep)?;
            self.end_loop(next)?;
        }
        if self.is_name("recursive") {
            return fault!("recursive loops are not supported");
        }
        self.emit(Op::LoopBegin(false))?;
        let next = self.emit_jump(Op::LoopNext(0))?;
        self.assign(&target)?;
        self.open(Block::For { next, past_else: None })
    }

    /// One name or several.
    fn targets(&mut self) -> Result<Target> {
        let parenthesised = self.skip_op("(")?;
        let first = self.target_name()?;
        let mut names = Vec::new();
        names.add(first)?;
        while self.skip_op(",")? {
            if self.is_op(")") || self.is_name("in") || self.is_op("=") {
                break;
            }
            names.add(self.target_name()?)?;
        }
        if parenthesised {
            self.expect_op(")")?;
        }
        Ok(if names.len() == 1 { Target::Name(first) } else { Target::Names(names) })
    }

    fn target_name(&mut self) -> Result<Name> {
        match self.token {
            Token::Name(name) if RESERVED.contains(&name) => self.unexpected("a name"),
            _ => self.name(),
        }
    }

    fn assign(&mut self, target: &Target) -> Result<()> {
        match target {
            Target::Name(name) => self.emit(Op::Store(*name))?,
            Target::Attr(name, attr) => self.emit(Op::StoreAttr(*name, *attr))?,
            Target::Names(names) => {
                self.emit(Op::Unpack(names.len() as u32))?;
                for name in names {
                    self.emit(Op::Store(*name))?;
                }
            }
        }
        Ok(())
    }

    fn set_statement(&mut self) -> Result<()> {
        let mut target = self.targets()?;
        if let (Target::Name(name), true) = (&target, self.is_op(".")) {
            let name = *name;
            self.advance()?;
            target = Target::Attr(name, self.name()?);
        }
        if self.skip_op("=")? {
            self.tuple()?;
            return self.assign(&target);
        }
        let start = self.here();
        let filters = self.rest_of_filters(start)?;
        self.emit(Op::CaptureBegin)?;
        self.open(Block::Set(target, filters))
    }

    /// Filters, cut out of the code from `start` on.
    fn rest_of_filters(&mut self, start: usize) -> Result<Code> {
        while self.skip_op("|")? {
            self.filter()?;
        }
        split_off(&mut self.program.code, start)
    }

    fn macro_statement(&mut self) -> Result<()> {
        let name = self.name()?;
        let index = self.program.macros.len() as u32;
        self.emit(Op::Macro(index))?;
        self.emit(Op::Store(name))?;
        let past = self.emit_jump(Op::Jump(0))?;
        let entry = self.here();
        let mut parameters = Vec::new();
        self.expect_op("(")?;
        while !self.is_op(")") {
            let parameter = self.target_name()?;
            if parameters.contains(&parameter) || parameters.len() == MAX_DEPTH {
                return fault!("a macro's parameters repeat or are more than {MAX_DEPTH}");
            }
            if self.skip_op("=")? {
                let given = self.emit_jump(Op::JumpIfGiven(parameters.len() as u32, 0))?;
                self.expression()?;
                self.emit(Op::Store(parameter))?;
                self.aim_here(given)?;
            }
            parameters.add(parameter)?;
            if !self.is_op(")") {
                self.expect_op(",")?;
            }
        }
        self.advance()?;
        self.program.macros.add(Macro { name, parameters, entry })?;
        self.open(Block::Macro(past))
    }

    fn with_statement(&mut self) -> Result<()> {
        let mut names = Vec::new();
        while self.token != Token::BlockEnd {
            names.add(self.target_name()?)?;
            self.expect_op("=")?;
            self.expression()?;
            if self.token != Token::BlockEnd {
                self.expect_op(",")?;
            }
        }
        self.emit(Op::ScopeBegin)?;
        for name in names.into_iter().rev() {
            self.emit(Op::Store(name))?;
        }
        self.open(Block::With)
    }
}
