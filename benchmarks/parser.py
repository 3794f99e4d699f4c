"""Reading malformed Qwen answers: this project beside supervision's `Detections.from_vlm`, on one table.

    python benchmarks/parser.py          every shape, 200 timing rounds, 100,000 mutated answers
    python benchmarks/parser.py --fast   every shape, 20 timing rounds, 2,000 mutated answers

The table is that of the tests (`tests/qwenvl/parse_cases.py`): every text with the objects it really names and how
far it can be trusted. Outcomes: ✓ as the table demands, ∅ nothing came back where something was there or where
nothing should have been believed, ≠ other objects than the text names, ✗ an exception. supervision gives no status,
so for it an empty result is right only for a valid empty list, and the label is all that is compared besides the box;
texts whose outcome rests on what only the engine knows are left out for it (–).

Beside them stands the way of Qwen's own cookbooks (`cookbooks/2d_grounding.ipynb` of QwenLM/Qwen3-VL), written anew
from its description: what stands in the first JSON fence is evaluated as a Python literal, and where that fails, once
more up to the last complete object. It reads `bbox_2d` and `label`, and nothing is checked.

The mutated answers are sound ones in every dialect, cut, torn and grafted in one to three places. Whatever comes out,
nothing may raise, no box may leave the picture, and an `ok` must account for all: every number of the text is one of
an object's, every label stands for an object, and all brackets and tags are in pairs.

Exit code 1 where this project misses a shape or a mutation breaks a rule.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
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

from qwenvl.answer import Answer, Status
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
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
        image=case.image,
    )
    places = [(item.label, *(round(part, 3) for part in item.box or item.point or ())) for item in answer.objects]
    return answer.status.value, places


def theirs(case: Case) -> Found:
    """Objects as supervision reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detections = sv.Detections.from_vlm(sv.VLM.QWEN_3_VL, case.text, resolution_wh=(WIDTH, HEIGHT))
    names = detections.data.get("class_name", np.empty(0))
    return [
        (str(name), *(round(float(part), 3) for part in box)) for name, box in zip(names, detections.xyxy, strict=True)
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
    return _judged(case, lambda: theirs(case))


def _judged(case: Case, read: Callable[[], Found]) -> str:
    if case.finish_reason != "stop" and case.text in FINISHED:
        return LEFT_OUT
    try:
        found = read()
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


def cookbook(text: str) -> Found:
    """Objects as the cookbooks of Qwen's own repository read them; raises where they do."""
    _, fence, rest = text.partition("```json")
    body = rest.partition("```")[0] if fence else text
    try:
        items = ast.literal_eval(body.strip())
    except Exception:
        items = ast.literal_eval(body[: body.rfind('"}') + 2].strip() + "]")
    sides = (WIDTH / 1000, HEIGHT / 1000) * 2
    return [
        (str(item["label"]), *(round(part * side, 3) for part, side in zip(item["bbox_2d"], sides, strict=True)))
        for item in items
    ]


def outcome_of_cookbook(case: Case) -> str:
    """How the cookbooks' way fares, judged as supervision is."""
    return _judged(case, lambda: cookbook(case.text))


NUMBERS = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
SCRAPS = (
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "<",
    ">",
    "\\",
    "/",
    "|",
    '"',
    "'",
    ",",
    ":",
    " ",
    "\n",
    "0",
    "7",
    ".",
    "-",
    "box",
    "ref",
    "<box>",
    "</box>",
    "<ref>",
    "</ref>",
    "<|box_start|>",
    "<|box_end|>",
    "null",
    "NaN",
    "mitosis",
    "non-",
    "[]",
    "{}",
    "(1,2),(3,4)",
    "[5, 6, 70, 80]",
    "```",
    "\ud800",
    "1e400",
    "9" * 40,
)


def sound(pick: random.Random, dialect: str) -> str:
    """A sound answer of one to five objects in a dialect."""
    parts = []
    for _ in range(pick.randint(1, 5)):
        x, y = pick.randint(2, 800), pick.randint(2, 800)
        box = (x, y, x + pick.randint(5, 190), y + pick.randint(5, 190))
        label = pick.choice(("mitosis", "nucleus"))
        if dialect == "json":
            parts.append(json.dumps({"bbox_2d": list(box), "label": label}))
        elif dialect == "tags_v1":
            parts.append("<ref>{}</ref><box>({},{}),({},{})</box>".format(label, *box))
        else:
            parts.append(
                "<|object_ref_start|>{}<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>".format(label, *box)
            )
    if dialect != "json":
        return "".join(parts)
    text = f"[{', '.join(parts)}]"
    return f"```json\n{text}\n```" if pick.random() < 0.3 else text


def mutated(text: str, pick: random.Random) -> str:
    """`text` with one to three cuts, insertions, exchanges and repetitions."""
    for _ in range(pick.randint(1, 3)):
        at, kind = pick.randint(0, len(text)), pick.randrange(5)
        length = pick.choice((1, 1, 2, 3, 8, 30))
        if kind < 2:
            text = text[:at] + text[at + length :]
        elif kind == 2:
            text = text[:at] + pick.choice(SCRAPS) + text[at:]
        elif kind == 3:
            text = text[:at] + pick.choice(SCRAPS) + text[at + length :]
        else:
            text = text[: at + length] + text[at:]
    return text


def broken_rule(text: str, answer: Answer) -> str | None:
    """The rule that an answer to a mutated text breaks; None where it breaks none."""
    for item in answer.objects:
        x0, y0, x1, y1 = (*(item.box or ()), *(item.point or ()) * 2)
        if not (0 <= x0 <= x1 <= WIDTH and 0 <= y0 <= y1 <= HEIGHT):
            return "outside"
    if answer.status is not Status.OK:
        return None
    taken = 0
    for item in answer.objects:
        words = json.dumps([item.label, dict(item.attributes)])
        taken += len(item.box or item.point or ()) + len(NUMBERS.findall(words)) + (item.score is not None)
    if len(NUMBERS.findall(text)) != taken:
        return "numbers left over"
    if len(re.findall("mitosis|nucleus", text)) > len(answer.objects):
        return "names left over"
    pairs = ("[]", "{}", "()", "<>")
    if any(text.count(opening) != text.count(closing) for opening, closing in pairs):
        return "brackets left over"
    return None


def fuzz(count: int) -> tuple[Counter[str], list[str]]:
    """Statuses of `count` mutated answers, and the texts that break a rule."""
    pick = random.Random(16)
    request = Request(task="detect", labels=("mitosis", "nucleus"))
    seen: Counter[str] = Counter()
    broken = []
    for _ in range(count):
        dialect = pick.choice(("json", "tags_v1", "tags_v2"))
        text = mutated(sound(pick, dialect), pick)
        try:
            answer = parse_answer(text, request, dialect=dialect, space=CoordinateSpace.RELATIVE_1000, frame=FRAME)
            rule = broken_rule(text, answer)
            seen[answer.status.value] += 1
        except Exception as error:
            rule = f"raised {error!r}"
        if rule:
            broken.append(f"{rule}: {text!r}")
    return seen, broken


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="20 timing rounds and 2,000 mutated answers")
    fast = parser.parse_args().fast
    rounds = 20 if fast else 200
    console = Console(width=120)
    table = Table(title=f"Malformed answers, supervision {sv.__version__} beside napari-qwenvl")
    for heading, justify in (("shape", "right"), ("text", "left"), ("expected", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("supervision", justify="center")
    table.add_column("Qwen cookbook", justify="center")
    table.add_column("napari-qwenvl", justify="center")
    totals: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
    agreed = []
    for case in CASES:
        their, our = outcome_of_theirs(case), outcome_of_ours(case)
        totals[0][their] += 1
        book = outcome_of_cookbook(case)
        totals[1][our] += 1
        totals[2][book] += 1
        if their == our == RIGHT and case.objects:
            agreed.append(case)
        objects = f", {len(case.objects)} objects" if case.objects else ""
        table.add_row(str(case.shape), case.name, f"{case.status}{objects}", their, book, our)
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
    for name, counts, each in (("supervision", totals[0], their_time), ("napari-qwenvl", totals[1], our_time)):
        ratio = f"{their_time / each:.2f}x"
        marks = [str(counts[mark]) for mark in (RIGHT, NOTHING, OTHER, RAISED, LEFT_OUT)]
        summary.add_row(name, *marks, f"{each * 1e6:.0f}", ratio)
    marks = [str(totals[2][mark]) for mark in (RIGHT, NOTHING, OTHER, RAISED, LEFT_OUT)]
    summary.add_row("Qwen cookbook", *marks, "–", "–")
    console.print(summary)
    console.print(f"Timed on the {len(agreed)} texts that both read alike.")
    kinds = len({case.shape for case in CASES})
    console.print(f"{len(CASES)} texts of {kinds} kinds.")
    statuses, broken = fuzz(2_000 if fast else 100_000)
    console.print(f"{sum(statuses.values())} mutated answers: {dict(statuses)}, {len(broken)} break a rule.")
    for line in broken[:20]:
        console.print(line, markup=False)
    missed = [case for case in CASES if outcome_of_ours(case) != RIGHT]
    for case in missed:
        console.print(f"missed: {case.shape} {case.name}: {ours(case)}")
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
