//! The archive that the programs in this folder are linked with, unless tests/c.rs is given another:
//! what cargo has compiled for the tests, with nothing of its own but this line.
extern crate tern;
