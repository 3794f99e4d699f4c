"""A fine-tuning run of a small model."""

from __future__ import annotations

from typing import Any

from finetune.train import Result
from finetune.train import finetune as _finetune
from recipes.training.config import SmallModelConfig
from recipes.training.loop import SmallModelLoop
from recipes.training.replay import KINDS


def finetune(config: SmallModelConfig, **options: Any) -> Result:
    """`finetune.train.finetune` with the dense loss, coordinate noise and replay of the pre-training.

    Parameters
    ----------
    config : SmallModelConfig
    **options
        As there.
    """
    return _finetune(config, loop_type=SmallModelLoop, replay_kinds=KINDS, **options)
