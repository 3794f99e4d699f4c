"""Fitting a calibration on tiles whose truth is known, and how reliable scores are before and after.

A model's 'yes' at 0.9 is seldom right nine times in ten. Temperature and biases are fitted to the logits of a labelled
set (Platt 1999; Guo et al. 2017, "On Calibration of Modern Neural Networks").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenvl.engines.questions import answer_each
from qwenvl.errors import RequestError
from qwenvl.request import Request, Task
from qwenvl.scoring.calibration import FEWEST, LIMIT, Calibration, complete

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qwenvl.engines.base import Engine, ModelInfo
    from qwenvl.subject import Item

_FOLDS = 5
_STEEPEST = math.log(20.0)  # of the temperature's logarithm
_PULL = 1e-3  # weight of keeping temperature and bias small, so that a set without errors has a fit


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often what was said with some confidence was so.

    Attributes
    ----------
    ece : float
        Mean distance of confidence and frequency over the bins, weighted by their tiles.
    bins : tuple of (low, high, tiles, confidence, frequency)
        Those that hold tiles.
    """

    ece: float
    bins: tuple[tuple[float, float, int, float, float], ...]

    def __str__(self) -> str:
        rows = [
            f"{low:4.2f}-{high:4.2f} {count:7d} {said:10.3f} {was:10.3f}" for low, high, count, said, was in self.bins
        ]
        return "\n".join(["     bin   tiles       said        was", *rows, f"ECE {self.ece:.4f}"])


def reliability(confidence: Sequence[float], correct: Sequence[bool], *, bins: int = 10) -> Reliability:
    """Compare confidences with what came true, in bins of equal width.

    Parameters
    ----------
    confidence : sequence of float
        P(yes) of score; the probability of the chosen label of classify.
    correct : sequence of bool
        Whether it was yes; whether the label was right.
    """
    import numpy as np

    said, was = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    place = np.minimum((said * bins).astype(int), bins - 1)
    rows = tuple(
        (number / bins, (number + 1) / bins, int(inside.sum()), float(said[inside].mean()), float(was[inside].mean()))
        for number in range(bins)
        if (inside := place == number).any()
    )
    total = sum(count for _, _, count, _, _ in rows)
    return Reliability(sum(count * abs(one - other) for *_, count, one, other in rows) / max(1, total), rows)


def calibrate(
    engine: Engine, items: Sequence[Item], truth: Sequence[str | bool], request: Request
) -> tuple[Calibration, Reliability, Reliability]:
    """Fit a calibration of an engine's model on labelled tiles.

    Parameters
    ----------
    engine : Engine
    items : sequence of Item
        Tiles as the request is asked about them: same scale, same size.
    truth : sequence
        The right label of each tile; for score also True for yes and False for no.
    request : Request
        Of task score or classify, without a calibration.

    Returns
    -------
    Calibration, Reliability, Reliability
        The last two are of the model as it is, and of tiles left out of the fit in five folds.

    Raises
    ------
    RequestError
        Too few tiles, a word that never is the truth, or answers without probabilities.
    """
    if request.task not in (Task.SCORE, Task.CLASSIFY) or request.calibration is not None:
        raise RequestError("calibrate a request of task score or classify that has no calibration yet")
    words = request.labels if request.task is Task.CLASSIFY else ("yes", "no")
    told = [("yes" if each else "no") if isinstance(each, bool) else each for each in truth]
    if unknown := sorted(set(told) - set(words)):
        raise RequestError(f"truth names {', '.join(unknown)}; the answers are {', '.join(words)}")
    if len(items) != len(told):
        raise RequestError(f"{len(items)} tiles and {len(told)} truths; give one for each tile")
    known = [
        (complete(answer.scores, words), words.index(right))
        for answer, right in zip(answer_each(engine, items, request), told, strict=True)
        if answer.scores and "text" not in answer.notes
    ]
    if len(known) < FEWEST:
        raise RequestError(f"{len(known)} of {len(items)} tiles have probabilities; at least {FEWEST} are needed")
    return _fitted([scores for scores, _ in known], [right for _, right in known], words, request, engine.info)


def _fitted(
    scores: list[list[float]], right: list[int], words: tuple[str, ...], request: Request, info: ModelInfo
) -> tuple[Calibration, Reliability, Reliability]:
    import numpy as np

    logs, truth = np.log(np.clip(np.asarray(scores), LIMIT, 1.0)), np.asarray(right)
    if missing := [word for number, word in enumerate(words) if not (truth == number).any()]:
        raise RequestError(f"no tile is {', '.join(missing)}; label some, or nothing can be said of that word")
    before = _reliability(np.exp(logs), truth)
    # Every fold holds its share of each word.
    fold = np.empty(len(truth), int)
    order = np.random.default_rng(0).permutation(len(truth))
    fold[order[np.argsort(truth[order], kind="stable")]] = np.arange(len(truth)) % _FOLDS
    left_out = np.empty_like(logs)
    for number in range(_FOLDS):
        inside = fold != number
        left_out[~inside] = _shares(logs[~inside], *_fit(logs[inside], truth[inside]))
    after = _reliability(left_out, truth)
    temperature, bias = _fit(logs, truth)
    calibration = Calibration(
        model=info.fingerprint,
        model_name=info.model,
        question=request.question,
        words=words,
        temperature=temperature,
        bias=tuple(float(each) for each in bias),
        tiles=len(truth),
        ece_before=before.ece,
        ece_after=after.ece,
    )
    return calibration, before, after


def _fit(logs: NDArray[np.float64], truth: NDArray[np.int_]) -> tuple[float, NDArray[np.float64]]:
    """Temperature and biases of the largest likelihood."""
    import numpy as np
    from scipy.optimize import minimize

    rows = np.arange(len(truth))

    def loss(values: NDArray[np.float64]) -> float:
        shares = _shares(logs, math.exp(values[0]), np.append(values[1:], 0.0))
        return float(-np.log(shares[rows, truth] + 1e-300).mean() + _PULL * (values**2).sum())

    words = logs.shape[1]
    bounds = [(-_STEEPEST, _STEEPEST), *[(-10.0, 10.0)] * (words - 1)]
    found = minimize(loss, np.zeros(words), method="L-BFGS-B", bounds=bounds)
    return math.exp(found.x[0]), np.append(found.x[1:], 0.0)


def _shares(logs: NDArray[np.float64], temperature: float, bias: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import softmax

    shares: NDArray[np.float64] = softmax(logs / temperature + bias, axis=1)
    return shares


def _reliability(shares: Any, truth: Any) -> Reliability:
    if shares.shape[1] == 2:
        return reliability(shares[:, 0], truth == 0)
    return reliability(shares.max(axis=1), shares.argmax(axis=1) == truth)
