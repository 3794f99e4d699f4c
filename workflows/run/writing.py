"""From a store that is open for writing to a report: what holds for every workflow when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
        yield store
    except BaseException as error:
        if store.begun():
            store.close()
        else:
            store.discard()
        if isinstance(error, OSError) and is_full(error):
            raise StoreFullError(
                f"The disk is full: the report of {store.folder} cannot be written. All answers are kept; make room "
                "and repeat the command."
            ) from error
        raise
    store.close()
