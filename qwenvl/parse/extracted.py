"""The JSON value of `extract`, valid by the request's schema or not a value at all."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from jsonschema.exceptions import ValidationError, best_match
from referencing.exceptions import Unresolvable

from qwenvl.answer import Status
from qwenvl.json_schema import SchemaValidator
from qwenvl.parse._lenient import CutDict, CutList
from qwenvl.parse._strict import RepeatedDict, SplitList, read_strict, shallow
from qwenvl.parse._text import cleaned
from qwenvl.parse._values import find_values


def extract(
    text: str, schema: dict[str, Any], *, unfinished: bool
) -> tuple[Status, Any, tuple[str, ...], str | None]:
    """The first value in `text` that is valid by `schema`.

    Parameters
    ----------
    text : str
    schema : dict
        A JSON Schema. References to other documents are not followed.
    unfinished : bool
        The text ended at a limit.

    Returns
    -------
    tuple
        Status, the value (None unless valid), codes, and the reason where there is no valid value.
    """
    whole = read_strict(text)
    if whole and whole[1] == len(text):
        codes: tuple[str, ...] = ()
        candidates, cut = [whole[0]], False
        scalar = not isinstance(whole[0], (list, dict))
    else:
        found = find_values(text)
        candidates, codes, cut = [item.value for item in found.values], found.codes, found.cut
        scalar = False
    if cut and candidates and isinstance(candidates[-1], (CutList, CutDict)):
        candidates.pop()
    validator = SchemaValidator(schema)
    error: str | None = None
    for value in candidates:
        if not shallow(value) or _repeats(value):
            error = error or "a key repeats, or the value is nested too deep"
            continue
        plain = cleaned(value)
        mended = () if plain == value else ("cleaned",)
        value = plain
        try:
            problem = best_match(validator.iter_errors(value))
        except ArithmeticError as reason:
            error = error or f"a number is out of all measure: {reason}"
            continue
        except (Unresolvable, RecursionError) as reason:
            return Status.FAILED, None, codes, f"the schema cannot be applied: {reason}"
        if problem is None:
            if scalar and unfinished:
                break
            codes = (*codes, *mended)
            informative = all(code == "fence" for code in codes) and len(candidates) == 1
            return (Status.OK if informative else Status.REPAIRED), value, codes, None
        error = error or _message(problem)
    if unfinished or cut:
        return Status.TRUNCATED, None, codes, "the answer ended before its value did"
    return Status.FAILED, None, codes, error or "no JSON value could be read"


def valid_items(text: str, schema: dict[str, Any]) -> tuple[list[Any], int]:
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
            if shallow(entry) and not _repeats(entry):
                entry = cleaned(entry)
                with suppress(ArithmeticError):
                    valid = validator.is_valid(entry)
            kept += [entry] if valid else []
            others += not valid
    return kept, others


def _repeats(value: Any) -> bool:
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
