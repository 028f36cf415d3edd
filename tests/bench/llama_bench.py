#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decode and prefill of a checkpoint in llama.cpp, the best of its settings, as JSON lines like those of speed_bench.

  tests/bench/llama_bench.py [--model datasets/gist-mini] [--work build/bench] [--ours build/cpu/speed_bench]

Makes a virtual environment under --work with llama-cpp-python (built from source: minutes) and gguf, both pinned, writes
the checkpoint as GGUF in F32, F16 and BF16, and tries each with one and two threads, flash attention on and off, and
OpenMP threads that spin or sleep. Prefill is one batch of 512 tokens, decode is 32 single tokens after 512, each with
an argmax over the logits. Every setting is tried briefly; the best of each is then measured, in rounds that take turns
with speed_bench: neighbours on the same memory come and go, and both then see the same.
"""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
import venv

PACKAGES = ["llama-cpp-python==0.3.36", "gguf==0.19.0"]
CONTEXT, STEPS = 512, 32
ROUNDS, RUNS = 7, 6  # of the best settings; RUNS in each round
UNITS = {"prefill": "us_a_token", "decode": "ms_a_token"}
TYPES = ["F32", "F16", "BF16"]


def environment(work):
    python = os.path.join(work, "venv-llama", "bin", "python")
    done = os.path.join(work, "venv-llama", "packages.txt")
    if not os.path.exists(done) or open(done).read().split() != PACKAGES:
        print("llama_bench.py: installing " + ", ".join(PACKAGES), file=sys.stderr)
        venv.create(os.path.join(work, "venv-llama"), with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, stdout=sys.stderr)
        with open(done, "w") as file:
            file.write("\n".join(PACKAGES))
    return python


def read_checkpoint(folder):
    import numpy as np

    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            sys.exit(f"llama_bench.py: {name} is {entry['dtype']}, expected BF16")
        begin, end = entry["data_offsets"]
        wide = np.frombuffer(data[begin:end].tobytes(), dtype=np.uint16).astype(np.uint32) << 16
        tensors[name] = wide.view(np.float32).reshape(entry["shape"])
    return tensors


# llama.cpp turns neighbouring dims of a head together, checkpoints turn i and i + D/2.
def interleave(weight, heads):
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(folder, path, kind):
    import gguf
    import numpy as np

    config = json.load(open(os.path.join(folder, "config.json")))
    tokenizer = json.load(open(os.path.join(folder, "tokenizer.json")))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_token_list(vocab)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in vocab])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])

    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    roles = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, tensor in read_checkpoint(folder).items():
        if name not in names:
            _, _, layer, role = name.removesuffix(".weight").split(".", 3)
            names[name] = f"blk.{layer}.{roles[role]}.weight"
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleave(tensor, heads if "q_proj" in name else kv_heads)
        if tensor.ndim == 1 or kind == "F32":
            writer.add_tensor(names[name], np.ascontiguousarray(tensor))
        elif kind == "F16":
            writer.add_tensor(names[name], tensor.astype(np.float16))
        else:
            bits = (np.ascontiguousarray(tensor).view(np.uint32) >> 16).astype(np.uint16)
            writer.add_tensor(names[name], bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- In the environment: one setting ---------------------------------------------------------------------------------


class Session:
    def __init__(self, path, threads, flash):
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_backend_init()
        silent = llama_cpp.llama_log_callback(lambda *_: None)
        self.silent = silent
        llama_cpp.llama_log_set(silent, None)
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 1024
        params.n_batch = params.n_ubatch = CONTEXT
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def tokens(self, text):
        array = (self.api.llama_token * (len(text) + 8))()
        raw = text.encode()
        vocab = self.api.llama_model_get_vocab(self.model)
        count = self.api.llama_tokenize(vocab, raw, len(raw), array, len(array), False, False)
        return list(array[:count])

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def run(self, tokens):
        array = (self.api.llama_token * len(tokens))(*tokens)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(tokens))) != 0:
            sys.exit("llama_bench.py: llama_decode failed")
        import numpy as np

        return np.ctypeslib.as_array(self.api.llama_get_logits_ith(self.context, -1), (self.vocab_size,))

    def nats_a_token(self, tokens):
        import numpy as np

        self.clear()
        total = 0.0
        for token, following in zip(tokens, tokens[1:]):
            logits = self.run([token]).astype(np.float64)
            total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following]
        return total / (len(tokens) - 1)


def worker(arguments):
    setting = json.loads(arguments.worker)
    session = Session(setting["path"], setting["threads"], setting["flash"])
    text = ""
    for name in sorted(os.listdir(arguments.docs)):
        text += open(os.path.join(arguments.docs, name), encoding="utf-8").read()
        if len(text) > 8 * CONTEXT:
            break
    tokens = session.tokens(text)[:CONTEXT]
    if len(tokens) < CONTEXT:
        sys.exit(f"llama_bench.py: {arguments.docs} has too little text")
    # A model that was written wrongly knows nothing: ln(8192) = 9.0.
    nats = session.nats_a_token(tokens[:64]) if setting["threads"] == 1 else 0
    if not nats < 6:
        sys.exit(f"llama_bench.py: {nats:.2f} nats a token, the conversion must be wrong")
    prefill, decode = [], []
    steps = STEPS if arguments.runs >= RUNS else 4
    for run in range(arguments.runs + 1):
        session.clear()
        begin = time.perf_counter()
        token = int(session.run(tokens).argmax())
        middle = time.perf_counter()
        for _ in range(steps):
            token = int(session.run([token]).argmax())
        end = time.perf_counter()
        if run > 0:  # the first warms up
            prefill.append((middle - begin) / len(tokens) * 1e6)
            decode.append((end - middle) / steps * 1e3)
    print(json.dumps({"prefill": prefill, "decode": decode}))


# ---- Outside ---------------------------------------------------------------------------------------------------------


def quantile(values, share):
    return sorted(values)[int(share * (len(values) - 1) + 0.5)]


def spread(name, values):
    return {name: quantile(values, 0.5), name + "_p10": quantile(values, 0.1), name + "_p90": quantile(values, 0.9),
            "runs": len(values)}


def measure(python, arguments, setting, runs):
    env = dict(os.environ)
    if setting["sleep"]:
        env["OMP_WAIT_POLICY"] = "passive"
    command = [python, os.path.abspath(__file__), "--worker", json.dumps(setting), "--runs", str(runs),
               "--docs", arguments.docs]
    try:
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60 + 10 * runs)
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure_ours(arguments, compute):
    command = [arguments.ours, "--model", arguments.model, "--runs", str(RUNS), "--compute", compute]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {bench: next(line[unit] for line in lines if line["bench"] == bench and line.get("mode") == "dense")
            for bench, unit in UNITS.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="datasets/gist-mini")
    parser.add_argument("--docs", default="datasets/handbook/notes")
    parser.add_argument("--work", default="build/bench")
    parser.add_argument("--ours", default="build/cpu/speed_bench")
    parser.add_argument("--runs", type=int, help="of a worker")
    parser.add_argument("--worker")
    parser.add_argument("--convert")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    if arguments.convert:
        for kind in TYPES:
            write_gguf(arguments.model, os.path.join(arguments.convert, f"llama-{kind}.gguf"), kind)
        return None

    os.makedirs(arguments.work, exist_ok=True)
    python = environment(os.path.abspath(arguments.work))
    subprocess.run([python, os.path.abspath(__file__), "--model", arguments.model, "--convert", arguments.work],
                   check=True)
    settings = [{"path": os.path.join(arguments.work, f"llama-{kind}.gguf"), "type": kind, "threads": threads,
                 "flash": flash, "sleep": sleep}
                for kind in TYPES for flash in (False, True) for threads, sleep in ((1, False), (2, False), (2, True))]
    tried = []
    for setting in settings:
        result = measure(python, arguments, setting, 3)
        if result is None:
            print(f"llama_bench.py: given up, too slow: {setting}", file=sys.stderr)
            continue
        tried.append((setting, result))
    best = {bench: min(tried, key=lambda one: quantile(one[1][bench], 0.5))[0] for bench in UNITS}
    values = {bench: [] for bench in UNITS}
    ratios = {bench: {"f32": [], "bf16": []} for bench in UNITS}
    for _ in range(ROUNDS):
        ours = {compute: measure_ours(arguments, compute) for compute in ("f32", "bf16")}
        for bench, setting in best.items():
            round_values = measure(python, arguments, setting, RUNS)[bench]
            values[bench] += round_values
            for compute, found in ours.items():
                ratios[bench][compute].append(quantile(round_values, 0.5) / found[bench])
    for bench, unit in UNITS.items():
        setting = best[bench]
        line = {"bench": "llama_cpp_" + bench, "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores", "version": PACKAGES[0],
                "type": setting["type"], "threads": setting["threads"], "flash_attention": setting["flash"],
                "openmp": "sleeps" if setting["sleep"] else "spins", "context_tokens": CONTEXT}
        line.update(spread(unit, values[bench]))
        line["tokens_s"] = (1e6 if unit == "us_a_token" else 1e3) / line[unit]
        for compute, found in ratios[bench].items():
            line.update(spread(compute + "_over_it", found))
        line["rounds"] = line.pop("runs")
        line["runs"] = len(values[bench])
        print(json.dumps(line), flush=True)
    return None


if __name__ == "__main__":
    main()
