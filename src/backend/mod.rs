//! Devices: the nine phases that a decoder is made of.
