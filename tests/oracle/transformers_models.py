#!/usr/bin/env python3
"""Makes tiny random models of every architecture, and what PyPI `transformers` computes with them.

    python3 -m venv VENV && VENV/bin/pip install torch transformers gguf
    VENV/bin/python tests/oracle/transformers_models.py [--out DIR] [NAME...]

For each model DIR gets NAME.gguf, with weights in F32, and NAME.logits: the bytes "TERNLOG1", two
u32 (tokens, vocabulary), the tokens as i32, and the logits of every position as f32, all
little-endian. tests/transformers.rs compares. DIR is $TERN_CACHE/oracle/transformers, or
~/.cache/tern/oracle/transformers; nothing of it is committed.

The sequence is longer than every sliding window, and longer than the original context of the models
whose rotary embeddings are stretched. Weights are random but far from the small ones of a fresh
model: attention is sharp, norms and biases matter, caps are reached.
"""
import argparse
import math
import os
import pathlib
import struct

import gguf
import numpy as np
import torch
import transformers as hf

N_TOKENS = 56
N_VOCAB = 300
N_CTX = 64
WINDOW = 16

COMMON = dict(vocab_size=N_VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=4,
              num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=N_CTX,
              rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              attn_implementation="eager")


def default(theta=10000.0, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


def byte_texts():
    """The visible stand-ins for bytes that GPT-2's vocabulary uses, in the order of the bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    texts, n = {}, 0
    for byte in range(256):
        if byte in kept:
            texts[byte] = chr(byte)
        else:
            texts[byte] = chr(256 + n)
            n += 1
    return [texts[byte] for byte in range(256)]


def interleaved(weight, n_head):
    """Rows as the files of the llama architecture have them: rotated pairs side by side."""
    rows, rest = weight.shape[0], weight.shape[1:]
    halves = weight.reshape(n_head, 2, rows // n_head // 2, *rest)
    return halves.swapaxes(1, 2).reshape(weight.shape)


class File:
    """A GGUF file of one model."""

    def __init__(self, path, arch, config):
        self.w = gguf.GGUFWriter(path, arch)
        self.arch, self.config = arch, config
        c = config
        self.head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        u, f = self.u32, self.f32
        u("context_length", c.max_position_embeddings)
        u("embedding_length", c.hidden_size)
        u("block_count", c.num_hidden_layers)
        u("feed_forward_length", c.intermediate_size)
        u("attention.head_count", c.num_attention_heads)
        u("attention.head_count_kv", c.num_key_value_heads)
        u("attention.key_length", self.head_dim)
        u("attention.value_length", self.head_dim)
        f("attention.layer_norm_rms_epsilon", c.rms_norm_eps)
        texts = byte_texts()
        tokens = ["<pad>", "<s>", "</s>"] + texts + ["ab"]
        tokens += [f"<extra_{i}>" for i in range(N_VOCAB - len(tokens))]
        control = gguf.TokenType.CONTROL
        kinds = [control] * 3 + [gguf.TokenType.NORMAL] * 257
        kinds += [gguf.TokenType.UNUSED] * (N_VOCAB - len(kinds))
        self.w.add_tokenizer_model("gpt2")
        self.w.add_tokenizer_pre("gpt-2")
        self.w.add_token_list(tokens)
        self.w.add_token_types(kinds)
        self.w.add_token_merges([f"{texts[ord('a')]} {texts[ord('b')]}"])
        self.w.add_bos_token_id(1)
        self.w.add_eos_token_id(2)

    def u32(self, key, value):
        self.w.add_uint32(f"{self.arch}.{key}", value)

    def f32(self, key, value):
        self.w.add_float32(f"{self.arch}.{key}", value)

    def text(self, key, value):
        self.w.add_string(f"{self.arch}.{key}", value)

    def tensor(self, name, value):
        self.w.add_tensor(name, np.ascontiguousarray(value, dtype=np.float32))

    def close(self):
        self.w.write_header_to_file()
        self.w.write_kv_data_to_file()
        self.w.write_tensors_to_file()
        self.w.close()


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up", "input_layernorm": "attn_norm",
}


def write_weights(file, model):
    """All parameters, renamed, and changed where the file's conventions differ."""
    arch, c = file.arch, model.config
    gemma = arch.startswith("gemma")
    for name, parameter in model.state_dict().items():
        value = parameter.detach().double().numpy()
        if gemma and "norm" in name:
            value = value + 1.0
        if name == "model.embed_tokens.weight":
            file.tensor("token_embd.weight", value)
        elif name == "model.norm.weight":
            file.tensor("output_norm.weight", value)
        elif name == "lm_head.weight":
            if not c.tie_word_embeddings:
                file.tensor("output.weight", value)
        else:
            prefix, layer, rest = "model.layers.", *name.removeprefix("model.layers.").split(".", 1)
            assert name.startswith(prefix), name
            part, kind = rest.rsplit(".", 1)
            if part == "post_attention_layernorm":
                part = "post_attention_norm" if gemma else "ffn_norm"
            elif part == "pre_feedforward_layernorm":
                part = "ffn_norm"
            elif part == "post_feedforward_layernorm":
                part = "post_ffw_norm"
            else:
                part = NAMES[part]
            if arch in ("llama", "smollm3"):
                heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
                if part in heads:
                    value = interleaved(value, heads[part])
            file.tensor(f"blk.{layer}.{part}.{kind}", value)


def randomise(model, generator):
    """Weights that make every part of the model count."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        if "norm" in name:
            zero = 0.0 if model.config.model_type.startswith("gemma") else 1.0
            parameter.data = zero + 0.2 * noise
        elif name.endswith("bias"):
            parameter.data = 0.3 * noise
        elif "embed" in name:
            parameter.data = noise
        else:
            parameter.data = 1.2 * noise / math.sqrt(parameter.shape[1])


def llama3_factors(config, head_dim):
    """What the rope_freqs tensor holds: each frequency's divisor."""
    p = config.rope_parameters
    dims = np.arange(0, head_dim, 2) / head_dim
    wavelengths = 2 * math.pi * p["rope_theta"] ** dims
    context, low, high = (p["original_max_position_embeddings"], p["low_freq_factor"],
                          p["high_freq_factor"])
    factors = []
    for wavelength in wavelengths:
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(p["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1.0 / ((1 - smooth) / p["factor"] + smooth))
    return np.array(factors)


def rope_keys(file, parameters):
    """Base and stretching of the rotary embeddings."""
    c = file.config
    file.f32("rope.freq_base", parameters["rope_theta"])
    share = parameters.get("partial_rotary_factor", 1.0)
    n_dims = int(file.head_dim * share)
    file.u32("rope.dimension_count", n_dims)
    kind = parameters["rope_type"]
    if kind in ("linear", "yarn"):
        file.text("rope.scaling.type", kind)
        file.f32("rope.scaling.factor", parameters["factor"])
    if kind == "yarn":
        file.u32("rope.scaling.original_context_length",
                 parameters["original_max_position_embeddings"])
    if kind == "llama3":
        file.tensor("rope_freqs.weight", llama3_factors(c, file.head_dim))
    if kind == "longrope":
        original = c.original_max_position_embeddings
        file.u32("rope.scaling.original_context_length", original)
        scale = c.max_position_embeddings / original
        if scale > 1.0:
            file.f32("rope.scaling.attn_factor", math.sqrt(1 + math.log(scale) / math.log(original)))
        file.tensor("rope_factors_long.weight", np.array(parameters["long_factor"]))
        file.tensor("rope_factors_short.weight", np.array(parameters["short_factor"]))


def llama(**more):
    return "llama", hf.LlamaForCausalLM, hf.LlamaConfig(**COMMON | dict(rope_parameters=default()) | more)


def phi3(share=1.0, original=32, **more):
    n = int(16 * share) // 2
    factors = lambda top: [1.0 + (top - 1.0) * (i / (n - 1)) ** 2 for i in range(n)]
    rope = dict(rope_type="longrope", rope_theta=10000.0, short_factor=factors(1.5),
                long_factor=factors(12.0), partial_rotary_factor=share,
                original_max_position_embeddings=original)
    config = hf.Phi3Config(**COMMON | dict(original_max_position_embeddings=original,
                                           rope_parameters=rope) | more)
    return "phi3", hf.Phi3ForCausalLM, config


def gemma3(global_rope, **more):
    rope = {"sliding_attention": default(10000.0), "full_attention": global_rope}
    return "gemma3", hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**COMMON | dict(
        num_hidden_layers=7, head_dim=24, query_pre_attn_scalar=24, sliding_window=WINDOW,
        layer_types=[["sliding_attention", "full_attention"][i == 5] for i in range(7)],
        tie_word_embeddings=True, rope_parameters=rope) | more)


def models():
    """Each model by its name: architecture, class, config."""
    llama3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                  high_freq_factor=4.0, original_max_position_embeddings=32)
    return {
        "llama-untied": llama(tie_word_embeddings=False),
        "llama-tied": llama(tie_word_embeddings=True),
        "llama-one-kv-head": llama(num_key_value_heads=1),
        "llama-all-kv-heads": llama(num_key_value_heads=4),
        "llama-biases": llama(attention_bias=True, mlp_bias=True),
        "llama-wide-heads": llama(head_dim=32),
        "llama-linear": llama(rope_parameters=dict(rope_type="linear", rope_theta=10000.0,
                                                   factor=4.0)),
        "llama-yarn": llama(rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                                 original_max_position_embeddings=16)),
        "llama-llama3": llama(rope_parameters=llama3),
        "mistral": ("llama", hf.MistralForCausalLM, hf.MistralConfig(
            **COMMON | dict(rope_parameters=default(1e6), sliding_window=WINDOW, head_dim=16))),
        "mistral-no-window": ("llama", hf.MistralForCausalLM, hf.MistralConfig(
            **COMMON | dict(rope_parameters=default(), sliding_window=None, head_dim=32))),
        "qwen2": ("qwen2", hf.Qwen2ForCausalLM, hf.Qwen2Config(
            **COMMON | dict(rope_parameters=default(1e6), tie_word_embeddings=False))),
        "qwen2-tied-yarn": ("qwen2", hf.Qwen2ForCausalLM, hf.Qwen2Config(
            **COMMON | dict(tie_word_embeddings=True, rope_parameters=dict(
                rope_type="yarn", rope_theta=1e6, factor=2.0,
                original_max_position_embeddings=32)))),
        "qwen3": ("qwen3", hf.Qwen3ForCausalLM, hf.Qwen3Config(
            **COMMON | dict(rope_parameters=default(1e6), head_dim=32, tie_word_embeddings=True))),
        "gemma2": ("gemma2", hf.Gemma2ForCausalLM, hf.Gemma2Config(
            **COMMON | dict(head_dim=24, query_pre_attn_scalar=24, sliding_window=WINDOW,
                            rope_parameters=default(), attn_logit_softcapping=4.0,
                            final_logit_softcapping=6.0, tie_word_embeddings=True))),
        "gemma3": gemma3(default(1e6)),
        "gemma3-linear": gemma3(dict(rope_type="linear", rope_theta=1e6, factor=8.0)),
        "phi3-plain": phi3(rope_parameters=default(partial_rotary_factor=1.0),
                           tie_word_embeddings=False),
        "phi3-window": phi3(rope_parameters=default(partial_rotary_factor=1.0),
                            sliding_window=WINDOW),
        "phi3-long": phi3(),
        "phi3-short": phi3(original=N_CTX, max_position_embeddings=4 * N_CTX),
        "phi3-partial": phi3(share=0.75, tie_word_embeddings=True),
        "smollm3": ("smollm3", hf.SmolLM3ForCausalLM, hf.SmolLM3Config(
            **COMMON | dict(num_hidden_layers=5, rope_parameters=default(5e6),
                            tie_word_embeddings=True))),
    }


def make(name, arch, kind, config, out):
    seed = int.from_bytes(name.encode(), "little") % (1 << 31)
    generator = torch.Generator().manual_seed(seed)
    model = kind(config)
    randomise(model, generator)
    model.tie_weights()
    model = model.double().eval()
    file = File(out / f"{name}.gguf.part", arch, config)
    window = getattr(config, "sliding_window", None)
    if window and arch in ("llama", "gemma2", "gemma3", "phi3"):
        file.u32("attention.sliding_window", window)
    if arch == "gemma2":
        file.f32("attn_logit_softcapping", config.attn_logit_softcapping)
        file.f32("final_logit_softcapping", config.final_logit_softcapping)
    parameters = config.rope_parameters
    rope_keys(file, parameters.get("full_attention", parameters))
    write_weights(file, model)
    file.close()

    tokens = torch.randint(3, N_VOCAB, (1, N_TOKENS), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0]
    data = logits.float().numpy().astype("<f4")
    assert np.isfinite(data).all() and data.shape == (N_TOKENS, N_VOCAB)
    with open(out / f"{name}.logits.part", "wb") as f:
        f.write(b"TERNLOG1" + struct.pack("<II", N_TOKENS, N_VOCAB))
        f.write(tokens[0].numpy().astype("<i4").tobytes())
        f.write(data.tobytes())
    for kind in ("gguf", "logits"):
        os.replace(out / f"{name}.{kind}.part", out / f"{name}.{kind}")
    print(f"{name}: largest logit {np.abs(data).max():.2f}")


def main():
    cache = os.environ.get("TERN_CACHE") or pathlib.Path.home() / ".cache" / "tern"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(cache) / "oracle" / "transformers")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, (arch, kind, config) in models().items():
        if not args.names or name in args.names:
            make(name, arch, kind, config, args.out)


if __name__ == "__main__":
    main()
