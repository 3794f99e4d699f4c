"""The loop of fine-tuning with a dense loss and coordinate noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from finetune.errors import RecipeError
from finetune.loop import Loop
from finetune.methods.loss import whole_numbers
from recipes.training.config import SmallModelConfig
from recipes.training.coordinate_noise import CoordinateNoise
from recipes.training.dense_aid import NAME, DenseAid


class SmallModelLoop(Loop):
    """A `Loop` whose settings are a `SmallModelConfig`; parameters as there."""

    config: SmallModelConfig

    def __init__(self, config: SmallModelConfig, *others: Any) -> None:
        super().__init__(config, *others)
        train = config.train
        if train.coordinate_noise > 0:
            self.numbers = self.numbers or whole_numbers(self.checkpoint.tokenizer, "train.coordinate_noise")
            self.change = CoordinateNoise(self.numbers, train.coordinate_noise)
        self.dense: DenseAid | None = None
        if train.dense > 0:
            if not config.lora.in_vision:
                raise RecipeError("train.dense teaches the vision tower: set lora.vision, or dense to 0")
            aid = DenseAid(self.model, self.checkpoint.tokenizer, self.checkpoint.family, self.names)
            self.dense = aid.to(self.checkpoint.device)

    def auxiliary_loss(self, batch: dict[str, Any], labels: Tensor) -> Tensor | float:
        """The dense loss of the rows with a picture."""
        if self.dense is None or "image_grid_thw" not in batch:
            return 0.0
        shown = batch["mm_token_type_ids"].sum(1) > 0
        return self.config.train.dense * self.dense.loss(labels[shown], batch["image_grid_thw"])

    def prepare(self) -> None:
        """Let the heads of the dense loss be among what the optimiser moves."""
        if self.dense is not None:
            self.model.add_module(NAME, self.dense)

    def release(self) -> None:
        """Take the heads off the model."""
        if self.dense is not None:
            self.dense.release()
            delattr(self.model, NAME)
