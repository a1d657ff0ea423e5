//! The decoder: an architecture is a row of data.
