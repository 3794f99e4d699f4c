"""One question about a tile and its answer, in the project's words or in people's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recipes.pretrain.phrasings import OWN_WORDS

CANONICAL_SHARE = 0.7
"""Share of the questions in the words of `qwenvl.prompts`; the others are people's own words."""


@dataclass(frozen=True)
class Question:
    """One turn each of user and assistant about one tile."""

    task: str
    prompt: str
    answer: str
    evidence: tuple[tuple[float, float], ...] = ()
    """Centres (x, y in 0..1) of the nuclei that make a yes true, where single nuclei do."""

    @property
    def has_coordinates(self) -> bool:
        """Whether numbers of the answer are places, so that a near miss is half right."""
        return self.task in ("detect", "regions", "point")


def own_words(question: Question, rng: np.random.Generator, labels: str) -> Question:
    """The same question in other words, now and then."""
    if rng.random() < CANONICAL_SHARE:
        return question
    return replace(question, prompt=one_of(rng, OWN_WORDS[question.task]).format(labels))


def one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    """The first choice half of the time, else any."""
    return choices[0] if rng.random() < 0.5 else str(rng.choice(choices))
