"""A run's journal takes answers of one slide only: the rule for whoever asks about pixels batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workflows._words import plural
from workflows.run.journal import Journal
from wsi.errors import SlideChangedError
from wsi.files.identity import FileWatch


def check_unchanged(watch: FileWatch, *stores: Journal[Any]) -> None:
    """See that the files are those that the run was begun on; between reading a batch and storing its answers.

    What was read ahead counts as read: it is compared when its own answers are to be stored.

    Raises
    ------
    SlideChangedError
        They were rewritten. Where answers stored before may be of the other content too, the journal says so from now
        on (`Journal.doubts`).
    """
    try:
        watch.check(lambda: _kept(stores))
    except SlideChangedError as error:
        _note(stores, error)
        raise


def confirm_unchanged(watch: FileWatch, *stores: Journal[Any]) -> tuple[str, ...]:
    """See that the content is that of the run's fingerprint, before a report is written that names it.

    Returns
    -------
    tuple of str
        A warning for the report where the files cannot be read any more; else nothing.

    Raises
    ------
    SlideChangedError
        As `check_unchanged`.
    """
    try:
        known = watch.confirm(lambda: _kept(stores))
    except SlideChangedError as error:
        _note(stores, error)
        raise
    if known:
        return ()
    return (f"{watch.path.name} could not be read again at the end: that it stayed the same was not confirmed.",)


def _kept(stores: Sequence[Journal[Any]]) -> str:
    number = sum(len(store.finished()) for store in stores)
    return f"Answers stored so far ({plural(number, 'item')}) are of the file as it was."


def _note(stores: Sequence[Journal[Any]], error: SlideChangedError) -> None:
    for store in stores:
        if error.doubtful and store.last_seq():
            store.doubt(str(error))
