#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Load on `unfold serve`: streams side by side for some time, then idle connections. Prints one JSON object.

usage: serve_load.py UNFOLD MODEL_DIR STORE COLLECTION QUESTIONS.jsonl [--streams 64] [--seconds 600]
       [--warm 150] [--idle 5000]
"""
import argparse
import asyncio
import json
import resource
import signal
import statistics
import subprocess
import time


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def percentiles(values):
    values = sorted(values)
    return {f"p{p}": round(values[min(len(values) - 1, len(values) * p // 100)], 4) for p in (50, 95, 99)}


class Load:
    def __init__(self, port, collection, questions):
        self.port, self.collection, self.questions = port, collection, questions
        self.first, self.each, self.errors, self.answers, self.tokens, self.refused = [], [], [], 0, 0, 0

    async def stream(self, number, end):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        at = number
        while time.monotonic() < end:
            question = self.questions[at % len(self.questions)]
            at += 7
            body = json.dumps({"model": f"unfold:{self.collection}", "stream": True, "stream_options": {"include_usage": True},
                               "messages": [{"role": "user", "content": question}]}).encode()
            begun = time.monotonic()
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            status = int((await reader.readline()).split()[1])
            length = 0
            while (line := await reader.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if status != 200:
                text = await reader.readexactly(length)
                self.refused += status == 429
                if status != 429:
                    self.errors.append(text.decode())
                await asyncio.sleep(0.1)
                continue
            first = last = None
            data = b""
            while size := int((await reader.readline()).strip() or b"0", 16):
                data += await reader.readexactly(size)
                await reader.readexactly(2)
                last = time.monotonic()
                if first is None and b'"content":"' in data.replace(b'"content":""', b""):
                    first = last
            await reader.readexactly(2)
            if not data.endswith(b"data: [DONE]\n\n"):
                self.errors.append(data[-200:].decode(errors="replace"))
                continue
            usage = json.loads(data.rstrip().split(b"\n\n")[-2][6:])["usage"]
            self.answers += 1
            self.tokens += usage["completion_tokens"]
            if first is not None:
                self.first.append(first - begun)
                if usage["completion_tokens"] > 1:
                    self.each.append((last - first) / (usage["completion_tokens"] - 1))
        writer.close()


async def run(args, process, port):
    questions = [json.loads(line)["question"] for line in open(args.questions, encoding="utf-8")]
    load = Load(port, args.collection, questions)
    warm = Load(port, args.collection, questions)
    await asyncio.gather(*(warm.stream(i, time.monotonic() + args.warm) for i in range(args.streams)))
    before = resident_bytes(process.pid)
    begun = time.monotonic()
    await asyncio.gather(*(load.stream(i, begun + args.seconds) for i in range(args.streams)))
    seconds = time.monotonic() - begun
    after = resident_bytes(process.pid)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(args.idle)]
    for reader, writer in idle:  # each has had a request
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for reader, writer in idle:
        await reader.readuntil(b'{"status":"ok"}')
    with_idle = resident_bytes(process.pid)
    return {"streams": args.streams, "seconds": round(seconds, 1), "answers": load.answers, "tokens": load.tokens,
            "tokens_per_s": round(load.tokens / seconds, 1), "refused": load.refused, "errors": len(load.errors),
            "first_error": (load.errors or warm.errors or [None])[0], "ttft_s": percentiles(load.first),
            "time_per_token_s": percentiles(load.each), "mean_ttft_s": round(statistics.mean(load.first), 4),
            "resident_bytes": before, "resident_growth": round(after / before - 1, 4), "idle_connections": len(idle),
            "idle_bytes": with_idle - after}


def main():
    parser = argparse.ArgumentParser()
    for name in ("unfold", "model", "store", "collection", "questions"):
        parser.add_argument(name)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--warm", type=float, default=150, help="seconds before: caches fill")
    parser.add_argument("--idle", type=int, default=5000)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = subprocess.Popen([args.unfold, "serve", "--store", args.store, "--model", args.model, "--listen", "127.0.0.1:0",
                                "--max-requests", "256"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        time.sleep(3)
        print(json.dumps(asyncio.run(run(args, process, port))))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
