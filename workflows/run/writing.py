"""From a store that is open for writing to a report: what holds for every workflow when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from workflows.errors import StoreFullError, is_full
from workflows.run.journal import Journal

S = TypeVar("S", bound=Journal[Any])


@contextmanager
def writing(store: S) -> Iterator[S]:
    """Close a store in the end. A run that fails before its first answer leaves its folder as it was.

    Raises
    ------
    StoreFullError
        The disk was full when a report was written.
    """
    try:
        with named_full_disk(store.folder):
            yield store
    except BaseException:
        if store.begun():
            store.close()
        else:
            store.discard()
        raise
    store.close()


@contextmanager
def named_full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises while a report is written into StoreFullError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreFullError) or not is_full(error):
            raise
        raise StoreFullError(
            f"The disk is full: the report of {folder} cannot be written. All answers are kept; make room "
            "and repeat the command."
        ) from error
