"""Bytes of a file at given places, read by many threads at once; and a bounded memory of decoded pieces."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


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
            raise OSError(
                f"the file ends {offset + count - self.size} bytes before the data at {offset} does"
            )
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


class PieceCache:
    """The most recently used decoded pieces, up to `limit` bytes in all; the latest piece is always kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pieces: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
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

    def put(self, key: Hashable, piece: NDArray[Any]) -> None:
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
