"""How well answers agree with the truth: shared words, and ranks of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def shared_words(known: Sequence[str], found: Sequence[str]) -> float:
    """F1 of two lists of words, whatever their order; 1 where both are empty."""
    one, other = Counter(known), Counter(found)
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def shared_sequence(known: Sequence[str], found: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two lists of words (ROUGE-L, Lin 2004); 1 where both are empty.

    The length is found in one machine word per word of `found` (Hyyrö, bit-parallel LCS, 2004).
    """
    if not known and not found:
        return 1.0
    places: dict[str, int] = {}
    for at, word in enumerate(known):
        places[word] = places.get(word, 0) | 1 << at
    whole = (1 << len(known)) - 1
    open_ = whole
    for word in found:
        matched = open_ & places.get(word, 0)
        open_ = ((open_ + matched) | (open_ - matched)) & whole
    common = len(known) - open_.bit_count()
    return 2 * common / (len(known) + len(found))


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (Hanley and McNeil 1982), ties counted half; nan with one class only."""
    from scipy.stats import rankdata

    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
