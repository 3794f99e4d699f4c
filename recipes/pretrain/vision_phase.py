"""Phase one: the vision tower learns to see, with heads that are thrown away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.training.curves import Curves
from recipes.pretrain.config import PretrainConfig
from recipes.pretrain.data import TileSource
from recipes.pretrain.dense import SLOTS, DenseHeads, DenseTargets
from recipes.pretrain.geometry import PATCH
from recipes.pretrain.metrics import BoxTally
from recipes.pretrain.model import as_tensor, encode_pictures, patchify
from recipes.pretrain.state import learning_rate, load_state, make_optimizer, pick_device, save_state
from recipes.pretrain.tiles import CLASSES, LabelledTile

PHASE = 1


def vision_step(
    model: Any, heads: DenseHeads, tiles: list[LabelledTile], device: torch.device, bfloat16: bool
) -> tuple[torch.Tensor, dict[str, float]]:
    """Dense loss of one batch of tiles of one size."""
    merged, deepstack = encode_tiles(model, tiles, device, bfloat16)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        loss: tuple[torch.Tensor, dict[str, float]] = heads(merged, deepstack, DenseTargets.of(tiles).to(device))
    return loss


def encode_tiles(
    model: Any, tiles: list[LabelledTile], device: torch.device, bfloat16: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Merged and DeepStack tokens of tiles of one size."""
    pictures = as_tensor(np.stack([tile.image for tile in tiles]), device)
    grid = (pictures.shape[1] // PATCH, pictures.shape[2] // PATCH)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        return encode_pictures(model.model.visual, patchify(pictures), grid)


@torch.no_grad()
def dense_scores(
    model: Any, heads: DenseHeads, tiles: list[LabelledTile], device: torch.device, bfloat16: bool = False
) -> dict[str, float]:
    """F1, class accuracy and tissue accuracy read off the heads: what the tower could give the language model."""
    tally = BoxTally()
    right = named = 0
    for start in range(0, len(tiles), 16):
        part = tiles[start : start + 16]
        merged, _ = encode_tiles(model, part, device, bfloat16)
        count, label, box, tissue = (t.cpu().numpy() for t in heads.read(merged.float()))
        for row, tile in enumerate(part):
            found = np.arange(SLOTS)[None] < count[row][:, None]
            names = [CLASSES[c] if c >= 0 else "" for c in tile.classes]
            labels = [CLASSES[c] for c in label[row][found]]
            size = tile.image.shape[0]
            tally.add(box[row][found] * size, tile.boxes, labels, names if tile.named else None)
            if tile.named:
                named += 1
                right += int(tissue[row] == tile.tissue)
    return {"f1": tally.f1, "class": tally.class_accuracy, "tissue": right / max(1, named)}


def run_vision_phase(
    config: PretrainConfig, model: Any, heads: DenseHeads, source: TileSource, held_out: dict[str, list[LabelledTile]]
) -> None:
    """Train from the last saved state to the end of the phase."""
    phase, device, folder = config.vision, pick_device(config), Path(config.out)
    model.to(device).train()
    heads.to(device).train()
    visual = model.model.visual
    optimizer = make_optimizer([(visual, phase.learning_rate), (heads, phase.learning_rate)], phase.weight_decay)
    modules = {"visual": visual, "heads": heads}
    first = load_state(folder / "vision.pt", modules, optimizer)
    curves = Curves(folder / "vision.csv", first)
    began = time.monotonic()
    for step, tiles in enumerate(source.batches(PHASE, first, phase.steps, phase.batch, {}), first):
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * learning_rate(phase, step)
        loss, parts = vision_step(model, heads, tiles, device, config.bfloat16)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        curves.add(step, {"loss": float(loss.detach())} | (parts if step % 10 == 0 else {}))
        if (step + 1) % phase.save_every == 0 or step + 1 == phase.steps:
            save_state(folder / "vision.pt", step + 1, modules, optimizer)
            scores = {
                f"{name} {key}": value
                for name, some in held_out.items()
                for key, value in dense_scores(model, heads, some, device).items()
            }
            curves.add(step, scores)
            rate = (step + 1 - first) * phase.batch / (time.monotonic() - began)
            print(
                f"vision {step + 1}: {rate:.1f} tiles/s",
                {k: round(v, 3) for k, v in (scores | parts).items()},
                flush=True,
            )
