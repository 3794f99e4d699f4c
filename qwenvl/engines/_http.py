"""Talking to a server: one connection pool, bounded concurrency, retries, and no key in any message."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import weakref
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from qwenvl.errors import EngineError

KEYS = ("QWENVL_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the server's key; the first that is set counts."""

_RETRIED = (408, 425, 429)
_LONGEST_WAIT = 120.0  # seconds that a server's Retry-After is honoured for
_LONGEST_BACKOFF = 30.0
_CONNECT = 10.0
_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout)

T = TypeVar("T")


class ServerFault(Exception):
    """One question got no answer in all its attempts, through no fault of the question."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        """No connection could be made at all."""


class Refusal(Exception):
    """The server understood and refused (4xx); the same question would be refused again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


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
        Seconds to wait for one response.
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
        self._down = False
        secret = _read_key()
        self._hide: Callable[[str], str] = lambda text: text.replace(secret, "***") if secret else text
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {secret}"} if secret else {},
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

    def run(self, work: Coroutine[Any, Any, T]) -> T:
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
        return await self._exchange("GET", path, None, lambda body: body)

    async def post(self, path: str, make: Callable[[], Any], read: Callable[[Any], T]) -> T:
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
            No usable response in any attempt.
        Refusal
            The server refused the request.
        """
        async with self._slots:
            return await self._exchange("POST", path, await asyncio.to_thread(make), read)

    async def _exchange(self, method: str, path: str, payload: Any, read: Callable[[Any], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            asked_wait = None
            try:
                response = await self._http.request(method, f"{self.url}/{path}", json=payload)
            except httpx2.TransportError as error:
                fault = self._fault(_in_words(error), unreachable=isinstance(error, _UNREACHABLE))
            else:
                self._down = False
                if response.is_success:
                    try:
                        return read(response.json())
                    except ValueError as error:
                        fault = self._fault(f"the response cannot be read: {error}")
                elif response.status_code >= 500 or response.status_code in _RETRIED:
                    fault = self._fault(f"status {response.status_code}: {_message(response)}")
                    asked_wait = _retry_after(response)
                else:
                    raise Refusal(response.status_code, self._hide(_message(response)))
            # Once one question has found nobody there in all its attempts, the others try once.
            if attempt >= (1 if self._down else self._attempts):
                self._down = self._down or fault.unreachable
                times = "once" if attempt == 1 else f"{attempt} times"
                raise ServerFault(f"{self.url}: asked {times}, {fault}", unreachable=fault.unreachable)
            longest = min(_LONGEST_BACKOFF, self._backoff * 2 ** (attempt - 1))
            # Jitter: questions that failed together do not come back together.
            await asyncio.sleep(longest * random.uniform(0.5, 1.0) if asked_wait is None else asked_wait)

    def _fault(self, reason: str, *, unreachable: bool = False) -> ServerFault:
        return ServerFault(self._hide(reason), unreachable=unreachable)


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
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None


def _message(response: httpx2.Response) -> str:
    """The server's own words, wherever its API puts them."""
    if response.is_redirect:
        return f"redirected to {response.headers.get('Location', 'nowhere')}; give that URL"
    try:
        body = response.json()
    except ValueError:
        return response.text.strip()[:500] or response.reason_phrase
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), str(body))
    return str(body)[:500]


def _in_words(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return f"no response in time ({type(error).__name__})"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
