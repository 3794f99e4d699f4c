"""Replies of servers, of all kinds: a right answer or a reason with the server's own words, and never the key."""

from __future__ import annotations

import base64
import gzip
import html
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest
from remote_cases import ASK, Pictures

from qwenvl.answer import Answer, Status
from qwenvl.engines.remote import RemoteEngine
from qwenvl.engines.server.words import hider, plain, words
from qwenvl.errors import EngineError, ServerError

KEY = "sk-Proj+7/x9_very-secret-42"
Body = tuple[int, dict[str, str], bytes | list[bytes]]


class Replier(ThreadingHTTPServer):
    """Answers every chat request with the same bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body: Body = (200, {}, b"")
        self.models: bytes = b'{"data": [{"id": "Qwen3-VL-8B"}]}'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Replier

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.send(200, {}, self.server.models)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send(*self.server.body)

    def send(self, status: int, headers: dict[str, str], data: bytes | list[bytes]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        for part in [data] if isinstance(data, bytes) else data:
            self.wfile.write(part)
            if isinstance(data, list):
                self.wfile.flush()
                threading.Event().wait(0.05)


@pytest.fixture(scope="module")
def replier() -> Iterator[Replier]:
    server = Replier()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(replier: Replier, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    monkeypatch.setenv("QWENVL_API_KEY", KEY)

    def one(body: Body, **settings: Any) -> Answer:
        replier.body = body
        url = f"http://127.0.0.1:{replier.server_port}"
        engine = RemoteEngine(url, attempts=1, backoff=0, **{"timeout": 20.0, **settings})
        try:
            return engine.answer(pictures[:1], ASK)[0]
        finally:
            engine.close()

    return one


def said(text: Any, choice: str = "", more: str = "") -> Body:
    """A completion whose content is `text`; JSON is written as it stands in `choice` and `more`."""
    message = json.dumps({"role": "assistant", "content": text})
    return 200, {}, f'{{"choices": [{{"message": {message}{choice}}}]{more}}}'.encode()


def ok(data: str | bytes, **headers: str) -> Body:
    return (
        200,
        {k.replace("_", "-"): v for k, v in headers.items()},
        data if isinstance(data, bytes) else data.encode(),
    )


@pytest.mark.parametrize(
    ("body", "text", "note"),
    [
        (said("a cell"), "a cell", None),
        (ok(b"\xef\xbb\xbf" + said("a cell")[2]), "a cell", None),  # type: ignore[operator]
        (ok(gzip.compress(said("a cell")[2]), Content_Encoding="gzip"), "a cell", None),  # type: ignore[arg-type]
        (ok(said("a cell")[2], Content_Type="text/html"), "a cell", None),  # type: ignore[arg-type]
        (said([{"type": "text", "text": "a "}, {"type": "text", "text": "cell"}]), "a cell", None),
        (said([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a cell"}]), "a cell", None),
        (said("half \ud800 sign"), "half \ufffd sign", "cleaned"),
        (said("a cell", more=', "usage": {"prompt_tokens": -5, "completion_tokens": 3}'), "a cell", "usage-unreadable"),
        (said("a cell", more=', "usage": {"completion_tokens": 1e400}'), "a cell", "usage-unreadable"),
        (said("a cell", more=', "usage": {"completion_tokens": NaN}'), "a cell", "usage-unreadable"),
        (said("a cell", more=', "usage": {"completion_tokens": ' + "9" * 400 + "}"), "a cell", "usage-unreadable"),
        (said("a cell", more=', "usage": {"completion_tokens": [1]}'), "a cell", "usage-unreadable"),
        (said("a cell", more=', "usage": "many"'), "a cell", "usage-unreadable"),
        (said("a cell", more=', "usage": {"completion_tokens": "7", "prompt_tokens": 900.0}'), "a cell", None),
        (said("a cell", ', "logprobs": {"content": [{"token": 5, "logprob": 0}]}'), "a cell", "logprobs-unreadable"),
        (
            said("a cell", ', "logprobs": {"content": [{"token": "a", "bytes": 9999999999999, "logprob": 0}]}'),
            "a cell",
            "logprobs-unreadable",
        ),
        (
            said("a cell", ', "logprobs": {"content": [{"token": "a", "logprob": 1e400}]}'),
            "a cell",
            "logprobs-unreadable",
        ),
        (said("a cell", ', "logprobs": {"content": [{"token": "a", "logprob": -1e400}]}'), "a cell", None),
        (said("a cell", ', "logprobs": [0.1, 0.2]'), "a cell", "logprobs-unreadable"),
        (said("a cell", ', "finish_reason": ["stop"]'), "a cell", "finish:unreadable"),
        (said(f"The prompt says Bearer {KEY}."), "The prompt says Bearer ***.", None),
    ],
)
def test_right_answers(body: Body, text: str, note: str | None, ask: Callable[..., Answer]) -> None:
    answer = ask(body)
    assert (answer.status, answer.text) == (Status.OK, text)
    assert note is None or note in answer.notes
    assert 0 <= answer.new_tokens < 1000
    answer.raw.encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ok(""), "cannot be read"),
        (ok("null"), "not a chat completion"),
        (ok('{"choices": []}'), "not a chat completion"),
        (ok('{"choices": [{"message": {"content": 5}}]}'), "content is no text"),
        (said([{"type": "image_url", "image_url": {"url": "x"}}]), "a part of content is no text"),
        (ok('{"choices": [{"message": {"content": "a", "content": "b"}}]}'), "a key twice"),
        (ok('{"error": {"message": "the queue is full"}}'), "answers with an error: the queue is full"),
        (ok('{"error": "out of memory", "choices": []}'), "out of memory"),
        (ok("<!DOCTYPE html><html><title>Sign in</title><b>Please log in</b></html>"), "Sign in Please log in"),
        (ok('data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]'), "streams"),
        (ok('data: {"error": {"message": "the queue is full"}}'), "the queue is full"),
        (ok('{"choices": [{"message": {"content": "a ce'), "cannot be read"),
        (ok("[" * 100_000), "nested too deep"),
        (ok(gzip.compress(b" " * (70 * 2**20)), Content_Encoding="gzip"), "larger than"),
        (ok(gzip.compress(b"{}" * 5000)[:30], Content_Encoding="gzip"), "cut short"),
        (ok("{}", Content_Encoding="gzip"), "no gzip"),
        (ok("{}", Content_Encoding="br"), "packed as 'br'"),
        (ok("{}", Content_Length="1000"), "asked once"),
        ((500, {}, b"<html><h1>Bad\x07 luck</h1></html>"), "status 500: Bad luck"),
        ((500, {}, b"x" * 5_000_000), "status 500: xxx"),
        ((503, {"Retry-After": "1e400"}, b'{"detail": "warming up"}'), "warming up"),
        ((200, {}, [b" "] * 40), "no response in time"),
        (ok('{"choices": [{"message": {"content": "a"}, "finish_reason": "abort"}]}'), "gave up"),
        (ok(f'{{"error": "you sent Bearer {KEY}"}}'), r"you sent Bearer \*\*\*"),
        (ok(f"<html>Authorization: Bearer {html.escape(KEY)} {quote(KEY, safe='')}</html>"), r"\*\*\*"),
    ],
)
def test_reasons(body: Body, reason: str, ask: Callable[..., Answer]) -> None:
    with pytest.raises(ServerError, match=reason) as error:
        ask(body, timeout=0.3 if isinstance(body[2], list) else 20.0)
    text = str(error.value)
    assert len(text) < 1100
    assert not any(KEY[at : at + 8] in text for at in range(len(KEY) - 7))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ((302, {"Location": f"http://elsewhere/v1?key={KEY}"}, b""), "redirected to http://elsewhere"),
        ((307, {}, b""), "redirected to nowhere"),
        (ok('{"error": {"message": "no such model", "code": 404}}'), "status 404: no such model"),
        ((401, {}, f'{{"error": "wrong key {KEY[:20]}..."}}'.encode()), r"wrong key \*\*\*"),
        ((400, {}, b"[" * 100_000), "status 400"),
    ],
)
def test_refusals_stop_with_the_servers_words(body: Body, reason: str, ask: Callable[..., Answer]) -> None:
    with pytest.raises(EngineError, match=reason) as error:
        ask(body)
    assert KEY[:10] not in str(error.value)


@pytest.mark.parametrize(
    "models",
    [
        b"",
        b"[]",
        b'{"data": 5}',
        b'{"data": [5, null, {"id": 3}]}',
        b"[" * 99_999,
        b"<html>",
        b'{"error": "no"}',
        b'{"data": [{"id": "Qwen3-VL-\\ud800"}]}',
        b'{"data": [{"id": "Qwen3-VL", "meta": 1e400}]}',
    ],
)
def test_listings(models: bytes, replier: Replier) -> None:
    before, replier.models = replier.models, models
    try:
        engine = RemoteEngine(f"http://127.0.0.1:{replier.server_port}", attempts=1, backoff=0)
        assert engine.info.family == "Qwen3-VL"
        engine.info.model.encode()
        engine.close()
    except EngineError as error:
        words_of_it = str(error)
        assert str(replier.server_port) in words_of_it
    finally:
        replier.models = before


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        KEY.upper(),
        KEY.swapcase(),
        KEY[:12] + "...",
        "..." + KEY[-9:],
        quote(KEY, safe=""),
        KEY.encode().hex(),
        html.escape(KEY),
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(f"Bearer {KEY}".encode()).decode(),
        base64.urlsafe_b64encode(f"user:{KEY}".encode()).decode(),
        "".join(f"&#{ord(c)};" for c in KEY),
        "".join(f"%{ord(c):02x}" if n % 2 else c for n, c in enumerate(KEY)),
        "".join(f"\\u{ord(c):04x}" for c in KEY),
        json.dumps(KEY).replace("/", "\\/"),
    ],
)
def test_the_key_is_hidden_however_it_is_spelt(echo: str) -> None:
    shown = hider(KEY)(f"headers: {echo} end")
    assert "***" in shown
    assert shown.startswith("headers: ")
    assert shown.endswith(" end")
    for whole in (echo, KEY):
        assert not any(whole[at : at + 12] in shown for at in range(3, max(4, len(whole) - 14)))
    assert hider(KEY)("nothing of it") == "nothing of it"
    assert hider(None)(KEY) == KEY


def test_words_are_plain_and_bounded() -> None:
    assert plain("a\x1b[31m  b\n\u202ec\ud800") == "a [31m b c"
    assert words(b"<html><script>x()</script><p>Try later</p>", str) == "Try later"
    assert len(words(b"y" * 10**6, str)) == 500
    # Cut in the middle of the key, nothing of it is left.
    assert "sk-" not in words(b"z" * 490 + KEY.encode(), hider(KEY))
