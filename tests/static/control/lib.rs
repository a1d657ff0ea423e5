//! A small library with every kind of panic that `tests/static/panics.py` has to find, and code that
//! has none, which it must not take for guilty.

mod parser;

/// Not a parser, and may panic: but a parser that is inlined here must not.
#[unsafe(no_mangle)]
pub extern "C" fn control_other(n: usize) -> u8 {
    let all = [1_u8, 2, 3, 4];
    all[n].wrapping_add(parser::inlined(&all, n ^ 6))
}
