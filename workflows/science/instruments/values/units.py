"""Units as instruments write them. Spellings of one unit are the same; nothing is ever converted."""

from __future__ import annotations

import unicodedata

_SPELLINGS: tuple[tuple[str, ...], ...] = (
    ("°C", "C", "degC", "deg C", "ºC"),
    ("°F", "F", "degF", "deg F", "ºF"),
    ("%", "%RH", "% RH", "%rF", "percent"),
    ("mL", "ml"),
    ("µL", "uL", "ul", "µl"),
    ("L", "l"),
    ("µm", "um"),
    ("µg", "ug"),
    ("µM", "uM"),
    ("rpm", "RPM", "r/min", "1/min", "min-1"),
    ("xg", "x g", "×g", "× g", "rcf", "RCF"),
    ("pH", "ph", "PH"),
    ("h", "hr", "hrs"),
    ("min", "mins"),
    ("s", "sec"),
)
_KNOWN = {unicodedata.normalize("NFKC", word): words[0] for words in _SPELLINGS for word in words}


def canonical(unit: str) -> str:
    """One spelling for a unit.

    >>> canonical("℃"), canonical(" ml "), canonical("rpm")
    ('°C', 'mL', 'rpm')
    >>> canonical("mM") == canonical("MM")  # case tells milli from mega
    False
    """
    plain = unicodedata.normalize("NFKC", unit).strip().rstrip(".")
    return _KNOWN.get(plain, plain)


def same_unit(first: str, second: str) -> bool:
    """True where two spellings mean one unit."""
    return canonical(first) == canonical(second)
