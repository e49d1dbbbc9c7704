"""A small stand-in for the Hugging Face Hub on loopback: the requests a push makes, answered as the Hub answers them.

Repositories, large files by their sha256 and commits live in memory. It speaks the HTTP protocol of large files; the
real Hub prefers Xet, which is not one of text and is not tried here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "hf_only_for_a_server_on_loopback"
READ_ONLY_TOKEN = "hf_may_only_read_on_loopback"
LARGE_SUFFIXES = (".safetensors",)


@dataclass
class Repo:
    """What a repository has."""

    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """State of the server; tests look at it and spoil it."""

    port: int = 0
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    """sha256 of each large file that was sent whole, in order."""
    refuses_commits: bool = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_hub(patch: pytest.MonkeyPatch, token: str | None = TOKEN) -> Iterator[Hub]:
    """The server, and an environment in which the Hub's library talks to it alone."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    use_endpoint(patch, hub.endpoint, token)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_endpoint(patch: pytest.MonkeyPatch, endpoint: str, token: str | None = TOKEN) -> None:
    """What the library reads when it is imported, and what it reads later."""
    from huggingface_hub import constants

    patch.setenv("HF_ENDPOINT", endpoint)
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    patch.setenv("HF_TOKEN", token) if token else patch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.split("?")[0].removeprefix("/api/models/")
        name, _, rest = path.partition("/tree/")
        repo = self.hub.repos.get(name.removesuffix("/revision/main"))
        if repo is None:
            self._answer(404, {"error": "Repository not found"})
        elif rest:
            listing = [{"type": "file", "path": p, "size": len(c), "oid": _git_oid(c)} for p, c in repo.files.items()]
            self._answer(200, listing)
        else:
            sha = hashlib.sha1(repr(repo.commits).encode()).hexdigest()
            siblings = [{"rfilename": file} for file in repo.files]
            self._answer(200, {"id": name, "private": repo.is_private, "sha": sha, "siblings": siblings})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        who = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if who not in (TOKEN, READ_ONLY_TOKEN):
            self._answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body), may_write=who == TOKEN)
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self._preupload(json.loads(body))
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": f"unknown {self.path}"})

    def do_PUT(self) -> None:
        """A large file; it counts once all of it is here."""
        oid = self.path.removeprefix("/blobs/")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(content).hexdigest() != oid:
            self._answer(400, {"error": "the content is not what was announced"})
            return
        self.hub.blobs[oid] = content
        self.hub.uploads.append(oid)
        self._answer(200, {})

    def _create(self, asked: dict, *, may_write: bool) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not may_write:
            self._answer(403, {"error": f"You don't have the rights to create a model under {asked['organization']}"})
        elif name in self.hub.repos:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"})
        else:
            self.hub.repos[name] = Repo(is_private=asked.get("visibility") == "private")
            self._answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _preupload(self, asked: dict) -> None:
        repo = self.hub.repos[self.path.removeprefix("/api/models/").partition("/preupload/")[0]]
        answer = []
        for file in asked["files"]:
            mode = "lfs" if file["path"].endswith(LARGE_SUFFIXES) else "regular"
            known = repo.files.get(file["path"])
            oid = None if known is None or mode == "lfs" else _git_oid(known)
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": answer})

    def _batch(self, asked: dict) -> None:
        """Where to send each large file; nothing for those that are here."""
        objects = []
        for wanted in asked["objects"]:
            upload = {"href": f"{self.hub.endpoint}/blobs/{wanted['oid']}"}
            known = wanted["oid"] in self.hub.blobs
            objects.append(wanted if known else wanted | {"actions": {"upload": upload}})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, lines: list[dict]) -> None:
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        repo = self.hub.repos[name]
        if self.hub.refuses_commits:
            self._answer(500, {"error": "out of order"})
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.commits.append(lines[0]["value"]["summary"])
        oid = f"{len(repo.commits):040x}"
        self._answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid})

    def _answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
