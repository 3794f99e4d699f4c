"""Readings against known values: by value, by character, by unit and by box, and what was wrong without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jsonschema import Draft202012Validator

from workflows.merge.pairs import iou
from workflows.science.instruments.errors import TruthError
from workflows.science.instruments.report import InstrumentReport, PhotographReport
from workflows.science.instruments.truth import PhotographTruth, ReadingTruth, ValueTruth
from workflows.science.instruments.values.units import same_unit
from workflows.science.instruments.values.values import Reading, ValueStatus


@dataclass(frozen=True)
class Compared:
    """One field of one photograph, read and known.

    Attributes
    ----------
    photograph, field, kind : str
    reading : Reading
    truth : ValueTruth or None
        None where the photograph does not show the field.
    right : bool
        The value is known and given within its tolerance; or is not shown, and none is given.
    wrong : bool
        A value is given, and is not the known one: what a user would believe.
    edits : int
        Characters to change in what was read to make it the truth.
    iou : float or None
        Of the boxes; None where one is missing.
    """

    photograph: str
    field: str
    kind: str
    reading: Reading
    truth: ValueTruth | None
    right: bool
    wrong: bool
    edits: int
    iou: float | None


@dataclass(frozen=True)
class ReadingScore:
    """Readings of a set in numbers; None where nothing of the kind was there to count.

    Attributes
    ----------
    photographs, shown, not_shown : int
        Photographs, and fields that they show or do not show.
    value_accuracy : float
        Share of the shown fields whose value was given right: within half of the last digit, or the truth's tolerance.
    character_accuracy : float
        1 - edits / characters of the truth, over all shown fields, at least 0.
    unit_accuracy : float
        Share of the shown units that were seen as such.
    box_iou, box_found : float
        Mean overlap (intersection over union) of the boxes; share of the shown fields with at least one half.
    wrong_share : float
        Share of all fields with a wrong value that was given as right: the worst that can happen.
    empty_accuracy : float
        Share of the fields not shown for which none was given.
    schema_valid : float
        Share of the photographs whose values the sheet's JSON Schema allows and whose answer could be read.
    """

    photographs: int
    shown: int
    not_shown: int
    value_accuracy: float | None
    character_accuracy: float | None
    unit_accuracy: float | None
    box_iou: float | None
    box_found: float | None
    wrong_share: float | None
    empty_accuracy: float | None
    schema_valid: float | None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def compare(report: InstrumentReport, truth: ReadingTruth, *, any_field: bool = False) -> list[Compared]:
    """Put readings beside what is known; photographs are matched by file name.

    Parameters
    ----------
    any_field : bool
        The report has one field, and whatever a photograph shows is its truth: for sets of mixed quantities.

    Raises
    ------
    TruthError
        The names are not unique, a photograph has no truth, or no field is known.
    """
    known = {Path(photograph.name).name: photograph for photograph in truth.photographs}
    if len(known) < len(truth.photographs):
        raise TruthError("several photographs of the truth have the same file name; readings cannot be told apart")
    unknown = [photograph.name for photograph in report.photographs if photograph.name not in known]
    if unknown:
        raise TruthError(f"the truth does not know {unknown[0]} ({len(unknown)} in all)")
    properties = report.value_schema["properties"]
    names = [str(name) for name in properties] if isinstance(properties, dict) else []
    if any_field and len(names) != 1:
        raise TruthError(f"any field can stand for one, not for {', '.join(names)}")
    shown = {value.field for photograph in truth.photographs for value in photograph.values}
    if not any_field and shown and not shown & set(names):
        raise TruthError(f"the truth knows {', '.join(sorted(shown))}, the report {', '.join(names)}")
    rows = []
    for photograph in report.photographs:
        fact = known[photograph.name]
        values = {names[0] if any_field else value.field: value for value in fact.values}
        rows += [_row(photograph, fact, name, one, values.get(name)) for name, one in photograph.readings.items()]
    return rows


def _row(
    photograph: PhotographReport, fact: PhotographTruth, name: str, one: Reading, truth: ValueTruth | None
) -> Compared:
    given = one.status is ValueStatus.READ
    if truth is None:
        empty = one.status is ValueStatus.EMPTY
        return Compared(photograph.name, name, fact.kind, one, None, empty, given, len(one.text or ""), None)
    if truth.value is None:
        same = given and str(one.value) == truth.text
    else:
        close = truth.within + 1e-9 * max(1.0, abs(truth.value))
        same = given and isinstance(one.value, int | float) and abs(one.value - truth.value) < close
    overlap = (
        None if one.box is None or truth.box is None else float(iou(np.array([one.box]), np.array([truth.box]))[0])
    )
    edits = distance(one.text or "", truth.text)
    return Compared(photograph.name, name, fact.kind, one, truth, same, given and not same, edits, overlap)


def score(rows: Sequence[Compared], report: InstrumentReport) -> ReadingScore:
    """The numbers of a comparison."""
    there = [row for row in rows if row.truth is not None]
    absent = [row for row in rows if row.truth is None]
    units = [row for row in there if row.truth is not None and row.truth.unit is not None]
    boxes = [row.iou for row in there if row.iou is not None]
    letters = sum(len(row.truth.text) for row in there if row.truth is not None)
    validator = Draft202012Validator(report.value_schema)
    valid = [
        validator.is_valid(photograph.values)
        and not any(one.status is ValueStatus.FAILED for one in photograph.readings.values())
        for photograph in report.photographs
    ]
    return ReadingScore(
        len(report.photographs),
        len(there),
        len(absent),
        _share([row.right for row in there]),
        max(0.0, 1 - sum(row.edits for row in there) / letters) if letters else None,
        _share(
            [
                row.reading.unit_shown is not None and same_unit(row.reading.unit_shown, row.truth.unit)
                for row in units
                if row.truth is not None and row.truth.unit is not None
            ]
        ),
        sum(boxes) / len(boxes) if boxes else None,
        _share([(row.iou or 0.0) >= 0.5 for row in there]),
        _share([row.wrong for row in rows]),
        _share([row.right for row in absent]),
        _share(valid),
    )


def at_least(rows: Sequence[Compared], scores: Sequence[float]) -> list[tuple[float, float | None, float | None]]:
    """What a limit on the score would do: (limit, share of given values that stay, share of these that are right)."""
    given = [row for row in rows if row.reading.status is ValueStatus.READ]
    table = []
    for limit in scores:
        kept = [row for row in given if row.reading.score is not None and row.reading.score >= limit]
        table.append((limit, len(kept) / len(given) if given else None, _share([row.right for row in kept])))
    return table


def distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements that make one text the other (Levenshtein)."""
    row = list(range(len(second) + 1))
    for number, left in enumerate(first, 1):
        before, row[0] = row[0], number
        for place, right in enumerate(second, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (left != right))
    return row[-1]


def _share(facts: Sequence[bool]) -> float | None:
    return sum(facts) / len(facts) if facts else None
