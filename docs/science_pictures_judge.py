"""Make the picture of docs/science/judge.md: `python docs/science_pictures_judge.py` (seconds)."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.families import get_family
from qwenvl.parse import parse_answer
from qwenvl.request import Request
from qwenvl.subject import JudgedItem as Asked
from workflows.science.judge import JudgedItem, compare, open_judging

TARGET = Path(__file__).resolve().parent / "images" / "science-judge.png"
FAMILY = get_family("Qwen3-VL")
COLOURS = {
    "A better": "#2c7fb8",
    "B better": "#7fcdbb",
    "tie": "#cccccc",
    "orders differ": "#fdae61",
    "malformed": "#d7191c",
}


class Habit(Engine):
    """A judge of a known habit."""

    def __init__(self, writes: Callable[[str], str]) -> None:
        self.info = ModelInfo("habit", "Qwen3-VL", "habit")
        self._writes = writes

    def answer(self, pictures: Sequence[Asked], request: Request) -> list[Answer]:
        """One answer per item; only the request's words count."""
        text = self._writes(request.prompt or "")
        places = {"dialect": FAMILY.dialect, "space": FAMILY.space, "frame": None}
        return [parse_answer(text, request, **places) for _ in pictures]  # type: ignore[arg-type]


def chance(words: str) -> float:
    """A number in 0..1 that follows from the words."""
    return zlib.crc32(words.encode()) / 2**32


def fair(words: str) -> str:
    """Prefers what is worth more."""
    first, second = (float(part.split("\n", 1)[0]) for part in words.split("worth ")[1:3])
    return "first" if first > second else "second"


JUDGES: dict[str, Callable[[str], str]] = {
    "fair": fair,
    "prefers the first\nin 4 of 10": lambda words: "first" if chance(words) < 0.4 else fair(words),
    "always the first": lambda words: "first",
    "malformed\nin 2 of 10": lambda words: "Both are fine." if chance(words) < 0.2 else fair(words),
}


def main() -> None:
    """What the report says of four judges of the same 200 pairs."""
    pairs = [
        (
            JudgedItem(f"{n}", "q", f"worth {chance(f'a{n}'):.4f}\n"),
            JudgedItem(f"{n}", "q", f"worth {chance(f'b{n}') * 0.8:.4f}\n"),
        )
        for n in range(200)
    ]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(3, 2), layout="constrained")
    for row, (name, writes) in enumerate(JUDGES.items()):
        with (
            tempfile.TemporaryDirectory() as folder,
            open_judging(Path(folder) / "o", {"judge": name}, Habit(writes)) as store,
        ):
            found, _ = compare(Habit(writes), pairs, store)
        counts = (found.a_better, found.b_better, found.tied, found.disagreed, found.malformed)
        start = 0
        for (word, colour), number in zip(COLOURS.items(), counts, strict=True):
            left.barh(row, number, left=start, color=colour, label=word if row == 0 else None)
            if number >= 14:
                left.text(start + number / 2, row, str(number), ha="center", va="center")
            start += number
        first = found.position.first
        assert first.value is not None
        assert first.low is not None
        assert first.high is not None
        spread = [[first.value - first.low], [first.high - first.value]]
        right.errorbar(
            first.value, row, xerr=spread, fmt="o", color="#d7191c" if found.position.biased else "#2c7fb8", capsize=4
        )
    left.set_yticks(range(len(JUDGES)), JUDGES)
    right.set_yticks(range(len(JUDGES)), [""] * len(JUDGES))
    for axes in (left, right):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xlabel("pairs; a verdict counts where both orders agree")
    left.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False, columnspacing=1, handlelength=1)
    right.axvline(0.5, color="#999999", linewidth=1)
    right.set_xlim(0.3, 1.03)
    right.set_xlabel("share of choices that fell on the first place")
    figure.savefig(TARGET, dpi=110)
    print(TARGET)


if __name__ == "__main__":
    main()
