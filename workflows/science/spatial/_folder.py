"""Writing a folder of results: whole or not at all, and never over another one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflows.errors import ExportExistsError, ForeignFolderError
from workflows.store.folder import PARTIAL, free_name


@contextmanager
def new_folder(out: Path, mark: str, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write in, which takes the name `out` when all is written.

    Parameters
    ----------
    mark : str
        File that every folder of this kind holds.
    overwrite : bool
        Set a folder of this kind found there aside as `<out>.bak-N`, never deleted.

    Raises
    ------
    ExportExistsError
        `out` holds such a folder, and `overwrite` was not said.
    ForeignFolderError
        `out` holds other files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / mark).is_file():
            raise ForeignFolderError(f"{out} holds other files. Name an empty or new folder with -o.")
        if not overwrite:
            raise ExportExistsError(f"{out} exists already. Name another folder, or say --overwrite (sets it aside).")
    partial = out.with_name(out.name + PARTIAL)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out.exists():
        if any(out.iterdir()):
            out.rename(free_name(out))
        else:
            out.rmdir()
    partial.rename(out)
