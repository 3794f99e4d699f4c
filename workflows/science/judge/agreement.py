"""Agreement of raters: kappas and rank correlation, with bootstrap intervals over the items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import rankdata

from workflows.errors import JudgeError
from workflows.store.provenance import Facts

BOOTSTRAPS = 1000
Weights = Literal["none", "linear", "quadratic"]


class Agreement(Facts):
    """One measure of agreement."""

    measure: str
    value: float | None = Field(description="Null where it is undefined: a rater gave all items the same.")
    low: float | None = Field(description="2.5 % of the bootstrap over items; null with fewer than two items.")
    high: float | None = Field(description="97.5 %.")
    items: int

    def __str__(self) -> str:
        if not self.items:
            return f"{self.measure} undefined: nothing to count"
        if self.value is None:
            return f"{self.measure} undefined: all {self.items} items were rated the same"
        between = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.measure} {self.value:.2f}{between}, {self.items} items"


def cohen_kappa(
    first: Sequence[object], second: Sequence[object], *, weights: Weights = "none", seed: int = 0
) -> Agreement:
    """Agreement of two raters beyond chance (Cohen 1960; weighted: Cohen 1968).

    Parameters
    ----------
    first, second : sequences of equal length
        Categories. With weights they are numbers, and a difference counts by its size or its square.
    weights : 'none', 'linear' or 'quadratic'

    Raises
    ------
    JudgeError
        The lengths differ.
    """
    _same_length(first, second)
    values = sorted({*first, *second}, key=lambda value: (str(type(value)), value))  # type: ignore[type-var]
    code = {value: number for number, value in enumerate(values)}
    table = np.array([[code[value] for value in rater] for rater in (first, second)], np.int64).reshape(2, -1)
    if weights == "none":
        cost = 1.0 - np.eye(len(values))
    else:
        at = np.array(values, np.float64)
        apart = np.abs(at[:, None] - at[None, :])
        cost = apart if weights == "linear" else apart**2

    def kappa(rows: NDArray[np.int64]) -> float:
        a, b = table[0, rows], table[1, rows]
        seen = float(cost[a, b].mean())
        shares = [np.bincount(each, minlength=len(values)) / len(rows) for each in (a, b)]
        expected = float(shares[0] @ cost @ shares[1])
        return 1 - seen / expected if expected > 0 else float("nan")

    named = {"none": "Cohen's kappa", "linear": "linear kappa", "quadratic": "quadratic kappa"}[weights]
    return _with_interval(named, kappa, table.shape[1], seed)


def fleiss_kappa(ratings: Sequence[Sequence[object]], *, seed: int = 0) -> Agreement:
    """Agreement of several raters beyond chance (Fleiss 1971).

    Parameters
    ----------
    ratings : sequence of items, each a sequence of categories
        Every item by equally many raters, at least two; who they are may differ.

    Raises
    ------
    JudgeError
        Items have different numbers of ratings, or fewer than two.
    """
    raters = {len(item) for item in ratings}
    if len(raters) > 1 or (raters and min(raters) < 2):
        raise JudgeError(f"Fleiss' kappa needs equally many ratings of each item, two at least; got {sorted(raters)}.")
    values = {value: number for number, value in enumerate(dict.fromkeys(v for item in ratings for v in item))}
    counts = np.zeros((len(ratings), max(1, len(values))))
    for row, item in enumerate(ratings):
        for value in item:
            counts[row, values[value]] += 1

    def kappa(rows: NDArray[np.int64]) -> float:
        some = counts[rows]
        n = some[0].sum()
        agreed = float(((some**2).sum(1) - n).mean() / (n * (n - 1)))
        chance = float(((some.sum(0) / some.sum()) ** 2).sum())
        return (agreed - chance) / (1 - chance) if chance < 1 else float("nan")

    return _with_interval("Fleiss' kappa", kappa, len(ratings), seed)


def spearman(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Agreement:
    """Rank correlation, ties shared.

    Raises
    ------
    JudgeError
        The lengths differ.
    """
    _same_length(first, second)
    table = np.array([first, second], np.float64).reshape(2, -1)

    def correlation(rows: NDArray[np.int64]) -> float:
        ranks = np.stack([rankdata(each) for each in table[:, rows]])
        ranks -= ranks.mean(axis=1, keepdims=True)
        length = np.sqrt((ranks**2).sum(axis=1)).prod()
        return float(ranks[0] @ ranks[1] / length) if length > 0 else float("nan")

    return _with_interval("Spearman's rho", correlation, table.shape[1], seed)


def share(hits: Sequence[bool] | NDArray[np.bool_], measure: str, *, seed: int = 0) -> Agreement:
    """A share of items, with its interval."""
    table = np.asarray(hits, np.float64)
    return _with_interval(measure, lambda rows: float(table[rows].mean()), len(table), seed)


def _same_length(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise JudgeError(f"Two raters rated {len(first)} and {len(second)} items; they must be the same items.")


def _with_interval(measure: str, statistic: Callable[[NDArray[np.int64]], float], items: int, seed: int) -> Agreement:
    """The statistic of all items, and its percentiles over items drawn with replacement."""
    if not items:
        return Agreement(measure=measure, value=None, low=None, high=None, items=0)
    value = statistic(np.arange(items))
    if not np.isfinite(value):
        return Agreement(measure=measure, value=None, low=None, high=None, items=items)
    low = high = None
    if items > 1:
        rng = np.random.default_rng(seed)
        drawn = np.array([statistic(rng.integers(items, size=items)) for _ in range(BOOTSTRAPS)])
        drawn = drawn[np.isfinite(drawn)]  # a sample of one category alone has no kappa
        if len(drawn):
            low, high = (float(each) for each in np.quantile(drawn, [0.025, 0.975]))
    return Agreement(measure=measure, value=value, low=low, high=high, items=items)
