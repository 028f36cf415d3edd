#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the official openai client, LangChain's ChatOpenAI and curl, as they are, against `unfold serve` with gist-mini.

usage: clients_test.py UNFOLD MODEL_DIR TEXT_DIR
"""
import concurrent.futures
import hashlib
import http.client
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
import urllib.parse

import jsonschema
import openai
import openapi_spec_validator
from langchain_openai import ChatOpenAI

from serving import DOCUMENT, QUESTION, Server, some_documents

UNFOLD, MODEL, TEXTS = sys.argv[1:4]
PROMTOOL = pathlib.Path(sys.executable).parent / "promtool"  # put there by ./dev test


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server(UNFOLD, MODEL, cls.folder.name)
        status, text = cls.server.curl("/v1/collections/notes/documents", {"documents": some_documents(TEXTS)})
        assert status == 202, text
        job = cls.server.finish(text)
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
        self.assertIn("unfold:notes", [m.id for m in self.client.models.list().data])
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
        self.assertEqual(reply.model_extra["unfold"]["turns_dropped"], 0)
        alone = self.client.chat.completions.create(model="unfold:notes", messages=messages[-1:], max_tokens=8)
        self.assertGreater(reply.usage.prompt_tokens, alone.usage.prompt_tokens)

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


    def test_replies_are_as_described(self):
        description = json.loads(self.server.curl("/openapi.json")[1])
        openapi_spec_validator.validate(description)

        def check(method, path, status, template=None, body=None):
            got, text = self.server.curl(path, body, "--request", method.upper())
            self.assertEqual(got, status, text)
            reply = description["paths"][template or path][method]["responses"][str(status)]
            if "$ref" in reply:
                reply = description["components"]["responses"][reply["$ref"].rpartition("/")[2]]
            schema = {**reply["content"]["application/json"]["schema"], "components": description["components"]}
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
            return json.loads(text)

        messages = [{"role": "user", "content": QUESTION}]
        check("post", "/v1/chat/completions", 200, body={"model": "unfold:notes", "messages": messages})
        check("post", "/v1/chat/completions", 404, body={"model": "unfold:none", "messages": messages})
        check("post", "/v1/query", 200, body={"collection": "notes", "question": QUESTION, "explain": True})
        check("post", "/v1/query", 400, body={"collection": "notes"})
        for path in ("/v1/models", "/v1/collections", "/healthz", "/readyz", "/openapi.json"):
            check("get", path, 200)
        check("get", "/v1/models/unfold:notes", 200, "/v1/models/{model}")
        check("get", "/v1/collections/notes", 200, "/v1/collections/{collection}")
        documents = check("get", "/v1/collections/notes/documents?limit=2", 200, "/v1/collections/{collection}/documents")
        one = "/v1/collections/notes/documents/" + urllib.parse.quote(documents["data"][0]["name"], safe="")
        check("get", one, 200, "/v1/collections/{collection}/documents/{document}")
        added = check("post", "/v1/collections/more/documents", 202, "/v1/collections/{collection}/documents",
                      {"documents": [{"name": "a", "text": "Ada was here."}]})
        check("get", f"/v1/jobs/{added['id']}", 200, "/v1/jobs/{job}")
        check("delete", f"/v1/jobs/{added['id']}", 200, "/v1/jobs/{job}")
        check("get", "/v1/jobs/none", 404, "/v1/jobs/{job}")
        check("post", "/v1/collections", 201, body={"name": "empty"})
        check("post", "/v1/collections", 409, body={"name": "empty"})
        check("delete", "/v1/collections/empty", 200, "/v1/collections/{collection}")
        check("delete", "/v1/collections/empty", 404, "/v1/collections/{collection}")

    def test_files_by_curl(self):
        names = ["a b.txt", 'the "q".md', "c.html"]
        with tempfile.TemporaryDirectory() as folder:
            forms = []
            for name in names:
                text = f"<p>{name} was here, and Ada too.</p>"
                pathlib.Path(folder, name).write_text(text)
                forms += ["--form", "files=@\"" + os.path.join(folder, name).replace('"', '\\"') + "\""]
            status, text = self.server.curl("/v1/collections/forms/documents", None, *forms)
        self.assertEqual(status, 202, text)
        job = self.server.finish(text)
        self.assertEqual([(d["name"], d["outcome"]) for d in job["documents"]], [(name, "added") for name in names])
        status, text = self.server.curl(f"/v1/collections/forms/documents/{urllib.parse.quote(names[1])}/text")
        self.assertEqual((status, text), (200, f"<p>{names[1]} was here, and Ada too.</p>"))
        self.assertEqual(self.server.curl("/v1/collections/forms", None, "--request", "DELETE")[0], 200)
        self.assertEqual(self.server.curl("/v1/collections/forms")[0], 404)

    def test_prometheus(self):
        self.chat()
        metrics = self.server.curl("/metrics")[1]
        check = subprocess.run([PROMTOOL, "check", "metrics"], input=metrics, capture_output=True, text=True)
        self.assertEqual((check.returncode, check.stdout, check.stderr), (0, "", ""))


def difference(a, b):
    """How unlike two samples are: z of the rank-sum test, about normal when they are of one distribution."""
    ranks = sorted([(value, 0) for value in a] + [(value, 1) for value in b])
    rank_sum = sum(i + 1 for i, (_, which) in enumerate(ranks) if which == 0)
    n, m = len(a), len(b)
    return (rank_sum - n * (n + m + 1) / 2) / (n * m * (n + m + 1) / 12) ** 0.5


class Keys(unittest.TestCase):
    def test_two_tenants(self):
        """Of B's documents A learns nothing: not from replies, and not from the time of 2,000 requests a route."""
        with tempfile.TemporaryDirectory() as folder:
            entries = []
            for name in ("a", "b"):
                digest = hashlib.sha256(f"key of {name}".encode()).hexdigest()
                entries.append({"name": name, "sha256": digest, "collections": {f"of-{name}": "admin"}})
            keys = pathlib.Path(folder, "keys.json")
            keys.write_text(json.dumps({"keys": entries}))
            server = Server(UNFOLD, MODEL, folder, "--keys", str(keys))
            for name in ("a", "b"):
                bearer = ("--header", f"Authorization: Bearer key of {name}")
                status, text = server.curl(f"/v1/collections/of-{name}/documents", {"documents": some_documents(TEXTS)}, *bearer)
                self.assertEqual((status, server.finish(text, *bearer)["state"]), (202, "done"))
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
            self.addCleanup(connection.close)
            header = {"Authorization": "Bearer key of a"}

            def request(method, path, body, collection):
                put = lambda text: text.replace("@", collection)
                begin = time.perf_counter()
                connection.request(method, put(path), put(body) or None, header)
                reply = connection.getresponse()
                data = reply.read()
                seconds = time.perf_counter() - begin
                headers = sorted((name, value) for name, value in reply.getheaders() if name != "X-Request-Id")
                return (reply.status, headers, data.replace(collection.encode(), b"@")), seconds

            def compare(one, other, method, path, body=""):
                order = [one, other] * 1000
                random.shuffle(order)
                replies, times = {one: [], other: []}, {one: [], other: []}
                for collection in order:
                    reply, seconds = request(method, path, body, collection)
                    replies[collection].append(reply)
                    times[collection].append(seconds)
                return replies, difference(times[one], times[other])

            routes = [("GET", "/v1/collections/@"), ("GET", f"/v1/collections/@/documents/{urllib.parse.quote(DOCUMENT, safe='')}"),
                      ("DELETE", "/v1/collections/@"),
                      ("POST", "/v1/query", json.dumps({"collection": "@", "question": QUESTION}))]
            for route in routes:
                replies, z = compare("of-b", "none", *route)
                self.assertEqual({str(reply) for reply in replies["of-b"]}, {str(replies["none"][0])})
                self.assertEqual(replies["none"][0][0], 404)
                self.assertLess(abs(z), 4.5, route)
            # The test tells what differs: a collection that the key may read is looked up, one of no right is not.
            _, z = compare("of-a", "none", "GET", "/v1/collections/@/documents/none")
            self.assertGreater(abs(z), 4.5)
            listed = server.curl("/v1/models", None, "--header", "Authorization: Bearer key of a")[1]
            self.assertNotIn("of-b", listed)
            self.assertEqual(server.stop(), 0)

    def test_keys_and_restart(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = os.path.join(folder, "keys.json")
            digest = subprocess.run(["sha256sum"], input=b"secret", capture_output=True, check=True).stdout.decode().split()[0]
            pathlib.Path(keys).write_text(json.dumps(
                {"keys": [{"name": "team", "sha256": digest, "collections": {"*": "admin"}}]}))
            server = Server(UNFOLD, MODEL, folder, "--keys", keys)
            bearer = ("--header", "Authorization: Bearer secret")
            self.assertEqual(server.curl("/v1/models")[0], 401)
            status, text = server.curl("/v1/collections/c/documents", {"documents": [{"name": "a", "text": "Ada was here."}]},
                                       *bearer)
            self.assertEqual(status, 202)
            self.assertEqual(server.finish(text, *bearer)["state"], "done")
            server.kill()  # what a job said was added is there
            server = Server(UNFOLD, MODEL, folder, "--keys", keys)
            client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0)
            self.assertEqual([m.id for m in client.models.list().data], ["unfold:c"])
            self.assertEqual(server.stop(), 0)
            with unittest.mock.patch.dict(os.environ, UNFOLD_KEYS=pathlib.Path(keys).read_text()):
                server = Server(UNFOLD, MODEL, folder)
            self.assertEqual(server.curl("/v1/models")[0], 401)
            self.assertEqual(server.curl("/v1/models", None, *bearer)[0], 200)
            with self.assertRaises(openai.AuthenticationError):
                openai.OpenAI(base_url=server.url + "/v1", api_key="guess", max_retries=0).models.list()
            self.assertEqual(server.stop(), 0)

    def test_killed_during_uploads(self):
        documents = some_documents(TEXTS)
        with tempfile.TemporaryDirectory() as folder:
            server = Server(UNFOLD, MODEL, folder)
            jobs = {}
            for i in range(4):
                own = [{**document, "name": f"{i}/{document['name']}"} for document in documents]
                status, text = server.curl("/v1/collections/c/documents", {"documents": own})
                self.assertEqual(status, 202)
                jobs[json.loads(text)["id"]] = own
            first = next(iter(jobs))
            while not json.loads(server.curl(f"/v1/jobs/{first}")[1])["documents"]:
                time.sleep(0.01)
            sending = subprocess.Popen(
                ["curl", "--silent", "--limit-rate", "1k", "--data-binary", "@-", server.url + "/v1/collections/c/documents"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # one that is not accepted: half of it has come
            sending.stdin.write(json.dumps({"documents": documents}).encode())
            sending.stdin.close()
            server.kill()
            sending.wait()
            server = Server(UNFOLD, MODEL, folder)
            for job, own in jobs.items():
                report = server.finish(server.curl(f"/v1/jobs/{job}")[1])
                self.assertEqual(report["state"], "done")
                self.assertEqual([d["name"] for d in report["documents"]], [d["name"] for d in own])
                self.assertLessEqual({d["outcome"] for d in report["documents"]}, {"added", "unchanged"})
                for document in own:
                    path = f"/v1/collections/c/documents/{urllib.parse.quote(document['name'], safe='')}/text"
                    self.assertEqual(server.curl(path), (200, document["text"]))
            self.assertEqual(json.loads(server.curl("/v1/collections/c")[1])["documents"], 4 * len(documents))
            self.assertEqual(server.stop(), 0)

    def test_settings(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")

            def settings(config, *flags, **environment):
                path.write_text(json.dumps(config))
                return subprocess.run([UNFOLD, "serve", "--config", str(path), "--print-config", *flags],
                                      capture_output=True, text=True, env={**os.environ, **environment})

            config = {"store": "kb", "model": "m", "listen": "127.0.0.1:1", "threads": 2, "max-requests": 7}
            done = settings(config, "--listen", "127.0.0.1:3", UNFOLD_LISTEN="127.0.0.1:2", UNFOLD_MAX_REQUESTS="8")
            got = json.loads(done.stdout)
            self.assertEqual([got[name] for name in ("store", "listen", "max-requests", "threads", "drain-timeout")],
                             ["kb", "127.0.0.1:3", "8", "2", "30"])
            for wrong in ({"stor": "kb"}, {**config, "max-requests": 0}, {**config, "listen": {}}, []):
                done = settings(wrong)
                self.assertEqual((done.returncode, done.stdout), (2, ""), wrong)

    def test_flags_win_over_the_environment(self):
        with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.dict(os.environ, UNFOLD_BACKEND="ref"):
            for flags, backend in ((), "ref"), (("--backend", "cpu"), "cpu"):
                self.assertEqual(Server(UNFOLD, MODEL, folder, *flags).stop(), 0)
                ready = [line for line in map(json.loads, open(f"{folder}/log")) if line.get("event") == "ready"]
                self.assertEqual(ready[-1]["backend"], backend)

    def test_an_open_server_stays_at_home(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [UNFOLD, "serve", "--store", os.path.join(folder, "kb"), "--model", MODEL, "--listen", "0.0.0.0:0"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("--keys", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
