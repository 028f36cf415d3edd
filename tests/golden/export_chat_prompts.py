#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what Hugging Face's apply_chat_template makes of conversations, for tests/unit/chat_prompt_test.cc.

Usage: export_chat_prompts.py REPOSITORY     (needs transformers and tokenizers; run once, with 5.23.0 and 0.23.3)

chat_tokenizer.json  a small byte-level BPE with the special tokens of both templates, trained on the sample's questions
chat_prompts.jsonl   a line each: [template, system (null: none), turns as [role, text], ids]; the last turn is the
                     question, and the ids end with the header of the answer to come
"""
import json
import pathlib
import random
import sys

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

VOCAB = 700
NUM_CONVERSATIONS = 40
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>",
            "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<gist>", "<Gist>", "<MGist>"]
# The templates as their models publish them: the common form of chatml, and that of Meta-Llama-3-8B-Instruct.
TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
              "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
              "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
              "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
              "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
              "{% endif %}",
}
SYSTEMS = (None, "You answer from the documents.", " \n Be brief.\nSay where it stands.  ")
EXTRAS = ("", "\n", "  ", "\t", " \u00a0", "\n\nWhy?", " {text} {question}", " 42 of 1999", " naïve 東京 👍🏽", " 'quoted'")


def train(questions):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(questions + ["system user assistant\n\n"] * 50, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIALS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False))
    return tokenizer


def conversation(pick, questions):
    def text():
        return pick.choice(EXTRAS) + pick.choice(questions) + pick.choice(EXTRAS)
    turns = []
    for _ in range(pick.choice((0, 0, 1, 2, 3))):
        turns += [["user", text()], ["assistant", text()]]
    return turns + [["user", text()]]


def main():
    root = pathlib.Path(sys.argv[1])
    lines = (root / "datasets/questions/handbook.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    tokenizer = train(questions)
    golden = root / "tests/golden"
    tokenizer.save(str(golden / "chat_tokenizer.json"), pretty=False)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>",
                                                   clean_up_tokenization_spaces=False)
    pick = random.Random(7)
    out = []
    for _ in range(NUM_CONVERSATIONS):
        for name, template in TEMPLATES.items():
            # Meta's template puts BOS before the first turn, whatever it is; so do we.
            system, turns = pick.choice(SYSTEMS), conversation(pick, questions)
            messages = [{"role": "system", "content": system}] if system is not None else []
            messages += [{"role": role, "content": text} for role, text in turns]
            ids = wrapped.apply_chat_template(messages, chat_template=template, add_generation_prompt=True,
                                              tokenize=True, return_dict=False)
            out.append(json.dumps([name, system, turns, ids], ensure_ascii=False, separators=(",", ":")))
    (golden / "chat_prompts.jsonl").write_text("\n".join(out) + "\n")


main()
