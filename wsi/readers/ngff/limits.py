"""Limits on what an OME-Zarr file may make a reader allocate, and damage that zarr takes for holes.

A chunk that is not there reads as the array's fill value, by Zarr's rule. That rule is for keys that do not exist:
a folder or a broken link in the chunk's place, or bytes that a shard's index promises and the file has not,
are damage and raise.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import WrapperStore, ZipStore

from wsi.errors import ReadError, UnsupportedSlideError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype

MAX_CHUNK_BYTES = 2**30
"""Largest chunk, decoded, that is read (1 GiB): a read allocates several of them at once."""

MAX_METADATA_BYTES = 2**26
"""Largest metadata document that is read (64 MiB)."""

METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata", "METADATA.ome.xml")
"""Names of keys that are no chunks."""
_SLACK = 4096  # bytes that headers, checksums and incompressible data may add


class GuardedStore(WrapperStore[Any]):
    """A store of a folder or zip that refuses members beyond the limits and damage that looks like a hole."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        """The bytes of a key, None where it does not exist; see `zarr.abc.store.Store`."""
        if byte_range is None:
            self._check(key, self._size(key))
        found = await self._store.get(key, prototype, byte_range)
        if found is None:
            self._check_hole(key)
        return whole_range(key, found, byte_range)

    def fetch(self, key: str) -> bytes | None:
        """The bytes of a key on this thread, None where it does not exist. Raises ReadError, OSError."""
        if isinstance(self._store, ZipStore):
            self._check(key, self._size(key))
            try:
                with self._store._lock:
                    return self._store._zf.read(key)
            except KeyError:
                return None
        place = f"{self._store.root}/{key}"
        try:
            with open(place, "rb", buffering=0) as stream:
                self._check(key, os.fstat(stream.fileno()).st_size)
                return stream.readall()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_hole(key)
            return None

    def fetch_range(self, key: str, start: int, length: int) -> bytes | None:
        """Bytes of a key on this thread, from its end where `start` is negative; as `fetch` otherwise."""
        try:
            if isinstance(self._store, ZipStore):
                with self._store._lock:
                    size = self._store._zf.getinfo(key).file_size
                    first = self._first(key, start, length, size)
                    with self._store._zf.open(key) as member:
                        member.seek(first)
                        return member.read(length)
            with open(f"{self._store.root}/{key}", "rb", buffering=0) as stream:
                first = self._first(key, start, length, os.fstat(stream.fileno()).st_size)
                stream.seek(first)
                return stream.read(length)
        except (KeyError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_hole(key)
            return None

    def _first(self, key: str, start: int, length: int, size: int) -> int:
        first = size + start if start < 0 else start
        if first < 0 or length <= 0 or first + length > size:
            raise ReadError(f"{self._store}: {key} ends before the bytes that its index promises")
        return first

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _check(self, key: str, size: int | None) -> None:
        limit = MAX_METADATA_BYTES if key.rpartition("/")[2] in METADATA else 2 * MAX_CHUNK_BYTES
        if size is not None and size > limit:
            raise ReadError(f"{self._store}: {key} holds {in_words(size)}; at most {in_words(limit)} are read at once")

    def _check_hole(self, key: str) -> None:
        if isinstance(self._store, ZipStore) or key.rpartition("/")[2] in METADATA:
            return
        if os.path.lexists(Path(self._store.root) / key):
            raise ReadError(f"{self._store}: {key} is a folder or a broken link where a chunk should be")

    def _size(self, key: str) -> int | None:
        try:
            if isinstance(self._store, ZipStore):
                if not self._store._is_open:
                    self._store._sync_open()
                return int(self._store._zf.getinfo(key).file_size)
            return (Path(self._store.root) / key).stat().st_size
        except (OSError, KeyError):
            return None


def whole_range(key: str, found: Buffer | None, byte_range: ByteRequest | None) -> Buffer | None:
    """The bytes of a range that was asked for; raises ReadError where they are fewer.

    A server that does not know ranges sends the whole object: the range is cut from it.
    """
    if found is not None and not len(found) and key.rpartition("/")[2] not in METADATA:
        raise ReadError(f"{key} is empty")
    if found is None or byte_range is None:
        return found
    if isinstance(byte_range, RangeByteRequest):
        wanted = byte_range.end - byte_range.start
        cut = slice(byte_range.start, byte_range.end)
    elif isinstance(byte_range, SuffixByteRequest):
        wanted, cut = byte_range.suffix, slice(len(found) - byte_range.suffix, None)
    else:
        return found
    if len(found) > wanted:
        found = found[cut]
    if len(found) != wanted or wanted <= 0:
        raise ReadError(f"{key} ends before the bytes that its index promises")
    return found


def check_chunks(array: zarr.Array[Any], where: str) -> None:
    """Raise UnsupportedSlideError where one chunk of the array is beyond `MAX_CHUNK_BYTES`."""
    size = _bytes_of(array.chunks, array.dtype.itemsize)
    if size > MAX_CHUNK_BYTES:
        raise UnsupportedSlideError(
            f"{where} is stored in chunks of {' x '.join(map(str, array.chunks))} px, {in_words(size)} each; at most "
            f"{in_words(MAX_CHUNK_BYTES)} are read. Write it again in smaller chunks."
        )


def bound(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, whose chunks are decoded only if they are no larger than the array's chunks."""
    owner: Any = array.async_array
    pipeline = owner.codec_pipeline
    codec = pipeline.array_bytes_codec
    limit = _bytes_of(array.chunks, array.dtype.itemsize)
    if hasattr(codec, "compressor"):  # Zarr 2
        limit *= 8 if codec.filters else 1
        if codec.compressor is not None:
            codec = replace(codec, compressor=Bounded(codec.compressor, limit + _SLACK))
        pipeline = replace(pipeline, array_bytes_codec=codec)
    elif hasattr(codec, "index_codecs"):  # sharded
        inner = tuple(_bounded(each, limit) for each in codec.codecs)
        pipeline = replace(pipeline, array_bytes_codec=replace(codec, codecs=inner))
    else:
        limit *= 8 if pipeline.array_array_codecs else 1
        outer = tuple(_bounded(each, limit) for each in pipeline.bytes_bytes_codecs)
        pipeline = replace(pipeline, bytes_bytes_codecs=outer)
    object.__setattr__(owner, "codec_pipeline", pipeline)
    return array


def in_words(size: int) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size = size / 1024  # type: ignore[assignment]
    return f"{size:.4g} PiB"


def _bytes_of(shape: tuple[int, ...], itemsize: int) -> int:
    total = itemsize
    for side in shape:
        total *= int(side)
    return total


def _bounded(codec: object, limit: int) -> Any:
    if not isinstance(codec, BytesBytesCodec):
        return codec
    return _BoundedV3(codec, str(codec.to_dict().get("name", "")).rpartition(".")[2], limit + _SLACK)


@dataclass(frozen=True)
class _BoundedV3(BytesBytesCodec):
    """A codec of Zarr 3 that decodes `limit` bytes at most."""

    inner: Any
    name: str
    limit: int
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return dict(self.inner.to_dict())

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> _BoundedV3:
        return replace(self, inner=self.inner.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return int(self.inner.compute_encoded_size(input_byte_length, chunk_spec))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Any:
        decode = _STREAMS.get(self.name)
        if decode is None:
            _check_header(self.name, chunk_bytes.as_numpy_array(), self.limit)
            return await self.inner._decode_single(chunk_bytes, chunk_spec)
        data = await asyncio.to_thread(decode, chunk_bytes.to_bytes(), self.limit)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Any:
        return await self.inner._encode_single(chunk_bytes, chunk_spec)


class Bounded:
    """A codec of Zarr 2 (numcodecs) that decodes `limit` bytes at most."""

    def __init__(self, inner: Any, limit: int) -> None:
        self.inner, self.limit = inner, limit
        self.codec_id = inner.codec_id

    def decode(self, buf: Any, out: object = None) -> Any:
        """The decoded chunk. Raises ReadError where it is larger than the limit."""
        decode = _STREAMS.get(self.codec_id)
        if self.codec_id == "lzma":
            memory = {} if self.inner.format == lzma.FORMAT_RAW else {"memlimit": MAX_CHUNK_BYTES}
            how = {"format": self.inner.format, "filters": self.inner.filters, **memory}
            return _streamed(bytes(buf), self.limit, lambda: lzma.LZMADecompressor(**how))
        if decode is not None:
            return decode(bytes(buf), self.limit)
        _check_header(self.codec_id, buf, self.limit)
        return self.inner.decode(buf, out)

    def encode(self, buf: object) -> object:
        """As the codec itself."""
        return self.inner.encode(buf)

    def get_config(self) -> Any:
        """As the codec itself."""
        return self.inner.get_config()


def _check_header(name: str, data: Any, limit: int) -> None:
    """Raise ReadError where a chunk states that it is larger than `limit` decoded."""
    head = bytes(data[:16])
    size = 0
    if name == "blosc" and len(head) == 16:
        size, stored = (int.from_bytes(head[at : at + 4], "little") for at in (4, 12))
        if stored != len(data):  # the codec does not look where its data ends
            raise ReadError(f"a chunk of {len(data)} bytes states that it has {stored}")
    elif name == "lz4" and len(head) >= 4:
        size = int.from_bytes(head[:4], "little")
    elif name == "zstd":
        size = _zstd_size(data)
    if size > limit:
        raise ReadError(
            f"a chunk states {in_words(size)} decoded, where one of {in_words(limit)} belongs; it is not decoded"
        )


def _zstd_size(data: Any) -> int:
    """Decoded size that a first frame states, else an upper bound of all blocks (RFC 8878, 3.1.1).

    0 where the data is no zstd. More than a frame states is never decoded by numcodecs.
    """
    data = memoryview(data).cast("B")
    total, at = 0, 0
    while at + 6 <= len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # skippable frame
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        if magic != 0xFD2FB528:
            break
        flags = data[at + 4]
        single = flags >> 5 & 1
        width = ((1 if single else 0), 2, 4, 8)[flags >> 6]
        at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        if width and not total:
            return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
        at += width
        last = False
        while not last and at + 3 <= len(data):
            header = int.from_bytes(data[at : at + 3], "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            total += 2**17 if kind == 2 else size
            at += 3 + (1 if kind == 1 else size)
        at += 4 if flags & 4 else 0
    return total


def _gunzip(data: bytes, limit: int, bits: int = 31) -> bytes:
    parts, size = [], 0
    while data:
        stream = zlib.decompressobj(bits)
        parts.append(stream.decompress(data, limit + 1 - size))
        size += len(parts[-1])
        _check_size(size, limit)
        if not stream.eof:
            raise ReadError("a chunk ends before its data does")
        data = stream.unused_data.lstrip(b"\0") if bits == 31 else b""
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _streamed(data: bytes, limit: int, make: Callable[[], Any]) -> bytes:
    parts, size = [], 0
    while data:
        stream = make()
        parts.append(stream.decompress(data, limit + 1 - size))
        size += len(parts[-1])
        _check_size(size, limit)
        if not stream.eof:
            raise ReadError("a chunk ends before its data does")
        data = stream.unused_data
    return b"".join(parts)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ReadError(f"a chunk holds more than the {in_words(limit)} that belong there")


_STREAMS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "zlib": lambda data, limit: _gunzip(data, limit, 15),
    "bz2": lambda data, limit: _streamed(data, limit, bz2.BZ2Decompressor),
}
