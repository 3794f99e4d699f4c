"""Questions put to an engine so that one of them cannot fail the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenvl.answer import OUT_OF_MEMORY, Answer
from qwenvl.engines.base import Engine
from qwenvl.errors import EngineError, RequestError, out_of_memory
from qwenvl.request import Request
from qwenvl.subject import Picture, Subject

Question = tuple[Picture | Subject, Request]


def ask_questions(engine: Engine, questions: Sequence[Question]) -> list[Answer]:
    """Ask all at once; in halves where memory runs out; one by one where the engine raises for another reason."""
    if not questions:
        return []
    try:
        return _call(engine, questions)
    except (EngineError, RequestError):
        raise
    except Exception as error:
        name, room = type(error).__name__, not out_of_memory(error)
    # Outside the except clause, so that the error's frames no longer hold the batch.
    if len(questions) > 1 and not room:
        half = len(questions) // 2
        return [*ask_questions(engine, questions[:half]), *ask_questions(engine, questions[half:])]
    return [_ask_alone(engine, question, f"asked-alone:{name}") for question in questions]


def _ask_alone(engine: Engine, question: Question, note: str) -> Answer:
    try:
        answer = _call(engine, [question])[0]
    except (EngineError, RequestError):
        raise
    except Exception as error:
        notes = (note, OUT_OF_MEMORY) if out_of_memory(error) else (note,)
        return Answer.failure(f"The model raised {type(error).__name__}: {error}.", notes=notes)
    return replace(answer, notes=(*answer.notes, note))


def _call(engine: Engine, questions: Sequence[Question]) -> list[Answer]:
    """One answer per question, in as few calls as the engine can take: by request, or all requests at once."""
    places: dict[int, list[int]] = {}
    for n, (_, request) in enumerate(questions):
        places.setdefault(id(request), []).append(n)
    rows = list(places.values())
    requests = [questions[row[0]][1] for row in rows]
    subjects = [[questions[n][0] for n in row] for row in rows]
    if len({tuple(map(id, row)) for row in subjects}) == 1:
        told = (
            engine.answer_many(subjects[0], requests)
            if len(rows) > 1
            else [engine.answer(subjects[0], requests[0])]
        )
    else:
        told = [engine.answer(row, request) for row, request in zip(subjects, requests, strict=True)]
    answers: dict[int, Answer] = {}
    for row, found in zip(rows, told, strict=True):
        if len(found) != len(row):
            raise RuntimeError(f"{len(found)} answers to {len(row)} items")
        answers |= zip(row, found, strict=True)
    return [answers[n] for n in range(len(questions))]
