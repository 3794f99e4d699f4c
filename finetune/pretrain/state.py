"""What a run keeps: weights and optimiser at a step, the curves, and a picture of them."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.pretrain.config import PhaseConfig, PretrainConfig


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


def save_state(
    path: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
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


class Curves:
    """Losses and metrics of one phase in a CSV file, one row per logged step.

    Parameters
    ----------
    path : Path
    first_step : int
        Rows of later steps (written before an interruption) are dropped.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        rows = [row for row in read_curve(path) if int(row["step"]) < first_step] if path.exists() else []
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "name", "value"])
            writer.writerows([row["step"], row["name"], row["value"]] for row in rows)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append values of a step."""
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([step, name, f"{value:.6g}"] for name, value in values.items())


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of a curve file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plot_curves(folder: Path) -> Path:
    """Draw every curve of a run into `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    files = sorted(folder.glob("*.csv"))
    figure, axes = plt.subplots(1, max(1, len(files)), figsize=(5 * max(1, len(files)), 4), squeeze=False)
    for axis, path in zip(axes[0], files, strict=False):
        series: dict[str, list[tuple[int, float]]] = {}
        for row in read_curve(path):
            series.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
        for name, points in series.items():
            window = max(1, len(points) // 200)
            xs = [p[0] for p in points[window - 1 :: window]]
            ys = [
                sum(q[1] for q in points[i : i + window]) / window
                for i in range(0, len(points) - window + 1, window)
            ]
            axis.plot(xs, ys[: len(xs)], label=name, linewidth=1)
        axis.set_title(path.stem)
        axis.set_xlabel("step")
        axis.set_yscale("log")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)
    return folder / "curves.png"
