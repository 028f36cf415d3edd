#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The console in headless Chromium: a document is added, a real question asked of a real server with gist-mini.

usage: console_test.py UNFOLD MODEL_DIR TEXT_DIR [SCREENSHOT_DIR]
"""
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

from serving import DOCUMENT, QUESTION, Server, some_documents

UNFOLD, MODEL, TEXTS = sys.argv[1:4]
SHOTS = sys.argv[4] if len(sys.argv) > 4 else None
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # as WebDriver names one


class Browser:
    """Chromium by the WebDriver protocol."""

    def __init__(self, folder):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        while "successfully on port" not in (line := self.driver.stdout.readline()):
            if not line:
                raise RuntimeError("chromedriver did not start")
        self.base = f"http://127.0.0.1:{line.rstrip().rstrip('.').split()[-1]}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"]
        options = {"binary": shutil.which("chromium"), "args": arguments}
        try:
            session = self.call("", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        except OSError:
            self.driver.kill()
            raise
        self.base += "/" + session["sessionId"]

    def call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, url):
        self.call("/url", {"url": url})

    def find(self, selector):
        return "/element/" + self.call("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def type(self, selector, text):
        self.call(self.find(selector) + "/value", {"text": text})

    def click(self, selector):
        self.call(self.find(selector) + "/click", {})

    def run(self, script, *args):
        return self.call("/execute/sync", {"script": script, "args": list(args)})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def wait(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {script}")
            time.sleep(0.05)

    def size(self, width, height):
        self.call("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride",
                                        "params": {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}})

    def scheme(self, name):
        self.call("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia",
                                        "params": {"features": [{"name": "prefers-color-scheme", "value": name}]}})

    def shoot(self, name):
        if SHOTS:
            pathlib.Path(SHOTS, name + ".png").write_bytes(base64.b64decode(self.call("/screenshot")))

    def errors(self):
        return [entry["message"] for entry in self.call("/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def close(self):
        self.call("", method="DELETE")
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()


class Console(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.server = Server(UNFOLD, MODEL, self.folder.name)
        self.addCleanup(lambda: self.assertEqual(self.server.stop(), 0))
        self.browser = Browser(self.folder.name)
        self.addCleanup(self.browser.close)
        self.browser.size(1000, 1400)

    def test_documents_question_answer(self):
        browser, server = self.browser, self.server
        browser.open(server.url + "/")
        browser.wait("return document.querySelector('#collection-facts').textContent.includes('empty')")
        # Adding documents: files from a folder, with progress and a verdict each.
        files = []
        for document in some_documents(TEXTS):
            files.append(os.path.join(self.folder.name, os.path.basename(document["name"])))
            pathlib.Path(files[-1]).write_text(document["text"], encoding="utf-8")
        browser.click("summary")
        browser.type("#target", "notes")
        browser.type("#files", "\n".join(files))
        browser.click("#upload button")
        browser.wait("return document.querySelectorAll('#verdicts li').length > 0")
        self.assertEqual(browser.run("return document.querySelectorAll('#verdicts li').length"), len(files))
        self.assertNotIn("failed", browser.text("#verdicts"))
        browser.wait("return document.querySelector('#collection').value === 'notes'")
        self.assertIn(f"{len(files)} documents", browser.text("#collection-facts"))
        # A question by keyboard alone; the answer is the engine's.
        status, text = server.curl("/v1/query", {"collection": "notes", "question": QUESTION, "explain": True})
        want = json.loads(text)
        browser.type("#question", QUESTION + "\ue009\ue007")  # Control, Enter
        browser.wait("return document.querySelectorAll('#strips svg').length > 0")
        self.assertEqual(browser.text("#answer"), want["answer"])
        self.assertIn("first token after", browser.text("#ask-status"))
        self.assertEqual(browser.run("return document.querySelectorAll('#sources li').length"), len(want["sources"]))
        self.assertIn(os.path.basename(DOCUMENT), browser.text("#sources"))
        # The strips: one for each document with unfolded chunks, a cell for each chunk and layer; and its text, each chunk
        # marked with a band for each layer.
        cells = {(h["layer"], c["document"], c["byte_begin"]) for h in want["unfolded"] for c in h["chunks"]}
        self.assertEqual(browser.run("return document.querySelectorAll('#strips rect').length"), len(cells))
        self.assertEqual(browser.run("return document.querySelectorAll('#strips svg').length"), len({c[1] for c in cells}))
        marks = browser.run("return [...document.querySelectorAll('#strips mark')].map((m) => m.textContent)")
        chunks = {}
        for document in {c[1] for c in cells}:
            data = server.curl(f"/v1/collections/notes/documents/{urllib.parse.quote(document, safe='')}/text")[1].encode()
            spans = {(c["byte_begin"], c["byte_end"]) for h in want["unfolded"] for c in h["chunks"] if c["document"] == document}
            chunks[document] = [data[begin:end].decode() for begin, end in sorted(spans)]
        self.assertEqual(sorted(marks), sorted(text for texts in chunks.values() for text in texts))
        layers = len({layer for layer, _, _ in cells})
        bands = "return document.querySelector('#strips mark').style.background.split('rgba').length - 1"
        self.assertEqual(browser.run(bands), layers)
        browser.type("#layer", "\ue015")  # arrow down: the first layer alone
        self.assertEqual(browser.run(bands), 1)
        browser.type("#layer", "\ue013")
        self.assertEqual(browser.run(bands), layers)
        browser.shoot("console-light")
        browser.run("document.querySelector('#strips').scrollIntoView()")
        browser.shoot("console-strips")
        browser.scheme("dark")
        browser.shoot("console-dark")
        browser.size(390, 1600)
        self.assertLessEqual(browser.run("return document.documentElement.scrollWidth"), 390, "a phone would scroll sideways")
        browser.shoot("console-phone")
        # Every control has a name that a screen reader says, and nothing was refused or loaded from elsewhere.
        unnamed = browser.run("""return [...document.querySelectorAll('input, select, textarea, button, progress, svg')]
            .filter((e) => !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim())
            .map((e) => e.id || e.tagName)""")
        self.assertEqual(unnamed, [])
        loaded = browser.run("return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)")
        self.assertEqual(set(loaded), {server.url})
        self.assertEqual(browser.errors(), [])

    def test_errors_are_said(self):
        browser, server = self.browser, self.server
        server.finish(server.curl("/v1/collections/c/documents", {"documents": [{"name": "a", "text": "Ada was here."}]})[1])
        browser.open(server.url + "/")
        browser.wait("return document.querySelector('#collection').value === 'c'")
        browser.run("document.querySelector('#collection').firstChild.value = 'none'")
        browser.type("#question", "Who?")
        browser.click("#send")
        browser.wait("return document.querySelector('#ask-status').classList.contains('error')")
        self.assertIn("does not exist", browser.text("#ask-status"))
        self.assertFalse(browser.run("return document.querySelector('#send').disabled"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
