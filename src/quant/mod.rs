//! Block formats: what the bits of a quantised weight mean.
