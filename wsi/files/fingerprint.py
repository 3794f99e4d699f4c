"""A content fingerprint that does not need to read a whole slide."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_SAMPLE = 64 * 1024
_SAMPLES = 33
_WHOLE = _SAMPLE * (_SAMPLES - 1)
_TOGETHER = 32 * _WHOLE
_FOLDER_FILES = 512
_DIGITS = 32


def fingerprint_path(path: Path) -> str:
    """Hash a slide's content; neither its name nor its place counts.

    A file up to 2 MB is hashed whole; a larger one by its size and 33 samples of 64 KiB spread evenly from
    first to last byte. A folder (OME-Zarr) is hashed by the relative names and sizes of its files, those in
    linked folders too, and by the content, as above, of all of them, or of 512 spread evenly where there are more.

    Returns
    -------
    str
        'sha256:' and 32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        inside = (Path(folder) / name for folder, _, names in walk_linked(path) for name in names)
        files = sorted((p.relative_to(path).as_posix(), p) for p in inside if p.is_file())
        for name, file in files:
            digest.update(f"{name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        chosen = min(len(files), _FOLDER_FILES)
        for i in range(chosen):
            _update_from_file(digest, files[i * (len(files) - 1) // max(1, chosen - 1)][1])
    else:
        _update_from_file(digest, path)
    return _of(digest)


def walk_linked(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that also enters linked folders, in which levels of an image may lie; each real folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(path, followlinks=True):
        try:
            found = os.stat(folder)
        except OSError:
            continue  # gone since it was listed, which whoever compares sees
        here = found.st_dev, found.st_ino
        if here in seen:
            names.clear()
            continue
        seen.add(here)
        names.sort()
        yield folder, names, files


def fingerprint_files(files: Sequence[Path], identity: str = "") -> str:
    """Hash a slide made of one or several files; their content counts, their names do not.

    Parameters
    ----------
    files : sequence of Path
        Every file of the slide, in an order that does not depend on which of them was opened. One file, or one
        folder, is hashed as `fingerprint_path` does. Of up to 32, each is hashed as above; of more, each
        by fewer samples, so that together they are about 64 MB, or 64 KiB per file where that is
        more.
    identity : str
        What else identifies the slide; see `combine`.

    Returns
    -------
    str
        'sha256:' and 32 hexadecimal digits.
    """
    if len(files) == 1:
        return combine(fingerprint_path(files[0]), identity)
    digest = hashlib.sha256()
    limit = min(_WHOLE, max(_SAMPLE, _TOGETHER // max(1, len(files))))
    for file in files:
        one = hashlib.sha256()
        _update_from_file(one, file, limit)
        digest.update(one.digest())
    return combine(_of(digest), identity)


def combine(fingerprint: str, identity: str) -> str:
    """A fingerprint that also covers what is not in the hashed file (a slide spread over several files)."""
    if not identity:
        return fingerprint
    both = f"{fingerprint}\0{identity}".encode()
    return f"sha256:{hashlib.sha256(both).hexdigest()[:_DIGITS]}"


def _of(digest: hashlib._Hash) -> str:
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"


def _update_from_file(digest: hashlib._Hash, path: Path, limit: int = _WHOLE) -> None:
    """Add a file up to `limit` bytes, or samples of about `limit` bytes together."""
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        if size <= limit:
            digest.update(stream.read())
            return
        sample = min(_SAMPLE, limit // 2)
        last = limit // sample
        for i in range(last + 1):
            stream.seek((size - sample) * i // last)
            digest.update(stream.read(sample))
