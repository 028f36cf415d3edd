#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Made datasets/handbook and datasets/questions/handbook.jsonl. Kept as the exact statement of what was selected.

Usage: select_sample.py DATA_DIR REPOSITORY     (needs the `tokenizers` package and the zstd program)

DATA_DIR/qa holds squad.jsonl.zst (SQuAD 1.1) and nq_open.jsonl.zst (NQ-open questions with their gold passage).

Documents
  articles  every SQuAD article: its passages in the order of the data set, each once, whole, until the next one would
            take the document over ARTICLE_TOKENS. Markdown (`# Title`) or plain text by folder; see FOLDERS.
  notes     NUM_NOTES passages of NQ-open, each with its title as first line; each fits one part of the model.
Questions
  Only questions that the shipped model was not trained on: its training kept 600 NQ questions and six SQuAD articles
  apart. held_out() makes that split again; main() checks it against datasets/gist-mini/reference.jsonl.gz, whose 200
  questions come from it too. Those 200 are not used here, so that both sets measure independently.
  squad     at most SQUAD_PER_ARTICLE of each of the six articles: self-contained, an answer of at most 4 words, a
            passage that fits one part.
  nq        the question of each note.
Choices among candidates are random.Random(SEED).sample over candidates in the order of the data set.
"""
import collections
import glob
import gzip
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import unicodedata
import urllib.parse

from tokenizers import Tokenizer

SEED = 2026
ARTICLE_TOKENS = 3900
NUM_NOTES = 142
SQUAD_PER_ARTICLE = 12
MAX_PART_TOKENS = 172  # part_tokens of gist-mini, less a margin for white space
MAX_ANSWER_WORDS = 4

FOLDERS = {  # folder: (suffix, titles)
    "arts": (".txt", """
        American Broadcasting Company; American Idol; Architecture; Arnold Schwarzenegger; BBC Television; Beyoncé;
        Doctor Who; Frédéric Chopin; Kanye West; Sky (United Kingdom); Spectre (2015 film); Super Bowl 50; The
        Legend of Zelda: Twilight Princess; To Kill a Mockingbird; Victoria and Albert Museum"""),
    "history": (".md", """
        1973 oil crisis; 2008 Sichuan earthquake; 2008 Summer Olympics torch relay; Dutch Republic; Financial crisis
        of 2007–08; French and Indian War; Genghis Khan; Genocide; Huguenot; Imperialism; Normans; Sino-Tibetan
        relations during the Ming dynasty; Yuan dynasty"""),
    "places": (".md", """
        Amazon rainforest; Fresno, California; Jacksonville, Florida; Kenya; Montana; New York City; Plymouth;
        Portugal; Republic of the Congo; Rhine; Southern California; Southern Europe; Tajikistan; Victoria
        (Australia)"""),
    "science": (".md", """
        Alfred North Whitehead; Anthropology; Antibiotics; Apollo program; Chloroplast; Computational complexity
        theory; Ctenophora; Dog; Force; Genome; Geology; IPod; Immune system; Intergovernmental Panel on Climate
        Change; Lighting; Nikola Tesla; Oxygen; Packet switching; Prime number; Solar energy; Steam engine;
        Symbiosis; Wayback Machine"""),
    "society": (".txt", """
        Buddhism; Canadian Armed Forces; Civil disobedience; Comprehensive school; European Union law; Harvard
        University; Human Development Index; Institute of technology; Iranian languages; Islamism; Prime minister;
        Private school; Scottish Parliament; Separation of powers under the United States Constitution; Teacher;
        University of Chicago; University of Notre Dame"""),
}

# A question that leans on its passage: pronouns, "the article", or a common noun for the article's subject.
DEPENDENT = re.compile(
    r"\b(it|its|this|that|these|those|he|she|him|her|his|they|them|their|here|alumni|"
    r"the (author|article|passage|text|above|following|university|university's|school|city|city's|crisis|company|"
    r"report|bank|project|study|theory|book|number|numbers|area|neighborhood|plan|bill|site|service|lawsuit|case))\b",
    re.I)


def read(path):
    text = subprocess.run(["zstd", "-d", "--long=27", "-c", path], capture_output=True, check=True).stdout.decode()
    return [json.loads(line) for line in text.split("\n") if line]


def held_out(data):
    """The questions that the training of gist-mini kept apart, as (question, title): its own split made again."""
    records = []
    for path in sorted(glob.glob(data + "/qa/*")):
        for r in read(path):
            if r.get("answers") and r.get("passage"):
                gold = [{"title": r.get("title"), "text": r["passage"]}]
            elif r.get("answers") and r.get("passages"):
                gold = [x for x in r["passages"] if x.get("gold")]
            else:
                continue
            if len(gold) == 1:
                records.append((r["question"], r["answers"], gold[0].get("title") or "", gold[0]["text"],
                                os.path.basename(path)))
    random.seed(7)
    kept = []
    for question, answers, title, passage, source in records:
        answers = [a for a in answers if isinstance(a, str) and a.strip()]
        if not answers or min(map(len, answers)) > 80:
            continue
        if window(passage, answers):
            kept.append((question, title, source))
    random.seed(5)
    random.shuffle(kept)
    nq = [r for r in kept if "nq_open" in r[2]][:600]
    titles = sorted({r[1] for r in kept if r[2].startswith("squad")})
    random.shuffle(titles)
    apart = set(titles[:max(1, len(titles) // 12)])
    squad = [r for r in kept if r[2].startswith("squad") and r[1] in apart]
    return {r[:2] for r in nq}, {r[:2] for r in squad}


def window(passage, answers):
    """Whether an answer lies in the training window of about 105 words; draws from `random` as the training did."""
    words = passage.split()
    if len(words) > 110:
        found = [p for p in (passage.lower().find(a.lower()) for a in answers) if p >= 0]
        if not found:
            return False
        centre = len(passage[:found[0]].split())
        start = max(0, min(centre - random.randint(10, 90), len(words) - 105))
        passage = " ".join(words[start:start + 105])
    return any(a.lower() in passage.lower() for a in answers)


def slug(title):
    ascii_text = unicodedata.normalize("NFKD", title.replace("–", "-")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.replace("'", "")).strip("-")[:60].strip("-")


def short_answers(answers, text):
    """Answers that occur in the text as they are, each once; none unless one of them is short."""
    found = list(dict.fromkeys(a.strip() for a in answers if a.strip() and a.strip() in text))
    return found if found and min(len(a.split()) for a in found) <= MAX_ANSWER_WORDS else []


def articles(squad, num_tokens):
    """{title: (path, text, passages kept)} of every SQuAD article."""
    passages = collections.defaultdict(dict)
    for r in squad:
        passages[urllib.parse.unquote(r["title"])][re.sub(r"\s+", " ", r["passage"]).strip()] = True
    out = {}
    for folder, (suffix, titles) in FOLDERS.items():
        for title in (t.strip() for t in re.sub(r"\s+", " ", titles).split(";")):
            text, kept = ("# " if suffix == ".md" else "") + title + "\n", []
            for passage in passages.pop(title):
                if num_tokens(text) + num_tokens("\n" + passage + "\n") > ARTICLE_TOKENS:
                    break
                text += "\n" + passage + "\n"
                kept.append(passage)
            out[title] = (folder + "/" + slug(title) + suffix, text, kept)
    assert not passages, sorted(passages)
    return out


def squad_questions(squad, documents, apart, used, num_tokens):
    candidates = collections.defaultdict(list)
    for r in squad:
        question, title = " ".join(r["question"].split()), urllib.parse.unquote(r["title"])
        passage = re.sub(r"\s+", " ", r["passage"]).strip()
        path, text, kept = documents[title]
        answers = short_answers(r["answers"], passage)
        if ((r["question"], r["title"]) in apart and r["question"] not in used and passage in kept and answers
                and not DEPENDENT.search(question) and 6 <= len(question.split()) and num_tokens(question) <= 40
                and num_tokens(title + "\n" + passage) <= MAX_PART_TOKENS):
            candidates[title].append({"question": question, "answers": answers, "document": path, "source": "squad"})
    choice = random.Random(SEED)
    return [q for _, found in sorted(candidates.items())
            for q in choice.sample(found, min(SQUAD_PER_ARTICLE, len(found)))]


def notes(nq, apart, used, num_tokens):
    """[(path, text, question)] of passages that begin and end as sentences do and fit one part."""
    candidates, seen = [], set()
    for r in nq:
        text = r["title"] + "\n" + re.sub(r"\s+", " ", r["passage"]).strip() + "\n"
        answers, path = short_answers(r["answers"], text.split("\n")[1]), "notes/" + slug(r["title"]) + ".txt"
        if ((r["question"], r["title"]) in apart and r["question"] not in used and answers and path not in seen
                and re.match(r'[A-Z0-9"]', r["passage"]) and re.search(r'[.!?"]$', r["passage"].strip())
                and 70 <= num_tokens(text) <= MAX_PART_TOKENS and 6 <= len(r["question"].split())):
            seen.add(path)
            question = {"question": r["question"], "answers": answers, "document": path, "source": "nq"}
            candidates.append((path, text, question))
    return sorted(random.Random(SEED).sample(candidates, NUM_NOTES))


def main(data, repository):
    datasets = pathlib.Path(repository) / "datasets"
    tokenizer = Tokenizer.from_file(str(datasets / "gist-mini/tokenizer.json"))
    num_tokens = lambda text: len(tokenizer.encode(text).ids)
    apart_nq, apart_squad = held_out(data)
    used = {json.loads(line)["question"] for line in gzip.open(datasets / "gist-mini/reference.jsonl.gz", "rt")}
    assert used <= {q for q, _ in apart_nq | apart_squad}, "the split differs from the one the model was trained with"

    squad, nq = read(data + "/qa/squad.jsonl.zst"), read(data + "/qa/nq_open.jsonl.zst")
    documents = articles(squad, num_tokens)
    questions = squad_questions(squad, documents, apart_squad, used, num_tokens)
    texts = {path: text for path, text, _ in documents.values()}
    for path, text, question in notes(nq, apart_nq, used, num_tokens):
        texts[path] = text
        questions.append(question)

    for path, text in texts.items():
        file = datasets / "handbook" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    out = datasets / "questions/handbook.jsonl"
    out.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in questions), encoding="utf-8", newline="\n")
    for q in questions:
        assert q["answers"] and all(a in texts[q["document"]] for a in q["answers"]), q
    print(len(texts), "documents,", sum(map(num_tokens, texts.values())), "tokens,",
          sum(len(t.encode()) for t in texts.values()), "bytes,", collections.Counter(q["source"] for q in questions))


if __name__ == "__main__":
    main(*sys.argv[1:])
