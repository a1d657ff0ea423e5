//! The KV cache: which cell holds which token, and what leaves when room is needed.
