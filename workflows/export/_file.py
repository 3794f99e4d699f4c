"""Writing an export: never over another file unless told, and never half."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from workflows.errors import ExportError, ExportExistsError, is_full, why_full
from workflows.store.folder import PARTIAL
from wsi.cleanup import cleaning_up


@contextmanager
def new_path(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> Iterator[Path]:
    """A path to write a file or a Zarr folder at; what lies there takes the name `path` when all is written.

    Raises
    ------
    ExportExistsError
        `path` is there already; or, also with `overwrite`, is a folder that is not a Zarr store.
    ExportError
        The name has another suffix, its folder does not exist, or the disk is full.
    """
    check_path(path, suffixes, overwrite=overwrite)
    partial = path.with_name(path.name + PARTIAL)
    _remove(partial)
    with cleaning_up(lambda: _remove(partial)), _named(path):
        yield partial
        if path.is_dir() or (path.exists() and partial.is_dir()):
            old = path.with_name(path.name + ".old" + PARTIAL)
            _remove(old)
            path.rename(old)
            partial.rename(path)
            _remove(old)
        else:
            partial.replace(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise ExportError(f"{path} was not written. {why_full(error)} Make room and repeat.") from error
        raise


def check_path(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse a path that `new_path` would refuse, before the work that leads to the file.

    Raises
    ------
    ExportExistsError, ExportError
        See `new_path`.
    """
    if not path.name.lower().endswith(suffixes):
        raise ExportError(f"{path} should end in {' or '.join(suffixes)}.")
    if path.exists() and not overwrite:
        raise ExportExistsError(f"{path} exists already. Name another file, or say --overwrite.")
    if path.is_dir() and not _is_store(path):
        raise ExportExistsError(f"{path} is a folder with other things in it. Name another one.")
    if not path.parent.is_dir():
        raise ExportError(f"The folder {path.parent} does not exist. Make it first.")


@contextmanager
def new_text_file(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> Iterator[TextIO]:
    """A UTF-8 text file that takes its name when all is written; gzip where the name ends in .gz.

    Raises
    ------
    ExportExistsError, ExportError
        See `new_path`.
    """
    with new_path(path, suffixes, overwrite=overwrite) as partial, partial.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # Without name and time in its head, the same run gives the same bytes.
            packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
            with packed, io.TextIOWrapper(packed, "utf-8", "backslashreplace", newline="") as text:
                yield text
        else:
            with io.TextIOWrapper(raw, "utf-8", "backslashreplace", newline="") as text:
                yield text


def require(module: str, what: str, install: str) -> None:
    """Raise ExportError where a library that `what` needs is not installed."""
    if find_spec(module) is None:
        raise ExportError(f"{what} needs {module}, which is not installed. Install it: pip install {install}")


def _is_store(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
