"""A hub on this machine, laid out as the real one: repositories with revisions, some of them gated, over HTTP.

It answers what huggingface_hub asks for: what a repository holds, the metadata of a file (HEAD), and the file.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"
"""What a user who was admitted to gated repositories sends."""


@dataclass
class Repository:
    """Folders by revision, of which ``main`` is the first; ``library`` is what the hub says that it is made for."""

    revisions: dict[str, Path]
    library: str = "transformers"
    gated: bool = False
    asked: list[str] = field(default_factory=list)

    def commit(self, revision: str) -> str:
        return hashlib.sha1(str(self.revisions[revision]).encode()).hexdigest()

    def folder(self, revision: str) -> Path | None:
        known = self.revisions | {self.commit(name): folder for name, folder in self.revisions.items()}
        return known.get(revision)


@contextmanager
def served(repositories: dict[str, Repository]) -> Iterator[str]:
    """The address of a hub that holds these repositories, by name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.refuse(404, "EntryNotFound")

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, data: bytes, kind: str, **headers: str) -> None:
            self.send_response(200)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def answer(self, *, body: bool) -> None:  # noqa: RET503 (what is sent is the answer)
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            parts = parts[2:] if is_api else parts
            name, rest = "/".join(parts[:2]), parts[2:]
            repository = repositories.get(name)
            if repository is None:
                return self.refuse(401, "RepoNotFound")  # as the real one: who may not see it is not told that it is
            revision = rest[1] if len(rest) > 1 else "main"
            folder = repository.folder(revision)
            if folder is None:
                return self.refuse(404, "RevisionNotFound")
            commit = next(repository.commit(one) for one, place in repository.revisions.items() if place == folder)
            files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            if is_api and rest[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": one, "size": (folder / one).stat().st_size, "oid": "0" * 40}
                    for one in files
                ]
                return self.send(json.dumps(tree).encode(), "application/json")
            if is_api and (not rest or rest[0] == "revision"):
                facts = {
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "library_name": repository.library,
                    "gated": "manual" if repository.gated else False,
                    "private": False,
                    "tags": [],
                    "siblings": [{"rfilename": one} for one in files],
                }
                return self.send(json.dumps(facts).encode(), "application/json")
            if rest[:1] != ["resolve"]:
                return self.refuse(404, "EntryNotFound")
            if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.refuse(403, "GatedRepo")
            file = "/".join(rest[2:])
            if file not in files:
                return self.refuse(404, "EntryNotFound")
            if body:
                repository.asked.append(file)
            data = (folder / file).read_bytes()
            self.send(
                data, "application/octet-stream", ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=commit
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
