//! The checksum of all weights: the same however a file was loaded, packed or not.

use crate::backend::{Ends, Layer, TensorRef};
use crate::base::crc32c;
use crate::base::error::Result;

use super::Cpu;
use super::arena::{each_tensor, pack};

impl Cpu {
    /// CRC32C of all tensors, layer by layer, each by its shape, its type and its bytes: of matrices
    /// those that are packed for the kernels, whether these are at hand or must be made.
    ///
    /// Reads all weights; takes memory for some rows of one if they must be packed. Fails with
    /// `OutOfMemory`.
    pub fn checksum(&self, layers: &[Layer], ends: &Ends) -> Result<u32> {
        let weights = self.bytes().as_slice();
        let mut crc = 0;
        each_tensor(layers, ends, &mut |tensor, packs| {
            for n in [tensor.dtype.gguf_id() as usize, tensor.n_cols, tensor.n_rows] {
                crc = crc32c::crc32c_append(crc, &(n as u64).to_le_bytes());
            }
            let (range, packed) = self.place(tensor)?;
            let bytes = &weights[range];
            if packed || !packs {
                crc = crc32c::crc32c_append(crc, bytes);
                return Ok(());
            }
            let read = |_: &TensorRef, at: usize, to: &mut [u8]| {
                to.copy_from_slice(&bytes[at..at + to.len()]);
                Ok(())
            };
            pack(tensor, &read, &mut |packed| {
                crc = crc32c::crc32c_append(crc, packed);
                Ok(())
            })
        })?;
        Ok(crc)
    }
}
