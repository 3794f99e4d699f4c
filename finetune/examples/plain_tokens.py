"""What is needed to write a checkpoint's conversations, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.examples.conversation import Writer
from finetune.examples.tokens import TurnTokens
from qwenvl.checkpoints.checkpoint_metadata import CheckpointDescription, describe_checkpoint
from qwenvl.checkpoints.loading import _load_tokenizer, find_checkpoint
from qwenvl.images.processor import ProcessorSettings


@dataclass(frozen=True)
class PlainCheckpoint:
    """Tokenizer and picture settings of a checkpoint."""

    tokenizer: Any
    processor: ProcessorSettings
    description: CheckpointDescription


def plain_checkpoint(name: str) -> tuple[PlainCheckpoint, Writer, TurnTokens]:
    """Read a checkpoint's tokenizer and settings; its weights stay on disk.

    Raises
    ------
    CheckpointError
        Not found or incomplete.
    """
    folder = find_checkpoint(name)
    description = describe_checkpoint(folder, name=name)
    tokenizer = _load_tokenizer(folder, description, False)
    text = description.config.get("text_config", description.config)
    tokens = TurnTokens(tokenizer, description.family, limit=int(text.get("max_position_embeddings", 32768)))
    return PlainCheckpoint(tokenizer, description.processor, description), Writer.of(description), tokens
