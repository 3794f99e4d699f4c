"""Asking a judge: questions without pictures, answered once, kept in a journal so that a killed run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenvl.answer import Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.request import Request
from qwenvl.subject import Subject
from workflows.run.item_store import ItemStore
from workflows.run.items import Item, run_items
from workflows.run.writing import writing
from workflows.store.provenance import ItemsManifest, model_facts, software_versions, utc_now

LONGEST = 18_000
"""Characters of a question to a judge; longer ones are not asked, and never cut."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said to one question.

    Attributes
    ----------
    status : str
        'ok'; 'malformed' (it answered, but not in the form asked for); 'refused'; 'unreached' (no answer at all);
        'too long' (not asked).
    text : str or None
        The chosen class.
    value : object
        The JSON value.
    raw : str
        The judge's words.
    """

    status: str
    text: str | None = None
    value: Any = None
    raw: str = ""


def ask(
    engine: Engine,
    requests: Sequence[Request],
    store: ItemStore,
    *,
    report: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> list[Judgement]:
    """Ask every question that the store holds no answer to; a malformed answer is an answer.

    Parameters
    ----------
    engine : Engine
    requests : sequence of Request
        Questions without pictures (classify, extract).
    store : ItemStore
        Of `open_judging`.
    report : callable, optional
        Called with questions done and questions in all.
    cancel : threading.Event, optional
        Once set, nothing more is asked.

    Returns
    -------
    list of Judgement
        One per request; 'unreached' where it was not asked.
    """
    numbers = store.numbers([request.hash for request in requests])
    nothing = Subject()
    once = {request.hash: request for request in requests}
    items = [Item(numbers[key], lambda: nothing, request) for key, request in once.items()]
    tell = None if report is None else lambda state: report(state.done, state.total)
    run_items(items, requests[:1], engine, store, on_batch=tell, cancel=cancel, retry_failed=_without_words)
    answers = store.answers()
    return [
        _judgement(answers[request.hash]) if request.hash in answers else Judgement("unreached") for request in requests
    ]


def open_judging(
    folder: Path, asked: Mapping[str, str], engine: Engine, *, overwrite: bool = False
) -> AbstractContextManager[ItemStore]:
    """Open the folder of a judging for writing, or go on with the same one.

    Parameters
    ----------
    folder : Path
        New, empty, or of the same judging.
    asked : mapping
        What has to be equal for two to be the same, besides the judge: kind, instruction, answers.
    engine : Engine
        The judge.
    overwrite : bool
        Set another judging found there aside (renamed, not deleted).

    Raises
    ------
    RunMismatchError, RunLockedError, ForeignFolderError, StoreError
    """
    manifest = ItemsManifest(
        kind="answers",
        asked=dict(asked),
        model=model_facts(engine.info),
        versions=software_versions(),
        created=utc_now(),
    )
    return writing(ItemStore.create(folder, manifest, overwrite=overwrite))


def fenced(text: str) -> str:
    """Material between marks that it does not hold itself, so that nothing in it can stand outside of them.

    >>> fenced("a >>> b").splitlines()
    ['<<<<', 'a >>> b', '>>>>']
    """
    length = 3
    while ">" * length in text or "<" * length in text:
        length += 1
    return f"{'<' * length}\n{text}\n{'>' * length}"


def _without_words(answer: Answer) -> bool:
    """Whether the judge was not reached: it is asked again."""
    return not answer.raw


def _judgement(answer: Answer) -> Judgement:
    if answer.status.complete and (answer.text is not None or answer.value is not None):
        return Judgement("ok", answer.text, answer.value, answer.raw)
    if answer.status is Status.REFUSED:
        return Judgement("refused", raw=answer.raw)
    if answer.status is Status.FAILED and answer.finish_reason == "error" and not answer.raw:
        return Judgement("unreached", raw=answer.error or "")
    return Judgement("malformed", raw=answer.raw)
