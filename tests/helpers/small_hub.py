"""A hub of a few datasets on this machine, which answers as the Hugging Face hub does, with its errors."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "c" * 40

FRESH = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in ("huggingface_hub", "crosstask")]:
    del sys.modules[name]
from crosstask.cli import program
program()
"""
"""Python code that runs the program after huggingface_hub is imported anew, since it reads its settings on import."""


@dataclass
class SmallHub:
    """Hub with a few datasets, and a record of its transfers.

    Args:
        files: Content of the files of each dataset, by path in its parquet branch.
        refused: Error code of each dataset that the hub does not serve, e.g. ``GatedRepo``, or the status
            that it answers with.
        broken_after: Number of bytes after which the next transfer of a file breaks; None if it does not break.
        starts: Index of the first byte of every transfer so far.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    broken_after: int | None = None
    starts: list[int] = field(default_factory=list)
    address: str = ""

    def settings(self, cache: Path) -> dict[str, str]:
        """Return the environment variables of a program that downloads from the hub.

        Args:
            cache: Folder of the program's cache.
        """
        places = {"HF_ENDPOINT": self.address, "HF_HOME": str(cache)}
        return places | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def add(self, dataset: str, rows: list[dict[str, Any]], config: str = "default", split: str = "train") -> None:
        """Add a dataset, a configuration or a split."""
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        self.files.setdefault(dataset, {})[f"{config}/{split}/0000.parquet"] = buffer.getvalue()


@contextmanager
def running(hub: SmallHub) -> Iterator[SmallHub]:
    """Serve the hub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            if path.startswith("/api/datasets/"):
                name, _, rest = path.removeprefix("/api/datasets/").partition("/revision/")
                name = name.partition("/tree/")[0]
                self._describe(name, rest, path)
            elif path.startswith("/api/"):
                self._send(404, b"{}")
            else:
                name, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
                self._file(hub.files[name][rest.partition("/")[2]], body)

        def _describe(self, name: str, revision: str, path: str) -> None:
            known = ("refs/convert/parquet", COMMIT)
            error = hub.refused.get(name) or ("" if name in hub.files else "RepoNotFound")
            if not error and "/revision/" in path and revision not in known:
                error = "RevisionNotFound"
            if error.isdigit():
                self._send(int(error), b"{}")
                return
            if error:
                self._send(403 if error == "GatedRepo" else 404, b"{}", {"X-Error-Code": error})
                return
            files = hub.files[name]
            if "/tree/" in path:
                entries = [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()]
                self._send(200, json.dumps(entries).encode())
            else:
                about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": p} for p in files]}
                self._send(200, json.dumps(about).encode())

        def _file(self, content: bytes, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if wanted:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if not body:
                self._send(200, content, headers, body=False)
                return
            hub.starts.append(start)
            cut, hub.broken_after = hub.broken_after, None
            self._send(206 if wanted else 200, content[start:], headers, cut=cut)

        def _send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str] | None = None,
            body: bool = True,
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content[:cut])
            if cut is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
