"""Numbers as they are printed: signs, thousands, decimal commas, powers of ten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

_MINUS = "−–—‐‑-"
_NUMBER = re.compile(
    rf"(?<![\w.,])(?<![^\W\d_][{_MINUS}])"  # IL-6 is a name
    rf"(?P<sign>[+{_MINUS}])?"
    r"(?P<digits>\d{1,3}(?:[,'’]\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+(?:[.,]\d+)?|[.,]\d+)"
    rf"(?P<power>(?:[eE][+{_MINUS}]?\d+)|(?:\s*[×x·*]\s*10\s*\^?\s*[+{_MINUS}]?\d+))?"
    r"(?!\d|[.,]\d)"
)
_SPACED = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d|[.,]\d| \d{3}\b)")
_POWER = re.compile(rf"([+{_MINUS}]?)(\d+)$")


def printed_numbers(text: str, *, comma: bool) -> Iterator[tuple[int, int, Decimal]]:
    """Every number in a text: first sign, last sign (excluded), value.

    '12 345' may be one number or two columns of a table: all three are given.

    Parameters
    ----------
    text : str
    comma : bool
        The document writes decimals with a comma; see `decimal_comma`.
    """
    for match in _NUMBER.finditer(text):
        value = _value(match["digits"], match["power"], comma=comma)
        if value is None:
            continue
        start = match.start()
        if match["sign"] and match["sign"] in _MINUS:
            value = -value
        yield start, match.end(), value
    for match in _SPACED.finditer(text):
        value = _value(match[0].replace(" ", ""), None, comma=comma)
        if value is not None:
            yield match.start(), match.end(), value


def decimal_comma(text: str) -> bool:
    """Whether a document writes decimals with a comma: more '0,5' and '12,34' than '0.5' and '12.34' in it."""
    commas = len(re.findall(r"(?<![\d.,])\d+,(?:\d{1,2}|\d{4,})(?![\d,])", text))
    points = len(re.findall(r"(?<![\d.,])\d+\.(?:\d{1,2}|\d{4,})(?![\d.])", text))
    return commas > points


def as_number(value: object) -> Decimal | None:
    """A JSON number as a decimal; None for anything else, and for numbers that are none (NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = Decimal(repr(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _value(written: str, power: str | None, *, comma: bool) -> Decimal | None:
    digits = re.sub("['’]", "", written)
    decimal, group = (",", ".") if comma else (".", ",")
    if digits.count(group) == 1 and decimal not in digits:
        whole, _, rest = digits.partition(group)
        if len(rest) != 3 or whole in ("", "0"):
            decimal, group = group, decimal  # no group of thousands, whatever the document's habit
    if digits.count(decimal) > 1 or (decimal in digits and group in digits.partition(decimal)[2]):
        decimal, group = group, decimal
    try:
        value = Decimal(digits.replace(group, "").replace(decimal, "."))
    except InvalidOperation:
        return None
    if power and (found := _POWER.search(power)) is not None and len(found[2]) <= 3 and int(found[2]) <= 300:
        value = value.scaleb(int(found[2]) * (-1 if found[1] and found[1] in _MINUS else 1))
    return value
