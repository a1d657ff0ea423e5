#!/usr/bin/env python3
"""Writes gguf_py.bin: with PyPI's gguf 0.19.0, every kind of value and every type of tensor
that tern reads, so that a test can say that none of it is refused.

    python3 -m pip install gguf && tests/malformed/gguf_py.py tests/malformed/gguf_py.bin
"""

import sys

import gguf
import numpy as np

TYPES = (
    "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K "
    "IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4"
).split()

w = gguf.GGUFWriter(sys.argv[1], "llama")
w.add_type(gguf.GGUFType.MODEL)
w.add_name("every kind of value")
w.add_custom_alignment(64)
w.add_uint8("k.u8", 255)
w.add_int8("k.i8", -128)
w.add_uint16("k.u16", 65535)
w.add_int16("k.i16", -32768)
w.add_uint32("k.u32", 2**32 - 1)
w.add_int32("k.i32", -(2**31))
w.add_float32("k.f32", 0.5)
w.add_uint64("k.u64", 2**64 - 1)
w.add_int64("k.i64", -(2**63))
w.add_float64("k.f64", 1e300)
w.add_bool("k.bool", True)
w.add_string("k.string", "\u00e9\U0001f980")
w.add_string("k.empty", "")
w.add_array("k.ints", [1, -2, 3])
w.add_array("k.floats", [0.5, -0.25])
w.add_array("k.bools", [True, False])
w.add_array("k.strings", ["a", "", "\U0001f980"])
w.add_array("k.bytes", bytes(range(5)))
w.add_token_list([b"<unk>", "a", b"\xff"])
w.add_token_scores([0.0, -1.0, -2.0])
w.add_token_types([2, 1, 6])
w.add_bos_token_id(1)
w.add_chat_template("{{ messages }}")
for name in TYPES:
    dtype = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    rows = np.arange(3 * 256 // block * size, dtype=np.uint32).astype(np.uint8).reshape(3, -1)
    if name in ("F32", "F16"):
        rows = rows.view(np.float32 if name == "F32" else np.float16)
        w.add_tensor(name, np.zeros_like(rows))
    else:
        w.add_tensor(name, rows, raw_dtype=dtype)
w.add_tensor("a.vector", np.ones(7, dtype=np.float32))
w.add_tensor("of.four.dimensions", np.ones((2, 3, 4, 5), dtype=np.float16))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
