"""Bytes of a file at given places, read by many threads at once; and a bounded memory of decoded pieces."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLAB_BYTES = 8 << 20
SCRATCH_BYTES = 2 << 20
_LARGE_PAGE = 2 << 20
# libjpeg-turbo's SIMD writes px past the processor's caches where a row begins at a multiple of 32 bytes, and they are
# wanted at once: memory that begins half-way between two saves a tenth of decoding and copying a tile.
_ASIDE, _STEP = 16, 32
_here = threading.local()


def _memory(size: int) -> NDArray[np.uint8]:
    """Memory that begins `_ASIDE` bytes into a large page, where the system has them (NumPy asks from 4 MB on)."""
    whole = np.empty(max(size + _ASIDE, _LARGE_PAGE) + _LARGE_PAGE, np.uint8)
    begin = -whole.ctypes.data % _LARGE_PAGE + _ASIDE
    return whole[begin : begin + size]


def scratch(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 memory of this thread, the same for every call: what is in it lasts until the next use."""
    size = math.prod(shape)
    if size > SCRATCH_BYTES:
        return np.empty(shape, np.uint8)
    try:
        memory = _here.memory
    except AttributeError:
        memory = _here.memory = _memory(SCRATCH_BYTES)
    return memory[:size].reshape(shape)


class FileBytes:
    """A file read by position (POSIX pread), so that threads share no file pointer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self._fd).st_size
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`. Raises OSError when the file is closed or ends before."""
        if self._fd < 0:
            raise OSError("the slide is closed")
        if count > self.size:  # asked of a damaged directory: no memory is taken for it
            raise OSError(f"the file ends {offset + count - self.size} bytes before the data at {offset} does")
        data = self._read_at(offset, count)
        if len(data) != count:
            raise OSError(f"the file ends {count - len(data)} bytes before the data at {offset} does")
        return data

    def _read_at(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, count, offset)
        with self._lock:  # Windows has no pread.
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


class PieceStore:
    """Decoded pieces of several images, up to `limit` bytes in all; those kept first are forgotten first.

    An image keeps its pieces in a dict of its own, which it looks up without a lock. The cache counts what they
    take and removes them again. Memory comes in slabs of 8 MB, because page faults of fresh memory cost up to
    a third of decoding a tile, and large blocks get large pages where the system has them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._blocks: dict[int, tuple[NDArray[np.generic], list[tuple[dict[int, NDArray[np.generic]], int]]]] = {}
        self._bytes = 0
        self._slab: NDArray[np.uint8] | None = None
        self._used = 0
        self._lock = threading.Lock()

    def room(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for a uint8 piece that is going to be kept."""
        size = math.prod(shape)
        if size > _SLAB_BYTES // 8:
            return np.empty(shape, np.uint8)
        with self._lock:
            if self._slab is None or self._used + size > len(self._slab):
                self._slab, self._used = _memory(_SLAB_BYTES), 0
            begin = self._used
            self._used += -(-size // _STEP) * _STEP
            return self._slab[begin : begin + size].reshape(shape)

    def keep(self, pieces: dict[int, NDArray[np.generic]], index: int, piece: NDArray[np.generic]) -> None:
        """Put a piece into the dict of its image, and forget the oldest memory above the limit."""
        block = piece.base if isinstance(piece.base, np.ndarray) else piece
        with self._lock:
            if id(block) not in self._blocks:
                self._blocks[id(block)] = (block, [])
                self._bytes += block.nbytes
            self._blocks[id(block)][1].append((pieces, index))
            pieces[index] = piece
            while self._bytes > self.limit and len(self._blocks) > 1:
                oldest, held = self._blocks.pop(next(iter(self._blocks)))
                self._bytes -= oldest.nbytes
                for owner, at in held:
                    owner.pop(at, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for _, held in self._blocks.values():
                for owner, at in held:
                    owner.pop(at, None)
            self._blocks.clear()
            self._bytes, self._slab = 0, None


class PieceCache:
    """The most recently used decoded pieces, up to `limit` bytes in all; the latest piece is always kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pieces: OrderedDict[Hashable, NDArray[np.generic]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """The piece, now the most recently used, or None."""
        if key not in self._pieces:  # without the lock: a miss is by far the most frequent answer
            return None
        with self._lock:
            piece = self._pieces.get(key)
            if piece is not None:
                self._pieces.move_to_end(key)
            return piece

    def put(self, key: Hashable, piece: NDArray[np.generic]) -> None:
        """Remember a piece and forget the oldest ones above the limit."""
        with self._lock:
            old = self._pieces.pop(key, None)
            self._bytes += piece.nbytes - (0 if old is None else old.nbytes)
            self._pieces[key] = piece
            while self._bytes > self.limit and len(self._pieces) > 1:
                self._bytes -= self._pieces.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._pieces.clear()
            self._bytes = 0
