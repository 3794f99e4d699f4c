"""Chunks of a local OME-Zarr array, decoded on the thread that asks.

zarr reads chunks on one thread of its own and hands each to a pool; with small chunks that takes as long as
decoding. Arrays in the plain forms (Zarr 2 without filters, Zarr 3 with bytes and one compressor,
or shards of such chunks) are read here, with zarr's metadata, keys and codecs; everything else, and what lies at
addresses, is left to zarr.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from wsi.errors import ReadError
from wsi.readers.ngff.limits import Bounded, GuardedStore

_NOT_THERE = 2**64 - 1
_INDEXES = 64  # of shards, kept for each array


class Chunks:
    """Reads regions of one array; made by `chunks_of`."""

    def __init__(
        self,
        array: zarr.Array[Any],
        place: str,
        store: GuardedStore,
        decode: Callable[[bytes], Any] | None,
        stored: np.dtype[np.generic],
    ) -> None:
        self._place, self._store, self._decode, self._stored = place, store, decode, stored
        self._key = array.metadata.encode_chunk_key
        self._shape, self._chunk = array.shape, array.chunks
        self._dtype = array.dtype.newbyteorder("=")
        fill = array.fill_value
        self._fill = np.zeros((), self._dtype)[()] if fill is None else fill

    def read(self, selection: Sequence[int | slice]) -> NDArray[Any]:
        """The values of a selection (whole numbers and slices with start and stop), in native byte order.

        Raises
        ------
        ReadError
            A chunk is damaged.
        """
        spans = [(s.start, s.stop) if isinstance(s, slice) else (s, s + 1) for s in selection]
        out = np.empty([stop - start for start, stop in spans], self._dtype)
        touched = [
            range(start // size, (stop - 1) // size + 1) for (start, stop), size in zip(spans, self._chunk, strict=True)
        ]
        for place in product(*touched):
            inside, outside = [], []
            for number, size, (start, stop) in zip(place, self._chunk, spans, strict=True):
                first, last = max(start, number * size), min(stop, (number + 1) * size)
                inside.append(slice(first - number * size, last - number * size))
                outside.append(slice(first - start, last - start))
            chunk = self._chunk_at(place)
            out[tuple(outside)] = self._fill if chunk is None else chunk[tuple(inside)]
        kept = tuple(slice(None) if isinstance(s, slice) else 0 for s in selection)
        return np.asarray(out[kept])

    def _chunk_at(self, place: tuple[int, ...]) -> NDArray[np.generic] | None:
        key = f"{self._place}/{self._key(place)}".lstrip("/")
        return self._decoded(key, self._store.fetch(key))

    def _decoded(self, key: str, data: bytes | None) -> NDArray[np.generic] | None:
        if data is None:
            return None
        try:
            decoded = data if self._decode is None else self._decode(data)
            return np.frombuffer(decoded, self._stored).reshape(self._chunk)
        except Exception as error:  # codecs raise errors of their own kinds
            raise ReadError(f"chunk {key} cannot be decoded: {error!r:.200}") from error


class ShardedChunks(Chunks):
    """Reads regions of an array whose chunks lie in shards, with the index of each at one of its ends."""

    def __init__(
        self,
        array: zarr.Array[Any],
        place: str,
        store: GuardedStore,
        decode: Callable[[bytes], Any] | None,
        stored: np.dtype[np.generic],
        at_end: bool,
    ) -> None:
        super().__init__(array, place, store, decode, stored)
        assert array.shards is not None
        self._per_shard = tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
        self._at_end = at_end
        self._indexes: OrderedDict[str, NDArray[np.uint64] | None] = OrderedDict()

    def _chunk_at(self, place: tuple[int, ...]) -> NDArray[np.generic] | None:
        shard = tuple(n // count for n, count in zip(place, self._per_shard, strict=True))
        key = f"{self._place}/{self._key(shard)}".lstrip("/")
        index = self._index(key)
        if index is None:
            return None
        start, length = map(int, index[tuple(n % c for n, c in zip(place, self._per_shard, strict=True))])
        if (start, length) == (_NOT_THERE, _NOT_THERE):
            return None
        return self._decoded(key, self._store.fetch_range(key, start, length))

    def _index(self, key: str) -> NDArray[np.uint64] | None:
        """Offset and length of each chunk of a shard (Zarr 3, sharding codec 1.0), None where it does not exist."""
        with suppress(KeyError):
            return self._indexes[key]
        size = 16 * math.prod(self._per_shard) + 4
        data = self._store.fetch_range(key, -size if self._at_end else 0, size)
        index = None
        if data is not None:
            if google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise ReadError(f"the index of shard {key} does not fit its checksum")
            index = np.frombuffer(data[:-4], "<u8").reshape(*self._per_shard, 2)
        self._indexes[key] = index
        while len(self._indexes) > _INDEXES:
            with suppress(KeyError):  # other threads do likewise
                self._indexes.popitem(last=False)
        return index


def chunks_of(array: zarr.Array[Any], place: str, store: GuardedStore) -> Chunks | None:
    """A reader for an array whose codecs are bounded, None where its form is not a plain one."""
    pipeline: Any = array.async_array.codec_pipeline
    codec, compressors = pipeline.array_bytes_codec, pipeline.bytes_bytes_codecs
    if array.metadata.zarr_format == 2:
        if codec.filters or array.metadata.order != "C":
            return None
        decode = None if codec.compressor is None else codec.compressor.decode
        return Chunks(array, place, store, decode, array.dtype)
    if pipeline.array_array_codecs:
        return None
    at_end = None
    if isinstance(codec, ShardingCodec):
        index = [type(each) for each in codec.index_codecs]
        if compressors or index != [BytesCodec, Crc32cCodec] or _endian(codec.index_codecs[0]) != "<":
            return None
        at_end = _word(codec.index_location) == "end"
        codec, *compressors = codec.codecs
    if not isinstance(codec, BytesCodec) or len(compressors) > 1:
        return None
    decode = _decoder(compressors[0]) if compressors else None
    if compressors and decode is None:
        return None
    stored = array.dtype.newbyteorder(_endian(codec))
    if at_end is None:
        return Chunks(array, place, store, decode, stored)
    return ShardedChunks(array, place, store, decode, stored, at_end)


def _endian(codec: Any) -> Any:
    return "=" if codec.endian is None else "<" if _word(codec.endian) == "little" else ">"


def _word(value: object) -> str:
    """An enum's value to zarr 3.1, a word to zarr 3.4."""
    return str(getattr(value, "value", value))


def _decoder(codec: object) -> Callable[[bytes], Any] | None:
    """The codec of Zarr 2 that reads what a codec of Zarr 3 wrote, bounded likewise."""
    name, limit = getattr(codec, "name", ""), getattr(codec, "limit", 0)
    if name not in ("zstd", "blosc", "gzip"):
        return None
    return Bounded(numcodecs.get_codec({"id": name}), limit).decode
