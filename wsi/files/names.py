"""Paths as text: names that are no UTF-8 are written so that every file and terminal can hold them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wsi.files.address import RemotePath, as_path

_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(rb"\\x([89a-fA-F][0-9a-fA-F])")


def path_text(path: str | os.PathLike[str]) -> str:
    r"""A path, or a text that holds one, as text that UTF-8 can hold: a byte that is no UTF-8 becomes \xNN.

    File systems of Unix keep names as bytes; Python stands lone surrogates for those that it cannot decode, and
    text with surrogates can be written neither as JSON nor as CSV or HTML. All other text is left as it is.
    """
    return _SURROGATES.sub(_escape, os.fspath(path))


def json_text(document: str) -> str:
    r"""A JSON document whose strings are as `path_text` writes them, their backslashes escaped as JSON wants it."""
    return _SURROGATES.sub(lambda found: "\\" + _escape(found), document)


def path_of(text: str | os.PathLike[str]) -> Path:
    r"""The path that `path_text` wrote.

    A name that holds \xNN itself is taken as it is where such a file exists, or where none does. An address stays one.
    """
    path = as_path(text)
    raw = os.fsencode(path)
    if isinstance(path, RemotePath) or not _ESCAPED.search(raw) or os.path.lexists(path):
        return path
    decoded = Path(os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), raw)))
    return decoded if os.path.lexists(decoded) else path


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
