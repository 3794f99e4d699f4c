"""What a run keeps: weights and optimiser at a step, and their average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recipes.pretrain.config import PhaseConfig, PretrainConfig


def pick_device(config: PretrainConfig) -> torch.device:
    """'auto' is CUDA where there is one."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def learning_rate(phase: PhaseConfig, step: int) -> float:
    """Share of the highest rate at a step: linear warm-up, then cosine down to the floor."""
    if step < phase.warmup:
        return (step + 1) / phase.warmup
    done = (step - phase.warmup) / max(1, phase.steps - phase.warmup)
    return phase.floor + (1 - phase.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(groups: list[tuple[nn.Module, float]], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over modules with one rate each; only matrices decay, embeddings and norms do not."""
    seen: set[int] = set()
    lists: list[dict[str, Any]] = []
    for module, rate in groups:
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, weight in module.named_parameters():
            if id(weight) in seen or not weight.requires_grad:
                continue
            seen.add(id(weight))
            (free if weight.ndim < 2 or "embed" in name else decayed).append(weight)
        lists.append({"params": decayed, "lr": rate, "base": rate, "weight_decay": weight_decay})
        lists.append({"params": free, "lr": rate, "base": rate, "weight_decay": 0.0})
    return torch.optim.AdamW([g for g in lists if g["params"]], betas=(0.9, 0.98), eps=1e-8)


def save_state(path: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Write everything a phase needs to go on from `step`; an interrupted write leaves the older file."""
    content = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(content, partial)
    partial.replace(path)


def load_state(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Step to go on from: 0 when there is no state yet."""
    if not path.exists():
        return 0
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(content["modules"][name])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["rng"])
    return int(content["step"])


class WeightAverage:
    """Running average of modules; what training ends with before the learning rate has come down.

    Parameters
    ----------
    modules : dict of str to Module
        The modules that learn.
    decay : float
        Weight of the past per step, once there is a past.
    """

    def __init__(self, modules: dict[str, nn.Module], decay: float) -> None:
        self._source = modules
        self._decay = decay
        self.modules = {f"average {name}": copy.deepcopy(module) for name, module in modules.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, module in self._source.items():
            averages = self.modules[f"average {name}"].parameters()
            for average, weight in zip(averages, module.parameters(), strict=True):
                average.lerp_(weight, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand in for the weights inside the block."""
        own = {name: copy.deepcopy(module.state_dict()) for name, module in self._source.items()}
        for name, module in self._source.items():
            module.load_state_dict(self.modules[f"average {name}"].state_dict())
        try:
            yield
        finally:
            for name, module in self._source.items():
                module.load_state_dict(own[name])


def load_modules(path: Path, modules: dict[str, nn.Module]) -> None:
    """Take weights that an earlier phase saved."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(content["modules"][name])
