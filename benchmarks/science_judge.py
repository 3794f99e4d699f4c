"""Judging: planted judges give the numbers they must, metrics equal their peers', intervals hold what they should.

    python benchmarks/science_judge.py          2,000 pairs
    python benchmarks/science_judge.py --fast   400 pairs, under a minute

Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.families import get_family
from qwenvl.parse import parse_answer
from qwenvl.request import Request
from qwenvl.subject import JudgedItem as Asked
from workflows.science.judge import JudgedItem, cohen_kappa, compare, open_judging, rouge_l, score_texts, spearman
from workflows.science.judge.pairwise import PairResults

FAMILY = get_family("Qwen3-VL")
MISSED: list[str] = []


class Habit(Engine):
    """A judge of a known habit: what it writes is read as a model's words are."""

    def __init__(self, name: str, writes: Callable[[str], str]) -> None:
        self.info = ModelInfo(model=name, family="Qwen3-VL", fingerprint=name)
        self._writes = writes

    def answer(self, pictures: Sequence[Asked], request: Request) -> list[Answer]:
        """One answer per item; only the request's words count."""
        text = self._writes(request.prompt or "")
        return [parse_answer(text, request, dialect=FAMILY.dialect, space=FAMILY.space, frame=None) for _ in pictures]


def reached(words: str, holds: bool) -> str:
    """'ok', or a note that the bar is missed."""
    if not holds:
        MISSED.append(words)
    return "" if holds else "  BAR MISSED"


def qualities(prompt: str) -> tuple[float, float]:
    """The planted worth of the two answers, as shown."""
    worth = [float(part.split("\n", 1)[0]) for part in prompt.split("worth ")[1:3]]
    return worth[0], worth[1]


def plant(pairs: int, rng: np.random.Generator) -> list[tuple[JudgedItem, JudgedItem]]:
    """Pairs of answers of known worth; people say which is better."""
    worth = rng.random((pairs, 2)).round(6)
    return [
        (
            JudgedItem(str(n), f"question {n}", f"worth {a}\nanswer", human="a" if a > b else "b"),
            JudgedItem(str(n), f"question {n}", f"worth {b}\nanswer"),
        )
        for n, (a, b) in enumerate(worth.tolist())
    ]


def judge(name: str, writes: Callable[[str], str], pairs: list[tuple[JudgedItem, JudgedItem]]) -> PairResults:
    """What the report says of one judge."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_judging(Path(folder) / "out", {"judge": name}, Habit(name, writes)) as store,
    ):
        return compare(Habit(name, writes), pairs, store)[0]


def planted_judges(pairs: list[tuple[JudgedItem, JudgedItem]], rng: np.random.Generator) -> None:
    """Perfect, biased, random, half-broken and noisy judges."""
    n = len(pairs)

    def perfect(prompt: str) -> str:
        first, second = qualities(prompt)
        return "first" if first > second else "second"

    def noisy(prompt: str) -> str:
        if rng.random() < 0.35:
            return "first"
        return perfect(prompt) if rng.random() < 0.85 else str(rng.choice(["first", "second"]))

    def broken(prompt: str) -> str:
        return "Both have merits." if qualities(prompt)[0] < 0.25 else perfect(prompt)

    habits = {
        "perfect": perfect,
        "always the first": lambda prompt: "first",
        "random": lambda prompt: str(rng.choice(["first", "second"])),
        "malformed at times": broken,
        "prefers the first at times": noisy,
    }
    print(
        f"{n} pairs   {'verdicts':>26}{'orders differ':>15}{'malformed':>11}{'chose first':>13}"
        f"{'right where decided':>21}{'kappa with people':>19}"
    )
    singles = 0.0
    for name, writes in habits.items():
        found = judge(name, writes, pairs)
        decided = found.a_better + found.b_better
        right = _right(found)
        first = found.position.first
        holds = {
            "perfect": decided == n and right == 1 and first.value == 0.5 and found.human and found.human.value == 1,
            "always the first": decided == 0 and found.disagreed == n and first.value == 1 and found.position.biased,
            "random": abs((first.value or 0) - 0.5) < 0.05 and 0.4 < found.disagreed / n < 0.6,
            "malformed at times": found.malformed
            == sum(min(qualities(f"{a.answer}\n{b.answer}")) < 0.25 for a, b in pairs)
            and right == 1,
            "prefers the first at times": found.position.biased,
        }[name]
        if name == "prefers the first at times":
            singles = float(
                np.mean([(noisy(f"{a.answer}\n{b.answer}") == "first") == (a.human == "a") for a, b in pairs])
            )
            holds = bool(holds) and right is not None and right > singles
        words = "" if right is None else f"{right:.3f}"
        kappa = "" if found.human is None or found.human.value is None else f"{found.human.value:.2f}"
        print(
            f"{name:28}{decided:>9}{found.disagreed:>15}{found.malformed:>11}{first.value or 0:>13.3f}"
            f"{words:>21}{kappa:>19}{reached(name, bool(holds))}"
        )
    print(f"the last judge, asked once in the order given, is right {singles:.3f} of the time")


def _right(found: PairResults) -> float | None:
    """Share of winners that people chose too; ties of the judge are no winners."""
    decided = found.a_better + found.b_better
    if not decided or found.human_share is None or found.human_share.value is None:
        return None
    return found.human_share.value * found.human_share.items / decided


def beside_peers(rng: np.random.Generator) -> None:
    """The same numbers as scikit-learn, scipy and sacrebleu."""
    from scipy.stats import spearmanr

    a = rng.integers(1, 6, 200)
    b = np.clip(a + rng.integers(-1, 2, 200), 1, 5)
    ours = spearman(a.tolist(), b.tolist()).value or 0.0
    rows = [("Spearman's rho", "scipy", ours, float(spearmanr(a, b).statistic))]
    try:
        from sklearn.metrics import cohen_kappa_score

        for weights, theirs in (("none", None), ("quadratic", "quadratic")):
            mine = cohen_kappa(a.tolist(), b.tolist(), weights=weights).value or 0.0  # type: ignore[arg-type]
            rows.append((f"kappa, weights {weights}", "scikit-learn", mine, cohen_kappa_score(a, b, weights=theirs)))
    except ImportError:
        print("scikit-learn is not installed: kappa is not compared")
    try:
        import sacrebleu

        texts = [" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(60)]
        answers = [" ".join(rng.permutation(text.split())) for text in texts]
        scores = score_texts(
            [JudgedItem(str(n), "", x, y) for n, (x, y) in enumerate(zip(answers, texts, strict=True))]
        )
        rows.append(("chrF", "sacrebleu", scores.chrf or 0, sacrebleu.corpus_chrf(answers, [texts]).score))
    except ImportError:
        print("sacrebleu is not installed: BLEU and chrF are not compared")
    print(f"\n{'same numbers':26}{'peer':>14}{'here':>12}{'there':>12}")
    for name, peer, mine, theirs in rows:
        print(f"{name:26}{peer:>14}{mine:>12.6f}{theirs:>12.6f}{reached(name, abs(mine - theirs) < 1e-9)}")


def coverage(sets: int, rng: np.random.Generator) -> None:
    """How often the 95 % interval of a kappa holds the true one."""
    agree = 0.7  # two raters of three classes, equally frequent: kappa is (p - 1/3) / (1 - 1/3)
    p = agree + (1 - agree) / 3
    true = (p - 1 / 3) / (1 - 1 / 3)
    held = 0
    for number in range(sets):
        a = rng.integers(0, 3, 80)
        b = np.where(rng.random(80) < agree, a, rng.integers(0, 3, 80))
        found = cohen_kappa(a.tolist(), b.tolist(), seed=number)
        held += found.low is not None and found.high is not None and found.low <= true <= found.high
    print(
        f"\n95 % intervals of kappa ({sets} sets of 80 items) hold the true value {held / sets:.1%} of the time "
        f"(bar 90 %){reached('coverage', held / sets >= 0.9)}"
    )


def speed(rng: np.random.Generator) -> None:
    """ROUGE-L beside the plain table of its definition."""
    texts = [" ".join(rng.choice(list("abcdefghij"), 300)) for _ in range(12)]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))

    def plain(reference: str, answer: str) -> float:
        known, found = reference.split(), answer.split()
        row = [0] * (len(found) + 1)
        for word in known:
            before = 0
            for i, other in enumerate(found, 1):
                before, row[i] = row[i], before + 1 if word == other else max(row[i], row[i - 1])
        return 2 * row[-1] / (len(known) + len(found))

    assert all(abs(plain(*pair) - rouge_l(*pair)) < 1e-12 for pair in pairs)
    times = []
    for each in (plain, rouge_l):
        start = time.process_time()
        for _ in range(5):
            for pair in pairs:
                each(*pair)
        times.append((time.process_time() - start) / (5 * len(pairs)))
    ratio = times[0] / times[1]
    print(
        f"ROUGE-L of 300 words: {times[1] * 1e3:.2f} ms, by the plain table {times[0] * 1e3:.1f} ms: {ratio:.0f}x "
        f"(bar 10x){reached('speed of ROUGE-L', ratio >= 10)}"
    )


def main() -> int:
    """Measure, print, return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true")
    fast = parser.parse_args().fast
    rng = np.random.default_rng(0)
    planted_judges(plant(400 if fast else 2000, rng), rng)
    beside_peers(rng)
    coverage(60 if fast else 300, rng)
    speed(rng)
    for words in MISSED:
        print(f"BAR MISSED  {words}")
    return 1 if MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
