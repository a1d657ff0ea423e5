//! Element types of tensors, with the numbers and names that GGUF gives them.
//!
//! Source: the GGUF specification's `ggml_type` enumeration; sizes as in its block structures.

use std::fmt;

/// Declares [`DType`] from one table: variant, GGUF number, name, weights and bytes of a block.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $len:literal, $bytes:literal;)*) => {
        /// The type of a tensor's elements. Quantised types are stored in blocks of a row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// All types, in the order of their discriminants.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];
            /// How many types there are.
            pub const COUNT: usize = DType::ALL.len();

            /// The type that GGUF numbers `id`; `None` for removed and unknown ones.
            pub const fn from_gguf(id: u32) -> Option<DType> {
                match id { $($id => Some(DType::$variant),)* _ => None }
            }
            /// The number that GGUF gives the type.
            pub const fn gguf_id(self) -> u32 { match self { $(DType::$variant => $id,)* } }
            /// The name that GGUF gives the type.
            pub const fn name(self) -> &'static str { match self { $(DType::$variant => $name,)* } }
            /// Weights in a block.
            pub const fn block_len(self) -> usize { match self { $(DType::$variant => $len,)* } }
            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize { match self { $(DType::$variant => $bytes,)* } }
        }
    };
}

dtypes! {
    /// IEEE single precision.
    F32 = 0, "F32", 1, 4;
    /// IEEE half precision.
    F16 = 1, "F16", 1, 2;
    /// The upper half of an F32.
    BF16 = 30, "BF16", 1, 2;
    /// 4 bits, one scale for 32.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4 bits, scale and minimum for 32.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5 bits, one scale for 32.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5 bits, scale and minimum for 32.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8 bits, one scale for 32.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// 2 bits, scales and minima of 4 bits for 16.
    Q2K = 10, "Q2_K", 256, 84;
    /// 3 bits, scales of 6 bits for 16.
    Q3K = 11, "Q3_K", 256, 110;
    /// 4 bits, scales and minima of 6 bits for 32.
    Q4K = 12, "Q4_K", 256, 144;
    /// 5 bits, scales and minima of 6 bits for 32.
    Q5K = 13, "Q5_K", 256, 176;
    /// 6 bits, scales of 8 bits for 16.
    Q6K = 14, "Q6_K", 256, 210;
    /// 4 bits into a table of 16 values, one scale for 32.
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    /// 4 bits into the same table, scales of 6 bits for 32.
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    /// Ternary, five to a byte, one scale for 256.
    Tq1_0 = 34, "TQ1_0", 256, 54;
    /// Ternary, four to a byte, one scale for 256.
    Tq2_0 = 35, "TQ2_0", 256, 66;
    /// 4-bit floats (E2M1), a power-of-two scale for 32 (OCP Microscaling).
    Mxfp4 = 39, "MXFP4", 32, 17;
}

impl DType {
    /// Bytes of a row of `n` weights; `None` if `n` is not a whole number of blocks, or the size
    /// does not fit.
    pub const fn row_bytes(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether weights are stored as blocks of small integers with scales.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_types_agree() {
        for (i, &dtype) in DType::ALL.iter().enumerate() {
            assert_eq!(DType::from_gguf(dtype.gguf_id()), Some(dtype));
            assert_eq!(dtype as usize, i);
        }
        assert_eq!(DType::from_gguf(4), None); // Q4_2, removed from the format
    }

    #[test]
    fn a_row_is_whole_blocks() {
        assert_eq!(DType::Q4_0.row_bytes(64), Some(36));
        assert_eq!(DType::Q4_0.row_bytes(65), None);
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
