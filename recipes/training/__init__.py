"""Fine-tuning of small models, with what larger ones do not need: a dense loss, coordinate noise, more replay."""

from recipes.training.config import SmallModelConfig
from recipes.training.run import finetune

__all__ = ["SmallModelConfig", "finetune"]
