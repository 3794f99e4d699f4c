"""Cleaning up never hides why it was needed: the first error is raised, what failed besides is a note on it.

`qwenvl.cleanup` is the same text: the two packages do not know each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[], object]


def clean_up(error: BaseException | None, *steps: Step) -> None:
    """Do every step, also after one that fails.

    Parameters
    ----------
    error : BaseException, optional
        Under way already, and raised again by the caller: failing steps are noted on it (`add_note`). Without one
        the first step that fails is raised in the end, with notes of the others.
    """
    failed: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as second:
            first = error or failed
            if first is None:
                failed = second
            elif first is not second:
                first.add_note(f"Cleaning up failed besides: {type(second).__name__}: {second}")
    if failed is not None:
        raise failed


@contextmanager
def cleaning_up(*steps: Step) -> Iterator[None]:
    """A `finally` that hides nothing: `clean_up` when the block ends, with the error that ended it."""
    try:
        yield
    except BaseException as error:
        clean_up(error, *steps)
        raise
    clean_up(None, *steps)


__all__ = ["clean_up", "cleaning_up"]
