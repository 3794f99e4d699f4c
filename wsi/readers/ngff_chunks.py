"""Chunks of a local OME-Zarr array, decoded on the thread that asks.

zarr reads chunks on one thread of its own and hands each to a pool; with small chunks that takes as long as
decoding. Arrays in the plain forms (Zarr 2 without filters, Zarr 3 with bytes and one compressor) are read here,
with zarr's metadata, keys and codecs; everything else, shards and addresses too, is left to zarr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec

from wsi.errors import ReadError
from wsi.readers.ngff_limits import Bounded

Fetch = Callable[[str], bytes | None]
"""Gets the bytes of a key, None where it does not exist."""


class Chunks:
    """Reads regions of one array; made by `chunks_of`."""

    def __init__(self, array: zarr.Array[Any], place: str, fetch: Fetch, decode: Callable[[bytes], Any] | None,
                 stored: np.dtype[Any]) -> None:  # fmt: skip
        self._place, self._fetch, self._decode, self._stored = place, fetch, decode, stored
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
            range(start // size, (stop - 1) // size + 1)
            for (start, stop), size in zip(spans, self._chunk, strict=True)
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

    def _chunk_at(self, place: tuple[int, ...]) -> NDArray[Any] | None:
        key = f"{self._place}/{self._key(place)}".lstrip("/")
        data = self._fetch(key)
        if data is None:
            return None
        try:
            decoded = data if self._decode is None else self._decode(data)
            return np.frombuffer(decoded, self._stored).reshape(self._chunk)
        except Exception as error:  # codecs raise errors of their own kinds
            raise ReadError(f"chunk {key} cannot be decoded: {error!r:.200}") from error


def chunks_of(array: zarr.Array[Any], place: str, fetch: Fetch) -> Chunks | None:
    """A reader for an array whose codecs are bounded, None where its form is not a plain one."""
    pipeline: Any = array.async_array.codec_pipeline
    codec = pipeline.array_bytes_codec
    if array.metadata.zarr_format == 2:
        if codec.filters or array.metadata.order != "C":
            return None
        decode = None if codec.compressor is None else codec.compressor.decode
        return Chunks(array, place, fetch, decode, array.dtype)
    compressors = pipeline.bytes_bytes_codecs
    if pipeline.array_array_codecs or not isinstance(codec, BytesCodec) or len(compressors) > 1:
        return None
    stored = array.dtype
    if codec.endian is not None:
        order = getattr(codec.endian, "value", codec.endian)  # an enum to zarr 3.1, a word to zarr 3.4
        stored = stored.newbyteorder("<" if order == "little" else ">")
    decode = _decoder(compressors[0]) if compressors else None
    return None if compressors and decode is None else Chunks(array, place, fetch, decode, stored)


def _decoder(codec: Any) -> Callable[[bytes], Any] | None:
    """The codec of Zarr 2 that reads what a codec of Zarr 3 wrote, bounded likewise."""
    name, limit = getattr(codec, "name", ""), getattr(codec, "limit", 0)
    if name not in ("zstd", "blosc", "gzip"):
        return None
    return Bounded(numcodecs.get_codec({"id": name}), limit).decode
