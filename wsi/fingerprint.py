"""A content fingerprint that does not need to read a whole slide."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLE = 64 * 1024
_SAMPLES = 33


def fingerprint_path(path: Path) -> str:
    """Hash a slide's content.

    A file up to 2 MB is hashed whole; a larger one by its size and 33 samples of 64 KiB spread evenly from
    first to last byte. A folder (OME-Zarr, MRXS data) is hashed by the relative names and sizes of its
    files and by the content of those below 64 KiB.

    Returns
    -------
    str
        'sha256:' and 32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
            if size <= _SAMPLE:
                digest.update(file.read_bytes())
    else:
        _update_from_file(digest, path)
    return f"sha256:{digest.hexdigest()[:32]}"


def _update_from_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        if size <= _SAMPLE * (_SAMPLES - 1):
            digest.update(stream.read())
            return
        for i in range(_SAMPLES):
            stream.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
