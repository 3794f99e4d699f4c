"""How far answers agree with references, in their words and in their numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from pydantic import Field

from qwenvl.scoring.agreement import shared_sequence, shared_words
from workflows.errors import JudgeError
from workflows.science.judge.agreement import Agreement, share
from workflows.science.judge.answers import JudgedItem
from workflows.science.judge.quantities import compare_quantities
from workflows.store.provenance import Facts


class TextScores(Facts):
    """Agreement of answers with references. An item without an answer counts as an empty one: it is never left out."""

    items: int = Field(description="Items with a reference.")
    unanswered: int = Field(description="Of these, items without an answer.")
    without_reference: int = Field(description="Items that could not be scored.")
    exact: Agreement = Field(description="Share with the same words, case, marks and spaces aside.")
    token_f1: Agreement = Field(description="Mean F1 of the words, whatever their order.")
    rouge_l: Agreement = Field(description="Mean F1 of the longest common subsequence of words (Lin 2004).")
    bleu: float | None = Field(description="BLEU of the whole set, 0 to 100; null without sacrebleu.")
    chrf: float | None = Field(description="chrF2 of the whole set, 0 to 100; null without sacrebleu.")
    signature: str | None = Field(description="sacrebleu's settings and version.")
    numbers: Agreement | None = Field(
        description="Mean F1 of numbers with their units, over items where answer or reference have any."
    )
    wrong_unit: int = Field(description="Numbers with another unit than the reference's, or none.")


def score_texts(items: Sequence[JudgedItem], *, tolerance: float = 0.01, seed: int = 0) -> TextScores:
    """Score answers against references.

    Parameters
    ----------
    items : sequence of JudgedItem
    tolerance : float
        Relative difference up to which numbers agree.
    seed : int
        Of the bootstrap.

    Raises
    ------
    JudgeError
        No item has a reference.
    """
    known = [(item.reference, item.answer or "") for item in items if item.reference is not None]
    if not known:
        raise JudgeError("No item has a reference to compare with: give --reference FILE, or a column of that name.")
    matches = [compare_quantities(reference, answer, tolerance=tolerance) for reference, answer in known]
    numbers = [match.f1 for match in matches if match.f1 is not None]
    bleu, chrf, signature = _sacrebleu(known)
    return TextScores(
        items=len(known),
        unanswered=sum(not answer for _, answer in known),
        without_reference=len(items) - len(known),
        exact=share([words(a) == words(r) for r, a in known], "exact match", seed=seed),
        token_f1=share(np.array([token_f1(r, a) for r, a in known]), "token F1", seed=seed),
        rouge_l=share(np.array([rouge_l(r, a) for r, a in known]), "ROUGE-L", seed=seed),
        bleu=bleu,
        chrf=chrf,
        signature=signature,
        numbers=share(np.array(numbers), "numbers F1", seed=seed) if numbers else None,
        wrong_unit=sum(match.wrong_unit for match in matches),
    )


def words(text: str) -> list[str]:
    """Words of a text in lower case; decimal numbers stay whole."""
    return re.findall(r"\d+(?:[.,]\d+)*|\w+|[%°]", text.lower())


def token_f1(reference: str, answer: str) -> float:
    """F1 of the words of two texts, whatever their order; 1 where both are empty."""
    return shared_words(words(reference), words(answer))


def rouge_l(reference: str, answer: str) -> float:
    """F1 of the longest common subsequence of words; 1 where both are empty."""
    return shared_sequence(words(reference), words(answer))


def _sacrebleu(known: Sequence[tuple[str, str]]) -> tuple[float | None, float | None, str | None]:
    """BLEU and chrF by their reference implementation; without it they are not measured."""
    if find_spec("sacrebleu") is None:
        return None, None, None
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    answers, references = [answer for _, answer in known], [[reference for reference, _ in known]]
    bleu, chrf = BLEU(effective_order=False), CHRF()
    values = bleu.corpus_score(answers, references).score, chrf.corpus_score(answers, references).score
    return float(values[0]), float(values[1]), f"{bleu.get_signature()} {chrf.get_signature()}"
