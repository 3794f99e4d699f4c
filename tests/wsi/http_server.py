"""A web server on this machine that serves a folder and makes planned faults."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Fault = Callable[["Handler", str, int], bool]
"""Gets the handler, the path below the root and how often it was asked for; True if it has answered."""


class Handler(BaseHTTPRequestHandler):
    """Serves files, with ranges, unless the server's fault has answered."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        with self.server.lock:
            self.server.asked[name] += 1
            count = self.server.asked[name]
        if self.server.fault is not None and self.server.fault(self, name, count):
            return
        file = self.server.root / name
        if not file.is_file():
            self.send(404, b"")
            return
        data, span = file.read_bytes(), self.headers.get("Range")
        if span and self.server.ranges:
            first, _, last = span.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = int(last) + 1 if first and last else len(data)
            if start >= len(data):
                self.send(416, b"")
            else:
                self.send(206, data[start:end])
            return
        self.send(200, data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send(self, status: int, body: bytes, announced: int | None = None, kind: str = "") -> None:
        """Answer; `announced` is the length that the header states, in place of the true one."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        if kind:
            self.send_header("Content-Type", kind)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if announced is not None and announced != len(body):
            self.close_connection = True

    def slow(self, seconds: float) -> None:
        """Wait, at most until the server is stopped."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.server.stopped:
            time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """The server; `asked` counts requests by path."""

    daemon_threads = True

    def __init__(self, root: Path, fault: Fault | None, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.fault, self.ranges = root, fault, ranges
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.stopped = False

    @property
    def address(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serving(root: Path, fault: Fault | None = None, *, ranges: bool = True) -> Iterator[Server]:
    """A running server over a folder."""
    server = Server(root, fault, ranges)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped = True
        server.shutdown()
        server.server_close()
        thread.join()
