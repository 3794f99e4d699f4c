"""OME-Zarr at http(s) and s3 addresses: zarr's own store over fsspec, with time-outs, retries and a small cache.

Metadata is read when a slide is opened, a chunk when a region needs it. A key that the server does not know (404)
is a chunk that was never written and reads as the fill value; every other failure raises and never fills.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import weakref
from collections import OrderedDict
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.sync import _get_loop
from zarr.storage import FsspecStore, WrapperStore

from wsi.errors import ReadError, UnsupportedSlideError
from wsi.files.address import RemotePath
from wsi.readers.ngff.limits import METADATA, whole_range

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

TRIES = 4
"""How often a request is sent before it counts as failed."""

FIRST_PAUSE = 0.25
"""Seconds before the second try; each further pause is twice the one before."""

TIMEOUT = 30.0
"""Seconds that one try may take."""

CACHE_BYTES = 2**26
"""Encoded chunks that are kept, since tiles share chunks (64 MiB for each open slide)."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".tif", ".tiff", ".qptiff", ".png", ".jpg", ".jpeg")


_OPEN: weakref.WeakSet[RemoteStore] = weakref.WeakSet()


class RemoteStore(WrapperStore[FsspecStore]):
    """A store at an address that tries again what may pass, and raises what does not.

    `refused` says in words what the server sent in place of metadata: servers may answer for a key that does
    not exist with 403 or with a web page, so that these count as missing as long as other metadata is there.
    """

    __hash__ = object.__hash__

    def __init__(self, store: FsspecStore, address: str) -> None:
        super().__init__(store)
        self.address = address
        self.refused = ""
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._size = 0
        _OPEN.add(self)

    def _with_store(self, store: FsspecStore) -> RemoteStore:
        return type(self)(store, self.address)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        """The bytes of a key, None where it does not exist; see `zarr.abc.store.Store`."""
        name = (key, repr(byte_range))
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        metadata = key.rpartition("/")[2] in METADATA
        try:
            found = whole_range(f"{self.address}/{key}", await self._tried(key, prototype, byte_range), byte_range)
        except _Refused as refusal:
            if not metadata:
                raise ReadError(f"{self.address}/{key} {refusal}") from refusal
            self.refused = str(refusal)
            return None
        if found is not None and _is_html(found):
            if not metadata:
                raise ReadError(f"{self.address}/{key} answers with a web page where a chunk belongs")
            self.refused = "answers with a web page (HTML) where Zarr metadata belongs"
            return None
        if found is not None and not metadata:
            self._keep(name, found)
        return found

    def close(self) -> None:
        """Close the connections."""
        self._kept.clear()
        fs = self._store.fs
        clients = [getattr(fs, "_session", None), getattr(fs, "_s3", None)]
        fs._session = fs._s3 = None
        for client in clients:
            if client is not None and not getattr(client, "closed", False):
                closing = asyncio.run_coroutine_threadsafe(client.close(), _get_loop())
                if not _in_loop():  # a slide may be dropped on the very thread that closes
                    wait([closing], 2)
        self._store.close()

    def _keep(self, name: tuple[str, str], found: Any) -> None:
        self._kept[name] = found
        self._size += len(found)
        while self._size > CACHE_BYTES and self._kept:
            self._size -= len(self._kept.popitem(last=False)[1])

    async def _tried(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        if isinstance(byte_range, RangeByteRequest) and byte_range.start >= byte_range.end:
            return prototype.buffer.from_bytes(b"")
        if isinstance(byte_range, SuffixByteRequest) and self._store.fs.protocol[0] == "http":
            byte_range = None  # takes the size of the object, which not every server states; it is cut later
        last: Exception | None = None
        for number in range(TRIES):
            if number:
                await asyncio.sleep(FIRST_PAUSE * 2 ** (number - 1))
            try:
                return await asyncio.wait_for(self._store.get(key, prototype, byte_range), TIMEOUT)
            except Exception as error:  # clients and fsspec raise errors of their own kinds
                if not _passes(error):
                    raise _Refused(_reason(error)) from error
                last = error
        raise ReadError(f"{self.address}/{key} {_reason(last)}, {TRIES} times. Try again later.") from last


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@atexit.register
def _close_all() -> None:
    """Connections are closed before zarr's own exit handler, registered earlier, stops the loop they need."""
    for store in list(_OPEN):
        store.close()


class _Refused(Exception):
    """What a server said in place of data, in words."""


def open_store(path: RemotePath) -> RemoteStore:
    """The store at an address. Nothing is read yet.

    Raises
    ------
    UnsupportedSlideError
        The kind of address or of file is not read over the network, or the extra 'remote' is not installed.
    """
    address = str(path) if str(path).endswith("://") else str(path).rstrip("/")
    if path.scheme not in ("http", "https", "s3"):
        raise UnsupportedSlideError(
            f"{path}: slides are read from http://, https:// and s3:// addresses and from the local disk, not from "
            f"{path.scheme}://. Copy the slide here first"
            + (", or give its path without file://." if path.scheme == "file" else ".")
        )
    if not address.partition("://")[2]:
        raise UnsupportedSlideError(f"{path} names no server or bucket.")
    if path.name.lower().endswith((*_SLIDES, ".zip")):
        raise UnsupportedSlideError(
            f"{path}: over the network only OME-Zarr folders are read. Download the file and open the copy."
        )
    if "?" in address or "#" in address:
        raise UnsupportedSlideError(
            f"{path}: an address with ? or # cannot be extended to its chunks. Give the plain address of the OME-Zarr "
            "folder."
        )
    try:
        if path.scheme == "s3":
            import s3fs  # noqa: F401
        else:
            import aiohttp  # noqa: F401
        store = FsspecStore.from_url(address, storage_options=_options(path.scheme), read_only=True)
    except ImportError as error:
        raise UnsupportedSlideError(
            f"{path} is read with packages that are not installed ({error.name}): pip install 'napari-qwenvl[remote]'."
        ) from error
    except ValueError as error:
        raise UnsupportedSlideError(f"{path} is no address that can be read: {error}.") from error
    if path.scheme == "s3":
        store.fs.retries = 1  # the store tries again by itself
    return RemoteStore(store, address)


def _options(scheme: str) -> dict[str, object]:
    if scheme == "s3":
        return {
            "anon": not _has_credentials(),
            "config_kwargs": {"connect_timeout": 10, "read_timeout": TIMEOUT, "retries": {"max_attempts": 1}},
            "skip_instance_cache": True,
        }
    import aiohttp

    # Without trust_env proxies of the environment would not be used.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=TIMEOUT)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "skip_instance_cache": True}


def _has_credentials() -> bool:
    """Whether AWS credentials are set up; without them requests are anonymous, as public buckets want them."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return any(os.environ.get(name) for name in names) or Path(file).expanduser().is_file()


def _passes(error: Exception) -> bool:
    """Whether a failure may pass: the server is busy, or the connection broke."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in _PASSING
    if isinstance(error, (PermissionError, FileNotFoundError)):
        return False
    if type(error).__name__ in ("InvalidURL", "NoCredentialsError", "InvalidUrlClientError"):
        return False
    kinds = ("aiohttp", "botocore", "aiobotocore")
    return isinstance(error, (OSError, TimeoutError)) or type(error).__module__.split(".")[0] in kinds


def _reason(error: Exception | None) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int) and status > 0:
        return f"answers {status} ({getattr(error, 'message', '') or 'no reason given'})"
    if isinstance(error, PermissionError):
        return f"answers 403 ({error})"
    if isinstance(error, TimeoutError):
        return f"does not answer within {TIMEOUT:g} s"
    if type(error).__name__ in ("ClientPayloadError", "ServerDisconnectedError", "IncompleteReadError"):
        return "sends less data than it announces"
    return f"cannot be reached ({str(error) or type(error).__name__:.200})"


def _is_html(data: Any) -> bool:
    head = bytes(data.to_bytes()[:256] if len(data) < 4096 else data[:256].to_bytes()).lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html"))
