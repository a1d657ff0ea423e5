#!/usr/bin/env python3
"""Records what llama.cpp's llama-perplexity makes of the first 32 KiB of a text.

    record.py [--f32] MODEL TEXT OUT [COMMAND...]

COMMAND runs llama-perplexity (default: llama-perplexity), for instance `chroot DIR
llama-perplexity`; MODEL and TEXT are paths as that command sees them. OUT gets the perplexity and,
for every scored position, the most probable token; tests/peer.rs compares with it. The text itself
is not recorded.

A second run without flash attention tells how often the program agrees with itself when nothing
but the order of its sums changes: rounding activations to 8 bits makes much of a little.

--f32 keeps keys and values in 32-bit floats. With a model that expand.py decoded, nothing at all is
rounded to fewer bits, and what differs between two engines is what they compute.

The file of log-probabilities that llama-perplexity saves is, in little-endian: 8 bytes of magic,
n_ctx, n_vocab and n_chunk as int32, n_chunk * n_ctx tokens as int32, then for each scored position
a scale and a minimum as float32 and n_vocab steps of that scale as uint16, padded to an even number.
"""
import os
import re
import struct
import subprocess
import sys


def fnv1a(values):
    """The 64-bit FNV-1a hash of integers as 4 little-endian bytes each."""
    state = 0xCBF29CE484222325
    for value in values:
        for byte in struct.pack("<i", value):
            state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def run(command, model, text):
    """Perplexity, shape, tokens and the most probable token of each scored position."""
    logits = f"/tmp/tern-peer-logits-{os.getpid()}"
    root = command[1] if command[0] == "chroot" else ""
    done = subprocess.run(
        command + ["-m", model, "-f", text, "-c", "512", "-t", "2", "--save-all-logits", logits],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    ppl = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout).group(1)
    with open(root + logits, "rb") as f:
        assert f.read(8) == b"_logits_"
        n_ctx, n_vocab, n_chunk = struct.unpack("<3i", f.read(12))
        tokens = struct.unpack(f"<{n_ctx * n_chunk}i", f.read(4 * n_ctx * n_chunk))
        best = []
        width = 8 + 2 * (n_vocab + n_vocab % 2)
        for _ in range(n_chunk * (n_ctx - 1 - n_ctx // 2)):
            row = memoryview(f.read(width))[8:8 + 2 * n_vocab].cast("H")
            best.append(max(range(n_vocab), key=row.__getitem__))
    os.unlink(root + logits)
    return ppl, n_ctx, n_chunk, tokens, best


def main():
    f32 = sys.argv[1] == "--f32"
    model, text, out = sys.argv[1 + f32:4 + f32]
    command = sys.argv[4 + f32:] or ["llama-perplexity"]
    first, second = ["auto", "off"]
    if f32:
        command += ["-ctk", "f32", "-ctv", "f32"]
        first, second = ["off", "on"]
    ppl, n_ctx, n_chunk, tokens, best = run(command + ["-fa", first], model, text)
    other = run(command + ["-fa", second], model, text)[-1]
    agreement = sum(a == b for a, b in zip(best, other)) / len(best)
    with open(out, "w") as f:
        f.write(f"# llama-perplexity, windows of {n_ctx}; see tests/peer/record.py\n")
        f.write(f"self_agreement {agreement:.4f}\n")
        f.write(f"ppl {ppl}\nn_ctx {n_ctx}\nn_chunk {n_chunk}\ntokens_fnv1a {fnv1a(tokens)}\n")
        for i in range(0, len(best), 16):
            f.write(" ".join(map(str, best[i:i + 16])) + "\n")


if __name__ == "__main__":
    main()
