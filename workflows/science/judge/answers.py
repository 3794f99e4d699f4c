"""Answers to be judged, from runs, reports, CSV, JSON and JSONL, all as items."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workflows.errors import JudgeError
from workflows.store.folder import JOURNAL

COLUMNS = ("id", "question", "answer", "reference", "human")
"""What is read of a row; `human` is what people said: a number, a verdict, a list of them, or a mapping."""


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """One answer.

    Attributes
    ----------
    id : str
        Unique in its file; what two files are joined by.
    question : str
    answer : str or None
        None where there is none: the tile failed or was refused, the row is empty.
    reference : str or None
        What would be right, where that is known.
    human : object
        As it stands in the file; None where people said nothing.
    """

    id: str
    question: str = ""
    answer: str | None = None
    reference: str | None = None
    human: Any = field(default=None, hash=False)


def read_items(path: Path | str, columns: Mapping[str, str] | None = None) -> list[JudgedItem]:
    """Read answers.

    A run folder gives one item per tile that was asked ('tile-12'): the words of its answer, the chosen class, the
    number, or the JSON value; a `report.json` stands for the run beside it. Rows of CSV (with a head), JSONL, or a
    JSON list are items; rows without an id are numbered from 1.

    Parameters
    ----------
    path : path
    columns : mapping of COLUMNS to str, optional
        What these are called in the file, where it is not the same.

    Raises
    ------
    JudgeError
        The file cannot be read so, a named column is missing, or an id is there twice.
    """
    path = Path(path)
    if not path.exists():
        raise JudgeError(f"{path} does not exist. Name a run folder, a report.json, or a CSV, JSON or JSONL file.")
    named = {column: column for column in COLUMNS} | dict(columns or {})
    unknown = sorted(set(named) - set(COLUMNS))
    if unknown:
        raise JudgeError(f"columns: {', '.join(unknown)} is none of {', '.join(COLUMNS)}")
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == "report.json" and (folder / JOURNAL).is_file()):
        items = list(_of_run(folder))
    else:
        rows = list(_rows(path))
        for column in columns or {}:
            if rows and not any(named[column] in row for row in rows):
                there = ", ".join(rows[0])
                raise JudgeError(f"{path} has no column {named[column]!r}; it has {there}.")
        items = [_of_row(row, number, named, path) for number, row in enumerate(rows, 1)]
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise JudgeError(f"{path} has the id {item.id!r} twice.")
        seen.add(item.id)
    if not items:
        raise JudgeError(f"{path} holds no answer.")
    return items


def with_references(items: Sequence[JudgedItem], references: Sequence[JudgedItem]) -> tuple[list[JudgedItem], int]:
    """Items with the references of another file, by id; and how many items have none there.

    In that file the reference is the column of that name, else the answer. What people said comes along.

    Raises
    ------
    JudgeError
        The files have no id in common.
    """
    known = {item.id: item for item in references}
    joined = []
    for item in items:
        other = known.get(item.id)
        if other is not None:
            truth = other.reference if other.reference is not None else other.answer
            joined.append(
                replace(
                    item,
                    reference=truth,
                    question=item.question or other.question,
                    human=item.human if item.human is not None else other.human,
                )
            )
    if not joined:
        raise JudgeError(_nothing_shared(items, references))
    return joined, len(items) - len(joined)


def paired(
    first: Sequence[JudgedItem], second: Sequence[JudgedItem]
) -> tuple[list[tuple[JudgedItem, JudgedItem]], int]:
    """Items of two files with the same id, in the order of the first; and how many have no partner.

    Raises
    ------
    JudgeError
        The files have no id in common, or one id has different questions.
    """
    known = {item.id: item for item in second}
    pairs = [(item, known[item.id]) for item in first if item.id in known]
    if not pairs:
        raise JudgeError(_nothing_shared(first, second))
    for one, other in pairs:
        if one.question and other.question and one.question != other.question:
            raise JudgeError(f"{one.id!r} is another question in each file: {one.question!r}, {other.question!r}.")
    return pairs, len(first) + len(second) - 2 * len(pairs)


def _nothing_shared(first: Sequence[JudgedItem], second: Sequence[JudgedItem]) -> str:
    return f"The two files have no id in common: one has ids like {first[0].id!r}, the other like {second[0].id!r}."


def _of_run(folder: Path) -> Iterator[JudgedItem]:
    from qwenvl.prompts import build_prompt
    from workflows.store.run_store import RunStore

    with RunStore.open(folder) as store:
        asked = build_prompt(store.manifest.request)
        for stored in store.iter_answers():
            answer = stored.answer
            said: str | None = answer.text
            if said is None and answer.value is not None:
                value = answer.value
                said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield JudgedItem(f"tile-{stored.tile}", asked, said if answer.status.complete else None)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file)
            return
        text = path.read_text(encoding="utf-8")
        if kind == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif kind == ".json":
            rows = json.loads(text)
        else:
            raise JudgeError(f"{path} should end in .csv, .json or .jsonl, or be the folder of a run.")
    except (ValueError, csv.Error) as error:
        if isinstance(error, JudgeError):
            raise
        raise JudgeError(f"{path} cannot be read as {kind.removeprefix('.').upper()}: {error}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise JudgeError(f"{path} is no list of rows with names.")
    yield from rows


def _of_row(row: Mapping[str, object], number: int, named: Mapping[str, str], path: Path) -> JudgedItem:
    def words(column: str) -> str | None:
        value = row.get(named[column])
        if value is None or value == "":
            return None
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    if named["answer"] not in row and named["reference"] not in row:
        raise JudgeError(
            f"{path} row {number} has neither {named['answer']!r} nor {named['reference']!r}; it has {', '.join(row)}. "
            "Say which columns hold them: --columns answer=NAME,reference=NAME"
        )
    human = row.get(named["human"])
    return JudgedItem(
        words("id") or str(number),
        words("question") or "",
        words("answer"),
        words("reference"),
        None if human == "" else human,
    )
