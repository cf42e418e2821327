"""A small server on the loopback address that answers like the hub, for one tiny model."""

import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

OWNER = "somebody/tiny"


def client_settings(url: str, home: Path) -> dict[str, str]:
    """Environment variables with which the hub's client asks the server at `url`."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_ETAG_TIMEOUT": "3",
        "HF_HUB_DOWNLOAD_TIMEOUT": "3",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def client(url: str, home: Path) -> Iterator[None]:
    """Within it this process's client of the hub is one of a process with these settings.

    The client reads its environment when it is imported, so its constants are read once more.
    """
    if not hasattr(huggingface_hub, "close_session"):
        pytest.skip("before 1.0 the hub's client keeps its settings for the life of a process")
    spec = importlib.util.find_spec(constants.__name__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client_settings(url, home).items():
            patch.setenv(name, value)
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
        for name in list(vars(constants)):
            if name.isupper():
                patch.setattr(constants, name, getattr(again, name))
        huggingface_hub.close_session()
        yield
    huggingface_hub.close_session()


class Hub:
    """What the server serves, and how it fails."""

    def __init__(self, revisions: dict[str, Path]) -> None:
        self.revisions = revisions
        self.commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in revisions}
        self.status = 0
        """If set, the answer to every request."""
        self.fault = ""
        """`truncated`: weights end early; `size`: their announced size is wrong."""
        self.requests: list[str] = []
        self.url = ""

    def folder(self, revision: str) -> Path | None:
        """Folder of a branch or commit."""
        for name, path in self.revisions.items():
            if revision in (name, self.commits[name]):
                return path
        return None

    def commit(self, revision: str) -> str:
        """Commit of a branch or commit."""
        return self.commits.get(revision, revision)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Keeps the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            return self._send(self.hub.status, b'{"error": "no"}', {}, with_body)
        if path.startswith(f"/api/models/{OWNER}"):
            return self._info(path, with_body)
        if path.startswith(f"/{OWNER}/resolve/"):
            return self._file(*path.removeprefix(f"/{OWNER}/resolve/").split("/", 1), with_body)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

    def _info(self, path: str, with_body: bool) -> None:
        rest = path.removeprefix(f"/api/models/{OWNER}").strip("/").split("/")
        revision = rest[1] if len(rest) > 1 else "main"
        folder = self.hub.folder(revision)
        if folder is None:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [p.relative_to(folder).as_posix() for p in files]
        if rest[0] == "tree":
            content: Any = [
                {"type": "file", "path": name, "size": p.stat().st_size, "oid": self._etag(p)}
                for name, p in zip(names, files, strict=True)
            ]
        else:
            content = {
                "id": OWNER,
                "modelId": OWNER,
                "sha": self.hub.commit(revision),
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in names],
            }
        return self._send(200, json.dumps(content).encode(), {}, with_body)

    def _file(self, revision: str, name: str, with_body: bool) -> None:
        folder = self.hub.folder(revision)
        if folder is None:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        if not (folder / name).is_file():
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, with_body)
        content = (folder / name).read_bytes()
        headers = {
            "X-Repo-Commit": self.hub.commit(revision),
            "ETag": f'"{self._etag(folder / name)}"',
            "Accept-Ranges": "bytes",
        }
        weights = name.endswith(".safetensors")
        if weights and self.hub.fault == "size":
            headers["X-Linked-Size"] = str(len(content) + 100)
        cut = len(content) // 2 if weights and self.hub.fault == "truncated" else 0
        return self._send(200, content, headers, with_body, cut=cut)

    @staticmethod
    def _etag(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], with_body: bool, cut: int = 0
    ) -> None:
        self.send_response(status)
        start = 0
        wanted = self.headers.get("Range", "")
        if status == 200 and wanted.startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if with_body and cut:
            self.wfile.write(body[start:cut])
            self.close_connection = True
        elif with_body:
            self.wfile.write(body[start:])


@contextmanager
def serving(revisions: dict[str, Path]) -> Iterator[Hub]:
    """Serves the folders as branches of one repository until the block ends."""
    hub = Hub(revisions)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
