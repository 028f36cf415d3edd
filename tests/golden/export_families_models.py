#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes families_models.jsonl: what Hugging Face transformers makes of small seeded models of each family.

Usage: export_families_models.py REPOSITORY     (needs torch and transformers; run once, with 2.15.0 and 5.23.0)

A line is one model, in float32 on the CPU with eager attention:
  name, config (as transformers saves it), old_config (the same by the key names before version 5), tensors (name to
  shape), prompt (ids), tokens (64 greedy ids), logits (after the prompt and after 16, 32, 48 and 64 tokens)

Weights are not stored. Element i of a tensor is, with s = FNV-1a-64 of its name and splitmix64 as its authors give it,
  u = (splitmix64(s + i) >> 40) * 2^-23 - 1, in [-1, 1), exact in float;
  1 + u/2 for norms, u/2 for biases and lm_head, u/4 for the rest.
tests/golden/families_test.cc does the same.
"""
import copy
import json
import pathlib
import sys

import numpy
import torch
import transformers

VOCAB = 128
PROMPT_TOKENS = 20
NEW_TOKENS = 64
SNAPSHOTS = (0, 16, 32, 48, 64)
LEAST_GAP = 2e-3  # between the two best logits of any step: a rounding must not decide a token

COMMON = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, max_position_embeddings=128, bos_token_id=1,
              eos_token_id=[2, 3], pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=48, rope_theta=5000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0)


def models():
    llama, qwen2, qwen3 = transformers.LlamaConfig, transformers.Qwen2Config, transformers.Qwen3Config
    yield "llama2", llama(**COMMON, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
                          rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=10000.0))
    yield "llama3", llama(**COMMON, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                          tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3)
    yield "llama_linear", llama(**COMMON, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
                                rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0))
    yield "llama_yarn", llama(**COMMON, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                              rope_parameters=YARN)
    yield "llama_yarn_mscale", llama(**COMMON, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                                     rope_parameters=dict(**YARN, mscale=1.5, mscale_all_dim=0.5, beta_fast=16.0,
                                                          beta_slow=2.0, truncate=False))
    yield "qwen2", qwen2(**COMMON, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         rope_parameters=dict(rope_type="default", rope_theta=1000000.0))
    yield "qwen2_tied_yarn", qwen2(**COMMON, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1,
                                   tie_word_embeddings=True, rope_parameters=dict(**YARN, attention_factor=0.8))
    yield "qwen3", qwen3(**COMMON, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
                         rope_parameters=dict(rope_type="default", rope_theta=1000000.0))
    yield "qwen3_tied", qwen3(**COMMON, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, head_dim=32,
                              tie_word_embeddings=True,
                              rope_parameters=dict(rope_type="default", rope_theta=10000.0))


def splitmix64(x):
    x = x + numpy.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


def weights(name, shape):
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    count = int(numpy.prod(shape))
    with numpy.errstate(over="ignore"):
        bits = splitmix64(numpy.uint64(seed) + numpy.arange(count, dtype=numpy.uint64)) >> numpy.uint64(40)
    u = bits.astype(numpy.float32) * numpy.float32(2**-23) - numpy.float32(1)
    if "norm" in name:
        u = numpy.float32(1) + u * numpy.float32(0.5)
    elif name.endswith(".bias") or name == "lm_head.weight":
        u = u * numpy.float32(0.5)
    else:
        u = u * numpy.float32(0.25)
    return torch.from_numpy(u.reshape(shape))


def old_names(config):
    """The same config as version 4 wrote it."""
    old = copy.deepcopy(config)
    rope = old.pop("rope_parameters")
    old["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        # Both spellings of the type are in use.
        old["rope_scaling"] = {("type" if rope["rope_type"] == "linear" else k) if k == "rope_type" else k: v
                               for k, v in rope.items()}
    old["torch_dtype"] = old.pop("dtype", "float32")
    old.pop("layer_types", None)
    if old["model_type"].startswith("qwen"):
        old.update(use_sliding_window=False, sliding_window=4096, max_window_layers=28)
    return old


def generate(model, seed):
    """Prompt, greedy tokens and the logits before each; None when a rounding might decide a token."""
    prompt = [int(i) for i in numpy.random.default_rng(seed).integers(4, VOCAB, PROMPT_TOKENS)]
    ids, rows = list(prompt), []
    with torch.no_grad():
        for _ in range(NEW_TOKENS + 1):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            best = logits.topk(2).values
            if best[0] - best[1] < LEAST_GAP:
                return None
            rows.append(logits)
            ids.append(int(logits.argmax()))
    return prompt, ids[PROMPT_TOKENS:PROMPT_TOKENS + NEW_TOKENS], rows


def export(name, config):
    config._attn_implementation = "eager"
    config.dtype = "float32"
    model = getattr(transformers, type(config).__name__.replace("Config", "ForCausalLM"))(config).eval().float()
    config.architectures = [type(model).__name__]
    tensors = {key: list(value.shape) for key, value in model.state_dict().items()
               if not (config.tie_word_embeddings and key == "lm_head.weight")}
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(weights(key, tuple(value.shape)))
    prompt, tokens, rows = next(run for run in (generate(model, seed) for seed in range(100)) if run is not None)
    saved = json.loads(config.to_json_string())
    saved = {key: value for key, value in saved.items() if key not in ("transformers_version", "_name_or_path")}
    print(name, "largest logit", round(float(torch.stack(rows).abs().max()), 2), "distinct tokens", len(set(tokens)))
    return {"name": name, "config": saved, "old_config": old_names(saved), "tensors": tensors, "prompt": prompt,
            "tokens": tokens,
            "logits": [[float(f"{x:.7g}") for x in rows[i].tolist()] for i in SNAPSHOTS]}


def main():
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[1]) / "tests/golden/families_models.jsonl"
    lines = [json.dumps(export(name, config), separators=(",", ":")) for name, config in models()]
    out.write_text("\n".join(lines) + "\n")


main()
