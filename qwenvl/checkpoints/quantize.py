"""Quantised language models: 4 or 8 bits per weight (bitsandbytes), with everything that sees kept as it is.

Only the linear layers of the language model's blocks are quantised. Vision tower, merger, embeddings and output stay in
the checkpoint's number type: to quantise a tower costs boxes and hardly saves memory, and a pattern of names that
misses it does so silently. So every module is looked at after loading, and a model that is not as asked for is refused.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from qwenvl.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qwenvl.checkpoints.checkpoint_metadata import CheckpointDescription


class Quantisation(StrEnum):
    """How the weights of the language model's blocks are kept."""

    FOUR = "4bit"
    """NormalFloat of 4 bits, a scale per 64 weights (Dettmers et al. 2023, QLoRA)."""
    EIGHT = "8bit"
    """Integers of 8 bits, a scale per row, outliers apart (Dettmers et al. 2022, LLM.int8)."""

    @property
    def bytes_per_weight(self) -> float:
        """Memory of one quantised weight with its share of the scales."""
        return 0.5 + 4 / 64 if self is Quantisation.FOUR else 1.0

    @property
    def layer(self) -> str:
        """Class of a quantised layer in bitsandbytes."""
        return "Linear4bit" if self is Quantisation.FOUR else "Linear8bitLt"


# Names are matched from the beginning; 'visual' alone would match nothing, and the tower would be quantised.
_KEPT = ("model.visual", "visual", "lm_head")


def quantisation_of(name: str) -> Quantisation:
    """The quantisation called `name`.

    Raises
    ------
    CheckpointError
        There is no such.
    """
    try:
        return Quantisation(name)
    except ValueError:
        raise CheckpointError(f"quantise {name!r} is none of {', '.join(Quantisation)}") from None


def quantisation_config(quantisation: Quantisation, dtype: object) -> object:
    """What `from_pretrained` takes.

    Raises
    ------
    CheckpointError
        bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            "quantised models need bitsandbytes; pip install 'napari-qwenvl[quantisation]', or ask without quantise"
        ) from error
    from transformers import BitsAndBytesConfig

    # It says once per layer and call that bfloat16 passes through float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    four = quantisation is Quantisation.FOUR
    return BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(_KEPT),
    )


def refuse_mixture(quantisation: Quantisation, description: CheckpointDescription) -> None:
    """Raise CheckpointError for a mixture of experts, with how little quantising the rest of it would save.

    Its experts are fused into tensors that bitsandbytes cannot quantise.
    """
    size = {"float32": 4}.get(description.dtype, 2)
    whole = description.parameters * size
    saved = description.quantisable * (size - quantisation.bytes_per_weight)
    raise CheckpointError(
        f"{description.name}: quantise {quantisation}: experts cannot be quantised this way: they are fused, and "
        f"bitsandbytes leaves them as they are. It would save {saved / 1e9:.2g} of {whole / 1e9:.2g} GB "
        f"({saved / whole:.0%}). Serve an FP8 or AWQ checkpoint of it (qwenvl serve), or take a dense model"
    )


def check_quantised(model: PreTrainedModel, quantisation: Quantisation, dtype: object) -> int:
    """Look at every module of a loaded model; the number of quantised layers.

    Raises
    ------
    CheckpointError
        A part that sees or speaks is quantised or has another number type, or a block of the language model is not
        quantised, as the experts of a mixture are not.
    """
    from torch import nn

    wrong: list[str] = []
    quantised = 0
    for name, module in model.named_modules():
        inner = ".language_model.layers." in f".{name}." and "visual" not in name
        kind = type(module).__name__
        if inner and isinstance(module, nn.Linear):
            quantised += kind == quantisation.layer
            if kind != quantisation.layer:
                wrong.append(f"{name} is no {quantisation.layer} but {kind}")
        elif kind.startswith("Linear") and kind != "Linear":
            wrong.append(f"{name} is quantised ({kind})")
        for own, parameter in module.named_parameters(recurse=False):
            if inner and parameter.ndim > 2 and "conv" not in name:
                wrong.append(f"{name}.{own} stays {parameter.dtype}: experts cannot be quantised this way")
            elif not (inner and isinstance(module, nn.Linear)) and parameter.dtype != dtype:
                wrong.append(f"{name}.{own} is {parameter.dtype}")
    if wrong or not quantised:
        found = f"{'; '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} ({len(wrong)})" if wrong else "no layer is"
        raise CheckpointError(
            f"quantise {quantisation}: the model did not load as asked for: {found}. Load it without quantise, "
            "or take a dense model"
        )
    _try(model, quantisation)
    return quantised


def _try(model: Any, quantisation: Quantisation) -> None:
    """Read two tokens and then one, so that shapes which bitsandbytes cannot multiply here are known before a tile.

    Which those are is not asked of the processor: bitsandbytes chooses its kernel by processor and number of rows. On a
    CPU with AVX512-BF16 it wants inputs in multiples of 64 and outputs in multiples of 32, on another one it takes all.
    """
    import torch

    embed = model.get_input_embeddings()
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=embed.weight.device)
    help = "Try the other number of bits, another device, or load it without quantise"
    try:
        with torch.inference_mode():
            states = [
                model.model.language_model(inputs_embeds=embed(some), use_cache=False).last_hidden_state
                for some in (tokens, tokens[:, :1])
            ]
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"quantise {quantisation}: bitsandbytes cannot compute this model on {tokens.device}: {error}. {help}"
        ) from error
    if not all(bool(torch.isfinite(state).all()) for state in states):
        raise CheckpointError(
            f"quantise {quantisation}: bitsandbytes computes no finite numbers of this model on {tokens.device}. {help}"
        )
