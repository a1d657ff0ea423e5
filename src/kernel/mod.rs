//! The inner loops, one table for each instruction set.
