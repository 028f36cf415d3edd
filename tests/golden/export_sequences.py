#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what the model's training code makes of texts of datasets/gist-mini, for tests/property/gist_sequence_test.cc
and tests/unit/prompt_test.cc.

Usage: export_sequences.py REPOSITORY     (needs the `tokenizers` package; run once, with 0.23.3)

gist_sequences.jsonl  20 documents: {"name", "ids", "chunks"}, ids with gists and the chunk of each index (a gist belongs
                      to the chunk it closes; sinks stand in chunk 0). Chunks of L tokens after S sinks; a cut inside a
                      word moves forward by at most L/2 tokens to one that begins with white space or punctuation.
prompt_ids.jsonl      the prompt of each question of reference.jsonl: <|question|>, at most max_question_tokens ids of
                      the question, <|answer|>
"""
import gzip
import json
import sys

from tokenizers import Tokenizer

BOUNDARY = " \t\n\r.,;:!?-\u2014()[]{}\"'"
EVERY = 50  # documents d0000, d0050, ... of 1,000


def gist_sequence(raw, starts_word, gist, chunk_size, sinks):
    ids, chunks = list(raw[:sinks]), [0] * min(sinks, len(raw))
    begin, number = len(ids), 0
    while begin < len(raw) or number == 0:
        end = min(begin + chunk_size, len(raw))
        if end < len(raw) and not starts_word[raw[end]]:
            for step in range(1, chunk_size // 2 + 1):
                if end + step < len(raw) and starts_word[raw[end + step]]:
                    end += step
                    break
        ids += list(raw[begin:end]) + [gist]
        chunks += [number] * (end - begin + 1)
        begin, number = end, number + 1
    return ids, chunks


def main():
    root = sys.argv[1]
    model, golden = root + "/datasets/gist-mini/", root + "/tests/golden/"
    config = json.load(open(model + "gist_config.json"))
    tokenizer = Tokenizer.from_file(model + "tokenizer.json")
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size())]
    starts_word = [not t or t[0] in BOUNDARY for t in texts]
    gist, question, answer = (tokenizer.token_to_id(t) for t in ("<gist>", "<|question|>", "<|answer|>"))

    with open(golden + "gist_sequences.jsonl", "w") as out:
        for number, line in enumerate(open(model + "docs.jsonl", encoding="utf-8")):
            if number % EVERY:
                continue
            document = json.loads(line)
            raw = tokenizer.encode(document["text"], add_special_tokens=False).ids
            ids, chunks = gist_sequence(raw, starts_word, gist, config["chunk_size"], config["sink_size"])
            out.write(json.dumps({"name": document["name"], "ids": ids, "chunks": chunks}, separators=(",", ":")) + "\n")

    with open(golden + "prompt_ids.jsonl", "w") as out:
        for line in gzip.open(model + "reference.jsonl.gz", "rt", encoding="utf-8"):
            ids = tokenizer.encode(json.loads(line)["question"], add_special_tokens=False).ids
            out.write(json.dumps([question] + ids[: config["max_question_tokens"]] + [answer], separators=(",", ":")) + "\n")


main()
