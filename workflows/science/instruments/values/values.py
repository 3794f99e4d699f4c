"""From characters to a value that the sheet allows, or to the reason why there is none."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from workflows.science.instruments.values.sheet import FieldSpec
from workflows.science.instruments.values.units import same_unit
from workflows.store.provenance import Facts

Box = tuple[float, float, float, float]

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")

_MAX_INTEGER = 2**53
"""Largest whole number that a table, a JSON reader and a float all keep exactly."""


@dataclass(frozen=True, slots=True)
class Spotted:
    """A value as the model says it stands there.

    Attributes
    ----------
    text : str
        The characters, nothing added.
    box : Box or None
        Around them, in px of the picture that was asked about; None where the model gave no usable one.
    unit : str or None
        As it stands beside them.
    score : float or None
        0..1, the least of its characters'.
    doubts : tuple of str
        Why the text cannot be trusted, in words.
    """

    text: str
    box: Box | None
    unit: str | None = None
    score: float | None = None
    doubts: tuple[str, ...] = ()


class ValueStatus(StrEnum):
    """How the reading of one field ended. Only `read` has a value."""

    READ = "read"
    """The value, within the sheet's type, unit and range."""
    EMPTY = "empty"
    """The model says that the photograph does not show it."""
    INVALID = "invalid"
    """Something was read that cannot be the value; `text` says what, `reasons` why not."""
    FAILED = "failed"
    """Not known: the photograph, the model or its answer failed."""


class Reading(Facts):
    """What is known of one field of one photograph."""

    status: ValueStatus
    value: float | int | str | None = Field(None, description="Null unless status is read; in `unit`.")
    unit: str | None = Field(None, description="Of the sheet.")
    unit_shown: str | None = Field(None, description="As it stands on the instrument; null where none was seen.")
    text: str | None = Field(None, description="The characters as read, trailing zeros included.")
    decimals: int | None = Field(None, description="Decimals shown: the last digit counts 10^-decimals.")
    box: Box | None = Field(
        None, description="Around the characters: x_min, y_min, x_max, y_max in px of the upright photograph."
    )
    score: float | None = Field(None, description="Confidence of the characters, 0..1.")
    reasons: tuple[str, ...] = Field((), description="Why there is no value, in words.")


def number_of(text: str) -> str:
    """The number that some characters are, in the form that `float` takes.

    Raises
    ------
    ValueError
        They are none, or may be two different ones ('1,234').

    Examples
    --------
    >>> number_of(" 37,4 "), number_of("−0.50"), number_of("1 024.5")
    ('37.4', '-0.50', '1024.5')
    """
    plain = unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-").strip()
    plain = re.sub(r"(?<=[0-9])[ '\u2019](?=[0-9]{3}(?![0-9]))", "", plain)
    if plain.count(",") == 1 and "." not in plain:
        if re.fullmatch(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}", plain):
            raise ValueError(f"{text!r} may be a decimal or a thousands comma")
        plain = plain.replace(",", ".")
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"{text!r} is no number")
    return plain


def judge(field: FieldSpec, spotted: Spotted) -> Reading:
    """The reading of a field off what was spotted for it."""
    reasons = list(spotted.doubts)
    if spotted.unit is not None and (field.unit is None or not same_unit(field.unit, spotted.unit)):
        wanted = "no unit" if field.unit is None else repr(field.unit)
        reasons.append(f"the instrument shows {spotted.unit!r}, the sheet says {wanted}")
    if spotted.box is None:
        reasons.append("no box in the photograph was given for it")
    value: Any = None
    decimals = None
    if field.type == "string":
        value = spotted.text.strip()
        reasons += _wrong_words(field, value)
    else:
        try:
            number = number_of(spotted.text)
        except ValueError as error:
            reasons.append(str(error))
        else:
            mantissa = re.split("[eE]", number)[0]
            decimals = len(mantissa.partition(".")[2])
            value = float(number)
            reasons += _wrong_number(field, value, decimals, number)
            if field.type == "integer" and value.is_integer() and abs(value) <= _MAX_INTEGER:
                value = int(value)
    fine = not reasons
    return Reading(
        status=ValueStatus.READ if fine else ValueStatus.INVALID,
        value=value if fine else None,
        unit=field.unit,
        unit_shown=spotted.unit,
        text=spotted.text,
        decimals=decimals,
        box=spotted.box,
        score=spotted.score,
        reasons=tuple(reasons),
    )


def nothing(field: FieldSpec, status: ValueStatus, *reasons: str) -> Reading:
    """The reading of a field of which nothing was spotted."""
    return Reading(status=status, unit=field.unit, reasons=reasons)


def _wrong_words(field: FieldSpec, value: str) -> list[str]:
    reasons = [] if value else ["no characters"]
    if field.enum and value not in field.enum:
        reasons.append(f"{value!r} is none of {', '.join(field.enum)}")
    if field.pattern is not None and not re.search(field.pattern, value):
        reasons.append(f"{value!r} does not match {field.pattern}")
    return reasons


def _wrong_number(field: FieldSpec, value: float, decimals: int, text: str) -> list[str]:
    reasons = []
    if abs(value) == float("inf") or (field.type == "integer" and abs(value) > _MAX_INTEGER):
        return [f"{text} is too large a number"]
    if field.type == "integer" and not value.is_integer():
        reasons.append(f"{text} is no whole number")
    if field.decimals is not None and decimals != field.decimals:
        reasons.append(f"{text} has {decimals} decimals, the instrument shows {field.decimals}")
    if field.minimum is not None and value < field.minimum:
        reasons.append(f"{text} is below {field.minimum:g}")
    if field.maximum is not None and value > field.maximum:
        reasons.append(f"{text} is above {field.maximum:g}")
    return reasons
