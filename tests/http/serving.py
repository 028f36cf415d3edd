#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`unfold serve` as a process, for tests that bring clients of their own."""
import json
import os
import pathlib
import signal
import subprocess
import time

QUESTION = "who became a leader of the indian national congress"
DOCUMENT = "notes/indian-national-congress.txt"


class Server:
    """`unfold serve` on a free port, over a store in `folder`."""

    def __init__(self, unfold, model, folder, *flags):
        self.log = open(os.path.join(folder, "log"), "a")
        self.process = subprocess.Popen(
            [unfold, "serve", "--store", os.path.join(folder, "kb"), "--model", model, "--listen", "127.0.0.1:0", *flags],
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

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
        return code

    def finish(self, job, *flags):
        """The job of `job`, a reply's text, when it has ended."""
        while json.loads(job)["state"] in ("queued", "running"):
            time.sleep(0.1)
            job = self.curl(f"/v1/jobs/{json.loads(job)['id']}", None, *flags)[1]
        return json.loads(job)


def some_documents(texts):
    """A few of the handbook's, one of which answers QUESTION."""
    paths = {path: None for path in sorted(pathlib.Path(texts).glob("*/*.txt"))[::24]} | {pathlib.Path(texts) / DOCUMENT: None}
    return [{"name": f"{path.parent.name}/{path.name}", "text": path.read_text(encoding="utf-8")} for path in paths]
