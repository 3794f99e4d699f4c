"""Reading malformed Qwen answers: this project beside supervision's `Detections.from_vlm`, on one table.

    python benchmarks/parser.py          every shape, 200 timing rounds
    python benchmarks/parser.py --fast   every shape, 20 timing rounds, a few seconds

The table is that of the tests (`tests/qwenvl/parse_cases.py`): every text with the objects it really names and how
far it can be trusted. Outcomes: ✓ as the table demands, ∅ nothing came back where something was there or where
nothing should have been believed, ≠ other objects than the text names, ✗ an exception. supervision gives no status,
so for it an empty result is right only for a valid empty list, and the label is all that is compared besides the box;
texts whose outcome rests on what only the engine knows are left out for it (–).

Exit code 1 where this project misses a shape.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import supervision as sv
from rich.console import Console
from rich.table import Table

from qwenvl.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.qwenvl.parse_cases import CASES, HEIGHT, WIDTH, Case

RIGHT, NOTHING, OTHER, RAISED, LEFT_OUT = "✓", "∅", "≠", "✗", "–"
FRAME = PictureFrame.same(WIDTH, HEIGHT)
REQUESTS = {
    (case.task, case.labels): Request(task=case.task, labels=case.labels)  # type: ignore[arg-type]
    for case in CASES
}
FINISHED = {case.text for case in CASES if case.finish_reason == "stop"}
Found = list[tuple[object, ...]]


def expected(case: Case) -> Found:
    """The case's objects in px of the picture."""
    sides = (WIDTH / 1000, HEIGHT / 1000)
    return [
        (label, *(round(number * sides[axis % 2], 3) for axis, number in enumerate(numbers)))
        for label, *numbers in case.objects
    ]


def ours(case: Case) -> tuple[str, Found]:
    """Status and objects as this project reads them."""
    answer = parse_answer(
        case.text,
        REQUESTS[case.task, case.labels],
        dialect=case.dialect,
        space=CoordinateSpace.RELATIVE_1000,
        frame=FRAME,
        finish_reason=case.finish_reason,
    )
    places = [
        (item.label, *(round(part, 3) for part in item.box or item.point or ())) for item in answer.objects
    ]
    return answer.status.value, places


def theirs(case: Case) -> Found:
    """Objects as supervision reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detections = sv.Detections.from_vlm(sv.VLM.QWEN_3_VL, case.text, resolution_wh=(WIDTH, HEIGHT))
    names = detections.data.get("class_name", np.empty(0))
    return [
        (str(name), *(round(float(part), 3) for part in box))
        for name, box in zip(names, detections.xyxy, strict=True)
    ]


def outcome_of_ours(case: Case) -> str:
    """How this project fares; status and objects must both be right."""
    try:
        status, found = ours(case)
    except Exception:
        return RAISED
    if found == expected(case) and status == case.status:
        return RIGHT
    return OTHER if found else NOTHING


def outcome_of_theirs(case: Case) -> str:
    """How supervision fares; its labels are those of the text, so only their beginning is compared."""
    if case.finish_reason != "stop" and case.text in FINISHED:
        return LEFT_OUT
    try:
        found = theirs(case)
    except Exception:
        return RAISED
    if not found:
        return RIGHT if case.status == "empty" and "[]" in case.text else NOTHING
    wanted = expected(case)
    same = len(found) == len(wanted) and all(
        one[1:] == other[1:] and str(one[0]).casefold()[:5] == str(other[0]).casefold()[:5]
        for one, other in zip(found, wanted, strict=True)
    )
    return RIGHT if same else OTHER


def seconds(cases: list[Case], rounds: int) -> tuple[float, float]:
    """Seconds per answer, supervision's and this project's: the mean over texts of the median over rounds.

    The two take every text in turn, and every reading is timed by itself, so that neither is more likely than the
    other to be interrupted by what else runs on the machine.
    """
    readers: tuple[Callable[[Case], object], ...] = (theirs, ours)
    times = np.empty((rounds, len(cases), 2))
    for turn in range(rounds):
        for index, case in enumerate(cases):
            for side, read in enumerate(readers):
                started = time.perf_counter()
                read(case)
                times[turn, index, side] = time.perf_counter() - started
    theirs_mean, ours_mean = np.median(times, axis=0).mean(axis=0)
    return float(theirs_mean), float(ours_mean)


def main() -> int:
    """Print the table; 1 where this project misses a shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="20 timing rounds instead of 200")
    rounds = 20 if parser.parse_args().fast else 200
    console = Console(width=120)
    table = Table(title=f"Malformed answers, supervision {sv.__version__} beside napari-qwenvl")
    for heading, justify in (("shape", "right"), ("text", "left"), ("expected", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("supervision", justify="center")
    table.add_column("napari-qwenvl", justify="center")
    totals: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    agreed = []
    for case in CASES:
        their, our = outcome_of_theirs(case), outcome_of_ours(case)
        totals[0][their] += 1
        totals[1][our] += 1
        if their == our == RIGHT and case.objects:
            agreed.append(case)
        objects = f", {len(case.objects)} objects" if case.objects else ""
        table.add_row(str(case.shape), case.name, f"{case.status}{objects}", their, our)
    console.print(table)
    summary = Table(title="Totals")
    for heading in (
        "",
        "✓ right",
        "∅ silently nothing",
        "≠ other objects",
        "✗ exception",
        "– left out",
        "us per answer",
        "ratio",
    ):
        summary.add_column(heading, justify="right" if heading else "left")
    # Only texts that both read alike are timed, in turn.
    their_time, our_time = seconds(agreed, rounds)
    for name, counts, each in (
        ("supervision", totals[0], their_time),
        ("napari-qwenvl", totals[1], our_time),
    ):
        ratio = f"{their_time / each:.2f}x"
        marks = [str(counts[mark]) for mark in (RIGHT, NOTHING, OTHER, RAISED, LEFT_OUT)]
        summary.add_row(name, *marks, f"{each * 1e6:.0f}", ratio)
    console.print(summary)
    console.print(f"Timed on the {len(agreed)} texts that both read alike.")
    missed = [case for case in CASES if outcome_of_ours(case) != RIGHT]
    for case in missed:
        console.print(f"missed: {case.shape} {case.name}: {ours(case)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
