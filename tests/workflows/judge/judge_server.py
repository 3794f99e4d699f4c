"""Judges of known habits behind a chat-completions server, in a thread of this process."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "Qwen3-VL-judge"
Habit = Callable[[str], str]
"""What a judge writes about the words it is asked."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class JudgeServer:
    """Serves one judge; `habit` may be changed at any time."""

    def __init__(self, habit: Habit) -> None:
        self.habit = habit
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                self.reply({"object": "list", "data": [{"id": NAME, "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                words = "".join(part.get("text", "") for part in body["messages"][-1]["content"])
                outer.asked.append(words)
                message = {"role": "assistant", "content": outer.habit(words)}
                self.reply({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}})

            def reply(self, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def shown(words: str) -> tuple[str, str]:
    """The two answers of a question about a pair."""
    first, second = (
        re.search(rf"The {place} answer:\n<<<\n(.*?)\n>>>", words, re.DOTALL) for place in ("first", "second")
    )
    assert first is not None
    assert second is not None
    return first[1], second[1]


def always_first(words: str) -> str:
    """Biased: whatever is shown first."""
    return "first"


def perfect(words: str) -> str:
    """Prefers what says 'good'."""
    first, second = ("good" in answer for answer in shown(words))
    return "tie" if first == second else "first" if first else "second"


def random_judge(seed: int = 0) -> Habit:
    """A coin, the same for the same words."""
    import zlib

    return lambda words: "first" if zlib.crc32(f"{seed}{words}".encode()) & 256 else "second"
