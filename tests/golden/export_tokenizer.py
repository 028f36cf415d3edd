#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what the Hugging Face `tokenizers` library makes of some thousand strings, for tests/unit/tokenizer_test.cc.

Usage: export_tokenizer.py REPOSITORY     (needs the `tokenizers` package; run once, with 0.23.3 and Python 3.11)

tokenizer_gist_mini.jsonl  datasets/gist-mini/tokenizer.json

A line is [text, ids] or [text, ids, ids_with_specials], of the ids their CRC-32 as little-endian 32-bit numbers: `ids`
come from the tokenizer with encode_special_tokens, so that the text of special tokens is plain text; `ids_with_specials`,
where they differ, from the tokenizer as it is. The post-processor is never applied. Characters are those assigned in Unicode 14, which is what PCRE2 10.42 and Python 3.11 know.
"""
import json
import pathlib
import random
import struct
import sys
import unicodedata
import zlib

import tokenizers

SEED = 6
NUM_STRINGS = 5400

WHITE = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
CJK = ("今日は天気がいいですね。", "東京都千代田区", "你好，世界！", "机器学习模型", "한국어 문장입니다.", "カタカナとひらがな", "漢字かな交じり文")
SCRIPTS = ("Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "வணக்கம்",
           "Dzień dobry", "Straße", "naïve café", "İstanbul", "Việt Nam", "ⅧⅨ ½ ¾ ٣٤٥ ৪২ ²³", "ǅ ǈ ﬁ ﬃ ſ K Å")
EMOJI = ("👩\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "👍🏽", "🇩🇪🇯🇵", "❤️", "🧑🏿\u200d🚀", "#️⃣", "😀😃😄", "☃︎", "🤷\u200d♀️")
MARKS = ("e\u0301", "a\u0308\u0323", "o\u0302\u0301", "\u0301", "क\u094dष", "n\u0303o", "Z\u0351\u036b\u0343", "\u20dd")
SHORT = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "\u2019s", "don't", "WE'VE", "o'clock", "'", "''tis")
URLS = ("https://example.org/a/b?q=1&r=%20#top", "http://10.0.0.1:8080/", "user.name+tag@mail.example", "C:\\dir\\file.txt",
        "/usr/share/doc/", "www.example.com", "10.1000/182", "ftp://h/x;type=i")
SPECIALS = ("<gist>", "<Gist>", "<|answer|>", "<|question|>", "<|bos|>", "<|endoftext|>", "<link0>", "<link4>", "<gist",
            "gist>", "<|answer", "< gist >", "<GIST>")


def code(r):
    name = lambda: r.choice(("x", "num_tokens", "self", "Value", "i", "HTTPServer", "__init__", "camelCase", "kMax", "a1"))
    number = lambda: r.choice(("0", "1", "42", "3.14", "0xFF", "1e-5", "1_000", "65536", "007", "12345678901"))
    return r.choice((
        lambda: f"for (int {name()} = {number()}; {name()} < {number()}; ++{name()}) {{\n\t{name()}[{number()}] += {name()};\n}}\n",
        lambda: f"def {name()}({name()}, *, {name()}={number()}):\n    return {name()}.{name()}({number()})  # {name()}\n\n",
        lambda: f"if({name()}!={name()}&&!{name()}){{return;}}//{name()}",
        lambda: f"SELECT {name()}, count(*) FROM {name()} WHERE {name()} >= {number()};\r\n",
        lambda: f"let {name()}: Vec<&'a {name()}> = vec![{number()}; {number()}];",
        lambda: f"<div class=\"{name()}\">&nbsp;{name()}</div>\n<!-- {name()} -->",
        lambda: f"{{\"{name()}\": [{number()}, null, true], \"{name()}\": \"\\u00e9\\n\"}}",
        lambda: f"#include <{name()}.h>\n#define {name()}({name()}) \\\n  (({name()}) << {number()})\n",
        lambda: f"$ {name()} --{name()}={number()} | grep -v '^{name()}$' > /tmp/{name()}",
    ))()


def strings(count, prose, specials):
    """`count` different strings, about evenly from the kinds below."""
    r = random.Random(SEED)
    assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    pick = lambda options: lambda: r.choice(options)
    words = prose.split()
    white = lambda: "".join(r.choice(WHITE) * r.choice((1, 1, 2, 3, 7)) for _ in range(r.randint(1, 4)))
    ascii_ = lambda: "".join(chr(r.randint(32, 126)) for _ in range(r.randint(1, 12)))
    parts = (pick(words), pick(words), pick(SHORT), pick(CJK), pick(SCRIPTS), pick(EMOJI), pick(MARKS), pick(URLS),
             pick(specials), white, ascii_, lambda: " ", lambda: str(r.randint(0, 10**r.randint(1, 9))),
             lambda: chr(r.choice(assigned)))

    def prose_piece():
        begin = r.randrange(len(prose) - 400)
        return prose[begin:begin + r.randint(10, 260)]

    kinds = (
        prose_piece,
        lambda: code(r),
        lambda: "".join(r.choice(parts)() for _ in range(r.randint(2, 9))),
        lambda: " ".join(r.choice(parts)() for _ in range(r.randint(2, 6))),
        lambda: "".join(chr(r.choice(assigned)) for _ in range(r.randint(1, 10))),
        lambda: r.choice(words) + white() + r.choice(words) + white(),
        lambda: r.choice(WHITE) * r.randint(1, 60) + r.choice(("", "x", "\n", "1", "é")),
        lambda: "".join(chr(r.choice((r.randint(0, 31), 127, r.randint(128, 159)))) for _ in range(r.randint(1, 12))),
        lambda: "".join(r.choice((r.choice(EMOJI), r.choice(MARKS), "\u200d", "\ufe0f", " ")) for _ in range(r.randint(1, 5))),
        lambda: "".join(r.choice(CJK) for _ in range(r.randint(1, 3))) + r.choice(("", "。", "\n", "ABC", "123")),
        lambda: r.choice(words) + r.choice(specials) + r.choice(("", " ", "\n")) + r.choice(specials) + r.choice(words),
        lambda: r.choice("ae1-=. \u00e9\u4e00") * r.randint(2, 70),
        lambda: r.choice(words) + r.choice(SHORT) + r.choice((" ", "", ",")) + r.choice(words).upper() + r.choice(SHORT),
        lambda: "".join(r.choice("0123456789,.- \u0663\u00bd") for _ in range(r.randint(1, 24))),
    )
    seen = {"": None}
    while len(seen) < count:
        for kind in kinds:
            seen[kind()] = None
    return list(seen)[:count]


def crc(ids):
    return zlib.crc32(struct.pack(f"<{len(ids)}i", *ids))


def write(path, tokenizer_json, texts):
    full = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json))
    plain = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json))
    plain.encode_special_tokens = True
    with open(path, "w", encoding="utf-8") as out:
        for text in texts:
            ids = plain.encode(text, add_special_tokens=False).ids
            special = full.encode(text, add_special_tokens=False).ids
            line = [text, crc(ids)] if ids == special else [text, crc(ids), crc(special)]
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n")


def main():
    root = pathlib.Path(sys.argv[1])
    here = root / "tests" / "golden"
    documents = [json.loads(line)["text"] for line in open(root / "datasets" / "gist-mini" / "docs.jsonl", encoding="utf-8")]
    prose = "\n\n".join(documents)
    gist_mini = json.load(open(root / "datasets" / "gist-mini" / "tokenizer.json", encoding="utf-8"))
    write(here / "tokenizer_gist_mini.jsonl", gist_mini, strings(NUM_STRINGS, prose, SPECIALS))


if __name__ == "__main__":
    main()
