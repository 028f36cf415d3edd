#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON lines of `./dev bench` and says of each bar whether it is met.

  tests/bench/bars.py FOLDER [--check]

FOLDER holds *.jsonl. Writes FOLDER/bench.json: all lines, and the bars with what was measured. With --check the exit
status is 1 when a bar is missed or could not be measured.
"""
import glob
import json
import os
import sys

# Half of the GFLOP/s that the BLAS reached on the model's shapes, two Zen 4 cores: OpenBLAS 187 in f32, oneDNN 413 in
# bf16.
ENCODE_GFLOP_S = {"f32": 94, "bf16": 207}


def read_lines(folder):
    lines = []
    for path in sorted(glob.glob(os.path.join(folder, "*.jsonl"))):
        with open(path, encoding="utf-8") as file:
            lines += [json.loads(line) for line in file if line.strip()]
    return lines


def find(lines, **wanted):
    for line in lines:
        if all(line.get(key) == value for key, value in wanted.items()):
            return line
    return None


def curve_spread(lines, levels):
    rates = [line["tokens_s"] for line in lines if line.get("bench") == "encode_curve" and line["levels"] == levels]
    return max(rates) / min(rates) if rates else None


def field(line, name):
    return None if line is None else line[name]


def over_llama_cpp(lines, bench, computes):
    """The best of ours over the best of its settings, measured in turn."""
    line = find(lines, bench="llama_cpp_" + bench)
    return line and max(line[compute + "_over_it"] for compute in computes)


def payload_share(lines):
    """Bytes in the store's records over the keys, values and texts in them: 2 Hk D values a row and layer, raw rows of
    layer 0 not stored."""
    inspection = next((line for line in lines if "fingerprint" in line), None)
    if inspection is None:
        return None
    shape, sizes = inspection["fingerprint"], {"f32": 4, "bf16": 2}
    row = 2 * shape["kv_heads"] * shape["head_dim"] * sizes[shape["kv_type"]]
    stored = payload = 0
    for part in inspection["collections"]:
        sinks = shape["sink_size"] * part["parts"]
        raw, gist = part["tokens"] - sinks, part["chunks"] + sinks
        payload += row * ((shape["layers"] - 1) * raw + shape["layers"] * gist) + part["bytes"]["text"]
        stored += part["bytes"]["total"]
    return stored / payload


def bars(lines):
    """(what, measured, at least or at most, bar)."""
    decode = find(lines, bench="decode", mode="dense", compute="f32")
    ingest = next((line["summary"] for line in lines if "summary" in line), None)
    result = [("decode at 512 tokens: weight bytes over read bandwidth", field(decode, "share_of_read_bandwidth"), ">=",
               0.6)]
    for compute, rate in ENCODE_GFLOP_S.items():
        encode = find(lines, bench="encode", compute=compute)
        result.append((f"encoding in {compute}, GFLOP/s", field(encode, "gflop_s"), ">=", rate))
    result += [
        ("decode over llama.cpp", over_llama_cpp(lines, "decode", ("f32", "bf16")), ">=", 1.2),
        ("dense prefill over llama.cpp", over_llama_cpp(lines, "prefill", ("f32", "bf16")), ">=", 1.2),
        ("dense prefill in f32 over llama.cpp, which rounds activations", over_llama_cpp(lines, "prefill", ("f32",)), "",
         None),
        ("encoding 1k to 64k tokens, two levels: fastest over slowest", curve_spread(lines, 2), "<=", 1.3),
        ("encoding 1k to 64k tokens, one level: fastest over slowest", curve_spread(lines, 1), "", None),
        ("two engines on the same cores: in turn over at once", field(find(lines, bench="two_engines"), "speed"), "",
         None),
        ("ingest of the sample: wall over encoding", ingest and ingest["wall_s"] / ingest["encode_s"], "<=", 1.2),
        ("stored bytes over payload", payload_share(lines), "<=", 1.02),
    ]
    return result


def is_met(value, sense, bar):
    if bar is None:
        return True
    return value is not None and (value >= bar if sense == ">=" else value <= bar)


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    lines = read_lines(arguments[0])
    rows = bars(lines)
    for what, value, sense, bar in rows:
        shown = "not measured" if value is None else f"{value:.3f}"
        verdict = "" if bar is None else f"{sense} {bar:<6} " + ("met" if is_met(value, sense, bar) else "MISSED")
        print(f"{what:60} {shown:>12}  {verdict}")
    with open(os.path.join(arguments[0], "bench.json"), "w", encoding="utf-8") as file:
        json.dump({"bars": [{"what": what, "measured": value, "sense": sense, "bar": bar,
                             "met": is_met(value, sense, bar)} for what, value, sense, bar in rows],
                   "lines": lines}, file, indent=1)
    if "--check" in sys.argv and not all(is_met(value, sense, bar) for _, value, sense, bar in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
