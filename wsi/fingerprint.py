"""A content fingerprint that does not need to read a whole slide."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLE = 64 * 1024
_SAMPLES = 33
_WHOLE = _SAMPLE * (_SAMPLES - 1)
_FOLDER_FILES = 512
_DIGITS = 32


def fingerprint_path(path: Path) -> str:
    """Hash a slide's content; neither its name nor its place counts.

    A file up to 2 MB is hashed whole; a larger one by its size and 33 samples of 64 KiB spread evenly from
    first to last byte. A folder (OME-Zarr) is hashed by the relative names and sizes of its files and by
    the content, as above, of all of them, or of 512 spread evenly where there are more.

    Returns
    -------
    str
        'sha256:' and 32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
        for name, file in files:
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        chosen = min(len(files), _FOLDER_FILES)
        for i in range(chosen):
            _update_from_file(digest, files[i * (len(files) - 1) // max(1, chosen - 1)][1])
    else:
        _update_from_file(digest, path)
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"


def combine(fingerprint: str, identity: str) -> str:
    """A fingerprint that also covers what is not in the hashed file (a slide spread over several files)."""
    if not identity:
        return fingerprint
    both = f"{fingerprint}\0{identity}".encode()
    return f"sha256:{hashlib.sha256(both).hexdigest()[:_DIGITS]}"


def _update_from_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        if size <= _WHOLE:
            digest.update(stream.read())
            return
        for i in range(_SAMPLES):
            stream.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
