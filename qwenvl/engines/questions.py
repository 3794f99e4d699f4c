"""Asking an engine many questions so that none is lost to its neighbours: to what one raises, or to a lost server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from qwenvl.answer import OUT_OF_MEMORY, Answer
from qwenvl.engines.base import Engine, answers_that_arrive
from qwenvl.errors import EngineError, RequestError, ServerError, out_of_memory
from qwenvl.request import Request
from qwenvl.subject import Item

Question = tuple[Item, Request]
Fatal = Callable[[Exception], None]
"""Raises where an error is not the fault of an item, and ends the call; returns for all others."""
Arrived = tuple[list[Answer | None], ServerError | None]
"""Answers in the order of the questions; None where a server was lost before they arrived, and its error."""


def answer_each(
    engine: Engine, items: Iterable[Item], request: Request, *, batch_size: int | None = None
) -> Iterator[Answer]:
    """Answer a request about every item, batch by batch; an item on which the engine raises gets a failed answer.

    Parameters
    ----------
    items : iterable of Item
        Taken a batch at a time.
    batch_size : int, optional
        By default what the engine says.

    Raises
    ------
    EngineError, RequestError
        The model is unusable.
    """
    size = batch_size or max(1, engine.batch_size(request))
    following = iter(items)
    while batch := list(islice(following, size)):
        answers, lost = ask_questions(engine, [(item, request) for item in batch])
        yield from (answer for answer in answers if answer is not None)
        if lost is not None:
            raise lost


def ask_questions(engine: Engine, questions: Sequence[Question], fatal: Fatal = lambda error: None) -> Arrived:
    """Ask all at once; in halves where memory runs out; one by one where the engine raises for another reason."""
    if not questions:
        return [], None
    try:
        return _call(engine, questions)
    except (EngineError, RequestError):
        raise
    except Exception as error:
        fatal(error)
        name, room = type(error).__name__, not out_of_memory(error)
    # Outside the except clause, so that the error's frames no longer hold the batch.
    if len(questions) > 1 and not room:
        half = len(questions) // 2
        return _in_turn(questions[:half], questions[half:], ask=lambda part: ask_questions(engine, part, fatal))
    note = f"asked-alone:{name}"
    return _in_turn(*([each] for each in questions), ask=lambda part: _ask_alone(engine, part[0], note, fatal))


def _in_turn(*parts: Sequence[Question], ask: Callable[[Sequence[Question]], Arrived]) -> Arrived:
    """Ask parts one after the other until a server is lost."""
    answers: list[Answer | None] = []
    lost: ServerError | None = None
    for part in parts:
        arrived, lost = ask(part) if lost is None else ([None] * len(part), lost)
        answers += arrived
    return answers, lost


def _ask_alone(engine: Engine, question: Question, note: str, fatal: Fatal) -> Arrived:
    try:
        (answer,), lost = _call(engine, [question])
    except (EngineError, RequestError):
        raise
    except Exception as error:
        fatal(error)
        notes = (note, OUT_OF_MEMORY) if out_of_memory(error) else (note,)
        return [Answer.failure(f"The model raised {type(error).__name__}: {error}.", notes=notes)], None
    return [answer and replace(answer, notes=(*answer.notes, note))], lost


def _call(engine: Engine, questions: Sequence[Question]) -> Arrived:
    """One answer per question, in as few calls as the engine can take: by request, or all requests at once."""
    places: dict[int, list[int]] = {}
    for n, (_, request) in enumerate(questions):
        places.setdefault(id(request), []).append(n)
    rows = list(places.values())
    requests = [questions[row[0]][1] for row in rows]
    subjects = [[questions[n][0] for n in row] for row in rows]
    told: list[Sequence[Answer | None]] = []
    lost: ServerError | None = None
    if len({tuple(map(id, row)) for row in subjects}) == 1:
        told[:], lost = answers_that_arrive(engine, subjects[0], requests)
    else:
        for row, request in zip(subjects, requests, strict=True):
            if lost is None:
                (found,), lost = answers_that_arrive(engine, row, [request])
                told.append(found)
            else:
                told.append([None] * len(row))
    answers: dict[int, Answer | None] = {}
    for places_of, arrived in zip(rows, told, strict=True):
        if len(arrived) != len(places_of):
            raise RuntimeError(f"{len(arrived)} answers to {len(places_of)} items")
        answers |= zip(places_of, arrived, strict=True)
    return [answers[n] for n in range(len(questions))], lost
