"""Replay of the pre-training: synthetic tissue with every kind of question that the bundled model was trained on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from finetune.config import ReplaySource
from finetune.evaluation.forgetting import RetentionTest
from finetune.examples.conversation import Exchange
from finetune.examples.examples import ExamplePlan, ExampleSource
from finetune.examples.replay import ReplayContext, ReplayTarget, SourceMaker
from finetune.examples.synthetic_tissue import FieldSkill, field_of
from qwenvl.engines.base import Engine
from recipes.pretrain.data import augment
from recipes.pretrain.tasks import ask_about
from recipes.pretrain.tiles import LabelledTile, from_field

_FIRST = 900_000
"""Seed of the first field; neither benchmarks nor the pre-training's pool draw it or those after it."""


class PretrainingSource:
    """Draws fields of synthetic tissue and asks as the pre-training does.

    Parameters
    ----------
    name : str
    kit : ReplayContext
    size : int
        Side of a field in px.
    fields : int
        Number of different ones.
    """

    def __init__(self, name: str, kit: ReplayContext, size: int, fields: int = 512) -> None:
        self.name, self._kit, self._size, self._fields = name, kit, size, fields
        self._field = lru_cache(maxsize=1024)(self._make)

    def plan(self, rng: np.random.Generator) -> ExamplePlan:
        """Draw a field and a question."""
        tile = augment(self._field(_FIRST + int(rng.integers(self._fields))), rng)
        question = ask_about(tile, rng)
        turn = Exchange(question.prompt, question.answer, places=question.has_coordinates)
        return self._kit.plan(self.name, turn, lambda: tile.image, (self._size, self._size), None)

    def _make(self, seed: int) -> LabelledTile:
        return from_field(field_of(seed, self._size))


def _pretraining(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    size = s.tile.size if s.tile is not None else target.size
    skill = FieldSkill.of(s.name, size, s.held_out, kit.longest) if s.held_out else None
    return PretrainingSource(s.name, kit, size, fields=max(s.examples, 64)), skill


KINDS: dict[str, SourceMaker] = {"pretraining": _pretraining}
"""Kinds of replay sources beside those of fine-tuning."""
