"""Numbers with units in a text, and how far those of an answer agree with those of a reference."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_PREFIXES = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "c": 1e-2, "d": 1e-1, "k": 1e3, "M": 1e6}
_BASES = {
    "m": "length",
    "g": "mass",
    "s": "time",
    "L": "volume",
    "l": "volume",
    "M": "concentration",
    "V": "voltage",
    "A": "current",
    "Hz": "frequency",
    "Pa": "pressure",
    "W": "power",
    "J": "energy",
}
_SUPERSCRIPT = str.maketrans("²³", "23")


def _units() -> dict[str, tuple[str, float]]:
    """Unit to what it measures and its size in base units."""
    known = {base: (kind, 1.0) for base, kind in _BASES.items()}
    for prefix, factor in _PREFIXES.items():
        for base, kind in _BASES.items():
            if (prefix, base) not in (("k", "s"), ("d", "s"), ("c", "s"), ("M", "M"), ("k", "M")):
                known[prefix + base] = (kind, factor)
    for prefix, factor in {"": 1.0, **_PREFIXES}.items():
        for power, kind in ((2, "area"), (3, "volume of space")):
            known[f"{prefix}m{power}"] = (kind, factor**power)
    known |= {
        "%": ("share", 0.01),
        "percent": ("share", 0.01),
        "min": ("time", 60.0),
        "h": ("time", 3600.0),
        "hours": ("time", 3600.0),
        "hour": ("time", 3600.0),
        "minutes": ("time", 60.0),
        "minute": ("time", 60.0),
        "seconds": ("time", 1.0),
        "second": ("time", 1.0),
        "days": ("time", 86400.0),
        "day": ("time", 86400.0),
        "d": ("time", 86400.0),
        "px": ("px", 1.0),
        "pixels": ("px", 1.0),
        "rpm": ("rpm", 1.0),
        "x": ("times", 1.0),
        "×": ("times", 1.0),
        "°C": ("degree C", 1.0),
        "°F": ("degree F", 1.0),
        "K": ("kelvin", 1.0),
        "pH": ("pH", 1.0),
        "bar": ("pressure", 1e5),
        "mbar": ("pressure", 1e2),
        "um": ("length", 1e-6),
        "ha": ("area", 1e4),
        "microns": ("length", 1e-6),
        "micron": ("length", 1e-6),
    }
    return known


UNITS = _units()
"""Units that are converted into each other, by spelling: what is measured, and the factor to its base."""
_NUMBER = re.compile(
    r"(?<![\w.,])(?<![^\W\d_][-−])[-+−]?"  # not inside a name such as CO2 or Ki-67
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+,\d+(?![\d,.]*\d)|\d+(?:\.\d+)?)"
    r"(?:\s?[x×]\s?10\^?[-−]?\d+|[eE][-+]?\d+)?(?!\w*\d)"
)
_THOUSANDS = re.compile(r"[-+−]?\d{1,3}(?:,\d{3})+(?![\d])")
_UNIT = re.compile(r"\s?(°[CF]|%|[A-Za-zµμ×]+[23²³]?(?:/[A-Za-zµμ]+[23²³]?)?)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what it measures.

    Attributes
    ----------
    value : float
        In base units of `kind`.
    kind : str
        'length', 'share', ...; '' of a bare number or one with an ordinary word behind it.
    bare : float
        The number as it is written, whatever its unit.
    """

    value: float
    kind: str
    bare: float


@dataclass(frozen=True, slots=True)
class QuantityMatch:
    """Quantities of a reference and an answer, paired.

    Attributes
    ----------
    expected, found, right : int
        Quantities in the reference and the answer, and pairs that agree.
    wrong_unit : int
        Numbers that the answer has with another unit than the reference, or with none.
    """

    expected: int
    found: int
    right: int
    wrong_unit: int

    @property
    def f1(self) -> float | None:
        """F1 of the quantities; None where neither text has any."""
        total = self.expected + self.found
        return 2 * self.right / total if total else None


def read_quantities(text: str) -> list[Quantity]:
    """All numbers of a text, in order.

    'um' and 'µm', 'mm2' and 'mm²' are the same. A comma before exactly three digits parts thousands, another one is a
    decimal comma. Numbers inside names (CO2, Ki-67) do not count.
    """
    found = []
    for match in _NUMBER.finditer(text):
        number = _number(match[0])
        unit = _UNIT.match(text, match.end())
        kind, factor = _kind(unit[1]) if unit else ("", 1.0)
        if unit and kind == "times" and unit[0] != unit[1]:
            kind, factor = "", 1.0  # '10 x 12 um': the x joins two numbers, where '10x' magnifies
        found.append(Quantity(number * factor, kind, number))
    return found


def _kind(word: str) -> tuple[str, float]:
    plain = word.translate(_SUPERSCRIPT)
    if plain in UNITS:
        return UNITS[plain]
    over, slash, under = plain.partition("/")
    if slash and over in UNITS and under in UNITS:
        (kind, factor), (per, size) = UNITS[over], UNITS[under]
        return f"{kind} per {per}", factor / size
    return ("", 1.0)


def compare_quantities(reference: str, answer: str, *, tolerance: float = 0.01) -> QuantityMatch:
    """Pair every quantity of the reference with at most one of the answer.

    They agree where they measure the same and differ by at most `tolerance` of the reference's value: 1.2 mm is
    1200 um. The same number with another unit, or with none, is wrong, and counted as such.

    Parameters
    ----------
    reference, answer : str
    tolerance : float
        Relative; 0 asks for the same number.
    """
    expected, left = read_quantities(reference), read_quantities(answer)
    found, right, wrong_unit = len(left), 0, 0
    open_: list[Quantity] = []
    for want in expected:
        near = [q for q in left if q.kind == want.kind and _close(q.value, want.value, tolerance)]
        if near:
            left.remove(min(near, key=lambda q: abs(q.value - want.value)))
            right += 1
        else:
            open_.append(want)
    for want in open_:
        same = [q for q in left if _close(q.bare, want.bare, tolerance)]
        if same:
            left.remove(same[0])
            wrong_unit += 1
    return QuantityMatch(len(expected), found, right, wrong_unit)


def _number(written: str) -> float:
    plain = re.sub(r"\s?[x×]\s?10\^?", "e", written.replace("−", "-"))
    return float(plain.replace(",", "" if _THOUSANDS.match(plain) else "."))


def _close(value: float, wanted: float, tolerance: float) -> bool:
    return math.isclose(value, wanted, rel_tol=0, abs_tol=max(tolerance, 1e-9) * abs(wanted))
