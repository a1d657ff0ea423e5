//! The C boundary. Everything the header says is written here, in C's words.
