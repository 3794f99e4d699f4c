"""From a labelled tile to questions and answers, in the project's own prompts and Qwen3-VL's answer formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from recipes.pretrain import object_tasks, word_tasks
from recipes.pretrain.phrasings import COMMON_WORDS, FINDING_NAMES, REGION_NAMES
from recipes.pretrain.question import Question
from recipes.pretrain.tiles import CLASSES, TISSUES, LabelledTile

SHARES = {
    "detect": 0.5,
    "regions": 0.04,
    "point": 0.07,
    "count": 0.1,
    "classify": 0.09,
    "score": 0.12,
    "describe": 0.03,
    "ask": 0.02,
    "extract": 0.03,
}
SHORT_SHARES = {"score": 0.7, "count": 0.15, "classify": 0.15}
REAL_SHARES = {"detect": 0.8, "point": 0.08, "count": 0.12}


def ask_about(tile: LabelledTile, rng: np.random.Generator, task: str | None = None) -> Question:
    """A question about a tile, of a random task unless one is named."""
    if task is None:
        shares = SHARES if tile.named else REAL_SHARES
        task = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    return _MAKERS[task](tile, rng)


def ask_shortly(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """A question with a one-word answer; of a tile without classes only the count can be asked."""
    task = str(rng.choice(list(SHORT_SHARES), p=list(SHORT_SHARES.values()))) if tile.named else "count"
    return _MAKERS[task](tile, rng)


_MAKERS: dict[str, Callable[[LabelledTile, np.random.Generator], Question]] = {
    "detect": object_tasks.detect,
    "regions": object_tasks.regions,
    "point": object_tasks.point,
    "count": object_tasks.count,
    "classify": word_tasks.classify,
    "score": word_tasks.score,
    "describe": word_tasks.describe,
    "ask": word_tasks.ask,
    "extract": word_tasks.extract,
}


def corpus(seed: int, count: int = 6000) -> Iterator[str]:
    """Prompts and answers about made-up tiles, for the tokenizer."""
    rng = np.random.default_rng([seed, 99])
    blank = np.zeros((256, 256, 3), np.uint8)
    for i in range(count):
        n = int(rng.integers(0, 6))
        corner = rng.uniform(0, 200, (n, 2))
        places = tuple((str(k), (0.0, 0.0, 99.0, 99.0)) for k in rng.choice(list(REGION_NAMES), 2))
        tile = LabelledTile(
            image=blank,
            boxes=np.concatenate([corner, corner + 30], 1).astype(np.float32),
            classes=rng.integers(0, len(CLASSES), n),
            tissue=i % len(TISSUES),
            findings=frozenset(rng.choice(list(FINDING_NAMES), 3).tolist()),
            regions=places,
        )
        question = ask_about(tile, rng, list(_MAKERS)[i % len(_MAKERS)])
        yield f"user\n{question.prompt}\nassistant\n{question.answer}"
    for _ in range(2):
        yield f"system\n{COMMON_WORDS}"
