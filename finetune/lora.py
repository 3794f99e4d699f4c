"""Which weights learn: LoRA, DoRA or rsLoRA on named parts of a Qwen-VL model."""

from __future__ import annotations

import re
import warnings
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune.errors import RecipeError
from qwenvl.families import ModelFamily

_LAYER = r".*language_model\.layers\.\d+\."
PARTS: dict[str, tuple[str, ...]] = {
    "qv": (_LAYER + r"self_attn\.(q_proj|v_proj)",),
    "attention": (_LAYER + r"self_attn\.(q_proj|k_proj|v_proj|o_proj)",),
    "language": (
        _LAYER + r"self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        _LAYER + r"mlp\.(gate_proj|up_proj|down_proj)",
    ),
}
"""Presets: parts of the language model by the ends of their modules' names."""

_LINEAR_ATTENTION = _LAYER + r"linear_attn\.(in_proj_qkv|out_proj)"
"""Qwen3.5: three of four layers have no q_proj and v_proj."""
MERGER = {
    "qwen2_5": r".*visual\.merger\.mlp\.[02]",
    "qwen3": r".*visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
}
"""The layers that turn patches into visual tokens; of Qwen3-VL those of the DeepStack too."""
_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class LoraSettings(BaseModel):
    """What is added to the model, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["lora", "dora", "rslora"] = Field("lora", description="Kind of low-rank adapter.")
    rank: int = Field(16, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, description="Scale of the update; None takes twice the rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["qv", "attention", "language"] | tuple[str, ...] = Field(
        "qv", description="A preset, or ends of module names such as 'self_attn.q_proj'."
    )
    merger: bool = Field(
        False, description="Let the layers between vision tower and language model learn too."
    )
    experts: bool = Field(False, description="Mixture models: let the experts' fused weights learn too.")


def target_pattern(settings: LoraSettings, family: ModelFamily) -> str:
    """The regular expression that peft matches against whole module names."""
    if isinstance(settings.targets, str):
        parts = list(PARTS[settings.targets])
        if family.linear_attention:
            parts.append(_LINEAR_ATTENTION)
    else:
        parts = [rf".*{re.escape(name)}" for name in settings.targets]
    if settings.merger:
        parts.append(MERGER["qwen3" if family.video_time == "text" else "qwen2_5"])
    return "|".join(f"({part})" for part in parts)


def matched_modules(model: Any, settings: LoraSettings, family: ModelFamily) -> tuple[str, ...]:
    """Names of the modules that would learn.

    Raises
    ------
    RecipeError
        None match, or the vision tower's blocks would be hit, which this project keeps frozen.
    """
    pattern = re.compile(target_pattern(settings, family))
    names = tuple(name for name, _ in model.named_modules() if pattern.fullmatch(name))
    inside = [name for name in names if re.search(r"visual\.blocks\.", name)]
    if inside:
        raise RecipeError(
            f"targets {settings.targets} also hit the vision tower ({inside[0]}, {len(inside)} in all), which stays "
            "frozen; write the names with their beginning, such as 'self_attn.q_proj'"
        )
    if not names and not settings.experts:
        raise RecipeError(
            f"targets {settings.targets} match no module of {family.name}; use qv, attention or language"
        )
    return names


def add_lora(model: Any, settings: LoraSettings, family: ModelFamily, *, seed: int = 0) -> Any:
    """The model with an adapter that is trained, its first weights drawn by `seed`; everything else is frozen.

    Returns
    -------
    peft.PeftModel

    Raises
    ------
    RecipeError
        The settings fit nothing in this model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    matched_modules(model, settings, family)
    if settings.experts and not family.mixture:
        raise RecipeError(f"experts: {family.name} has none; leave the setting out")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=target_pattern(settings, family),
        target_parameters=list(_EXPERTS) if settings.experts else None,
        use_dora=settings.method == "dora",
        use_rslora=settings.method == "rslora",
        bias="none",
        task_type="CAUSAL_LM",
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        # peft asks transformers for an attribute that was renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def trainable(model: Any) -> dict[str, int]:
    """Number of values of every tensor that learns, by name."""
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
