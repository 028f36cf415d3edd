#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes one small tokenizer for each family, and what the Hugging Face `tokenizers` library makes of hard strings with
it, for tests/unit/tokenizer_families_test.cc.

Usage: export_families.py REPOSITORY               (needs the `tokenizers` package; run once, with 0.23.3, Python 3.11)
       export_families.py REPOSITORY KIND TEXT     prints what is expected of one string

family_KIND.json       the tokenizer, trained with the family's own pipeline
families_strings.json  strings beside those of tokenizer_gist_mini.jsonl; one a line
families_checks.json   {"kinds": {KIND: checks}, "variants": {NAME: {"kind", "patch", "merges", "checks"}}}

A check is the CRC-32 (six of DIGITS, one behind the other) of GROUP strings: for each, as little-endian 32-bit integers,
-1, the ids with encode_special_tokens (text of special tokens is text), -2, the ids without, -3, the first ids' offsets
in characters; then the bytes of their decoded text. Offsets are left out where the normalizer changes characters, and of
"bytes lost", where the library's are wrong. A kind's checks are over all strings, a variant's over those of families_strings.json. A variant is its kind's file with a
JSON merge patch, then more merges. The post-processor is never applied. Strings are left out where a Unicode newer than
the library's orders marks in another way.
"""
import collections
import copy
import json
import pathlib
import random
import struct
import sys
import unicodedata
import zlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from export_tokenizer import CJK, EMOJI, MARKS, SCRIPTS, SHORT, WHITE

SEED = 7
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"  # of a CRC, six of them
GROUP = 4
NUM_STRINGS = 1600
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
MARK = "\u2581"
ADDED_TEXTS = ("<left>", "<right>", "unit", "<norm>", "<|l|>", "<|r|>", "s\u0323tat", "\u1e63tat", "<both>", "units", " unit ",
               "unit\u0301", "<left> <right>", "<|l|> <|r|>", "<s>", "</s>", "<unk>", "<0x0A>", "<|begin_of_text|>", "<|im_start|>",
               "<tool_call>", "</tool_call>", "<|endoftext|>", "<|im_start", "tool_call>")
LOOKS_INVALID = ("Ã©", "ï¿½", "\ufffd", "\ufffd\ufffd", "\\xff\\xfe", "%C3%A9", "<0xE2>", "<0x0A><0x0A>", "â€™", "\x00", "\ufffe", "\uffff",
                 "\U0001ffff", "\U0010ffff", "\U000e0001", MARK, MARK * 3, " " + MARK, MARK + " x", "\u0120the", "\u010a")
EXCLUDED = ("\u0958", "\u0340", "\u0344", "\u2adc", "\ufb1d", "\ufb2c", "\U0001d15e", "\u212b", "\u2126", "\uf900", "\ufa30", "\U0002f800",
            "\u0f73", "\u0f81", "\u09cb", "\u09c7\u09be", "\u0bcb", "\u1109\u1161\u11a8", "\u1e9b\u0323", "\u1e69", "s\u0307\u0323")


def added(content, **flags):
    token = dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return {**token, **flags}


FLAGS = (added("<left>", lstrip=True), added("<right>", rstrip=True), added("<both>", lstrip=True, rstrip=True),
         added("unit", single_word=True, normalized=True), added("<norm>", normalized=True),
         added("s\u0323tat", normalized=True), added("<|l|>", lstrip=True, special=True),
         added("<|r|>", rstrip=True, special=True))


def with_added(tokenizer_json, specials, plain=()):
    """Gives ids to the family's own added tokens and to those of FLAGS, as `tokenizers` does."""
    vocab = tokenizer_json["model"]["vocab"]
    entries = [added(text, special=True) for text in specials] + [added(text) for text in plain] + list(FLAGS)
    next_id = len(vocab)
    tokenizer_json["added_tokens"] = []
    for entry in entries:
        known = vocab.get(entry["content"])
        tokenizer_json["added_tokens"].append({"id": next_id if known is None else known, **entry})
        next_id += known is None
    return tokenizer_json


def byte_level(prose, size, pre_tokenizer, normalizer=None, **model):
    made = tokenizers.Tokenizer(models.BPE(**model))
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(prose, trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return json.loads(made.to_str())


def llama2(prose):
    """SentencePiece's BPE as transformers converts it: merges are all pairs that make a token, in order of scores."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    counts = collections.Counter("".join(prose))
    alphabet = set(sorted(counts, key=lambda char: (-counts[char], char))[:180])
    prose = ["".join(char if char in alphabet else " " for char in line) for line in prose]
    control = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    made.train_from_iterator(prose, trainers.BpeTrainer(
        vocab_size=1300, special_tokens=control, show_progress=False))
    made = json.loads(made.to_str())
    runs = [MARK * n for n in range(2, 17)]
    tokens = sorted(made["model"]["vocab"], key=made["model"]["vocab"].get) + runs
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = ((vocab[token], token[:cut], token[cut:]) for token in tokens[len(control):] for cut in range(1, len(token)))
    made["model"]["vocab"] = vocab
    made["model"]["merges"] = [[left, right] for _, left, right in sorted(pairs) if left in vocab and right in vocab]
    made["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}
    made["pre_tokenizer"] = None
    made["post_processor"] = json.loads(tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]).__getstate__())
    made["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return with_added(made, control[:3])


def llama3(prose):
    made = byte_level(prose, 1400, pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=True)
    vocab = made["model"]["vocab"]
    for word in ("\u0120unforgettable", "Zz", "\u0120\u0120\u0120\u0120\u0120"):  # no merge makes them: only ignore_merges does
        vocab[word] = len(vocab)
    made["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in made["model"]["merges"]]
    with_added(made, ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    begin = made["added_tokens"][0]
    made["post_processor"] = {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        json.loads(tokenizers.processors.TemplateProcessing(
            single=begin["content"] + " $A", pair=begin["content"] + " $A $B",
            special_tokens=[(begin["content"], begin["id"])]).__getstate__())]}
    return made


def qwen2(prose):
    made = byte_level(prose, 1400, pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(QWEN2_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]), normalizers.NFC())
    made["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    made["model"].update(continuing_subword_prefix="", end_of_word_suffix="")
    return with_added(made, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<tool_call>", "</tool_call>", "<think>"))


def digits(prose):
    made = byte_level(prose, 1400, pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    made["model"]["unk_token"] = "<|endoftext|>"
    return with_added(made, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


KINDS = {"llama2": llama2, "llama3": llama3, "qwen2": qwen2, "digits": digits}


def variants():
    """Name: kind, merge patch, further merges."""
    result = {}
    for scheme in ("first", "always", "never"):
        for split in (True, False):
            space = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}
            model = {"byte_fallback": False, "unk_token": "<unk>", "fuse_unk": split}
            patch = {"normalizer": None, "pre_tokenizer": space, "decoder": {**space, "decoders": None}, "model": model}
            result[f"metaspace {scheme} {'split' if split else 'whole'}"] = ("llama2", patch, [])
    result["metaspace of old"] = ("llama2", {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": MARK, "str_rep": MARK, "add_prefix_space": True}}, [])
    result["unknown apart"] = ("llama2", {"model": {"byte_fallback": False, "fuse_unk": False}}, [])
    result["unknown fused"] = ("llama2", {"model": {"byte_fallback": False, "fuse_unk": True}}, [])
    result["whole words"] = ("llama2", {"model": {"ignore_merges": True}}, [])
    joined = {"the" + MARK: 2000, "," + MARK: 2001, "," + MARK + "the": 2002, "<0xE2>" + MARK: 2003}
    result["joined words"] = ("llama2", {"model": {"vocab": joined}, "added_tokens": []},
                              [["the", MARK], [",", MARK], ["," + MARK, "the"]])
    result["joined bytes"] = ("llama2", {"model": {"vocab": joined}, "added_tokens": []}, [["<0xE2>", MARK]])
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Isolated"):
        for invert in (False, True):
            steps = {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s?"}, "behavior": behavior, "invert": invert},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
            result[f"{behavior}{' inverted' if invert else ''}"] = ("qwen2", {"pre_tokenizer": steps}, [])
    # Bytes that no merge uses: controls, and the first of private-use characters.
    fewer = {char: None for char in "\u0104\u0106\u011f\u00f3\u00f4"} | {"<|unknown|>": 1900}
    for name, model in (("bytes lost", {}), ("bytes unknown", {"unk_token": "<|unknown|>"}),
                        ("bytes unknown, fused", {"unk_token": "<|unknown|>", "fuse_unk": True})):
        result[name] = ("digits", {"model": {"unk_token": None, **model, "vocab": fewer}, "added_tokens": []}, [])
    spaced = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]}
    result["spaces put in front"] = ("digits", {"pre_tokenizer": spaced}, [])
    marked = {"type": "Split", "pattern": {"String": MARK}, "behavior": "MergedWithPrevious", "invert": False}
    replaced = {"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
        {"type": "Replace", "pattern": {"String": "ab"}, "content": ""}]}
    result["composed, then marked"] = ("llama2", {"normalizer": replaced, "pre_tokenizer": marked}, [])
    return result


def apply_patch(value, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, entry in patch.items():
        if entry is None:
            value.pop(key, None)
        else:
            value[key] = apply_patch(value.get(key), entry)
    return value


def patched(tokenizer_json, patch, merges):
    made = apply_patch(copy.deepcopy(tokenizer_json), patch)
    made.setdefault("normalizer", None)
    made["model"]["merges"] = made["model"]["merges"] + merges
    return made


def hard_strings(prose):
    r = random.Random(SEED)
    pick = lambda options: lambda: r.choice(options)
    words = prose.split()
    marks = [c for c in range(0x300, 0x1e000) if unicodedata.combining(chr(c))]
    private = lambda: chr(r.choice((r.randint(0xe000, 0xf8ff), r.randint(0xf0000, 0xffffd), r.randint(0x100000, 0x10fffd))))
    jamo = lambda: "".join(chr(r.choice((r.randint(0x1100, 0x1112), r.randint(0x1161, 0x1175), r.randint(0x11a8, 0x11c2),
                                         r.randint(0x1113, 0x11ff), r.randint(0xac00, 0xd7a3)))) for _ in range(r.randint(1, 6)))
    unordered = lambda: r.choice("aeioun\u00e9\u01b0\u1ebf\u0915\u05d0 \u3042") + "".join(chr(r.choice(marks)) for _ in range(r.randint(1, 4)))
    decomposed = lambda: unicodedata.normalize("NFD", r.choice(SCRIPTS + CJK + ("Tiếng Việt", "Ünïcödé", "Ελλάδα ήταν")))
    any_case = lambda: "".join(r.choice((c.lower(), c.upper())) for c in r.choice(SHORT)).replace("s", r.choice(("s", "\u017f")))
    excluded = lambda: r.choice(EXCLUDED) + r.choice(("", "\u0301", "\u0323\u0307", "x"))
    spaces = lambda: r.choice(WHITE + "   ") * r.choice((1, 2, 3, 5, 16, 17, 40))
    control = lambda: chr(r.choice((r.randint(0, 31), r.randint(127, 159))))
    number = lambda: r.choice(("", "-", "0x", "$")) + str(r.randint(0, 10**r.randint(1, 12))) + r.choice(("", ".5", "%", "\u00b2", "\u0663"))
    texts = (jamo, unordered, decomposed, any_case, excluded, spaces, control, number, private, pick(EMOJI), pick(MARKS),
             pick(ADDED_TEXTS), pick(ADDED_TEXTS), pick(LOOKS_INVALID), pick(words), pick(words), lambda: " ", lambda: " ")
    beside_added = (lambda: " ", lambda: "\n", lambda: "", lambda: ",", lambda: "_", lambda: "\u0301", pick(words), spaces)
    kinds = (
        lambda: "".join(r.choice(texts)() for _ in range(r.randint(1, 7))),
        lambda: "".join(r.choice(texts[:5])() for _ in range(r.randint(1, 5))),
        lambda: "".join(r.choice(beside_added)() + r.choice(ADDED_TEXTS) for _ in range(r.randint(1, 4))) + r.choice(beside_added)(),
        lambda: r.choice(words) + any_case() + r.choice((" ", "", "\u2019")) + r.choice(words).upper() + any_case(),
        lambda: spaces() + r.choice(words) + spaces() + r.choice(words) + spaces(),
        lambda: " ".join(r.choice(words) for _ in range(r.randint(3, 12))),
    )
    nfc = normalizers.NFC()
    seen = {}
    while len(seen) < NUM_STRINGS:
        for kind in kinds:
            text = kind()
            if nfc.normalize_str(text) == unicodedata.normalize("NFC", text):
                seen[text] = None
    return list(seen)[:NUM_STRINGS]


class Expected:
    def __init__(self, tokenizer_json, with_offsets=True):
        self.with_offsets = with_offsets
        self.full = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json))
        self.full.no_truncation()
        self.plain = tokenizers.Tokenizer.from_str(json.dumps({**tokenizer_json, "post_processor": None}))
        self.plain.encode_special_tokens = True
        self.changes = "NFC" in json.dumps(tokenizer_json["normalizer"] or "")

    def of(self, text):
        plain = self.plain.encode(text, add_special_tokens=False)
        special = self.full.encode(text, add_special_tokens=False)
        changed = self.changes and unicodedata.normalize("NFC", text) != text
        offsets = plain.offsets if self.with_offsets and not changed else []
        return plain.ids, special.ids, offsets, self.full.decode(plain.ids, skip_special_tokens=True)

    def checks(self, texts):
        sixes = []
        for begin in range(0, len(texts), GROUP):
            crc = 0
            for text in texts[begin:begin + GROUP]:
                plain, special, offsets, decoded = self.of(text)
                values = [-1, *plain, -2, *special, -3, *(at for span in offsets for at in span)]
                crc = zlib.crc32(decoded.encode(), zlib.crc32(struct.pack(f"<{len(values)}i", *values), crc))
            sixes.append("".join(DIGITS[crc >> shift & 63] for shift in range(30, -1, -6)))
        return "".join(sixes)


def main():
    root = pathlib.Path(sys.argv[1])
    here = root / "tests" / "golden"
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f")
    if len(sys.argv) > 2:
        expected = Expected(json.load(open(here / f"family_{sys.argv[2]}.json", encoding="utf-8"))).of(sys.argv[3])
        print(*zip(("ids", "ids with special tokens", "offsets", "decoded"), expected), sep="\n")
        return
    documents = [json.loads(line)["text"] for line in open(root / "datasets" / "gist-mini" / "docs.jsonl", encoding="utf-8")]
    prose = "\n\n".join(documents)
    made = {kind: train(prose.split("\n") + list(CJK + SCRIPTS)) for kind, train in KINDS.items()}
    new = hard_strings(prose)
    old = [json.loads(line)[0] for line in open(here / "tokenizer_gist_mini.jsonl", encoding="utf-8")]
    for kind, value in made.items():
        (here / f"family_{kind}.json").write_text(dump(value) + "\n", encoding="utf-8")
    (here / "families_strings.json").write_text("[\n" + ",\n".join(dump(text) for text in new) + "\n]\n", encoding="utf-8")
    checks = {"group": GROUP, "kinds": {}, "variants": {}}
    for kind, value in made.items():
        checks["kinds"][kind] = Expected(value).checks(new + old)
    for name, (kind, patch, merges) in variants().items():
        value = Expected(patched(made[kind], patch, merges), name != "bytes lost").checks(new)
        checks["variants"][name] = {"kind": kind, "patch": patch, "merges": merges, "checks": value}
    (here / "families_checks.json").write_text(json.dumps(checks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
