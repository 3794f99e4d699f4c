"""The JSON value of `extract`, valid by the request's schema or not a value at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import ValidationError, best_match
from referencing.exceptions import Unresolvable

from qwenvl.answer import Status
from qwenvl.constraints.json_schema import SchemaValidator
from qwenvl.parse.json.values import Value, find_values
from qwenvl.parse.reading import TextReading
from qwenvl.parse.spans import CutDict, CutList, RepeatedDict, SplitList
from qwenvl.parse.text.text import cleaned


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one answer gave.

    Attributes
    ----------
    status : Status
    codes : tuple of str
    error : str or None
        Why there is no valid value.
    value : JSON value
        Cleaned; None unless it is valid.
    written : Value or None
        The same as it was read, with its place in the text.
    """

    status: Status
    codes: tuple[str, ...] = ()
    error: str | None = None
    value: Any = None
    written: Value | None = None


def extracted(reading: TextReading, schema: Mapping[str, object], *, unfinished: bool) -> Extracted:
    """The first value in an answer that is valid by `schema`.

    Parameters
    ----------
    reading : TextReading
    schema : dict
        A JSON Schema. References to other documents are not followed.
    unfinished : bool
        The text ended at a limit.
    """
    found = reading.values
    candidates, codes, cut = list(found.values), found.codes, found.cut
    scalar = found.whole is not None and not isinstance(found.whole, (list, dict))
    if isinstance(found.whole, str):
        # The schema may ask for a string that holds brackets.
        candidates, codes, cut = [Value(found.whole)], (), False
    if cut and candidates and isinstance(candidates[-1].value, (CutList, CutDict)):
        candidates.pop()
    validator = SchemaValidator(schema)
    error: str | None = None
    for written in candidates:
        if _repeats(written.value):
            error = error or "a key repeats"
            continue
        value = cleaned(written.value)
        try:
            problem = best_match(validator.iter_errors(value))
        except ArithmeticError as reason:
            error = error or f"a number is out of all measure: {reason}"
            continue
        except (Unresolvable, RecursionError) as reason:
            return Extracted(Status.FAILED, codes, f"the schema cannot be applied: {reason}")
        if problem is None:
            if scalar and unfinished:
                break
            codes = (*codes, *(() if value == written.value else ("cleaned",)))
            informative = all(code == "fence" for code in codes) and len(candidates) == 1
            return Extracted(Status.OK if informative else Status.REPAIRED, codes, None, value, written)
        error = error or _message(problem)
    if unfinished or cut:
        return Extracted(Status.TRUNCATED, codes, "the answer ended before its value did")
    return Extracted(Status.FAILED, codes, error or "no JSON value could be read")


def valid_items(text: str, schema: Mapping[str, object]) -> tuple[list[object], int]:
    """The entries of the lists in a damaged or unfinished answer that are valid each by itself.

    Parameters
    ----------
    text : str
    schema : dict
        JSON Schema of one entry.

    Returns
    -------
    list
        Valid entries in order. One that was cut off is none, whatever it holds.
    int
        Number of entries that are not valid, the one cut off not counted.
    """
    validator = SchemaValidator(schema)
    kept, others = [], 0
    for found in find_values(text).values:
        for entry in found.value if isinstance(found.value, list) else [found.value]:
            if isinstance(entry, (CutList, CutDict)):
                continue
            valid = False
            if not _repeats(entry):
                entry = cleaned(entry)
                with suppress(ArithmeticError):
                    valid = validator.is_valid(entry)
            kept += [entry] if valid else []
            others += not valid
    return kept, others


def _repeats(value: object) -> bool:
    """True where an object holds a key twice, with two values."""
    if isinstance(value, SplitList):
        return True
    if isinstance(value, RepeatedDict) and any(value[key] != part for key, part in value.pairs):
        return True
    if isinstance(value, (list, dict)):
        return any(map(_repeats, value.values() if isinstance(value, dict) else value))
    return False


def _message(problem: ValidationError) -> str:
    return f"not valid by the schema at {problem.json_path}: {problem.message[:300]}"
