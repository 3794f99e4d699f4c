"""Talking to a server: one connection pool, bounded concurrency, retries, and no key in any message."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import weakref
import zlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from qwenvl.engines.server.faults import Case, ServerFault, case_of
from qwenvl.engines.server.words import hider, plain, said_in, words
from qwenvl.errors import EngineError

KEYS = ("QWENVL_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the server's key; the first that is set counts."""

_LONGEST_BACKOFF = 30.0
_CONNECT = 10.0
_LARGEST = 64 * 2**20  # bytes of a response, unpacked
_LARGEST_ERROR = 2**16  # bytes that are read of a response that is none
_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout)

T = TypeVar("T")


class ServerClient:
    """An asynchronous HTTP client with an event loop of its own, used from synchronous code.

    Its own loop in its own thread: a notebook or a viewer may be running another one in the caller's.

    Parameters
    ----------
    url : str
        'http://host:port', with or without '/v1'.
    concurrency : int
        Most requests under way at any time.
    timeout : float
        Seconds for one request until its whole response is there.
    attempts : int
        How often a request is sent before it counts as failed.
    backoff : float
        Seconds before the first repetition; each further wait is up to twice as long.

    Raises
    ------
    EngineError
        The URL or the key cannot be used.
    """

    def __init__(self, url: str, *, concurrency: int, timeout: float, attempts: int, backoff: float) -> None:
        self.url = _base_url(url)
        self.host = httpx2.URL(self.url).host
        self._attempts, self._backoff = attempts, backoff
        self.down = False
        """A question got nothing in all its attempts and none was answered since, so that the others try once."""
        secret = _read_key()
        self._hide = hider(secret)
        self._timeout = timeout
        self.hide: Callable[[str], str] = self._hide if secret and len(secret) >= 8 else lambda text: text
        """Puts *** for the key in what a model wrote; keys such as EMPTY may be words of an answer."""
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {secret}"} if secret else {}),
            limits=limits,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT), pool=None),
        )
        self._slots = asyncio.Semaphore(concurrency)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="qwenvl-server-client", daemon=True)
        thread.start()
        self._loop = loop
        self.close = weakref.finalize(self, _shut, loop, thread, self._http)
        """Close all connections; calling it twice does no harm."""

    def run(self, work: Coroutine[object, object, T]) -> T:
        """The result of a coroutine, run in the client's loop; an interrupt cancels it."""
        if not self.close.alive:
            work.close()
            raise EngineError(f"{self.url}: the connection was closed; make a new engine")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def get(self, path: str) -> Any:
        """The JSON at `path`; raises as `post` does."""
        return await self._exchange("GET", path, None, self._cleaned)

    def _cleaned(self, value: object) -> object:
        """JSON without the key and without what no text can hold."""
        if isinstance(value, dict):
            return {self._cleaned(key): self._cleaned(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._cleaned(each) for each in value]
        return self.hide(plain(value)) if isinstance(value, str) else value

    async def post(self, path: str, make: Callable[[], object], read: Callable[[Any], T]) -> T:
        """Send JSON and read the JSON that comes back.

        Parameters
        ----------
        path : str
            Below the server's base URL.
        make : callable
            Gives the payload once a slot is free; it runs in another thread, so that pictures are encoded side by
            side, and no more of them wait in memory than can be sent.
        read : callable
            Reads the response's JSON; a ValueError says that it is garbage, and the request is repeated.

        Raises
        ------
        ServerFault
            No usable response in any attempt, or one that no further attempt would change.
        """
        async with self._slots:
            return await self._exchange("POST", path, await asyncio.to_thread(make), read)

    async def _exchange(self, method: str, path: str, payload: object, read: Callable[[Any], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            wait = None
            try:
                async with asyncio.timeout(self._timeout):
                    response, data = await self._receive(method, path, payload)
            except TimeoutError:
                fault = self._fault(f"no response in time ({self._timeout:g} s)", Case.FAILS)
            except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
                case = Case.AWAY if isinstance(error, _UNREACHABLE) else Case.FAILS
                fault = self._fault(_in_words(error), case)
            except _UnreadableError as error:
                fault = self._fault(f"the response cannot be read: {error}", Case.FAILS)
            else:
                if response.is_success:
                    found = self._read(data, read)
                    if not isinstance(found, ServerFault):
                        self.down = False
                        return found
                    fault = found
                else:
                    wait = _retry_after(response)
                    fault = self._refusal(response, data, wait)
            # A server that wants to be left alone for longer than a request may take is not waited for.
            patient = wait is None or wait <= self._timeout
            if not fault.case.again or not patient or attempt >= (1 if self.down else self._attempts):
                self.down = self.down or fault.case.again
                times = "once" if attempt == 1 else f"{attempt} times"
                later = "" if patient else f"; it asks to come back in {wait:.0f} s"
                raise ServerFault(f"{self.url}: asked {times}, {fault}{later}", fault.case, fault.status)
            longest = min(_LONGEST_BACKOFF, self._backoff * 2 ** (attempt - 1))
            # Jitter: questions that failed together do not come back together.
            await asyncio.sleep(longest * random.uniform(0.5, 1.0) if wait is None else wait)

    def _read(self, data: bytes, read: Callable[[Any], T]) -> T | ServerFault:
        """What a response with a status of success contains, or the fault that it is."""
        try:
            body = _parsed(data)
            error = _error_within(body)
            if error is None:
                return read(body)
        except RecursionError:
            return self._fault("the response cannot be read: nested too deep", Case.FAILS)
        except ValueError as reason:
            said = words(data, self._hide, "nothing")[:200]
            return self._fault(f"the response cannot be read: {reason}; it says: {said}", Case.FAILS)
        status, said = error
        stated = f"status {status}: " if status else "it answers with an error: "
        return self._fault(stated + self._shown(said), case_of(status, json.dumps(body["error"])), status)

    def _refusal(self, response: httpx2.Response, data: bytes, wait: float | None) -> ServerFault:
        status = response.status_code
        said = self._shown(_message(response, words(data, self._hide)))
        case = case_of(status, data.decode("utf-8", "replace"), wait=wait is not None)
        return self._fault(f"status {status}: {said}", case, status)

    async def _receive(self, method: str, path: str, payload: object) -> tuple[httpx2.Response, bytes]:
        """A response and its body, unpacked; of one that is no success, only its beginning."""
        async with self._http.stream(method, f"{self.url}/{path}", json=payload) as response:
            most = _LARGEST if response.is_success else _LARGEST_ERROR
            packing = response.headers.get("Content-Encoding", "identity").strip().lower()
            if packing not in ("", "identity", "gzip", "x-gzip", "deflate"):
                raise _UnreadableError(f"it is packed as {plain(packing)[:40]!r}, which was not asked for")
            unpack = None if packing in ("", "identity") else zlib.decompressobj(wbits=47)
            data = bytearray()
            async for chunk in response.aiter_raw():
                try:
                    data += chunk if unpack is None else unpack.decompress(chunk, most + 1 - len(data))
                except zlib.error as error:
                    raise _UnreadableError(f"it is no {packing}: {error}") from None
                if len(data) > most:
                    if response.is_success:
                        raise _UnreadableError(f"it is larger than {most} bytes")
                    break
            if unpack is not None and not unpack.eof and response.is_success:
                raise _UnreadableError("it is cut short")
            return response, bytes(data[:most])

    def _shown(self, text: str) -> str:
        return self._hide(plain(self._hide(text)))[:500]

    def _fault(self, reason: str, case: Case, status: int = 0) -> ServerFault:
        return ServerFault(self._hide(plain(self._hide(reason))), case, status)


class _UnreadableError(Exception):
    """The body of a response is too large, or packed in a way that cannot be read."""


def _parsed(data: bytes) -> Any:
    """The JSON of a body; ValueError where it is none, or a key stands there twice with two values."""
    if data.lstrip()[:6] in (b"data: ", b"event:", b"data:{"):
        raise ValueError("the server streams (text/event-stream), though asked not to")
    if data.lstrip()[:1] == b"<":
        raise ValueError("it is a page of HTML and no JSON; check the URL")
    return json.loads(data, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, object]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) and any(found[key] != value for key, value in pairs):
        raise ValueError("an object holds a key twice, with two values")
    return found


def _error_within(body: object) -> tuple[int, str] | None:
    """The error that a body contains though its status is 200: the status it states, else 0, and its words."""
    if not isinstance(body, dict) or not body.get("error"):
        return None
    error = body["error"]
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    code = int(code) if isinstance(code, int | str) and str(code).isascii() and str(code).isdigit() else 0
    return code if 400 <= code < 600 else 0, said_in(body)


def _shut(loop: asyncio.AbstractEventLoop, thread: threading.Thread, http: httpx2.AsyncClient) -> None:
    async def leave() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await http.aclose()
        await loop.shutdown_default_executor()

    leaving = asyncio.run_coroutine_threadsafe(leave(), loop)
    # The last reference may have been dropped by the loop's own thread, which cannot wait for itself.
    if threading.current_thread() is thread:
        leaving.add_done_callback(lambda _: loop.stop())
        return
    leaving.result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _base_url(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise EngineError(f"server {url!r}: not a URL ({error}); give one such as http://host:8000") from None
    if parsed.userinfo or parsed.query:
        raise EngineError(
            f"server {parsed.host}: the URL holds a name, password or query; put the key into {KEYS[0]} instead"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EngineError(f"server {url!r}: not an http URL; give one such as http://host:8000")
    plain = str(parsed.copy_with(fragment=None)).rstrip("/").removesuffix("/chat/completions")
    return plain if parsed.path.strip("/") else f"{plain}/v1"


def _read_key() -> str | None:
    for name in KEYS:
        key = os.environ.get(name, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise EngineError(f"{name} holds characters that no HTTP header can carry; set it again")
            return key
    return None


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3): a number or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else None


def _message(response: httpx2.Response, said: str) -> str:
    """The server's own words, and where it sends one to."""
    if response.is_redirect:
        return f"redirected to {response.headers.get('Location', 'nowhere')}; give that URL"
    return said or response.reason_phrase


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return f"no response in time ({type(error).__name__})"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
