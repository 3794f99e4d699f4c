"""Judging answers: by their words, by a model in pairs, by a model and a rubric; with agreement to people.

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.judge.agreement import Agreement, cohen_kappa, fleiss_kappa, spearman
    from workflows.judge.answers import Item, paired, read_items, with_references
    from workflows.judge.asking import Judgement, open_judging
    from workflows.judge.pairwise import PairResults, Verdict, compare
    from workflows.judge.quantities import compare_quantities, read_quantities
    from workflows.judge.report import JudgeReport
    from workflows.judge.rubric import Criterion, Rubric, RubricResults, score
    from workflows.judge.text import TextScores, rouge_l, score_texts, token_f1

_HOMES = {
    "agreement": ("Agreement", "cohen_kappa", "fleiss_kappa", "spearman"),
    "answers": ("Item", "paired", "read_items", "with_references"),
    "asking": ("Judgement", "open_judging"),
    "pairwise": ("PairResults", "Verdict", "compare"),
    "quantities": ("compare_quantities", "read_quantities"),
    "report": ("JudgeReport",),
    "rubric": ("Criterion", "Rubric", "RubricResults", "score"),
    "text": ("TextScores", "rouge_l", "score_texts", "token_f1"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Agreement", "Criterion", "Item", "JudgeReport", "Judgement", "PairResults", "Rubric",
    "RubricResults", "TextScores", "Verdict", "cohen_kappa", "compare", "compare_quantities", "fleiss_kappa",
    "open_judging", "paired", "read_items", "read_quantities", "rouge_l", "score", "score_texts", "spearman",
    "token_f1", "with_references",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"workflows.judge.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
