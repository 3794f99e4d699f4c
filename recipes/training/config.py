"""Settings of a fine-tuning run of a small model: those of `finetune.config`, and three more."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune.config import FinetuneConfig, Replay, ReplaySource, TrainingSettings
from finetune.dataset.cutting import TileSpec


class SmallModelTraining(TrainingSettings):
    """The loop."""

    coordinate_noise: float = Field(
        0.0,
        ge=0,
        le=50,
        description="Largest standard deviation, in model units, of the noise on coordinates that later words look "
        "back at; what is taught stays true. For vocabularies with whole numbers as tokens.",
    )
    dense: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of a loss that reads the labels of boxes directly off the visual tokens, so that a small "
        "vision tower that learns (lora.vision) comes to see them (`recipes.training.dense_aid`).",
    )


class SmallModelReplaySource(ReplaySource):
    """One source of older skills."""

    kind: Literal["tiles", "dataset", "pictures", "text", "conversations", "factory", "pretraining"] = Field(  # type: ignore[assignment]
        description="As of `finetune.config.ReplaySource`; 'pretraining': synthetic tissue with every kind of question "
        "that the bundled model was trained on."
    )
    tile: TileSpec | None = Field(None, description="Tiles of 'dataset', size of 'factory' and 'pretraining'.")


class SmallModelReplay(Replay):
    """What keeps the older skills."""

    sources: tuple[SmallModelReplaySource, ...] = ()


class SmallModelConfig(FinetuneConfig):
    """A whole run."""

    replay: SmallModelReplay = SmallModelReplay()
    train: SmallModelTraining = SmallModelTraining()
