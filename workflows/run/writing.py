"""From a store that is open for writing to a report: what holds for every workflow when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from workflows.errors import StoreFullError, is_full, why_full
from workflows.run.journal import Journal
from wsi.cleanup import clean_up

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
    except BaseException as error:
        clean_up(error, partial(_let_go, store))
        raise
    store.close()


def _let_go(store: Journal[Any]) -> None:
    """Close a run that ended with an error; one that has nothing in it is removed. The lock is free in the end."""
    try:
        begun = store.begun()
    except BaseException as error:
        clean_up(error, store.close)
        raise
    if begun:
        store.close()
    else:
        store.discard()


@contextmanager
def named_full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises while a report is written into StoreFullError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreFullError) or not is_full(error):
            raise
        raise StoreFullError(
            f"The report of {folder} cannot be written. {why_full(error)} All answers are kept; make room and repeat "
            "the command."
        ) from error
