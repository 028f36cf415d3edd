#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the official openai client, LangChain's ChatOpenAI and curl, as they are, against `unfold serve` with gist-mini.

usage: clients_test.py UNFOLD MODEL_DIR TEXT_DIR
"""
import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import openai
from langchain_openai import ChatOpenAI

UNFOLD, MODEL, TEXTS = sys.argv[1:4]
QUESTION = "who became a leader of the indian national congress"
DOCUMENT = "notes/indian-national-congress.txt"


class Server:
    """`unfold serve` on a free port, over a store in `folder`."""

    def __init__(self, folder, *flags):
        self.log = open(os.path.join(folder, "log"), "a")
        self.process = subprocess.Popen(
            [UNFOLD, "serve", "--store", os.path.join(folder, "kb"), "--model", MODEL, "--listen", "127.0.0.1:0", *flags],
            stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        for _ in range(600):
            if self.curl("/readyz")[0] == 200:
                return
            time.sleep(0.1)
        raise RuntimeError("the server was not ready within a minute")

    def curl(self, path, body=None, *flags):
        command = ["curl", "--silent", "--write-out", "\n%{http_code}", self.url + path, *flags]
        if body is not None:
            command += ["--data-binary", "@-"]
        out = subprocess.run(command, input=None if body is None else json.dumps(body), capture_output=True, text=True).stdout
        text, _, status = out.rpartition("\n")
        return int(status or 0), text

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
        return code


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server(cls.folder.name)
        documents = [{"name": f"{path.parent.name}/{path.name}", "text": path.read_text(encoding="utf-8")}
                     for path in sorted(pathlib.Path(TEXTS).glob("*/*.txt"))[::24]]
        names = [document["name"] for document in documents]
        if DOCUMENT not in names:
            path = pathlib.Path(TEXTS) / DOCUMENT
            documents.append({"name": DOCUMENT, "text": path.read_text(encoding="utf-8")})
        status, text = cls.server.curl("/v1/collections/notes/documents", {"documents": documents})
        assert status == 202, text
        job = json.loads(text)["id"]
        while json.loads(text)["state"] in ("queued", "running"):
            time.sleep(0.2)
            status, text = cls.server.curl(f"/v1/jobs/{job}")
        job = json.loads(text)
        assert job["state"] == "done" and all(d["outcome"] == "added" for d in job["documents"]), text
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="unused", max_retries=0)
        ask = [UNFOLD, "ask", QUESTION, "--store", os.path.join(cls.folder.name, "kb"), "--collection", "notes", "--model",
               MODEL, "--json"]
        cls.want = json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, f"SIGTERM ended it with {code}"

    def chat(self, **more):
        return self.client.chat.completions.create(
            model="unfold:notes", messages=[{"role": "user", "content": QUESTION}], **more)

    def test_openai(self):
        reply = self.chat()
        self.assertEqual(reply.choices[0].message.content, self.want["answer"])
        self.assertEqual(reply.choices[0].finish_reason, "stop")
        self.assertEqual(reply.usage.completion_tokens, self.want["usage"]["completion_tokens"])
        self.assertEqual(reply.usage.prompt_tokens_details.cached_tokens, self.want["usage"]["cached_tokens"])
        self.assertEqual(reply.model_extra["unfold"]["sources"], self.want["sources"])
        self.assertEqual([m.id for m in self.client.models.list().data], ["unfold:notes"])
        self.assertEqual(self.client.models.retrieve("unfold:notes").owned_by, "unfold")

    def test_openai_stream(self):
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, self.want["answer"])
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(len({(c.id, c.created) for c in chunks}), 1)
        self.assertEqual(chunks[-2].choices[0].finish_reason, "stop")
        self.assertEqual(chunks[-2].model_extra["unfold"]["sources"], self.want["sources"])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, self.want["usage"]["completion_tokens"])

    def test_openai_errors(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.chat.completions.create(model="unfold:none", messages=[{"role": "user", "content": "x"}])
        self.assertEqual(caught.exception.code, "collection_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=9)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError):
            self.chat(stream=True, n=2)

    def test_openai_goes_away(self):
        for _ in range(5):
            stream = self.chat(stream=True)
            next(iter(stream))
            stream.close()
        self.assertEqual(self.chat().choices[0].message.content, self.want["answer"])

    def test_openai_at_once(self):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(lambda _: self.chat().choices[0].message.content, range(48)))
        self.assertEqual(set(texts), {self.want["answer"]})

    def test_openai_conversation(self):
        messages = [{"role": "system", "content": "Answer in few words."}, {"role": "user", "content": QUESTION},
                    {"role": "assistant", "content": self.want["answer"]}, {"role": "user", "content": "when was that?"}]
        reply = self.client.chat.completions.create(model="unfold:notes", messages=messages, max_tokens=8)
        self.assertLessEqual(reply.usage.completion_tokens, 8)
        self.assertEqual(reply.model_extra["unfold"]["turns_dropped"] >= 0, True)

    def test_langchain(self):
        model = ChatOpenAI(model="unfold:notes", base_url=self.server.url + "/v1", api_key="unused", max_retries=0)
        self.assertEqual(model.invoke(QUESTION).content, self.want["answer"])
        self.assertEqual("".join(chunk.content for chunk in model.stream(QUESTION)), self.want["answer"])

    def test_curl(self):
        status, text = self.server.curl("/v1/query", {"collection": "notes", "question": QUESTION, "explain": True})
        self.assertEqual(status, 200)
        reply = json.loads(text)
        self.assertEqual(reply["answer"], self.want["answer"])
        self.assertTrue(reply["unfolded"])
        status, text = self.server.curl("/v1/query", {"collection": "notes", "question": QUESTION, "answer": False})
        reply = json.loads(text)
        self.assertNotIn("answer", reply)
        self.assertEqual([d["document"] for d in reply["routed"]], [d["document"] for d in self.want["routed"]])
        status, text = self.server.curl("/metrics")
        self.assertEqual(status, 200)
        self.assertIn("unfold_time_to_first_token_seconds_bucket", text)


class Keys(unittest.TestCase):
    def test_keys_and_restart(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = os.path.join(folder, "keys.json")
            digest = subprocess.run(["sha256sum"], input=b"secret", capture_output=True, check=True).stdout.decode().split()[0]
            pathlib.Path(keys).write_text(json.dumps(
                {"keys": [{"name": "team", "sha256": digest, "collections": {"*": "admin"}}]}))
            server = Server(folder, "--keys", keys)
            bearer = ("--header", "Authorization: Bearer secret")
            self.assertEqual(server.curl("/v1/models")[0], 401)
            status, text = server.curl("/v1/collections/c/documents", {"documents": [{"name": "a", "text": "Ada was here."}]},
                                       *bearer)
            self.assertEqual(status, 202)
            job = json.loads(text)["id"]
            while json.loads(text)["state"] != "done":
                time.sleep(0.1)
                status, text = server.curl(f"/v1/jobs/{job}", None, *bearer)
            server.process.kill()  # what a job said was added is there
            server.process.wait()
            server.process.stdout.close()
            server.log.close()
            server = Server(folder, "--keys", keys)
            client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0)
            self.assertEqual([m.id for m in client.models.list().data], ["unfold:c"])
            with self.assertRaises(openai.AuthenticationError):
                openai.OpenAI(base_url=server.url + "/v1", api_key="guess", max_retries=0).models.list()
            self.assertEqual(server.stop(), 0)

    def test_an_open_server_stays_at_home(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [UNFOLD, "serve", "--store", os.path.join(folder, "kb"), "--model", MODEL, "--listen", "0.0.0.0:0"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("--keys", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
