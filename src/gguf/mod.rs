//! GGUF: a file format, nothing else.
