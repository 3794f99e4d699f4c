"""Which weights learn: LoRA, DoRA or rsLoRA on named parts of a Qwen-VL model."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune.errors import RecipeError
from qwenvl.families import ModelFamily

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_LAYER = r".*language_model\.layers\.\d+\."
PARTS: dict[str, tuple[str, ...]] = {
    "qv": (_LAYER + r"self_attn\.(q_proj|v_proj)",),
    "attention": (_LAYER + r"self_attn\.(q_proj|k_proj|v_proj|o_proj)",),
    "language": (_LAYER + r"self_attn\.(q_proj|k_proj|v_proj|o_proj)", _LAYER + r"mlp\.(gate_proj|up_proj|down_proj)"),
}
"""Presets: parts of the language model by the ends of their modules' names."""

_LINEAR_ATTENTION = _LAYER + r"linear_attn\.(in_proj_qkv|out_proj)"
"""Qwen3.5: three of four layers have no q_proj and v_proj."""
MERGER = {
    "qwen2_5": r".*visual\.merger\.mlp\.[02]",
    "qwen3": r".*visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
}
"""The layers that turn patches into visual tokens; of Qwen3-VL those of the DeepStack too."""
_TOWER = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(linear_fc[12]|fc[12]|gate_proj|up_proj|down_proj))"
_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class LoraSettings(BaseModel):
    """What is added to the model, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["lora", "dora", "rslora"] = Field("lora", description="Kind of low-rank adapter.")
    rank: int = Field(16, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, description="Scale of the update; None takes twice the rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["qv", "attention", "language", "everything"] | tuple[str, ...] = Field(
        "qv",
        description="A preset, or ends of module names such as 'self_attn.q_proj'. 'everything' is the language "
        "layers, the merger and the vision tower.",
    )
    merger: bool = Field(False, description="Let the layers between vision tower and language model learn too.")
    vision: bool = Field(
        False,
        description="Let the vision tower's blocks learn too: for small checkpoints that have to see something new. "
        "Slower, because no tile's visual tokens can be kept.",
    )
    experts: bool = Field(False, description="Mixture models: let the experts' fused weights learn too.")

    @property
    def in_vision(self) -> bool:
        """Whether the vision tower's blocks learn."""
        return self.vision or self.targets == "everything"

    @property
    def in_merger(self) -> bool:
        """Whether the layers behind the vision tower learn."""
        return self.merger or self.targets == "everything"


def target_pattern(settings: LoraSettings, family: ModelFamily) -> str:
    """The regular expression that peft matches against whole module names."""
    if isinstance(settings.targets, str):
        parts = list(PARTS["language" if settings.targets == "everything" else settings.targets])
        if family.linear_attention:
            parts.append(_LINEAR_ATTENTION)
    else:
        parts = [rf".*{re.escape(name)}" for name in settings.targets]
    if settings.in_vision:
        parts.append(_TOWER)
    if settings.in_merger:
        parts.append(MERGER["qwen3" if family.video_time == "text" else "qwen2_5"])
    return "|".join(f"({part})" for part in parts)


def matched_modules(model: PreTrainedModel, settings: LoraSettings, family: ModelFamily) -> tuple[str, ...]:
    """Names of the modules that would learn.

    Raises
    ------
    RecipeError
        None match, or names would also hit the vision tower's blocks, which learn only where that is asked for.
    """
    pattern = re.compile(target_pattern(settings, family))
    names = tuple(name for name, _ in model.named_modules() if pattern.fullmatch(name))
    inside = [name for name in names if re.search(r"visual\.blocks\.", name)]
    if inside and not settings.in_vision:
        raise RecipeError(
            f"targets {settings.targets} also hit the vision tower ({inside[0]}, {len(inside)} in all), which stays "
            "frozen; write the names with their beginning, such as 'self_attn.q_proj', or say lora.vision"
        )
    if settings.in_vision and not inside:
        raise RecipeError(f"lora.vision: the vision tower of {family.name} has no layer of a known name")
    if not names and not settings.experts:
        raise RecipeError(f"targets {settings.targets} match no module of {family.name}; use qv, attention or language")
    return names


def add_lora(model: PreTrainedModel, settings: LoraSettings, family: ModelFamily, *, seed: int = 0) -> object:
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


def trainable(model: PreTrainedModel | PeftModel) -> dict[str, int]:
    """Number of values of every tensor that learns, by name."""
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
