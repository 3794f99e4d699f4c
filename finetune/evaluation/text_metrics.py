"""How far written answers agree with known ones: exactly, field by field, and word by word."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.metrics import Score
from qwenvl.scoring.agreement import auroc, shared_sequence, shared_words

_WORD = re.compile(r"\w+|[^\w\s]")
_BOOTSTRAPS = 500


@dataclass(frozen=True)
class Told:
    """One answer beside the known one.

    Attributes
    ----------
    group : str
        Whom the bootstrap keeps together, such as the picture.
    truth : str
    answer : str
    cut : bool
        It ended because it was too long or repeated itself.
    yes : float or None
        The model's probability of yes, where the truth is yes or no.
    """

    group: str
    truth: str
    answer: str
    cut: bool = False
    yes: float | None = None


def score_texts(told: Sequence[Told], *, seed: int = 0) -> Score:
    """Score written answers.

    Returns
    -------
    Score
        Values: 'exact' (the same words or, of JSON, the same content), 'token_f1' (words in any order), 'rouge_l' (F1
        of the longest common subsequence, Lin 2004), 'cut_rate'. Where answers are JSON: 'parse_rate', 'schema_rate'
        (the same names and kinds of values) and 'field_accuracy' (values that are right). Where they are yes or no:
        'auroc' of the probability of yes. The interval is of 'exact', over groups.
    """
    exact = [same(item.truth, item.answer) for item in told]
    values = {
        "exact": _mean(exact),
        "token_f1": _mean([token_f1(item.truth, item.answer) for item in told]),
        "rouge_l": _mean([rouge_l(item.truth, item.answer) for item in told]),
        "cut_rate": _mean([item.cut for item in told]),
    }
    structured = [(truth, item.answer) for item in told if (truth := parsed(item.truth)) is not None]
    if structured:
        found = [(truth, parsed(answer)) for truth, answer in structured]
        values["parse_rate"] = _mean([answer is not None for _, answer in found])
        values["schema_rate"] = _mean(
            [answer is not None and shape_of(answer) == shape_of(truth) for truth, answer in found]
        )
        right = [field_hits(truth, answer) for truth, answer in found]
        values["field_accuracy"] = sum(hits for hits, _ in right) / max(1, sum(number for _, number in right))
    judged = [(item.yes, plain(item.truth) == "yes") for item in told if item.yes is not None]
    if judged:
        values["auroc"] = auroc(*(np.array(column) for column in zip(*judged, strict=True)))
    return Score(values, _interval(told, exact, seed), {}, {}, len(told), metric="exact")


def plain(text: str) -> str:
    """Lower case, single spaces, without a full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".")


def yes_or_no(text: str) -> bool:
    """Whether an answer is yes or no and nothing else."""
    return plain(text) in ("yes", "no")


def parsed(text: str) -> Any:
    """The object or list a text is as JSON (in a fence or not); None where it is neither."""
    inner = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        value = json.loads(inner)
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def same(truth: str, answer: str) -> bool:
    """Whether two answers say the same: equal as JSON, else equal in words."""
    known = parsed(truth)
    return parsed(answer) == known if known is not None else plain(answer) == plain(truth)


def shape_of(value: object) -> object:
    """Names and kinds of values of JSON; whole numbers and others are one kind, lists count by their first item."""
    if isinstance(value, Mapping):
        return {name: shape_of(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def field_hits(truth: object, answer: object) -> tuple[int, int]:
    """Values of JSON that are right, and how many there are."""
    if isinstance(truth, Mapping):
        inner = answer if isinstance(answer, Mapping) else {}
        pairs = [(value, inner.get(name)) for name, value in truth.items()]
    elif isinstance(truth, list):
        items = answer if isinstance(answer, list) else []
        pairs = [(value, items[i] if i < len(items) else None) for i, value in enumerate(truth)]
    else:
        return int(truth == answer and type(truth) is type(answer)), 1
    hits = [field_hits(value, found) for value, found in pairs]
    return sum(hit for hit, _ in hits), sum(number for _, number in hits)


def token_f1(truth: str, answer: str) -> float:
    """F1 of the words and marks of two texts, whatever their order; 1 where both are empty."""
    return shared_words(_words(truth), _words(answer))


def rouge_l(truth: str, answer: str) -> float:
    """F1 of the longest common subsequence of words; 1 where both are empty."""
    return shared_sequence(_words(truth), _words(answer))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _interval(told: Sequence[Told], exact: Sequence[bool], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the exact rate, groups drawn with replacement; nan with fewer than two."""
    groups: dict[str, list[int]] = {}
    for item, hit in zip(told, exact, strict=True):
        row = groups.setdefault(item.group, [0, 0])
        row[0] += hit
        row[1] += 1
    if len(groups) < 2:
        return float("nan"), float("nan")
    table = np.array(list(groups.values()), np.float64)
    drawn = np.random.default_rng(seed).integers(len(table), size=(_BOOTSTRAPS, len(table)))
    sums = table[drawn].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
