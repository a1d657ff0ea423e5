#!/usr/bin/env python3
"""Records the ids that PyPI `tokenizers` gives to 10,000 mixed strings, for each vocabulary.

Writes tests/data/tokenizer_ids.txt: for each family a line with its name, the file below the cache
folder that holds its vocabulary and the pre-tokenizer that its ids were made with, then one hash
for each 100 strings. tests/tokenizer.rs makes the same strings and compares.

    pip install tokenizers==0.23.3 gguf==0.19.0 sentencepiece==0.2.1
    python3 tests/oracle/tokenizer_ids.py                 # writes the file
    python3 tests/oracle/tokenizer_ids.py gpt-2 17        # shows the strings and ids of a block

The pre-tokenizers are the regular expressions of the families' own tokenizer.json files. The
SentencePiece vocabularies become BPE the way `transformers` converts them, and `sentencepiece`
itself, given the same pieces, must agree on every string.
"""

import os
import re
import sys

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

N_STRINGS, N_BLOCK = 10_000, 100
MASK = (1 << 64) - 1

# --- The strings. tests/tokenizer.rs has the same code. ---

HERE = os.path.dirname(os.path.abspath(__file__))


def read_parts():
    """The sections of tests/data/tokenizer_strings.txt: name -> items."""
    parts = {}
    with open(os.path.join(HERE, "..", "data", "tokenizer_strings.txt")) as f:
        for line in f.read().split("\n"):
            if line.startswith("["):
                items = parts.setdefault(line[1:-1], [])
            elif line.startswith("|"):
                unescape = lambda m: m[1] and chr(int(m[1], 16)) or "\\"
                items.append(re.sub(r"\\(?:([0-9a-f]+);|\\)", unescape, line[1:]))
    return parts


PARTS = read_parts()
WORDS, SNIPPETS, APOSTROPHES = PARTS["words"], PARTS["snippets"], PARTS["apostrophes"]
EMOJI, SPACES, MARKS = PARTS["emoji"], PARTS["spaces"], PARTS["marks"][0]
RANGES = [(ord(pair[0]), ord(pair[1])) for pair in PARTS["ranges"]]


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.at = seed

    def below(self, n):
        self.at = (self.at + 0x9E3779B97F4A7C15) & MASK
        z = self.at
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % n

    def pick(self, items):
        return items[self.below(len(items))]


def part(r):
    kind = r.below(16)
    if kind < 4:
        return (" " if r.below(4) else "") + r.pick(WORDS)
    if kind == 4:
        return "".join(r.pick(SPACES) for _ in range(1 + r.below(5)))
    if kind == 5:
        return r.pick([" ", "\n", "\t"]) * (1 + r.below(40))
    if kind == 6:
        return "".join(str(r.below(10)) for _ in range(1 + r.below(9)))
    if kind == 7:
        return "".join(r.pick(MARKS) for _ in range(1 + r.below(5)))
    if kind == 8:
        return r.pick(WORDS) + r.pick(APOSTROPHES)
    if kind == 9:
        return r.pick(SNIPPETS)
    if kind == 10:
        return "".join(r.pick(EMOJI) for _ in range(1 + r.below(3)))
    if kind == 11:
        letter = chr(0x61 + r.below(26))
        return letter + "".join(chr(0x300 + r.below(0x70)) for _ in range(1 + r.below(3)))
    if kind == 12:
        code = r.below(0x110000 - 0x800)
        return chr(code + 0x800 if code >= 0xD800 else code)
    low, high = r.pick(RANGES)
    return "".join(chr(low + r.below(high - low + 1)) for _ in range(1 + r.below(8)))


def strings():
    r = Random(2)
    return ["".join(part(r) for _ in range(1 + r.below(12))) for _ in range(N_STRINGS)]


def block_hash(block):
    """FNV-1a over the ids as little-endian u32, each string's followed by 0xffffffff."""
    h = 0xCBF29CE484222325
    for ids in block:
        for i in [*ids, 0xFFFFFFFF]:
            for byte in i.to_bytes(4, "little"):
                h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


# --- The families. ---

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TAIL_SLASH = TAIL.replace(r"[\r\n]*", r"[\r\n/]*")
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL
QWEN2 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL
QWEN35 = (
    SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|" + TAIL.replace(r"\p{L}\p{N}", r"\p{L}\p{M}\p{N}")
)
CAPS, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{CAPS}*{SMALL}+%s|[^\r\n\p{{L}}\p{{N}}]?{CAPS}+{SMALL}*%s|"
GPT4O = CASED % (SHORT + "?", SHORT + "?") + r"\p{N}{1,3}|" + TAIL_SLASH
TEKKEN = CASED % ("", "") + r"\p{N}|" + TAIL_SLASH
ASIA = "[一-龥ࠀ-一가-퟿]+"
CASED_LETTERS = """
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386
388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba
1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57
1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb
1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d
212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3
a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a
ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df
1e900-1e943
""".split()  # as code points
DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def code_points(ranges):
    return "".join("-".join(rf"\x{{{c}}}" for c in r.split("-")) for r in ranges)


SCHEMES = {
    "gpt-2": [GPT2],
    "mpt": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    "command-r": [r"\p{N}", GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "qwen35": [QWEN35],
    "gpt-4o": [GPT4O],
    "tekken": [TEKKEN],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "deepseek-llm": [
        r"[\r\n]", r"\s?[" + code_points(CASED_LETTERS) + "]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
        ASIA, r"\p{N}+",
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ASIA, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
}
WHOLE_WORDS = {"llama-bpe", "tekken"}

VOCAB = "vocab/ggml-vocab-%s.gguf"
FAMILIES = [
    *((name, VOCAB % name, name) for name in [
        "gpt-2", "llama-bpe", "qwen2", "qwen35", "falcon", "starcoder", "refact", "command-r", "mpt",
        "deepseek-llm", "deepseek-coder",
    ]),
    ("smollm2", "models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm"),
    ("gpt-neox", VOCAB % "gpt-neox", "default"),
    ("aquila", VOCAB % "aquila", "default"),
    # Schemes whose own vocabulary is not at hand, tried with another's.
    ("gpt-2 as gpt-4o", VOCAB % "gpt-2", "gpt-4o"),
    ("gpt-2 as tekken", VOCAB % "gpt-2", "tekken"),
    ("gpt-2 as deepseek-v3", VOCAB % "gpt-2", "deepseek-v3"),
    ("gemma-4", VOCAB % "gemma-4", "-"),
    ("llama-spm", VOCAB % "llama-spm", "-"),
    ("phi-3", VOCAB % "phi-3", "-"),
    ("baichuan", VOCAB % "baichuan", "-"),
    ("gemma-3", "models/gemma-3-270m-Q4_K_M.gguf", "-"),
]  # fmt: skip
USER_DEFINED, UNKNOWN, CONTROL, BYTE = 4, 2, 3, 6


def read(path):
    cache = os.environ.get("TERN_CACHE") or os.path.expanduser("~/.cache/tern")
    fields = gguf.GGUFReader(os.path.join(cache, path)).fields
    get = lambda key: fields[key].contents() if key in fields else None
    return {k: get("tokenizer.ggml." + k) for k in [
        "model", "tokens", "token_type", "merges", "scores", "add_space_prefix",
    ]}  # fmt: skip


def isolated(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def add_user_defined(tokenizer, v):
    added = [t for t, kind in zip(v["tokens"], v["token_type"]) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])


def byte_level(v, pre):
    vocab = {t: i for i, t in enumerate(v["tokens"])}
    merges = [tuple(m.split(" ")) for m in v["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in WHOLE_WORDS))
    steps = [isolated(pattern) for pattern in SCHEMES[pre]]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    add_user_defined(tokenizer, v)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def spaced(v):
    vocab = {t: i for i, t in enumerate(v["tokens"])}
    unknown = next(t for t in ["<unk>", *v["tokens"]] if t in vocab)
    if v["model"] == "gemma4":
        merges = [tuple(m.split(" ")) for m in v["merges"]]
    else:
        normal = {t for t, kind in zip(v["tokens"], v["token_type"]) if kind in (1, USER_DEFINED)}
        merges = []
        for piece, score in zip(v["tokens"], v["scores"]):
            if piece in normal:
                cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
                pairs = [(a, b) for a, b in cuts if a in normal and b in normal]
                pairs.sort(key=lambda p: (vocab[p[0]], vocab[p[1]]))
                merges += [(a, b, score) for a, b in pairs]
        merges.sort(key=lambda m: m[2], reverse=True)
        merges = [(a, b) for a, b, _ in merges]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Replace(" ", "▁")]
    if v["model"] == "llama" and v["add_space_prefix"] is not False:
        steps.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    add_user_defined(tokenizer, v)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def sentencepiece(v):
    """The original program on the same pieces; None where user-defined pieces would part ways:
    it puts no space after them."""
    import sentencepiece as sp
    from sentencepiece import sentencepiece_model_pb2 as pb

    prefix = v["add_space_prefix"] is not False
    model = pb.ModelProto()
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    unknown = v["tokens"].index("<unk>")
    added = []
    for i, (text, score, kind) in enumerate(zip(v["tokens"], v["scores"], v["token_type"])):
        if kind == USER_DEFINED:
            added.append(text)
        kind = UNKNOWN if i == unknown else CONTROL if kind == UNKNOWN else kind
        model.pieces.add(piece=text.replace(" ", "▁"), score=score, type=kind)
    processor = sp.SentencePieceProcessor(model_proto=model.SerializeToString())

    def encode(text):
        if prefix and any(t in text for t in added) or "\0" in text:
            return None
        return processor.encode(text) if text else []

    return encode


def main():
    texts = strings()
    if len(sys.argv) == 3:
        name, path, pre = next(f for f in FAMILIES if f[0] == sys.argv[1])
        v = read(path)
        encode = spaced(v) if pre == "-" else byte_level(v, pre)
        first = N_BLOCK * int(sys.argv[2])
        for i, text in enumerate(texts[first : first + N_BLOCK]):
            print(first + i, ascii(text), *encode(text))
        return
    out = os.path.join(HERE, "..", "data", "tokenizer_ids.txt")
    with open(out, "w") as f:
        print("# Written by tests/oracle/tokenizer_ids.py: family, file, pre-tokenizer; hashes.", file=f)
        for name, path, pre in FAMILIES:
            v = read(path)
            encode = spaced(v) if pre == "-" else byte_level(v, pre)
            all_ids = [encode(text) for text in texts]
            if v["model"] == "llama":
                original = sentencepiece(v)
                seen = [(t, a, b) for t, a in zip(texts, all_ids) if (b := original(t)) is not None]
                wrong = [w for w in seen if w[1] != w[2]]
                for text, ids, other in wrong[:3]:
                    print(f"{name}: {ascii(text)}:\n  {ids}\n  {other}", file=sys.stderr)
                print(f"{name}: sentencepiece agrees on {len(seen) - len(wrong)} of {len(seen)}")
            print(f"{name}\t{path}\t{pre}", file=f)
            hashes = [block_hash(all_ids[i : i + N_BLOCK]) for i in range(0, N_STRINGS, N_BLOCK)]
            for i in range(0, len(hashes), 5):
                print(*(f"{h:016x}" for h in hashes[i : i + 5]), file=f)
            print(name, sum(map(len, all_ids)), "ids", flush=True)


if __name__ == "__main__":
    main()
