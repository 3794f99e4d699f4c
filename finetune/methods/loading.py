"""The base of a run: as it answers for users, or with its language model in four bits (QLoRA)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from finetune.config import FinetuneConfig
from finetune.errors import RecipeError
from qwenvl.checkpoints.loading import Checkpoint, find_checkpoint, load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SKIPPED = ("model.visual", "lm_head")
"""Modules that stay in 16 bits. Names are matched from their beginning: a bare 'visual' would match nothing, and the
vision tower would be quantised without a word."""


def load_base(config: FinetuneConfig) -> Checkpoint:
    """Load the base model of a run.

    Raises
    ------
    CheckpointError
        Not found or broken.
    RecipeError
        Quantisation is asked for and bitsandbytes is not there.
    """
    checkpoint = load_checkpoint(config.base, device=config.device, dtype=config.dtype, family=config.family)
    if config.quantise == "none":
        return checkpoint
    model = quantised_model(checkpoint, config)
    info = replace(checkpoint.info, dtype="nf4")
    return replace(checkpoint, model=model, info=info)


def quantised_model(checkpoint: Checkpoint, config: FinetuneConfig) -> PreTrainedModel:
    """The language model in NF4, the vision tower and the output layer in bfloat16."""
    import torch
    import transformers

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise RecipeError("quantise: nf4 needs bitsandbytes; install napari-qwenvl[quantisation]") from error
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=list(SKIPPED),
    )
    architecture = getattr(transformers, checkpoint.family.architecture)
    model = architecture.from_pretrained(
        find_checkpoint(config.base),
        dtype=torch.bfloat16,
        quantization_config=settings,
        use_safetensors=True,
        local_files_only=True,
        device_map={"": str(checkpoint.device)},
    )
    return model.eval().requires_grad_(False)
