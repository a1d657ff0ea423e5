"""Writes tests/data/quant_vectors.txt: what the reference of GGUF makes of known blocks.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install gguf numpy
    /tmp/venv/bin/python tests/oracle/quant_vectors.py > tests/data/quant_vectors.txt

Blocks and weights come from a generator that tests/quant.rs has too:

    state = 64-bit FNV-1a of the line's name
    next:  state = state * 6364136223846793005 + 1442695040888963407  (mod 2^64);  state >> 32

A line `decode` has: type, number of blocks, FNV-1a of the blocks, FNV-1a of the weights (f32,
little-endian). A line `block` shows one block and its first eight weights, as bits. A line `encode`
has: type, number of blocks, FNV-1a of the weights, FNV-1a of the blocks.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

# type -> (weights, bytes, places of half-precision scales in a block)
TYPES = {
    "F32": (1, 4, []), "F16": (1, 2, [0]), "BF16": (1, 2, []),
    "Q4_0": (32, 18, [0]), "Q4_1": (32, 20, [0, 2]), "Q5_0": (32, 22, [0]),
    "Q5_1": (32, 24, [0, 2]), "Q8_0": (32, 34, [0]),
    "Q2_K": (256, 84, [80, 82]), "Q3_K": (256, 110, [108]), "Q4_K": (256, 144, [0, 2]),
    "Q5_K": (256, 176, [0, 2]), "Q6_K": (256, 210, [208]),
    "IQ4_NL": (32, 18, [0]), "IQ4_XS": (256, 136, [0]),
    "TQ1_0": (256, 54, [52]), "TQ2_0": (256, 66, [64]), "MXFP4": (32, 17, []),
}
# Scales of the first blocks: zeros, least and greatest subnormal, largest, one.
SPECIAL = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00]
ENCODED = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]
N_BLOCKS = 192


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


class Random:
    def __init__(self, name):
        self.state = fnv(name.encode())

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> 32


def blocks(name):
    _, size, scales = TYPES[name]
    random = Random("decode " + name)
    out = bytearray()
    for i in range(N_BLOCKS):
        block = bytearray(random.next() >> 24 for _ in range(size))
        for at in scales:
            bits = block[at] | block[at + 1] << 8
            if i < len(SPECIAL):
                bits = SPECIAL[i]
            elif bits & 0x7C00 == 0x7C00:
                bits &= ~0x4000  # neither infinite nor NaN
            block[at], block[at + 1] = bits & 255, bits >> 8
        out += block
    return bytes(out)


def weights(name):
    n, _, _ = TYPES[name]
    random = Random("encode " + name)
    out = []
    for i in range(N_BLOCKS):
        scale = np.float32(2.0 ** (random.next() % 24 - 16))
        for _ in range(n):
            x = (np.float32(random.next() >> 8) - np.float32(2**23)) * np.float32(2.0**-23) * scale
            if i % 16 == 1:
                x = np.float32(0)
            elif i % 16 == 2:
                x = scale  # all the same
            elif i % 16 == 3:
                x = np.float32(np.floor(x / scale * np.float32(16))) * scale  # ties
            out.append(x)
    return np.array(out, dtype=np.float32)


print(f"# Written by tests/oracle/quant_vectors.py with PyPI gguf {sys.argv[1] if len(sys.argv) > 1 else ''}".rstrip())
np.seterr(all="ignore")
for name, (n, size, _) in TYPES.items():
    data = blocks(name)
    w = quants.dequantize(np.frombuffer(data, dtype=np.uint8), T[name]).astype("<f4")
    assert w.size == N_BLOCKS * n
    print(f"decode {name} {N_BLOCKS} {fnv(data):016x} {fnv(w.tobytes()):016x}")
    shown = w.reshape(N_BLOCKS, n)[N_BLOCKS - 1][:8].view("<u4")
    print(f"block {name} {data[-size:].hex()} {' '.join(f'{b:08x}' for b in shown)}")
for name in ENCODED:
    w = weights(name)
    data = quants.quantize(w, T[name])
    data = np.ascontiguousarray(data).tobytes()
    print(f"encode {name} {N_BLOCKS} {fnv(w.astype('<f4').tobytes()):016x} {fnv(data):016x}")
