"""Writing an export: never over another file unless told, and never half."""

from __future__ import annotations

import errno
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from workflows._folder import PARTIAL
from workflows.errors import ExportError, ExportExistsError


@contextmanager
def new_text_file(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> Iterator[TextIO]:
    """A UTF-8 text file that takes its name when all is written; gzip where the name ends in .gz.

    Raises
    ------
    ExportExistsError
        The file is there already.
    ExportError
        The name has another suffix, its folder does not exist, or the disk is full.
    """
    if not path.name.lower().endswith(suffixes):
        raise ExportError(f"{path} should end in {' or '.join(suffixes)}.")
    if path.exists() and not overwrite:
        raise ExportExistsError(f"{path} exists already. Name another file, or say --overwrite.")
    if not path.parent.is_dir():
        raise ExportError(f"The folder {path.parent} does not exist. Make it first.")
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as raw:
            if path.name.lower().endswith(".gz"):
                # Without name and time in its head, the same run gives the same bytes.
                packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
                with packed, io.TextIOWrapper(packed, "utf-8", newline="") as text:
                    yield text
            else:
                with io.TextIOWrapper(raw, "utf-8", newline="") as text:
                    yield text
        partial.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ExportError(f"The disk is full: {path} was not written. Make room and repeat.") from error
        raise
    finally:
        partial.unlink(missing_ok=True)
