"""Older skills in points of 100, before and after training: what was lost decides whether an adapter is safe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from finetune.evaluation.evaluate import Exam
from finetune.evaluation.metrics import Judged, score_answers
from qwenvl.answer import Answer
from qwenvl.engines.base import Engine
from qwenvl.request import Request, Task

_GRAM = 4


class RetentionTest(Protocol):
    """Something a model could do before."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    def points(self, engine: Engine) -> float:
        """How well the engine does it, 0 to 100."""
        ...


@dataclass(frozen=True)
class LabelledSkill:
    """Detection on held-out tiles of an older dataset: points are F1 at IoU 0.5."""

    name: str
    exam: Exam

    def points(self, engine: Engine) -> float:
        """100 times F1."""
        return 100 * self.exam.score(engine).values["f1"]


@dataclass(frozen=True)
class AnsweredSkill:
    """Agreement with the model's own answers from before training; it agrees with itself by 100 points."""

    name: str
    asked: tuple[tuple[Callable[[], object] | None, Request, Answer], ...]
    ask: Callable[[Engine, Sequence[Any], Request], list[Answer]]

    def points(self, engine: Engine) -> float:
        """Mean agreement."""
        values: list[float] = []
        requests: dict[str, list[tuple[Callable[[], object] | None, Request, Answer]]] = {}
        for row in self.asked:
            requests.setdefault(row[1].hash, []).append(row)
        for rows in requests.values():
            pictures = [None if load is None else load() for load, _, _ in rows]
            answers = self.ask(engine, pictures, rows[0][1])
            values += [
                agreement(before, after, rows[0][1]) for (_, _, before), after in zip(rows, answers, strict=True)
            ]
        return 100 * float(np.mean(values)) if values else float("nan")


def agreement(before: Answer, after: Answer, request: Request) -> float:
    """How far two answers to one question say the same, 0 to 1.

    Boxes: F1 at IoU 0.5; counts: 1 minus the relative difference; probabilities: 1 minus the difference; classes:
    equal or not; words: F1 of character 4-grams (as chrF, Popovic 2015, with one order).
    """
    if not after.status.complete:
        return 0.0
    if request.task in (Task.DETECT, Task.POINT):
        names = sorted({o.label for o in (*before.objects, *after.objects)} | set(request.labels))
        f1 = score_answers([Judged("", before.objects, after)], names).values["f1"]
        return 1.0 if f1 != f1 else f1  # both found nothing
    if request.task is Task.COUNT:
        a, b = float(before.value or 0), float(after.value or 0)
        return 1 - abs(a - b) / max(a, b, 1.0)
    if request.task is Task.SCORE:
        return 1 - abs(before.scores["yes"] - after.scores["yes"])
    if request.task is Task.CLASSIFY:
        return float(before.text == after.text)
    return gram_f1(before.text or before.raw, after.text or after.raw)


def gram_f1(one: str, other: str) -> float:
    """F1 of the character 4-grams of two texts."""
    if one == other:
        return 1.0
    grams = [Counter(t[i : i + _GRAM] for i in range(max(1, len(t) - _GRAM + 1))) for t in (one, other)]
    shared = sum((grams[0] & grams[1]).values())
    return 2 * shared / sum(sum(g.values()) for g in grams)


@dataclass(frozen=True)
class Forgetting:
    """Older skills before and after, in points."""

    before: dict[str, float]
    after: dict[str, float]
    limit: float

    @property
    def lost(self) -> float:
        """Most points that a skill lost; 0 where all grew; nan where nothing was measured."""
        losses = [self.before[name] - self.after[name] for name in self.before]
        known = [loss for loss in losses if loss == loss]
        return max(0.0, *known) if known else float("nan")

    @property
    def passed(self) -> bool:
        """Whether no skill lost more than the limit. Not measured is not passed."""
        return self.lost <= self.limit

    def as_dict(self) -> dict[str, object]:
        """JSON-ready; empty where nothing was measured."""
        if not self.before:
            return {}
        skills = {
            name: {"before": round(self.before[name], 2), "after": round(self.after[name], 2)} for name in self.before
        }
        return {"limit": self.limit, "lost": round(self.lost, 2), "passed": self.passed, "skills": skills}


def measure(skills: Sequence[RetentionTest], engine: Engine) -> dict[str, float]:
    """Points of every skill."""
    return {skill.name: skill.points(engine) for skill in skills}
