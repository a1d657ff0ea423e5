#!/usr/bin/env python3
"""Writes a GGUF file with every tensor of another one decoded to 32-bit floats.

    expand.py MODEL OUT

The metadata is copied byte for byte. Weights that need no 8-bit activations let two engines be
compared without the noise of rounding: see record.py. Needs PyPI `gguf`.
"""
import struct
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

ALIGNMENT = 32


def main():
    reader = GGUFReader(sys.argv[1])
    start = reader.tensors[0].field.offset
    data = bytearray(reader.data[:start].tobytes())
    offset = 0
    for tensor in reader.tensors:
        name = tensor.name.encode()
        dims = [int(n) for n in tensor.shape]
        data += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
        data += struct.pack(f"<{len(dims)}QIQ", *dims, 0, offset)
        offset += -(-4 * int(tensor.n_elements) // ALIGNMENT) * ALIGNMENT
    data += bytes(-len(data) % ALIGNMENT)
    with open(sys.argv[2], "wb") as out:
        out.write(data)
        for tensor in reader.tensors:
            floats = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            out.write(floats.tobytes())
            out.write(bytes(-floats.nbytes % ALIGNMENT))


if __name__ == "__main__":
    main()
