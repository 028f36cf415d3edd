# SPDX-License-Identifier: Apache-2.0
# SSA, H-SSA and link tokens in PyTorch, written from method.md sections 1-6 alone and apart from the C++: rules are
# taken as they are worded (who sees whom is asked pair by pair, sections are found by counting gists), nothing is
# optimised but the keys and values of earlier tokens, which are kept.
# usage: method_reference.py MODEL_DIR OUT.jsonl     (writes tests/golden/method.jsonl; needs torch, safetensors, tokenizers)
#
# Every run is made in float64; then in float32, to see how far rounding strays ("deviation" of logits); then in float64
# with every choice taken the other way that was closer than scores stray in float32 ("tie_effect": what the
# logits owe to choices that rounding may turn). The bounds in method_test are multiples of these.
import gzip, json, sys, torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

MODEL, OUT = sys.argv[1:3]
torch.set_grad_enabled(False)
torch.set_num_threads(1)
CFG = json.load(open(f'{MODEL}/config.json'))
TOKENIZER = Tokenizer.from_file(f'{MODEL}/tokenizer.json')
STORED = load_file(f'{MODEL}/model.safetensors')
N, H, HK, D, M = (CFG[k] for k in ('num_hidden_layers', 'num_attention_heads', 'num_key_value_heads', 'head_dim', 'hidden_size'))
GROUP, EPS = H // HK, CFG['rms_norm_eps']
WORD = [not t or t[0] in ' \t\n\r.,;:!?-\u2014()[]{}"\'' for t in
        (TOKENIZER.decode([i], skip_special_tokens=False) for i in range(CFG['vocab_size']))]
ID = TOKENIZER.token_to_id


class Rules:
    def __init__(self, chunk=8, section=0, gists=('<gist>',), links=(), sink=3, previous=1, compression=8, top_p=0.0):
        self.L, self.M, self.S, self.P, self.r, self.top_p = chunk, section, sink, previous, compression, top_p
        self.gists, self.links = [ID(g) for g in gists], [ID(l) for l in links]


def sequence(raw, rules):
    """Section 1: [(token id, level or None for raw, is sink)]."""
    out = [(t, None, True) for t in raw[:rules.S]]
    at, open_gists = min(rules.S, len(raw)), [0] * len(rules.gists)

    def gist(level):
        out.append((rules.gists[level], level, False))
        open_gists[level] += 1
        if level: open_gists[level - 1] = 0
        if level + 1 < len(rules.gists) and open_gists[level] == rules.M: gist(level + 1)

    first = True
    while first or at < len(raw):
        first, cut = False, min(at + rules.L, len(raw))
        if cut < len(raw) and not WORD[raw[cut]]:
            cut += next((s for s in range(1, rules.L // 2 + 1) if cut + s < len(raw) and WORD[raw[cut + s]]), 0)
        out += [(t, None, False) for t in raw[at:cut]]
        at = cut
        gist(0)
    for level in range(len(rules.gists) - 1):
        if open_gists[level]: gist(level + 1)
    return out


def may_see(seq, rules):
    """Section 3, rule by rule, as a matrix."""
    top, count = len(rules.gists) - 1, len(seq)
    def gists_before(i, level): return sum(1 for _, l, _ in seq[:i] if l == level)
    # A gist belongs to the chunk it closes, and so do the higher gists that follow it.
    before0 = [gists_before(i, 0) for i in range(count)]
    chunk = [before0[i] - (1 if seq[i][1] is not None and seq[i][1] > 0 else 0) for i in range(count)]
    section = [[gists_before(i, level + 1) for level in range(top)] for i in range(count)]
    see = torch.zeros(count, count, dtype=torch.bool)
    for i in range(count):
        for j in range(i + 1):
            li, lj = seq[i][1], seq[j][1]
            if i == j or seq[j][2]: see[i, j] = True                                   # 1
            elif lj is None: see[i, j] = (li is None or li == 0) and chunk[i] - chunk[j] <= rules.P   # 2, 5
            elif lj == top: see[i, j] = True                                           # 3
            else: see[i, j] = section[i][lj] - section[j][lj] <= rules.P               # 4, 5
    return see


class Model:
    def __init__(self, dtype):
        self.dtype = dtype
        self.w = {k: v.to(dtype) for k, v in STORED.items()}
        inv = 1 / CFG['rope_theta'] ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
        angle = torch.outer(torch.arange(4096, dtype=torch.float64), inv)
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def norm(self, x, w): return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w
    def turn(self, x, pos):  # [heads, T, D]
        a, b, c, s = x[..., :D // 2], x[..., D // 2:], self.cos[pos], self.sin[pos]
        return torch.cat([a * c - b * s, b * c + a * s], -1)
    def embed(self, ids): return self.w['model.embed_tokens.weight'][torch.tensor(ids)]
    def qkv(self, l, x):
        p = f'model.layers.{l}.'
        h = self.norm(x, self.w[p + 'input_layernorm.weight'])
        return [(h @ self.w[f'{p}self_attn.{n}_proj.weight'].T).view(len(x), -1, D).transpose(0, 1) for n in 'qkv']
    def finish(self, l, x, a):
        p = f'model.layers.{l}.'
        x = x + a.transpose(0, 1).reshape(len(x), -1) @ self.w[p + 'self_attn.o_proj.weight'].T
        h = self.norm(x, self.w[p + 'post_attention_layernorm.weight'])
        gate = h @ self.w[p + 'mlp.gate_proj.weight'].T
        return x + (gate * torch.sigmoid(gate) * (h @ self.w[p + 'mlp.up_proj.weight'].T)) @ self.w[p + 'mlp.down_proj.weight'].T
    def attend(self, q, k, v, see):  # see [HK, T, keys]
        k, v = k.repeat_interleave(GROUP, 0), v.repeat_interleave(GROUP, 0)
        logits = (q @ k.transpose(1, 2)) * D ** -0.5
        return logits.masked_fill(~see.repeat_interleave(GROUP, 0), float('-inf')).softmax(-1) @ v
    def logits(self, x): return self.norm(x, self.w['model.norm.weight']) @ self.w['model.embed_tokens.weight'].T


MASKS = {}  # asked pair by pair in Python, so kept from float64 for float32


class Document:
    """Section 6: encoded alone, keys un-rotated."""
    def __init__(self, model, raw, rules):
        seq = sequence(raw, rules)
        key = tuple(seq)
        if key not in MASKS: MASKS[key] = may_see(seq, rules)
        self.raw, self.level = raw, [l for _, l, _ in seq]
        self.sink = torch.tensor([s for _, _, s in seq])
        self.pos, raws = [], 0
        for _, l, _ in seq:
            raws += l is None
            self.pos.append(max(0, raws - 1))
        self.pos = torch.tensor(self.pos)
        # Which gist of each level an index belongs to: the next one at or after it.
        self.owner = []
        for level in range(len(rules.gists)):
            number, owner = 0, []
            for l in self.level:
                owner.append(number)
                number += l == level
            self.owner.append(torch.tensor(owner))
        self.count = [sum(l == level for l in self.level) for level in range(len(rules.gists))]
        see, x, self.k, self.v = MASKS[key][None].expand(HK, -1, -1), model.embed([t for t, _, _ in seq]), [], []
        for l in range(N):
            q, k, v = model.qkv(l, x)
            self.k.append(k); self.v.append(v)
            x = model.finish(l, x, model.attend(model.turn(q, self.pos), model.turn(k, self.pos), v, see))


class Query:
    """Sections 4 and 6: prefix, documents, links, question, answer."""
    def __init__(self, model, rules, docs, turn_below):
        self.m, self.rules, self.docs, self.layers, self.gaps = model, rules, docs, [], []
        self.chosen_total, self.scores, self.turn_below = 0, [], turn_below
        levels, base = len(rules.gists), [0] * len(rules.gists)
        level, sink, pos, document, owner, start = [], [], [], [], [[] for _ in range(levels)], 1
        for j, d in enumerate(docs):
            level += d.level
            sink.append(d.sink); pos.append(d.pos + start); document += [j] * len(d.level)
            for n in range(levels):
                owner[n].append(d.owner[n] + base[n]); base[n] += d.count[n]
            start += len(d.raw)
        self.level = torch.tensor([-1 if l is None else l for l in level])
        self.sink, self.pos, self.document = torch.cat(sink), torch.cat(pos), torch.tensor(document)
        self.owner, self.count, self.next = [torch.cat(o) for o in owner], base, start
        n, chunks = len(level), base[0]
        self.k_best = min(int(n // (rules.r * GROUP * rules.L)) + 1, max(1, chunks // 4))
        prefix = model.embed([ID('<|bos|>')])
        zero, one = torch.zeros(1, dtype=torch.long), torch.ones(HK, 1, 1, dtype=torch.bool)
        for l in range(N):
            q, k, v = model.qkv(l, prefix)
            self.layers.append(dict(k=torch.cat([model.turn(k, zero)] + [model.turn(torch.cat([d.k[l] for d in docs], 1), self.pos)], 1),
                                    v=torch.cat([v] + [d.v[l] for d in docs], 1)))
            prefix = model.finish(l, prefix, model.attend(model.turn(q, zero), model.turn(k, zero), v, one))
        self.tail, self.turned = 0, 0
        if rules.links:
            seen = [j for j in range(len(docs)) for _ in rules.links]
            self.step(rules.links * len(docs), link_documents=torch.tensor(seen))

    def keep(self, score, level):
        """Section 4.2: the kept of the last axis. A choice closer than turn_below goes the other way."""
        order = score.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(score.shape[-1]).expand_as(score)
        if self.rules.top_p:
            mass = (order.values * D ** -0.5).softmax(-1)
            before = mass.cumsum(-1) - mass
            close = (before - self.rules.top_p).abs() < self.turn_below * D ** -0.5
            close &= rank > 0
            kept = (before < self.rules.top_p) ^ close
            self.turned += close[:, :, -1].sum().item() * self.rules.M ** level
        else:
            kept = rank < self.k_best
            if score.shape[-1] > self.k_best:
                gap = (order.values[..., self.k_best - 1] - order.values[..., self.k_best])[..., None]
                self.gaps.append(gap[torch.isfinite(gap)].min().item() if torch.isfinite(gap).any() else float('inf'))
                kept = torch.where(gap < self.turn_below, (rank < self.k_best - 1) | (rank == self.k_best), kept)
                self.turned += (gap[:, :, -1] < self.turn_below).sum().item() * self.rules.M ** level
        kept &= order.values > float('-inf')
        return torch.zeros_like(kept).scatter(-1, order.indices, kept)

    def select(self, q, k, t):
        """Section 4.4, coarse to fine: [HK, T, context] of gists and raw tokens that are attended."""
        levels, unions, picks = len(self.rules.gists), {}, None
        for n in reversed(range(levels)):
            at = (self.level == n).nonzero()[:, 0]
            score = torch.einsum('kgtd,kcd->kgtc', q.view(HK, GROUP, t, D), k[:, 1 + at])
            self.scores.append(score[:, :, -1])
            if n + 1 < levels:  # only what lies under a chosen gist of the level above
                under = unions[n + 1][..., self.owner[n + 1][at]]
                score = score.masked_fill(~under[:, None], float('-inf'))
            unions[n] = self.keep(score, n).any(1)
        see = torch.zeros(HK, t, len(self.level), dtype=torch.bool)
        for n in range(levels):
            gist = self.level == n
            see |= unions[n][..., self.owner[n].clamp(max=self.count[n] - 1)] & gist
        see |= unions[0][..., self.owner[0].clamp(max=self.count[0] - 1)] & (self.level < 0) & ~self.sink
        return see | self.sink, unions[0]

    def step(self, ids, link_documents=None):
        """Runs `ids` as the next tokens of the tail. Returns logits of the last, chosen chunks of the last by layer."""
        t, x, chosen, context = len(ids), self.m.embed(ids), [], len(self.level)
        pos = self.next + self.tail + torch.arange(t)
        for l in range(N):
            q, k, v = self.m.qkv(l, x)
            q, layer = self.m.turn(q, pos), self.layers[l]
            layer['k'], layer['v'] = torch.cat([layer['k'], self.m.turn(k, pos)], 1), torch.cat([layer['v'], v], 1)
            if link_documents is not None:
                see = ((self.level >= 0) | self.sink)[None] & (self.document[None] <= link_documents[:, None])
                see = see[None].expand(HK, -1, -1)
            elif l == 0: see = ((self.level >= 0) | self.sink)[None, None].expand(HK, t, -1)
            else:
                see, union = self.select(q, layer['k'], t)
                chosen.append([union[h, -1].nonzero()[:, 0].tolist() for h in range(HK)])
            tail = torch.ones(t, self.tail + t, dtype=torch.bool).tril(self.tail)[None].expand(HK, -1, -1)
            see = torch.cat([torch.ones(HK, t, 1, dtype=torch.bool), see, tail], -1)
            x = self.m.finish(l, x, self.m.attend(q, layer['k'], layer['v'], see))
        self.tail += t
        self.chosen_total += sum(len(h) for layer in chosen for h in layer)
        return self.m.logits(x[-1]), chosen


SUPPRESSED = list(range(0, 11))  # special tokens, the end among them: answers run to the limit
STEPS, SHOWN = 100, list(range(0, 8192, 256))


def run(dtype, rules, texts, question, forced=None, turn_below=0.0):
    model = MODELS[dtype]
    docs = [Document(model, TOKENIZER.encode(t).ids, rules) for t in texts]
    query, tokens, margins, shown, gaps = Query(model, rules, docs, turn_below), [], [], [], []
    ids = [ID('<|question|>')] + TOKENIZER.encode(question).ids + [ID('<|answer|>')]
    first_chosen = None
    for t in range(STEPS):
        query.gaps = []
        logits, chosen = query.step(ids)
        gaps.append(min(query.gaps, default=float('inf')))
        first_chosen = first_chosen or chosen
        logits[SUPPRESSED] = -1e9
        best = logits.topk(2)
        tokens.append(best.indices[0].item() if forced is None else forced[t])
        margins.append((best.values[0] - best.values[1]).item())
        shown.append(logits[SHOWN + [tokens[-1]]])
        ids = [tokens[-1]]
    return dict(tokens=tokens, margins=margins, shown=torch.stack(shown), chosen=first_chosen, gaps=gaps, k=query.k_best, scores=query.scores,
                total=query.chosen_total, turned=query.turned)


VARIANTS = {
    'ssa': dict(),
    'ssa_top_p': dict(top_p=0.6),
    'links': dict(links=('<link0>', '<link1>', '<link2>')),
    'hssa2': dict(chunk=4, section=4, gists=('<gist>', '<Gist>')),
    'hssa2_top_p': dict(chunk=4, section=4, gists=('<gist>', '<Gist>'), top_p=0.6),
    'hssa3_links': dict(chunk=4, section=4, gists=('<gist>', '<Gist>', '<link4>'), links=('<link0>', '<link1>')),
}
MODELS = {t: Model(t) for t in (torch.float64, torch.float32)}


def sets():
    docs = [json.loads(line) for line in open(f'{MODEL}/docs.jsonl')]
    by_name = {d['name']: d['text'] for d in docs}
    for i, line in enumerate(gzip.open(f'{MODEL}/reference.jsonl.gz', 'rt')):
        if i % 40 != 7: continue
        row = json.loads(line)
        names = row['documents']
        # Two documents by themselves, and four more in one long text: several sections of several levels.
        extra = [d['name'] for d in docs[i * 5:i * 5 + 4]]
        texts = [by_name[names[0]], '\n\n'.join(by_name[n] for n in extra), by_name[names[1]]]
        yield dict(question=row['question'], documents=[[names[0]], extra, [names[1]]]), texts


def main():
    with open(OUT, 'w') as out:
        for number, (head, texts) in enumerate(sets()):
            for name, options in VARIANTS.items():
                rules = Rules(**options)
                exact = run(torch.float64, rules, texts, head['question'])
                rough = run(torch.float32, rules, texts, head['question'], exact['tokens'])
                spread = max((a - b).abs().max().item() for a, b in zip(exact['scores'], rough['scores']))
                turned = run(torch.float64, rules, texts, head['question'], exact['tokens'], spread)
                away = lambda other: float('%.3g' % (exact['shown'] - other['shown']).abs().max())
                row = dict(variant=name, **head, k=exact['k'], tokens=exact['tokens'],
                           least_margin=float('%.3g' % min(exact['margins'])), score_deviation=float('%.3g' % spread),
                           deviation=away(rough), tie_effect=away(turned),
                           # Chunks that rounding may add to the chosen of the answer's queries, or take from them.
                           turned=turned['turned'], chosen_total=exact['total'],
                           # Layers whose choice at the first token is beyond rounding in every head.
                           chosen=[c if c == t else None for c, t in zip(exact['chosen'], turned['chosen'])],
                           logits={str(t): [round(v.item(), 4) for v in exact['shown'][t][:-1]] for t in (0, STEPS - 1)},
                           own=[round(v.item(), 4) for v in exact['shown'][:, -1]])
                out.write(json.dumps(row, separators=(',', ':'), ensure_ascii=False) + '\n')
                out.flush()
                print(number, name, {k: row[k] for k in ('k', 'least_margin', 'score_deviation', 'deviation', 'tie_effect')},
                      row['turned'], sum(c is None for c in row['chosen']), flush=True)


main()
