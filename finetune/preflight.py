"""Checks before the first step. Each stops the run with a reason where training would not do what it seems to do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.errors import PreflightError
from finetune.examples.schedule import Schedule
from finetune.methods.lora import trainable
from wsi.cleanup import cleaning_up

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Preflight:
    """What the checks found, for the log and the adapter's card."""

    modules: tuple[str, ...]
    trainable: int
    total: int
    dtypes: Mapping[str, str]
    longest: int
    mean_length: float
    supervised_tokens: int
    shares: Mapping[str, float]
    refused: int
    memory_bytes: int
    """Estimate: weights, gradients and optimiser state of what learns, activations of a batch."""

    def as_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self) | {"modules": len(self.modules), "shares": dict(self.shares), "dtypes": dict(self.dtypes)}

    def lines(self) -> list[str]:
        """For the terminal."""
        share = ", ".join(f"{name} {value:.1%}" for name, value in self.shares.items())
        return [
            f"trainable   {self.trainable:,} of {self.total:,} ({self.trainable / self.total:.2%}) in "
            f"{len(self.modules)} modules",
            f"dtypes      {', '.join(f'{part} {dtype}' for part, dtype in self.dtypes.items())}",
            f"samples     {self.mean_length:.0f} tokens on average, {self.longest} at most; {self.refused} refused",
            f"supervised  {self.supervised_tokens:,} tokens: {share}",
            f"memory      about {self.memory_bytes / 2**30:.2f} GiB",
        ]


def preflight(
    model: Any,
    batch: Mapping[str, Tensor],
    loss_of: Callable[[Any, dict[str, Any]], Tensor],
    schedule: Schedule,
    *,
    batch_size: int,
    checkpointing: bool = False,
    compute: torch.dtype | None = None,
) -> Preflight:
    """Check a model with its adapter, before training.

    Parameters
    ----------
    model : peft.PeftModel
    batch : mapping
        A small batch, as the collator makes it, on the model's device.
    loss_of : callable
        Loss of a model on a batch, as training computes it.
    compute : torch.dtype, optional
        Number type of the products, where it is not that of the weights.

    Raises
    ------
    PreflightError
    """
    dtypes = _dtypes(model)
    learning = trainable(model)
    if not learning:
        raise PreflightError("no weight would learn; check lora.targets")
    strange = [name for name in learning if "lora_" not in name]
    if strange:
        raise PreflightError(f"{strange[0]} would learn although it is no part of the adapter ({len(strange)} in all)")
    base = model.get_base_model()
    _require_sound_vision(base)
    modules = tuple(sorted({name.split(".lora_")[0] for name in learning}))
    with _kept_state(model), _shaken(model):
        _require_gradients(model, dict(batch), loss_of)
        plain = {k: v for k, v in batch.items() if isinstance(v, Tensor) and k not in ("labels", "places")}
        _require_same_after_save(model, plain)
        _require_same_after_merge(model, plain)
    lengths = [entry.length for entry in schedule.entries]
    return Preflight(
        modules=modules,
        trainable=sum(learning.values()),
        total=sum(p.numel() for p in model.parameters()),
        dtypes=dtypes,
        longest=max(lengths),
        mean_length=sum(lengths) / len(lengths),
        supervised_tokens=sum(entry.supervised for entry in schedule.entries),
        shares=schedule.shares(),
        refused=len(schedule.refused),
        memory_bytes=training_memory(
            base, sum(learning.values()), max(lengths), batch_size, checkpointing=checkpointing, compute=compute
        ),
    )


def training_memory(
    model: PreTrainedModel | PeftModel,
    learning: int,
    length: int,
    batch: int,
    *,
    checkpointing: bool,
    compute: torch.dtype | None = None,
) -> int:
    """Estimated bytes of a training step.

    Weights as they are stored; four float32 numbers per weight that learns (itself, gradient, two moments); per token
    and layer 34 hidden-sized numbers and the two MLP halves (Korthikanti et al. 2022, without attention maps, which
    flash and memory-efficient kernels do not keep), or one with checkpointing; logits three times in float32.
    """
    text = getattr(model.config, "text_config", model.config)
    size = torch.finfo(compute or model.dtype).bits // 8
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    tokens = batch * length
    hidden, layers = text.hidden_size, text.num_hidden_layers
    mlp = getattr(text, "intermediate_size", None) or getattr(text, "moe_intermediate_size", 4 * hidden) * getattr(
        text, "num_experts_per_tok", 1
    )
    per_layer = tokens * size * (10 * hidden + 4 * mlp)
    kept = layers * tokens * hidden * size + per_layer if checkpointing else layers * per_layer
    return int(weights + 16 * learning + kept + 3 * tokens * text.vocab_size * 4)


def _dtypes(model: PreTrainedModel | PeftModel) -> dict[str, str]:
    parts = {"vision": "visual.", "language": "language_model.", "adapter": "lora_"}
    found: dict[str, str] = {}
    for part, mark in parts.items():
        kinds = {
            str(p.dtype).removeprefix("torch.")
            for name, p in model.named_parameters()
            if mark in name and ("lora_" in name) == (part == "adapter")
        }
        found[part] = " and ".join(sorted(kinds)) or "none"
    return found


def _require_sound_vision(model: PreTrainedModel | PeftModel) -> None:
    """The tower is neither quantised nor blown up to float32 beside half-precision weights."""
    visual = model.model.visual
    quantised = [
        name
        for name, module in visual.named_modules()
        if "4bit" in type(module).__name__ or "8bit" in type(module).__name__
    ]
    if quantised:
        raise PreflightError(
            f"the vision tower is quantised ({quantised[0]} and {len(quantised) - 1} more), which costs boxes their "
            "precision; skip 'model.visual' when loading (a bare 'visual' matches nothing)"
        )
    language = {
        p.dtype for n, p in model.model.language_model.named_parameters() if p.is_floating_point() and "lora_" not in n
    }
    tower = {p.dtype for n, p in visual.named_parameters() if "lora_" not in n}
    if (
        torch.float32 in tower
        and torch.float32 not in language - {torch.float32}
        and language <= {torch.bfloat16, torch.float16}
    ):
        raise PreflightError(
            "the vision tower is float32 beside half-precision weights: twice its memory for nothing "
            "(prepare_model_for_kbit_training does this); cast it back with model.model.visual.to(torch.bfloat16)"
        )


@contextmanager
def _kept_state(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Random numbers, gradients and mode are afterwards as they were."""
    state, training = torch.random.get_rng_state(), model.training
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        model.train(training)
        model.zero_grad(set_to_none=True)


@contextmanager
def _shaken(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Adapter weights that start at zero are moved for a while: as zeros they would hide every fault."""
    kept: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and parameter.requires_grad:
                kept[name] = parameter.detach().clone()
                if "lora_B" in name:
                    noise = torch.randn(parameter.shape, generator=generator) * 0.02
                    parameter.copy_(noise.to(parameter))
    with cleaning_up(lambda: _put_back(model, kept)):
        yield


@torch.no_grad()
def _put_back(model: PreTrainedModel | PeftModel, kept: Mapping[str, Tensor]) -> None:
    """Give parameters the values they had."""
    parameters = dict(model.named_parameters())
    for name, value in kept.items():
        parameters[name].copy_(value)


def _require_gradients(model: Any, batch: dict[str, Any], loss_of: Callable[[Any, dict[str, Any]], Tensor]) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, batch)
    if not torch.isfinite(loss):
        raise PreflightError(
            f"the loss of the first batch is {float(loss.detach())}; look at the samples (qwenvl dataset show)"
        )
    loss.backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any())
    ]
    if without:
        raise PreflightError(
            f"{len(without)} of the weights that should learn receive no gradient, such as {without[0]}; with gradient "
            "checkpointing it must not be the reentrant kind, and a target in the vision tower needs it to be unfrozen"
        )
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def _logits(model: PreTrainedModel | PeftModel, batch: Mapping[str, Tensor]) -> Tensor:
    model.eval()
    return model(**batch, use_cache=False).logits.float()  # type: ignore[no-any-return]


def _require_same_after_save(model: PreTrainedModel | PeftModel, batch: Mapping[str, Tensor]) -> None:
    before = _logits(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.load_adapter(folder, adapter_name="reloaded", is_trainable=False)
        parameters = dict(model.named_parameters())
        other = [
            name
            for name, value in parameters.items()
            if ".reloaded" in name and not torch.equal(value, parameters[name.replace(".reloaded", ".default")])
        ]
        model.set_adapter("reloaded")
        after = _logits(model, batch)
        model.set_adapter("default")
        model.delete_adapter("reloaded")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)
    # Products in four bits differ from call to call on some CPUs; there the weights alone are compared.
    quantised = any("4bit" in type(module).__name__ for module in model.modules())
    if other or (not quantised and not torch.equal(before, after)):
        what = (
            f"{other[0]} has other values" if other else f"logits differ by {float((before - after).abs().max()):.2g}"
        )
        raise PreflightError(f"the adapter is not the same once saved and loaded: {what}; part of it would be lost")


def _require_same_after_merge(model: Any, batch: Mapping[str, Tensor]) -> None:
    if any("4bit" in type(module).__name__ for module in model.modules()):
        return  # merged into 16-bit weights at the end, and scored there
    before = _logits(model, batch)
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if ".base_layer." in name}
    model.merge_adapter()
    with cleaning_up(model.unmerge_adapter, lambda: _put_back(model, kept)):
        after = _logits(model, batch)
    scale = float(before.abs().mean()) + 1e-6
    difference = float((before - after).abs().max()) / scale
    if difference > _TOLERANCE.get(model.dtype, 1e-1):
        raise PreflightError(
            f"merged into the weights the adapter gives other logits (by {difference:.2g} of their mean)"
        )
